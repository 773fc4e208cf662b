"""jax.jit(jax_fa4.attention) on the compiled kernels, executed by the simulator: right results, every call launched."""

from __future__ import annotations

import dataclasses
from typing import Any

import built_forward
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tolerance
from cases import Case

import jax_fa4

pytest.importorskip("jax_fa4_simulator", reason="the simulator is not installed")
if not built_forward.available():
    pytest.skip("nvidia-cutlass-dsl, which compiles the kernels, is not installed", allow_module_level=True)

PLAIN = Case(dtype="bfloat16", batch=1, query_length=200, key_length=150, head_dim=128, query_heads=2)
CASES = {
    "dense": PLAIN,
    "float16": dataclasses.replace(PLAIN, dtype="float16", head_dim=64),
    "causal": dataclasses.replace(PLAIN, is_causal=True, batch=2),
    "window": dataclasses.replace(PLAIN, window=(70, 3), head_dim=64),
    "grouped": dataclasses.replace(PLAIN, query_heads=4, key_value_heads=1, head_dim=64),
    "padded": dataclasses.replace(PLAIN, head_dim=72, value_head_dim=40),
    "one_query": dataclasses.replace(PLAIN, query_length=1, key_length=300),
    "one_key": dataclasses.replace(PLAIN, query_length=300, key_length=1),
    "growing": dataclasses.replace(PLAIN, growing_logits=True),
}


@pytest.fixture(autouse=True)
def compiled_kernels(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("JAX_FA4_KERNELS", str(built_forward.built("sm_100a")))


def simulated(*arrays: Any, **options: Any) -> Any:
    return jax_fa4.attention(*arrays, implementation="sim", return_residual=True, **options)


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_results(case: Case, simulated_driver: Any) -> None:
    arrays = case.arrays()
    output, log_sum_exp = jax.jit(lambda arrays: simulated(**arrays, **case.arguments()))(arrays)
    inputs = {name: np.asarray(array) for name, array in arrays.items()}
    tolerance.assert_forward(inputs, case.arguments(), np.asarray(output), np.asarray(log_sum_exp))
    (launch,) = simulated_driver.take_launches()
    assert launch["kernel"].startswith("jax_fa4_forward_sm100_")
    assert not launch["outcome"].reports


def test_vmap_over_queries_of_shared_keys(simulated_driver: Any) -> None:
    arrays = PLAIN.arrays()
    query, key, value = (arrays[name] for name in ("query", "key", "value"))
    queries = jnp.stack([query, query * 2])
    output, log_sum_exp = jax.jit(jax.vmap(simulated, (0, None, None)))(queries, key, value)
    for i in range(2):
        inputs = {name: np.asarray(array) for name, array in (arrays | {"query": queries[i]}).items()}
        tolerance.assert_forward(inputs, {}, np.asarray(output[i]), np.asarray(log_sum_exp[i]))
    assert len(simulated_driver.take_launches()) == 2


def test_another_order_of_events(simulated_driver: Any) -> None:
    simulated_driver.set_options(schedule="random", seed=5)
    test_results(CASES["causal"], simulated_driver)
