"""What the tests of this folder run on: the machine's NVIDIA GPU (marker gpu), and the simulator for what is small."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

sys.path.extend([str(Path(__file__).parents[2] / folder) for folder in ("tests/cuda", "tests/simulator", "benchmarks")])

# Before JAX starts: tests allocate memory beside JAX's pool, and some processes share one GPU.
os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")


def pytest_itemcollected(item: pytest.Item) -> None:
    """What is tried in the simulator is left to the whole run."""
    if not item.get_closest_marker("gpu"):
        item.add_marker(pytest.mark.slow)


def pytest_runtest_setup(item: pytest.Item) -> None:
    """One reason from one line, so that a run without a GPU says it once."""
    if item.get_closest_marker("gpu"):
        import devices

        if missing := devices.missing_gpu():
            pytest.skip(f"no NVIDIA GPU for these tests (make test-gpu): {missing}")


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """The machine's GPU, with kernels for it, its driver seen through."""
    import devices

    device = devices.gpu()
    monkeypatch.setenv("JAX_FA4_KERNELS", str(device.kernels))
    monkeypatch.setenv("JAX_FA4_CUDA_DRIVER", str(device.watch.path))
    device.watch.reset()
    yield device


@pytest.fixture
def simulator(monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> Any:
    """The simulator in the GPU's place."""
    pytest.importorskip("jax_fa4_simulator", reason="the simulator is not installed")
    import built_forward
    import devices

    if not built_forward.available():
        pytest.skip("nvidia-cutlass-dsl, which compiles the kernels, is not installed")
    request.getfixturevalue("simulated_driver").must_launch = False
    device = devices.simulator()
    monkeypatch.setenv("JAX_FA4_KERNELS", str(device.kernels))
    monkeypatch.setenv("JAX_FA4_CUDA_DRIVER", str(device.watch.path))
    device.watch.reset()
    return device


@pytest.fixture(params=[pytest.param("gpu", marks=pytest.mark.gpu), "simulator"])
def device(request: pytest.FixtureRequest) -> Any:
    """Either; tests say by its name how large they are."""
    return request.getfixturevalue(request.param)
