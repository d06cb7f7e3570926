"""What the GPUs of the machine are, whether they can be trusted, and the errors they report."""
