"""FSDP2 with regional compile against an eager reference."""
