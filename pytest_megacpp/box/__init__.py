"""The machine that runs ranks: the loop that starts them, watches them and acts."""
