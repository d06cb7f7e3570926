#!/usr/bin/env bash
# What only a GPU can show, in at most twelve minutes on one: see benchmarks/gpu_check/__main__.py.
# Needs torch, pytest, hypothesis, pytest-timeout and pathspec; no network, no installation of this package.
cd "$(dirname "$0")/.." && exec "${PYTHON:-python3}" -m benchmarks.gpu_check "$@"
