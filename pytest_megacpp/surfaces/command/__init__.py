"""Boxes on machines that a command of the user's reaches: ssh, srun, kubectl, docker, sky."""
