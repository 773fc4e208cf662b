"""One instruction, or a few lines, on one warp: arrays of 32 lanes in, arrays of 32 lanes out."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, DTypeLike, NDArray

from . import coverage
from .frame import CELL, THREADS, Register, frame, shared_frame, tensor_frame
from .launching import Result, SimulatorError, bound, run
from .memory import Memory, empty
from .tensor_map import TensorMap

SHARED_BASE = 1024  # shared address of the first byte of `shared`

_SPECIAL = re.compile(
    r"%(tid|ntid|ctaid|nctaid|clusterid|nclusterid|cluster_ctaid|cluster_nctaid)\.[xyz]|"
    r"%(laneid|warpid|nwarpid|cluster_ctarank|cluster_nctarank|lanemask_\w+|smid|nsmid|clock\w*|globaltimer\w*|"
    r"dynamic_smem_size|total_smem_size)\b"
)


class Outputs(dict[str, NDArray[Any]]):
    """Registers by name, and "shared" and "tmem" where they were given; `result` is the launch's."""

    def __init__(self, values: Mapping[str, NDArray[Any]], result: Result) -> None:
        super().__init__(values)
        self.result = result


def _names(text: str) -> list[str]:
    """Registers that a text uses and does not declare itself."""
    own = {"shared", "scratch", "tmem"}
    for group in re.findall(r"\.reg\s+\.\w+\s+([^;]+);", text):
        for name in group.split(","):
            numbered = re.fullmatch(r"\s*%(\w+)<(\d+)>\s*", name)
            own |= {f"{numbered[1]}{i}" for i in range(int(numbered[2]))} if numbered else {name.strip().lstrip("%")}
    found = re.findall(r"%([A-Za-z_$][\w$]*)", _SPECIAL.sub("", text))
    return [name for name in dict.fromkeys(found) if name not in own]


def _input(name: str, value: ArrayLike, lanes: int) -> Register:
    array = np.asarray(value)
    if not hasattr(value, "dtype"):
        if array.dtype == np.float64:
            array = array.astype(np.float32)
        elif array.dtype.kind in "iu" and array.min() >= -(1 << 31) and array.max() < 1 << 32:
            array = array.astype(np.int64).astype(np.uint32)
    if array.ndim == 0:
        array = np.broadcast_to(array, (lanes,))
    if array.shape[0] != lanes or array.ndim > 2:
        raise ValueError(f"register %{name} has shape {array.shape}; it is a scalar, ({lanes},) or ({lanes}, n)")
    return Register(name, array.dtype, array.shape[1:], np.ascontiguousarray(array))


def _output(name: str, dtype: DTypeLike, given: Register | None) -> Register:
    kind = np.dtype(dtype)
    register = Register(name, kind.base, kind.shape)
    if given and (register.size, register.predicate) != (given.size, given.predicate):
        raise ValueError(f"register %{name} is given as {given.dtype}{given.count or ''} and wanted as {kind}")
    return register


def _lane_mask(active: int | NDArray[np.bool_], lanes: int) -> NDArray[np.bool_]:
    mask = np.asarray(active)
    if mask.ndim == 0:
        mask = np.tile((int(active) >> np.arange(32)) & 1 != 0, lanes // 32)
    if mask.shape != (lanes,):
        raise ValueError(f"active has shape {mask.shape}; it is a mask of 32 bits or ({lanes},) of bool")
    return mask.astype(np.bool_)


def _shared_image(shared: NDArray[Any] | bytes | None) -> NDArray[np.uint32]:
    given = (
        np.frombuffer(shared, np.uint8) if isinstance(shared, bytes) else np.asarray(() if shared is None else shared)
    )
    words = empty(-(-given.nbytes // 4), np.uint32)
    words.view(np.uint8)[: given.nbytes] = np.ascontiguousarray(given).reshape(-1).view(np.uint8)
    return words


def _tensor_image(tmem: NDArray[Any] | None) -> NDArray[Any]:
    if tmem is None:
        return empty((128, 0), np.uint32)
    if tmem.ndim != 2 or len(tmem) != 128 or tmem.itemsize != 4 or tmem.shape[1] not in (32, 64, 128, 256, 512):
        raise ValueError(f"tmem is {tmem.dtype} {tmem.shape}; it is 32-bit (128, 32, 64, 128, 256 or 512)")
    image = empty(tmem.shape, tmem.dtype)
    image[:] = tmem
    return image


def _place(where: NDArray[Any] | TensorMap, memory: Memory) -> np.uint64:
    if isinstance(where, TensorMap):
        encoded = empty(128, np.uint8)
        encoded[:] = np.frombuffer(where.encode(memory), np.uint8)
        encoded.flags.writeable = False
        where = encoded
    return np.uint64(memory.place(where))


def instruction(
    text: str,
    /,
    *,
    out: Mapping[str, DTypeLike] | None = None,
    active: int | NDArray[np.bool_] = 0xFFFFFFFF,
    warp: int | None = 0,
    tmem: NDArray[Any] | None = None,
    shared: NDArray[Any] | bytes | None = None,
    scratch: int = 0,
    memory: Mapping[str, NDArray[Any] | TensorMap] | None = None,
    target: str = "sm_100a",
    raise_on_report: bool = True,
    options: Mapping[str, Any] | None = None,
    **registers: ArrayLike,
) -> Outputs:
    """Executes a text on one warp of a block of four; a keyword `a` is the register %a.

    registers: a scalar, (32,), or (32, n) where n elements fill one register. The dtype is the width: bool is a
      predicate, a Python int has 32 bits (64 if it needs them), a Python float is f32.
    out: dtypes of registers to return; a dtype with a shape, such as `(np.float16, 2)`, is a packed register.
      Registers of the text that are named nowhere are returned as uint32.
    active: lanes that execute, as a mask of 32 bits or an array of bool. The others keep what they had, which is 0.
    warp: which of the block's four warps executes, or None: all do, and registers have 128 lanes.
    shared: contents of shared memory at %shared, which is `SHARED_BASE`; returned as "shared".
    scratch: bytes of uninitialised shared memory at %scratch, which follows: for mbarriers.
    tmem: (128, columns) of 32 bits, columns a power of two from 32 to 512: tensor memory at %tmem, which is 0;
      returned as "tmem". A warp reaches its own 32 rows.
    memory: arrays and tensor maps in global memory; `a` is the 64-bit register %a with its address. Arrays change in
      place.
    options: further arguments of `run`.

    Raises what `run` raises; `Outputs.result` has the reports when raise_on_report is False.
    """
    lanes = THREADS if warp is None else 32
    device = Memory()
    addresses = {name: _place(where, device) for name, where in (memory or {}).items()}
    used = {name: _input(name, value, lanes) for name, value in {**registers, **addresses}.items()}
    dtypes = {**{name: np.uint32 for name in _names(text) if name not in used}, **(out or {})}
    wanted = {name: _output(name, dtype, used.get(name)) for name, dtype in dtypes.items()}
    used = {**wanted, **used}
    mask = _lane_mask(active, lanes)
    if not mask.all():
        used["_active"] = Register("_active", np.dtype(np.bool_), (), mask)

    words, tensor = _shared_image(shared), _tensor_image(tmem)
    below = -(-words.nbytes // 128) * 128
    slot = below + -(-scratch // 16) * 16  # where tcgen05.alloc writes the address
    around = [shared_frame()] if words.size else []
    if tensor.size:
        around.append(tensor_frame(tensor.shape[1], slot))
    cells = empty((len(used), lanes, CELL), np.uint8)
    for register, cell in zip(used.values(), cells, strict=True):
        register.fill(cell)
    ptx, lines = frame(text, list(used.values()), lanes, warp, target, below, around)
    result = run(
        bound(ptx),
        block=THREADS,
        dynamic_shared=slot + (16 if tensor.size else 0),
        arguments=(cells, words, words.size, tensor),
        memory=device,
        raise_on_report=False,
        **(options or {}),
    )
    coverage.record(result.kernel, result.executed, lines)
    if raise_on_report and (result.reports or result.failed):
        raise SimulatorError(result)

    values = {name: wanted[name].read(cell) for name, cell in zip(used, cells, strict=True) if name in wanted}
    if isinstance(shared, bytes):
        values["shared"] = words.view(np.uint8)[: len(shared)]
    elif shared is not None:
        values["shared"] = words.view(np.uint8)[: shared.nbytes].view(shared.dtype).reshape(shared.shape)
    if tmem is not None:
        values["tmem"] = tensor
    return Outputs(values, result)
