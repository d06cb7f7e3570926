"""Triton kernels against their PyTorch references."""
