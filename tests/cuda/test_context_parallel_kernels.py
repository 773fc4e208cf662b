"""A ring of Blackwell forward kernels, executed by the simulator: two devices, partial outputs in float32."""

from __future__ import annotations

import functools
from typing import Any

import built_forward
import jax
import numpy as np
import pytest
import tolerance
from cases import Case
from jax.sharding import Mesh

from jax_fa4 import context_parallel

pytest.importorskip("jax_fa4_simulator", reason="the simulator is not installed")
if not built_forward.available():
    pytest.skip("nvidia-cutlass-dsl, which compiles the kernels, is not installed", allow_module_level=True)


def test_ring_in_the_simulator(simulated_driver: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every launch is of the kernel with float32 output, none is reported, and the joined result is right."""
    monkeypatch.setenv("JAX_FA4_KERNELS", str(built_forward.built("sm_100a")))
    case = Case(
        "bfloat16", batch=1, query_length=96, key_length=96, head_dim=64, query_heads=2, key_value_heads=1,
        is_causal=True, sinks=True,
    )  # fmt: skip
    devices = Mesh(np.asarray(jax.devices()[:2]), ("context",))
    call = functools.partial(
        context_parallel.sharded_attention,
        mesh=devices,
        axis_name="context",
        implementation="sim",
        return_residual=True,
    )
    arrays = case.arrays()
    output, log_sum_exp = jax.jit(lambda arrays: call(**arrays, **case.arguments()))(arrays)
    tolerance.assert_forward(arrays, case.arguments(), np.asarray(output), np.asarray(log_sum_exp))
    launches = simulated_driver.take_launches()
    assert len(launches) == 4  # two steps on each of two devices
    for launch in launches:
        assert "_general_float32" in launch["kernel"]
        assert not launch["outcome"].reports
