"""A launch of one kernel on NumPy arrays."""

from __future__ import annotations

import atexit
import functools
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from . import _simulator, coverage
from ._simulator import Kernel, Report
from .memory import ALIGNMENT, Memory
from .tensor_map import TensorMap

Extents: TypeAlias = int | Sequence[int]
# A tuple is a struct: its members, NumPy scalars and the others, each at its natural alignment.
Argument: TypeAlias = "NDArray[Any] | TensorMap | np.generic | int | float | bytes | tuple[Argument, ...]"


class SimulatorError(RuntimeError):
    """A launch that was not clean; the text is its reports, `result` the rest."""

    def __init__(self, result: Result) -> None:
        super().__init__("\n\n".join(report.text for report in result.reports) or "the launch failed without a report")
        self.result = result


@dataclass(frozen=True)
class Result:
    """What a launch came to.

    executed: warp-instructions of each pc, uint64. coverage: the same by line of the PTX text.
    counters: operations, bytes and cycles, summed over the grid. failed: a fatal report stopped the launch.
    """

    kernel: Kernel
    reports: list[Report]
    failed: bool
    executed: NDArray[np.uint64]
    counters: dict[str, int]
    trace: list[str]

    @property
    def coverage(self) -> dict[int, int]:
        """How often each line with an instruction was executed, by warps."""
        return coverage.by_line(self.kernel, self.executed)


@functools.lru_cache(maxsize=256)
def _bound(text: str, file: str, entry: str) -> Kernel:
    return Kernel.from_ptx(text, file, entry)


atexit.register(_bound.cache_clear)  # while the extension that owns the kernels is still there


def bound(kernel: Kernel | str | Path, entry: str = "") -> Kernel:
    """A kernel of a PTX text, or of a file; `entry` names it where there are several. Error: file, line and reason."""
    if isinstance(kernel, Kernel):
        return kernel
    if isinstance(kernel, Path):
        return _bound(kernel.read_text(), kernel.name, entry)
    return _bound(kernel, "kernel.ptx", entry)


def _extents(what: str, value: Extents) -> tuple[int, int, int]:
    given = (value,) if isinstance(value, int | np.integer) else tuple(value)
    if not 1 <= len(given) <= 3 or any(extent < 1 for extent in given):
        raise ValueError(f"{what} is {value}: one to three extents, each at least 1")
    x, y, z = (*(int(extent) for extent in given), 1, 1)[:3]
    return x, y, z


def _pack_number(value: float, size: int, where: str) -> bytes:
    if isinstance(value, int):
        if size > 8 or not -(1 << 8 * size - 1) <= value < 1 << 8 * size:
            raise ValueError(f"{where}: {value} does not fit in {size} bytes")
        return (value & (1 << 8 * size) - 1).to_bytes(size, "little")
    if size not in (4, 8):
        raise ValueError(f"{where}: a Python float is passed in 4 or 8 bytes, not {size}; pass a NumPy scalar")
    return struct.pack("<f" if size == 4 else "<d", value)


def _pack_struct(members: tuple[Argument, ...], memory: Memory, where: str) -> bytes:
    block = b""
    for i, member in enumerate(members):
        if isinstance(member, int | float) and not isinstance(member, np.generic):
            raise TypeError(f"{where}, member {i}: a number in a struct must be a NumPy scalar, which has a width")
        if isinstance(member, np.ndarray):
            size = 8
        elif isinstance(member, TensorMap):
            size = 128
        elif isinstance(member, bytes):
            size = len(member)
        elif isinstance(member, tuple):
            raise TypeError(f"{where}, member {i}: a struct in a struct is passed as bytes")
        else:
            size = np.asarray(member).nbytes
        align = 64 if size == 128 else size if size in (2, 4, 8) else 1
        block += b"\0" * (-len(block) % align) + _pack(member, size, memory, f"{where}, member {i}")
    return block


def _pack(value: Argument, size: int, memory: Memory, where: str) -> bytes:
    """The bytes of one parameter of `size` bytes."""
    if isinstance(value, np.ndarray):
        packed = memory.place(value).to_bytes(8, "little")
    elif isinstance(value, TensorMap):
        packed = value.encode(memory)
    elif isinstance(value, bytes | bytearray):
        packed = bytes(value)
    elif isinstance(value, tuple):
        packed = _pack_struct(value, memory, where)
        packed += b"\0" * (size - len(packed))
    elif hasattr(value, "dtype") and np.asarray(value).nbytes == size:
        packed = np.asarray(value).tobytes()
    elif isinstance(value, int | float):
        packed = _pack_number(value, size, where)
    elif hasattr(value, "dtype"):
        packed = np.asarray(value).tobytes()
    else:
        raise TypeError(f"{where} is a {type(value).__name__}: arrays, TensorMap, numbers, bytes or a tuple of those")
    if len(packed) != size:
        raise ValueError(
            f"{where}: the parameter has {size} bytes, a {type(value).__name__} of {len(packed)} was given"
        )
    return packed


def pack_arguments(kernel: Kernel, arguments: Sequence[Argument], memory: Memory) -> bytes:
    """The parameter block of a launch."""
    if len(arguments) != len(kernel.parameters):
        raise ValueError(f"{kernel.name} takes {len(kernel.parameters)} arguments, {len(arguments)} were given")
    block = bytearray(kernel.parameter_bytes)
    for i, (value, (_, offset, size, _)) in enumerate(zip(arguments, kernel.parameters, strict=True)):
        block[offset : offset + size] = _pack(value, size, memory, f"argument {i} of {kernel.name}")
    return bytes(block)


def _option(value: object) -> str:
    if isinstance(value, str):
        return value
    if isinstance(value, Sequence | np.ndarray):
        return ":".join(str(int(item)) for item in value)
    return str(int(value))  # type: ignore[call-overload]


def run(
    kernel: Kernel | str | Path,
    *,
    grid: Extents = 1,
    block: Extents | None = None,
    cluster: Extents = 1,
    dynamic_shared: int = 0,
    arguments: Sequence[Argument] = (),
    entry: str = "",
    schedule: str = "eager",
    seed: int = 0,
    threads: int = 1,
    checks: bool = True,
    device: str | None = None,
    dependent: bool = False,
    memory: Memory | None = None,
    raise_on_report: bool = True,
    **options: int | Sequence[int],
) -> Result:
    """Executes a kernel; what it writes is in the argument arrays afterwards.

    kernel: PTX text, a file of it, or a bound `Kernel`. block: what .reqntid says when absent.
    arguments: one for each parameter. An array passes the device address of its first element; a TensorMap its 128
      bytes; a Python number is as wide as the parameter; a NumPy scalar must be; bytes are passed as they are; a
      tuple is a struct.
    schedule: "eager", "lazy" or "random" (by `seed`). checks: look for races and uninitialised memory.
    device: "b200" or "h200"; by the kernel's target when absent. dependent: programmatic stream serialization was
      asked for.
    memory: where addresses that arguments contain as numbers were made. options: further ones of the engine, such as
      max_instructions, max_reports, resident_clusters, skip, trace_cluster, trace_cta, trace_warp, trace_mbarrier.

    Raises SimulatorError if anything was reported and `raise_on_report`; ValueError or TypeError for what cannot be
    launched.
    """
    kernel = bound(kernel, entry)
    if block is None:
        if 0 in kernel.required_threads:
            raise ValueError(f"{kernel.name} does not say its block (.reqntid): pass block=")
        block = kernel.required_threads
    memory = Memory() if memory is None else memory
    parameters = pack_arguments(kernel, arguments, memory)
    chosen = {"schedule": schedule, "seed": seed, "threads": threads, "checks": checks, **options}
    outcome = _simulator.launch(
        kernel,
        _extents("grid", grid),
        _extents("block", block),
        _extents("cluster", cluster),
        dynamic_shared,
        parameters,
        memory.allocations(),
        [(name, _option(value)) for name, value in chosen.items()],
        device or ("h200" if kernel.target.startswith("sm_90") else "b200"),
        dependent,
    )
    memory.take_back()
    result = Result(kernel, outcome.reports, outcome.failed, outcome.executed, outcome.counters, outcome.trace)
    coverage.record(kernel, result.executed)
    if raise_on_report and (result.reports or result.failed):
        raise SimulatorError(result)
    return result


__all__ = ["ALIGNMENT", "Argument", "Result", "SimulatorError", "bound", "pack_arguments", "run"]
