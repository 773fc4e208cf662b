"""Results do not depend, bitwise, on the number of threads, on the run, or on what else runs; no call waits forever."""

from __future__ import annotations

import concurrent.futures
import faulthandler
import functools
import os
import subprocess
import sys
from typing import Any

import jax
import numpy as np
import pytest
from cases import Case
from running import compiled_call, precision_of, results_and_gradients

import jax_fa4

THREADS = (1, 2, 3, 7)
# The gradients of a single head are cut into stripes of queries, those of many heads are not; a bias that heads and
# batch share is a sum over them; a window and lengths leave tasks with nothing to do; many keys are dealt to several.
CASES = (
    Case(batch=1, query_length=2100, key_length=193, query_heads=1, key_value_heads=1, is_causal=True, sinks=True),
    Case("bfloat16", batch=1, query_length=130, query_heads=6, key_value_heads=1, alibi=True, bias="query"),
    Case(batch=3, query_heads=8, key_value_heads=8, head_dim=16, sinks=True, alibi=True),
    Case("float16", batch=5, bias="head", head_dim=16, logits_soft_cap=2.0),
    Case(batch=3, bias="key", query_length=130, lengths="both", nan_padding=True),
    Case("bfloat16", batch=1, query_length=193, key_length=193, window=(20, 5), segments="packed", bias="full"),
    Case("float64", batch=1, query_length=130, is_causal=True, causal_alignment="bottom_right", sinks=True),
    Case("bfloat16", batch=1, query_length=2, key_length=5000, query_heads=8, key_value_heads=1, sinks=True),
)


def function_of(case: Case) -> Any:
    """Arrays and cotangents to (results, gradients)."""
    call = functools.partial(jax_fa4.attention, **case.arguments(), return_residual=True)
    return functools.partial(results_and_gradients, call)


def bits(tree: Any) -> list[bytes]:
    return [np.asarray(array).tobytes() for array in jax.tree.leaves(tree)]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.id)
def test_any_number_of_threads_and_every_run_give_the_same_bits(case: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    with precision_of(case):
        arguments = case.arrays(), case.cotangents()
        calls = {"jax_fa4_cpu_backward": 2 if case.bias else 1, "jax_fa4_cpu_forward": 1}
        function = compiled_call(function_of(case), *arguments, calls=calls)
        assert_same_bits(function, arguments, monkeypatch)


def assert_same_bits(function: Any, arguments: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    found = set()
    for threads in THREADS:
        monkeypatch.setenv("JAX_FA4_CPU_THREADS", str(threads))
        found |= {tuple(bits(function(*arguments))) for _ in range(3)}
    assert len(found) == 1


def test_decoding_gives_the_same_bits(monkeypatch: pytest.MonkeyPatch) -> None:
    """Few rows have a way of their own where nobody differentiates."""
    case = CASES[-1]
    call = functools.partial(jax_fa4.attention, **case.arguments(), return_residual=True)
    arguments = (case.arrays(),)
    function = compiled_call(lambda arrays: call(**arrays), *arguments, calls={"jax_fa4_cpu_forward": 1})
    assert_same_bits(function, arguments, monkeypatch)


def test_the_argument_deterministic_changes_nothing_on_the_cpu() -> None:
    arrays, cotangents = CASES[0].arrays(), CASES[0].cotangents()
    plain = jax.jit(function_of(CASES[0]))(arrays, cotangents)

    def with_argument(arrays: dict[str, Any]) -> Any:
        return jax_fa4.attention(**arrays, **CASES[0].arguments(), return_residual=True, deterministic=True)

    results, pullback = jax.vjp(jax.jit(with_argument), arrays)
    assert bits((results, pullback(cotangents)[0])) == bits(plain)


def run_many_calls_at_once() -> None:
    """A program of independent calls, run from several threads at once: each result has the bits of one alone."""
    cases, copies = [case for case in CASES if case.dtype != "float64"][:4], 4
    functions = [function_of(case) for case in cases]
    arguments = [(case.arrays(), case.cotangents()) for case in cases]
    alone = [bits(jax.jit(function)(*own)) for function, own in zip(functions, arguments, strict=True)]

    def fan_out(arguments: Any) -> Any:
        return [[function(*own) for function, own in zip(functions, copy, strict=True)] for copy in arguments]

    # Copies are arguments of their own: equal calls of the same arguments XLA would make once.
    copied = [arguments] * copies
    backward_calls = sum(2 if case.bias else 1 for case in cases)
    calls = {"jax_fa4_cpu_backward": copies * backward_calls, "jax_fa4_cpu_forward": copies * len(cases)}
    program = compiled_call(fan_out, copied, calls=calls)

    def many_times(_: int) -> bool:
        return all([bits(result) for result in copy] == alone for _ in range(4) for copy in program(copied))

    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        assert all(pool.map(many_times, range(8)))


@pytest.mark.parametrize(("pool", "threads"), [("1", "4"), ("3", None)])
def test_many_calls_at_once_make_progress_and_agree(pool: str, threads: str | None) -> None:
    """With a pool smaller than what each call wishes for, whose threads the calls themselves occupy."""
    environment = os.environ | {"NPROC": pool, "JAX_PLATFORMS": "cpu"}
    environment |= {} if threads is None else {"JAX_FA4_CPU_THREADS": threads}
    subprocess.run([sys.executable, __file__], env=environment, check=True, timeout=120)


if __name__ == "__main__":
    faulthandler.dump_traceback_later(100, exit=True)
    run_many_calls_at_once()
