"""The megacpp command, one module per subcommand."""
