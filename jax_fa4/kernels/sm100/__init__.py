"""Kernels for Blackwell data-center GPUs (sm_100a): tcgen05 tensor cores, tensor memory. Read forward.py first."""
