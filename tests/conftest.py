"""Settings that must be made before NumPy and JAX start."""

from __future__ import annotations

import os

# Devices for the sharding tests. OpenBLAS's own threads only get in the way of the small products of the oracle.
os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count=8"
os.environ["OPENBLAS_NUM_THREADS"] = "1"
