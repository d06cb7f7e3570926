"""What the machine is and has: kernel, processes, memory, network, and the environment of a launch."""
