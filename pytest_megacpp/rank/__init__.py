"""What runs inside a rank's process."""
