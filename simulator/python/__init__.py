"""Executes PTX for NVIDIA GPUs (sm_100a, sm_90a) on the CPU: to test kernels where there is no GPU.

>>> result = run(ptx, grid=4, arguments=[x, y, np.int32(x.size)])     # a kernel on NumPy arrays
>>> instruction("add.s32 %d, %a, %b;", a=np.arange(32, dtype=np.int32), b=1)["d"]    # one instruction on one warp
"""

from __future__ import annotations

from pathlib import Path

from ._simulator import Error, Kernel, Report, Site, entries, rows, spellings
from .lanes import SHARED_BASE, Outputs, instruction
from .launching import Argument, Result, SimulatorError, bound, run
from .memory import Memory, empty
from .tensor_map import TensorMap
from .trace import follow

__all__ = [
    "SHARED_BASE",
    "Argument",
    "Error",
    "Kernel",
    "Memory",
    "Outputs",
    "Report",
    "Result",
    "SimulatorError",
    "Site",
    "TensorMap",
    "bound",
    "driver_path",
    "empty",
    "entries",
    "follow",
    "instruction",
    "rows",
    "run",
    "spellings",
]


def driver_path() -> Path:
    """The stand-in for NVIDIA's driver: what JAX_FA4_CUDA_DRIVER is set to. It is the one that this module controls."""
    found = sorted(Path(__file__).parent.glob("libcuda_simulator.*"))
    if not found:
        raise FileNotFoundError(f"no libcuda_simulator beside {__file__}: the package is not installed")
    return found[0]
