"""What can be missing is an error in words, after which the process goes on."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import echo
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from devices import Device
from forward_table import PLAIN
from test_concurrency import assert_right

from jax_fa4 import manifest

FULL = Path(__file__).with_name("full_memory.py")


def run(device: Device) -> Any:
    """A call that can be made, from a program that is compiled anew."""
    return jax.jit(lambda arrays: device.attention(**arrays))(device.put(PLAIN.arrays()))


def test_a_gpu_that_no_kernel_runs_on(device: Device, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    echo.write(tmp_path, arch="sm_120a", head_dim=128, value_head_dim=128)
    monkeypatch.setenv(manifest.VARIABLE, str(tmp_path))
    words = (
        r"jax_fa4: no kernel runs on .+ \(sm_\d+\); this build has kernels for sm_120a\. "
        r'Pass implementation="blockwise"'
    )
    with pytest.raises(jax.errors.JaxRuntimeError, match=words):
        jax.block_until_ready(run(device))
    monkeypatch.setenv(manifest.VARIABLE, str(device.kernels))
    assert_right(PLAIN, run(device))


def test_a_folder_without_kernels(device: Device, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "manifest.json").write_text(
        '{"architecture": "sm_90a", "minimum_driver": 12000, "compiler": "", "variants": []}\n'
    )
    monkeypatch.setenv(manifest.VARIABLE, str(tmp_path))
    with pytest.raises(NotImplementedError, match=re.escape("this build has no CUDA kernels). Pass implementation=")):
        run(device)


def test_a_damaged_cubin(device: Device, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of the right GPU, but no code."""
    for file in device.kernels.rglob("manifest.json"):
        rows = file.read_text()
        (tmp_path / "manifest.json").write_text(rows)
        for name in re.findall(r'"name": "(jax_fa4_\w+)"', rows):
            (tmp_path / f"{name}.{'cubin' if device.is_gpu else 'ptx'}").write_bytes(b"no code of any kind")
    monkeypatch.setenv(manifest.VARIABLE, str(tmp_path))
    with pytest.raises(jax.errors.JaxRuntimeError, match=r"jax_fa4: loading jax_fa4_forward_\w+ for sm_\w+ failed: "):
        jax.block_until_ready(run(device))
    monkeypatch.setenv(manifest.VARIABLE, str(device.kernels))
    assert_right(PLAIN, run(device))


# These two want the GPU for themselves: what is marked slow runs alone.


@pytest.mark.gpu
@pytest.mark.slow
def test_arrays_that_do_not_fit(gpu: Device) -> None:
    """XLA's own words, and the next call works."""
    stats = gpu.jax.memory_stats()
    rows = stats["bytes_limit"] // (64 * 2) + 1
    key = gpu.put(np.zeros((1, 1, 1, 64), np.float16))

    @jax.jit
    def beyond(key: Any) -> Any:
        query = jnp.broadcast_to(key, (1024, 1 + rows // 1024, 1, 64)) + jnp.arange(64, dtype=key.dtype)
        keys = jnp.broadcast_to(key, (1024, 1, 1, 64))
        return gpu.attention(query=query, key=keys, value=keys)

    with pytest.raises(jax.errors.JaxRuntimeError, match="RESOURCE_EXHAUSTED"):
        jax.block_until_ready(beyond(key))
    assert_right(PLAIN, run(gpu))


@pytest.mark.gpu
@pytest.mark.slow
def test_no_memory_left_for_kernels(gpu: Device) -> None:
    """A process of its own takes all of the GPU's memory beside JAX's pool, calls, and gives it back."""
    ended = subprocess.run([sys.executable, FULL], env=os.environ, capture_output=True, text=True)
    assert ended.returncode == 0, ended.stderr
    assert ended.stdout.splitlines()[-1] in ("worked all the same", "refused in words, and worked afterwards")
