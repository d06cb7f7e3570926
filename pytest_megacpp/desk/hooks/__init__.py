"""The lanes' part of a pytest session."""
