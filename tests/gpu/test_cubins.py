"""Cubins of every build load: those of this run, and of others that JAX_FA4_GPU_BUILDS names (folders, by colons).

`tests/gpu/prepare.py` makes them with the compiler's libraries of CUDA 12 and of CUDA 13.
"""

from __future__ import annotations

import json
import os
from ctypes import byref, c_char_p, c_int, c_void_p
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
import raw
from cases import Case
from devices import Device, texts_of
from forward_table import KINDS, PLAIN
from test_concurrency import assert_right, assert_same_bits

VARIABLE = "JAX_FA4_GPU_BUILDS"
THREADS, LOCAL_BYTES, REGISTERS = 0, 3, 4  # CU_FUNC_ATTRIBUTE_...


def builds(device: Device) -> list[Path]:
    """Folders with a manifest."""
    named = [Path(folder) for folder in os.environ.get(VARIABLE, "").split(":") if folder]
    named = named if device.is_gpu else [texts_of(folder) for folder in named]
    return [*(file.parent for file in device.kernels.rglob("manifest.json")), *named]


def test_every_kernel_loads(device: Device) -> None:
    """With room for the threads that it is launched with, and without a spill."""
    driver = raw.Driver(device.driver)
    for folder in builds(device):
        manifest = json.loads((folder / "manifest.json").read_text())
        assert manifest["variants"]
        for row in manifest["variants"]:
            image = (folder / f"{row['name']}.{'cubin' if device.is_gpu else 'ptx'}").read_bytes()
            found = loaded(driver, image, row["entry"], (THREADS, LOCAL_BYTES, REGISTERS) if device.is_gpu else ())
            if found:
                assert found[THREADS] >= row["threads"], row["name"]
                assert found[LOCAL_BYTES] == 0, f"{row['name']} spills"
                assert found[REGISTERS] * row["threads"] <= 1 << 16, row["name"]


def loaded(driver: raw.Driver, image: bytes, entry: str, attributes: tuple[int, ...]) -> dict[int, int]:
    """Loads a kernel and unloads it; returns its attributes."""
    module, function, value, found = c_void_p(), c_void_p(), c_int(), {}
    with driver:
        driver.ok("cuModuleLoadData", byref(module), c_char_p(image))
        driver.ok("cuModuleGetFunction", byref(function), module, entry.encode())
        for attribute in attributes:
            driver.ok("cuFuncGetAttribute", byref(value), attribute, function)
            found[attribute] = value.value
        driver.ok("cuModuleUnload", module)
    return found


@pytest.mark.parametrize("case", [PLAIN, KINDS["general"]], ids=["dense", "general"])
def test_every_build_computes_the_same(case: Case, device: Device, monkeypatch: pytest.MonkeyPatch) -> None:
    """Right, all of them; the compilers may order additions differently, but each is the same twice."""
    arrays = device.put(case.arrays())
    for folder in builds(device):
        monkeypatch.setenv("JAX_FA4_KERNELS", str(folder))
        run = jax.jit(lambda arrays: device.attention(**arrays, **case.arguments()))
        results: Any = [jax.tree.map(np.asarray, run(arrays)) for _ in range(2)]
        assert_right(case, results[0])
        assert_same_bits(*results)


@pytest.mark.gpu
def test_both_flavours_are_among_the_builds(gpu: Device) -> None:
    missing = {"CUDA 12", "CUDA 13"} - {flavour(folder) for folder in builds(gpu)}
    if missing:
        pytest.skip(f"no build by the compiler of {', '.join(missing)}: see prepare.py, and name it in {VARIABLE}")


def flavour(folder: Path) -> str:
    """The toolkit of the compiler; that of CUDA 13 brings the libraries of both."""
    compiler = json.loads((folder / "manifest.json").read_text())["compiler"]
    return "CUDA 13" if "-libs-cu13" in compiler else "CUDA 12"


def test_flavours_are_told_apart(tmp_path: Path) -> None:
    for libraries, wanted in (("libs-cu12 4.8.1", "CUDA 12"), ("libs-cu12 4.8.1, x-libs-cu13 4.8.1", "CUDA 13")):
        (tmp_path / "manifest.json").write_text(json.dumps({"compiler": f"nvidia-cutlass-dsl-{libraries}"}))
        assert flavour(tmp_path) == wanted
