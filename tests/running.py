"""Runs one case through jax.jit and asserts that the custom calls it should consist of are in the compiled program."""

from __future__ import annotations

import contextlib
import functools
import re
from collections.abc import Callable, Iterator
from typing import Any

import jax
import numpy as np
from cases import Case

import jax_fa4

DIFFERENTIABLE = ("query", "key", "value", "bias", "sinks", "alibi_slopes")


@contextlib.contextmanager
def precision_of(case: Case) -> Iterator[None]:
    """float64 exists in JAX under x64 only."""
    with jax.enable_x64(case.dtype == "float64" or case.parameter_dtype == "float64"):
        yield


def kernel_calls(compiled: Any) -> dict[str, int]:
    """How often each of our custom calls occurs in a compiled program."""
    found = re.findall(r'custom_call_target="(jax_fa4_\w+)"', compiled.as_text())
    return {name: found.count(name) for name in sorted(set(found))}


def compiled_call(
    function: Callable[..., Any], *arguments: Any, calls: dict[str, int] | None = None
) -> Callable[..., Any]:
    """jit-compiles for these arguments and asserts which kernels the program calls."""
    compiled = jax.jit(function).lower(*arguments).compile()
    if calls is not None:
        assert kernel_calls(compiled) == calls
    return compiled


def results_and_gradients(
    call: Callable[..., Any], arrays: dict[str, Any], cotangents: Any
) -> tuple[Any, dict[str, Any]]:
    """(call(**arrays), gradients of its floating-point operands by name), to be traced by jit."""
    asked = {name: array for name, array in arrays.items() if name in DIFFERENTIABLE}
    others = {name: array for name, array in arrays.items() if name not in asked}
    results, pullback = jax.vjp(lambda asked: call(**asked, **others), asked)
    return results, pullback(cotangents)[0]


def forward(case: Case, implementation: Any = None) -> Any:
    """(output, log-sum-exp) of a case that nobody differentiates: few rows then take a way of their own."""
    options = {**case.arguments(), "return_residual": True, "implementation": implementation}
    with precision_of(case):
        arrays = case.arrays()
        call = compiled_call(lambda arrays: jax_fa4.attention(**arrays, **options), arrays)
        return jax.tree.map(np.asarray, call(arrays))


def forward_and_backward(case: Case, implementation: Any = None) -> tuple[Any, dict[str, Any]]:
    """((output, log-sum-exp), gradients by name) of a case, from one jitted program."""
    options = {**case.arguments(), "return_residual": True, "implementation": implementation}
    both = functools.partial(results_and_gradients, functools.partial(jax_fa4.attention, **options))
    with precision_of(case):
        arrays = case.arrays()
        calls = {"jax_fa4_cpu_backward": 2 if "bias" in arrays else 1, "jax_fa4_cpu_forward": 1}
        # XLA removes a call whose results are all empty.
        is_kernel = implementation in (None, "cpu") and case.query_length > 0
        arguments = (arrays, case.cotangents())
        return jax.tree.map(np.asarray, compiled_call(both, *arguments, calls=calls if is_kernel else None)(*arguments))
