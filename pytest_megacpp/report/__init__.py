"""Texts and documents from judged tests."""
