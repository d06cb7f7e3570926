"""Lane tests of files that cannot be imported here, collected by reading their source."""
