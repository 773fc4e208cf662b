"""The stand-in of stub_driver.cc: what a launch was given is read back as it was asked for."""

from __future__ import annotations

import ctypes
import dataclasses
import json
import shutil
import struct
from ctypes import byref, c_char, c_int32, c_uint8, c_uint32, c_void_p
from pathlib import Path
from typing import Any

import gpu_call
from echo import PACKED, SHARED, manifest, tensor_map

SIZES = {"tensor_map": 128, "pointer": 8, "i32": 4, "f32": 4}
STRIDED = (
    "sinks", "alibi_slopes", "query_segment_ids", "key_value_segment_ids", "query_seq_lengths",
    "key_value_seq_lengths", "query_offset",
)  # fmt: skip
BASE = 1 << 20  # where arrays seem to lie: the stand-in touches none


class _Launch(ctypes.Structure):
    _fields_ = [
        ("device", c_int32), ("stream", c_int32), ("thread", c_int32), ("grid", c_uint32 * 3),
        ("block", c_uint32 * 3), ("cluster", c_uint32 * 3), ("shared_bytes", c_uint32), ("dependent", c_uint32),
        ("entry", c_char * 128), ("parameters", c_uint8 * 4096),
    ]  # fmt: skip


@dataclasses.dataclass(frozen=True)
class TensorMap:
    """As the driver was asked for it."""

    type: int
    address: int
    extents: tuple[int, ...]
    strides: tuple[int, ...]  # in bytes, of all axes but the first
    box: tuple[int, ...]
    swizzle: int


@dataclasses.dataclass(frozen=True)
class Launch:
    """One launch; `parameters` by their names."""

    device: int
    stream: int
    thread: int
    grid: int
    block: int
    cluster: tuple[int, ...]
    shared_bytes: int
    dependent: bool
    entry: str
    parameters: dict[str, Any]


def parameters(kind: str, output: str = "bfloat16") -> list[dict[str, Any]]:
    """Of a forward kernel of this kind, as the manifest has them."""
    rows = 128
    columns = 32 if output == "float32" else 64
    listed = [tensor_map("query", PACKED, 64, rows), tensor_map("key", SHARED, 64, rows)]
    listed += [tensor_map("value", SHARED, 64, rows), tensor_map("output", PACKED, columns, rows)]
    listed.append({"kind": "pointer", "name": "log_sum_exp"})
    numbers = ["queries", "keys", "heads", "group", "pack_shift", "batch", "section", "low", "high"]
    floats = ["scale_log2"]
    strided = {"dense": (), "banded": ("query_offset",), "general": STRIDED}[kind]
    listed += [{"kind": "pointer", "name": name} for name in strided]
    numbers += [f"{name}_stride" for name in strided]
    if kind == "general":
        numbers += ["sinks_dtype", "alibi_slopes_dtype"]
        floats.append("logits_soft_cap")
    listed += [{"kind": "i32", "name": name} for name in numbers]
    return listed + [{"kind": "f32", "name": name} for name in floats]


def row(kind: str, **changes: Any) -> dict[str, Any]:
    """Of a manifest."""
    output = changes.get("output", "bfloat16")
    made = {
        "kind": kind, "dtype": "bfloat16", "output": output, "head_dim": 128, "value_head_dim": 128,
        "parameters": parameters(kind, output), "threads": 512, "shared_bytes": 200000, "cluster": [1, 1, 1],
        "tile_rows": 256, "minimum_rows": 0, "persistent": False, "dependent": False,
    } | changes  # fmt: skip
    name = f"{kind}_{made['dtype']}_{output}_{made['head_dim']}_{made['value_head_dim']}_{made['minimum_rows']}"
    return {"name": name, "entry": f"{name}_0"} | made


HEAD_DIMS = ((64, 64), (96, 96), (128, 128), (192, 128))


def every_row() -> list[dict[str, Any]]:
    """The variants of a whole build."""
    rows = []
    for dtype in ("bfloat16", "float16"):
        for pair in HEAD_DIMS:
            dims = dict(zip(("head_dim", "value_head_dim"), pair, strict=True))
            rows += [row(kind, dtype=dtype, output=dtype, **dims) for kind in ("dense", "banded", "general")]
            rows.append(row("general", dtype=dtype, output="float32", **dims))
    return rows


def write(folder: Path, *rows: dict[str, Any], **changes: Any) -> Path:
    """A manifest with these rows, and images that the stand-in does not look into."""
    folder.mkdir(parents=True, exist_ok=True)
    for one in rows:
        (folder / f"{one['name']}.cubin").write_bytes(b"no code")
    (folder / "manifest.json").write_text(json.dumps(manifest(*rows, **changes)))
    return folder


class StubDriver:
    """The stand-in, as a test sets and reads it."""

    def __init__(self, *flags: str, copy: Path | None = None) -> None:
        self.path = gpu_call.compiled("stub_driver.cc", *flags)
        if copy:  # another driver to the launcher, which knows nothing of it yet
            self.path = Path(shutil.copy(self.path, copy))
        self.library = ctypes.CDLL(str(self.path))
        self.library.stub_launch.restype = ctypes.POINTER(_Launch)
        self.parameters: list[dict[str, Any]] = []

    def reset(self, kind: str | None = "dense", devices: int = 8) -> None:
        """Forgets what happened; launches are read as of this kind of kernel from now on, None: without parameters."""
        self.parameters = parameters(kind) if kind else []
        self.library.stub_reset(devices, "".join(parameter["kind"][0] for parameter in self.parameters).encode())

    def fail(self, call: str, result: int) -> None:
        """Whoever makes the call from now on gets the result."""
        self.library.stub_fail(call.encode(), result)

    def count(self, call: str) -> int:
        """How often it was made."""
        return int(self.library.stub_count(call.encode()))

    def stream(self, device: int = 0) -> c_void_p:
        """A new one; no context stays current."""
        context, stream = c_void_p(), c_void_p()
        assert self.library.cuDevicePrimaryCtxRetain(byref(context), device) == 0
        assert self.library.cuCtxPushCurrent_v2(context) == 0
        assert self.library.cuStreamCreate(byref(stream), 1) == 0
        assert self.library.cuCtxPopCurrent_v2(byref(context)) == 0
        return stream

    def launches(self) -> list[Launch]:
        """All since the reset."""
        return [self._read(self.library.stub_launch(i).contents) for i in range(self.library.stub_launches())]

    def _read(self, raw: _Launch) -> Launch:
        values, place, content = {}, 0, bytes(raw.parameters)
        for parameter in self.parameters:
            size = SIZES[parameter["kind"]]
            values[parameter["name"]] = _value(parameter["kind"], content[place : place + size])
            place += size
        assert tuple(raw.grid[1:]) == tuple(raw.block[1:]) == (1, 1)
        return Launch(
            raw.device, raw.stream, raw.thread, raw.grid[0], raw.block[0], tuple(raw.cluster), raw.shared_bytes,
            bool(raw.dependent), raw.entry.decode(), values,
        )  # fmt: skip


def _value(kind: str, content: bytes) -> Any:
    if kind != "tensor_map":
        return struct.unpack({"pointer": "<Q", "i32": "<i", "f32": "<f"}[kind], content)[0]
    kind_of, rank, address, *numbers = struct.unpack("<IIQ5Q4Q5II", content[:112])
    extents, strides, box = numbers[:rank], numbers[5 : 4 + rank], numbers[9 : 9 + rank]
    return TensorMap(kind_of, address, tuple(extents), tuple(strides), tuple(box), numbers[14])
