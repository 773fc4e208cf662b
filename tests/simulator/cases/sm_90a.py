"""The test kernels for sm_90a: `python -m jax_fa4_simulator.mutate tests/simulator/cases/sm_90a.py`."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))  # tests
sys.path.insert(0, str(Path(__file__).parents[1]))  # tests/simulator

from gemm_launches import GEMMS
from launches import LAUNCHES

CASES = [launch.case("sm_90a") for launch in [*LAUNCHES, *GEMMS] if "sm_90a" in launch.architectures]
