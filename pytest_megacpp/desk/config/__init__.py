"""What the user asked for: options, tables and markers, checked, and the project they belong to."""
