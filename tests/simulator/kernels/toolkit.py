"""What every test kernel shares: how it is described to build.py, and a blocking wait on an mbarrier."""

from collections.abc import Callable
from dataclasses import dataclass

import cutlass
import cutlass.cute as cute
import cutlass.experimental.cuda as cuda
from cutlass.base_dsl.typing import GridConstant
from cutlass.experimental import primitives as ptx

TensorMap = GridConstant[cuda.TensorMap]
SHARED = cutlass.AddressSpace.smem

SWIZZLE_BYTES = {"none": 0, "32B": 32, "64B": 64, "128B": 128}


@dataclass(frozen=True)
class Map:
    """A tensor map parameter; `box` counts elements, innermost dimension first."""

    name: str
    box: tuple[int, ...]
    swizzle: str = "none"
    dtype: str = "bfloat16"

    def describe(self) -> dict:
        return {"name": self.name, "kind": "tensor_map", "dtype": self.dtype, "rank": len(self.box),
                "box": list(self.box), "swizzle": self.swizzle}  # fmt: skip


@dataclass(frozen=True)
class Pointer:
    """A pointer to global memory, aligned to 16 bytes."""

    name: str
    dtype: str

    def describe(self) -> dict:
        return {"name": self.name, "kind": "pointer", "dtype": self.dtype}


@dataclass(frozen=True)
class Scalar:
    """A 32-bit number; `kind` is "i32" or "f32"."""

    name: str
    kind: str = "i32"

    def describe(self) -> dict:
        return {"name": self.name, "kind": self.kind}


@dataclass(frozen=True)
class Kernel:
    """One entry to compile: `device` traced with `parameters` at run time and `constants` at compile time."""

    name: str
    about: str
    device: Callable
    parameters: tuple
    block: int
    constants: tuple = ()
    cluster: int = 1


@cute.jit
def wait(barrier, parity, scope: cutlass.Constexpr = None):
    """Block until the phase of this parity is complete; arrivals from another CTA need the cluster scope."""
    while not ptx.mbarrier_try_wait_parity(barrier, parity, scope=scope, order=None if scope is None else "acquire"):
        pass


def cluster_sync():
    """Wait for every thread of the cluster; what was written before is visible to all of them after."""
    ptx.barrier_cluster_arrive_aligned()
    ptx.barrier_cluster_wait_aligned()
