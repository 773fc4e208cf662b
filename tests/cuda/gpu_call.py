"""Calls of the handlers of platform CUDA as XLA's CUDA client makes them, for machines without that client."""

from __future__ import annotations

import ctypes
import dataclasses
import functools
import shutil
import subprocess
import tempfile
from ctypes import c_char, c_double, c_int32, c_int64, c_void_p
from pathlib import Path
from typing import Any

import jax

from jax_fa4 import extension
from jax_fa4.spec import Operands

PRED, S32, F16, F32, F64, BF16 = 1, 4, 10, 11, 12, 16  # XLA_FFI_DataType
WIDTHS = {PRED: 1, S32: 4, F16: 2, F32: 4, F64: 8, BF16: 2}
INITIALIZE, EXECUTE = 2, 3  # XLA_FFI_ExecutionStage
HANDLERS = extension.registrations()["CUDA"]["jax_fa4_cuda_forward"]
ABSENT = {"bias": F32, "mask": PRED, "sinks": F32, "alibi_slopes": F32}

SOURCES = Path(__file__).parent
NO_COMPILER = shutil.which("c++") is None


class Row(ctypes.Structure):
    """An array as the frame of a call has it."""

    _fields_ = [("type", c_int32), ("rank", c_int32), ("dims", c_int64 * 6), ("data", c_void_p)]


class Request(ctypes.Structure):
    _fields_ = [
        ("handler", c_void_p), ("stage", c_int32), ("repeats", c_int32), ("stream", c_void_p),
        ("rows", ctypes.POINTER(Row)), ("operands", c_int32), ("results", c_int32), ("scale", c_double),
        ("logits_soft_cap", c_double), ("window_left", c_int64), ("window_right", c_int64), ("seconds", c_double),
        ("words", c_char * 1024),
    ]  # fmt: skip


@functools.cache
def compiled(name: str, *flags: str, libraries: tuple[Path | str, ...] = ()) -> Path:
    """The shared library of a source beside this file, or anywhere, linked with these `libraries`."""
    library = Path(tempfile.mkdtemp()) / f"{Path(name).name}.so"
    include = ["-isystem", jax.ffi.include_dir()]
    command = ["c++", "-std=c++20", "-O2", "-shared", "-fPIC", *include, *flags, "-o", library, SOURCES / name]
    command += ["-Wl,--no-as-needed", *libraries] if libraries else []
    subprocess.run(command, check=True)
    return library


@functools.cache
def fake_xla() -> ctypes.CDLL:
    """What makes the frames."""
    return ctypes.CDLL(str(compiled("fake_gpu_call.cc")))


def address_of(capsule: Any) -> int:
    """Of a handler."""
    ctypes.pythonapi.PyCapsule_GetPointer.restype = c_void_p
    ctypes.pythonapi.PyCapsule_GetPointer.argtypes = [ctypes.py_object, ctypes.c_char_p]
    return int(ctypes.pythonapi.PyCapsule_GetPointer(capsule, None))


def array(kind: int, shape: tuple[int, ...], address: int) -> Row:
    """An array of the call."""
    return Row(kind, len(shape), (c_int64 * 6)(*shape), address)


@dataclasses.dataclass
class GpuCall:
    """A call's arrays, by the names that they have in the contract; absent ones are left out."""

    arrays: dict[str, Row]
    scale: float = 1.0
    logits_soft_cap: float = 0.0
    window: tuple[int, int] = (-1, -1)
    seconds: float = 0.0  # that the latest one took

    def make(self, stage: int, stream: Any, repeats: int = 1) -> tuple[int, str]:
        """The error's code, or 0, and its words."""
        names = (*Operands._fields, "output", "log_sum_exp")
        rows = [self.arrays.get(name) or array(ABSENT.get(name, S32), (0,), 0) for name in names]
        request = Request(
            address_of(HANDLERS["initialize" if stage == INITIALIZE else "execute"]), stage, repeats, stream,
            (Row * len(rows))(*rows), len(Operands._fields), 2, self.scale, self.logits_soft_cap, *self.window,
        )  # fmt: skip
        code = int(fake_xla().call(ctypes.byref(request)))
        self.seconds = request.seconds
        return code, request.words.decode()
