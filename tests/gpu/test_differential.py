"""The comparison of a GPU with the simulator; without a GPU its means, with the simulator on both sides."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from devices import Device
from forward_table import PLAIN

pytest.importorskip("jax_fa4_simulator", reason="the simulator is not installed")

import build_kernels
import differential
import instructions
from launcher import Launcher

SCRIPT = Path(differential.__file__)


@pytest.mark.gpu
def test_defined_bits_are_equal(gpu: Device) -> None:
    if gpu.jax.compute_capability != "9.0":
        pytest.skip("kernels of sm_90a run on Hopper alone")
    environment = {name: text for name, text in os.environ.items() if name != "JAX_FA4_CUDA_DRIVER"}
    ended = subprocess.run([sys.executable, SCRIPT], env=environment, capture_output=True, text=True)
    assert ended.returncode == 0, ended.stdout + ended.stderr


@pytest.fixture
def launcher(simulator: Device, monkeypatch: pytest.MonkeyPatch) -> Iterator[Launcher]:
    """The simulator as an H200, which it stays until it is reset."""
    from jax_fa4_simulator import _simulator

    with monkeypatch.context() as patch:
        patch.setenv("JAX_FA4_SIMULATOR_DEVICE", "h200")
        _simulator.driver.reset()
        yield Launcher(simulator.driver)
    _simulator.driver.reset()


@pytest.mark.parametrize("text", ["mad.lo.s32 %d, %a, %b, %c;", "fma.rn.bf16x2 %d, %a, %b, %c;"])
def test_an_instruction_by_the_driver(text: str, launcher: Launcher) -> None:
    (instruction,) = [one for one in (*instructions.INTEGERS, *instructions.FLOATS) if one.text == text]
    found = differential.of_instruction(launcher, instruction)
    assert (found.differing, found.is_defined) == (0, True)


def test_approximations_are_judged_against_the_exact_function(launcher: Launcher) -> None:
    for instruction in instructions.APPROXIMATIONS:
        found = differential.of_instruction(launcher, instruction)
        assert not found.is_defined
        assert found.errors is not None
        assert 0.4 < found.errors[1] < 0.6, instruction.name  # rounded once from double


@pytest.mark.skipif(not build_kernels.available(), reason="needs nvidia-cutlass-dsl")
def test_kernels_by_the_driver(launcher: Launcher) -> None:
    """Tensor maps, clusters, several results; and with random values, of which the products must differ from others."""
    launches = {launch.name: launch for launch in (*differential.LAUNCHES, *differential.GEMMS)}
    for name in ("tma_copy_3d_128b_to_none", "swap_by_bulk_copy", "ordered_reduce", "wgmma_m64_n64"):
        launch = launches[name]
        assert differential.of_kernel(launcher, launch, launch.problem, name, exact=True).differing == 0
    problem = launches["wgmma_m64_n64"].problem
    random = differential.with_random_values(problem())
    assert np.any(random.arguments[0].tensor != problem().arguments[0].tensor)
    found = differential.of_kernel(
        launcher, launches["wgmma_m64_n64"], lambda: differential.with_random_values(problem()), "random", exact=False
    )
    assert (found.differing, found.ulps) == (0, 0)


def test_attention_by_two_drivers(simulator: Device) -> None:
    output, log_sum_exp = differential.of_attention(simulator.driver, simulator.kernels, PLAIN)
    assert output.count == PLAIN.query_length * PLAIN.query_heads * PLAIN.head_dim
    assert (output.differing, log_sum_exp.differing) == (0, 0)


def test_differences_are_counted() -> None:
    own = np.array([1, 2, -3, 0.5, np.nan, np.inf, -0.0], np.float32)
    gpu = own.copy()
    assert differential.difference("same", gpu, own, defined=True).is_wrong is False
    gpu[1], gpu[3] = np.nextafter(own[1], np.float32(9)), 0.5 + 3 * 2.0**-24
    found = differential.difference("other", gpu, own, own.astype(np.float64), defined=True)
    assert (found.differing, found.ulps, found.errors, found.is_wrong) == (2, 3, (3, 0), True)
    gpu[:] = own
    gpu[6] = 0
    assert differential.difference("sign of zero", gpu, own, defined=True).differing == 1
    gpu[5] = 1
    assert differential.difference("infinity", gpu, own, defined=False).ulps == np.inf
    narrow = np.array([1, 100], ml_dtypes.bfloat16)
    other = np.array([1 + 2**-7, 100], ml_dtypes.bfloat16)
    assert differential.difference("each", other, narrow, defined=False).ulps == 1
    assert differential.difference("largest", other, narrow, defined=False, of_largest=True).ulps == 2**-6
    words = np.array([1, 2], np.int32)
    assert differential.difference("integers", words, words + 1, defined=True).differing == 2


def test_the_page(monkeypatch: pytest.MonkeyPatch) -> None:
    found: list[Any] = [
        differential.Difference("add.s32", 10, 0, 0, None, True),
        differential.Difference("xor.b32", 10, 1, 1, None, True),
        differential.Difference("ex2.approx.f32", 10, 4, 2, (1.5, 0.5), False),
    ]
    text = differential.page(found, {"GPU": "a card"})
    assert "* GPU: a card" in text
    assert "2 instructions and kernels; of these differ: xor.b32." in text
    assert "| ex2.approx.f32 |      10 |      4 |               2 |              1.5 |                    0.5 |" in text
