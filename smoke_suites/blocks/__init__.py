"""Blocks of a state-space mixture-of-experts model, compiled region by region with the experts left out."""
