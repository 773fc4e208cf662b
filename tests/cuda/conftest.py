"""Kernels and drivers for the tests of launching, in place of the package's own and the machine's."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest


@pytest.fixture
def echo_kernels(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The kernel of echo.py, and no other, is what was compiled."""
    import echo

    monkeypatch.setenv("JAX_FA4_KERNELS", str(tmp_path))
    return echo.write(tmp_path)


@pytest.fixture
def every_kernel(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A manifest with all variants of a build, without their code."""
    import stub

    from jax_fa4 import manifest

    monkeypatch.setenv("JAX_FA4_KERNELS", str(tmp_path))
    stub.write(tmp_path, *stub.every_row())
    manifest.variants()
    return tmp_path


@pytest.fixture
def stub_driver(every_kernel: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """The driver that computes nothing and remembers, and all variants."""
    import gpu_call
    import stub

    if gpu_call.NO_COMPILER:
        pytest.skip("needs a C++ compiler")
    driver = stub.StubDriver()
    monkeypatch.setenv("JAX_FA4_CUDA_DRIVER", str(driver.path))
    driver.reset()
    return driver
