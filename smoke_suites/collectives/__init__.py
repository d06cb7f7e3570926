"""Collectives and worlds: exact values from every rank."""
