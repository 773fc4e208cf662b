"""implementation=: plain JAX against the oracle, forward mode, tuples tried in order, and which of them is chosen."""

from __future__ import annotations

import functools
import re
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tolerance
from cases import QUICK, Case
from running import DIFFERENTIABLE, forward_and_backward, kernel_calls, precision_of

import jax_fa4

Arrays = dict[str, Any]

FALLS_TO_BLOCKWISE = ("cuda", "blockwise")
FALLS_TO_REFERENCE = ("cuda", "xla")

# Every operand and every kind of row, yet small: whole Jacobians are made of it, of loops in loops.
TINY = Case(
    "float64", batch=1, query_length=3, key_length=5, query_heads=2, key_value_heads=1, head_dim=2, bias="full",
    sinks=True, alibi=True, is_causal=True, query_offset="batch", logits_soft_cap=3.0,
)  # fmt: skip
# Rounding of float64 sums of some tens of terms of order one.
ROUNDING = {"rtol": 1e-12, "atol": 1e-12}


def everywhere(*always: Case) -> Any:
    """QUICK, of which all but these are marked slow."""
    return pytest.mark.parametrize(
        "case",
        [pytest.param(case, id=case.id, marks=() if case in always else pytest.mark.slow) for case in QUICK],
    )


def check(case: Case, implementation: Any) -> None:
    results, gradients = forward_and_backward(case, implementation)
    tolerance.assert_forward(case.arrays(), case.arguments(), *results)
    tolerance.assert_backward(case.arrays(), case.arguments(), *case.cotangents(), gradients)


@everywhere(QUICK[3], QUICK[5], QUICK[8], QUICK[11], *QUICK[-2:])
def test_blockwise(case: Case) -> None:
    check(case, "blockwise")


@everywhere(QUICK[3], QUICK[11], *QUICK[-2:])
def test_reference(case: Case) -> None:
    check(case, "reference")


@everywhere(QUICK[5], QUICK[11])
@pytest.mark.parametrize("implementation", [FALLS_TO_BLOCKWISE, FALLS_TO_REFERENCE], ids="-".join)
def test_tuples_that_fall_to_plain_jax(case: Case, implementation: Any) -> None:
    check(case, implementation)


def test_names_and_tuples_of_one_implementation_are_the_same_program() -> None:
    arrays = QUICK[-2].arrays()

    def program(implementation: Any) -> str:
        call = functools.partial(jax_fa4.attention, **QUICK[-2].arguments(), implementation=implementation)
        return jax.jit(lambda arrays: call(**arrays)).lower(arrays).as_text()

    assert program("xla") == program("reference") == program(("reference",))
    assert program("cpu") == program(("cpu",)) == program(("cpu", "blockwise")) == program(("cuda", "cpu"))
    assert len({program("cpu"), program("blockwise"), program("reference")}) == 3


def loss_of(case: Case, implementation: Any) -> Callable[[Arrays], Any]:
    """A curved function of the results, of the arrays that are given, with the case's own in place of the others."""
    d_output, d_log_sum_exp = case.cotangents()

    def loss(asked: Arrays) -> Any:
        arrays = case.arrays() | asked
        options = {"implementation": implementation, "return_residual": True}
        output, log_sum_exp = jax_fa4.attention(**arrays, **case.arguments(), **options)
        return jnp.sum(d_output * jnp.sin(output)) + jnp.sum(d_log_sum_exp * log_sum_exp**2)

    return loss


def asked_of(case: Case, names: tuple[str, ...] = DIFFERENTIABLE) -> Arrays:
    return {name: jnp.asarray(array) for name, array in case.arrays().items() if name in names}


@pytest.mark.slow
@pytest.mark.parametrize("implementation", ["blockwise", "reference"])
def test_forward_mode_is_reverse_mode_of_the_kernel(implementation: str) -> None:
    with precision_of(TINY):
        primals = asked_of(TINY)
        assert set(primals) == set(DIFFERENTIABLE)
        tangents = {name: jnp.cos(jnp.arange(array.size)).reshape(array.shape) for name, array in primals.items()}
        value, gradient = jax.value_and_grad(loss_of(TINY, None))(primals)
        expected = sum(jnp.vdot(gradient[name], tangents[name]) for name in primals)

        loss = loss_of(TINY, implementation)
        results = jax.jit(lambda primals: jax.jvp(loss, (primals,), (tangents,)))(primals)
        np.testing.assert_allclose(results, (value, expected), **ROUNDING)
        np.testing.assert_allclose(jax.linearize(jax.jit(loss), primals)[1](tangents), expected, **ROUNDING)
        of_sinks = jax.jit(jax.jacfwd(lambda sinks: loss(primals | {"sinks": sinks})))(primals["sinks"])
        np.testing.assert_allclose(of_sinks, gradient["sinks"], **ROUNDING)


@pytest.mark.slow
@pytest.mark.parametrize("implementation", ["blockwise", "reference"])
def test_hessian_is_reverse_over_reverse_of_the_kernel(implementation: str) -> None:
    with precision_of(TINY):
        primals = asked_of(TINY, ("query", "sinks"))
        expected = jax.jit(jax.jacrev(jax.grad(loss_of(TINY, None))))(primals)
        hessian = jax.jit(jax.hessian(loss_of(TINY, implementation)))(primals)
    assert all(np.any(block) for block in jax.tree.leaves(expected))
    jax.tree.map(lambda *ab: np.testing.assert_allclose(*ab, **ROUNDING), hessian, expected)


def _linearized(function: Any, primals: Arrays) -> Any:
    return jax.linearize(function, primals)[1](primals)


FORWARD_MODE: dict[str, Callable[[Any, Arrays], Any]] = {
    "jvp": lambda function, primals: jax.jvp(function, (primals,), (primals,)),
    "jvp of jit": lambda function, primals: jax.jvp(jax.jit(function), (primals,), (primals,)),
    "jit of jvp": lambda function, primals: jax.jit(lambda x: jax.jvp(function, (x,), (x,)))(primals),
    "linearize": _linearized,
    "linearize of jit": lambda function, primals: _linearized(jax.jit(function), primals),
    "jit of linearize": lambda function, primals: jax.jit(functools.partial(_linearized, function))(primals),
    "jacfwd": lambda function, primals: jax.jacfwd(function)(primals),
    "hessian": lambda function, primals: jax.hessian(function)(primals),
    "jvp of grad": lambda function, primals: jax.jvp(jax.grad(function), (primals,), (primals,)),
}


@pytest.mark.parametrize("implementation", [None, "cpu", FALLS_TO_BLOCKWISE], ids=str)
@pytest.mark.parametrize("transformation", FORWARD_MODE)
def test_forward_mode_of_the_kernel_is_refused_in_words(transformation: str, implementation: Any) -> None:
    with precision_of(TINY), pytest.raises(NotImplementedError, match='implementation="blockwise"'):
        FORWARD_MODE[transformation](loss_of(TINY, implementation), asked_of(TINY))


@pytest.mark.parametrize("name", DIFFERENTIABLE)
def test_forward_mode_is_refused_in_each_argument(name: str) -> None:
    with precision_of(TINY), pytest.raises(NotImplementedError, match='implementation="blockwise"'):
        FORWARD_MODE["jvp"](loss_of(TINY, None), asked_of(TINY, (name,)))


def test_forward_mode_past_a_kernel_works() -> None:
    """What does not depend on the variable has no tangent to refuse."""
    with precision_of(TINY):
        value = np.asarray(loss_of(TINY, None)({}))
        result, tangent = jax.jvp(lambda x: x**2 * loss_of(TINY, None)({}), (3.0,), (1.0,))
        np.testing.assert_allclose((result, tangent), (9 * value, 6 * value), **ROUNDING)


@pytest.mark.parametrize(
    ("implementation", "mapped"),
    [
        (FALLS_TO_REFERENCE, ("key", "value")),
        (FALLS_TO_REFERENCE, ("query", "bias", "sinks")),
        pytest.param(FALLS_TO_BLOCKWISE, ("query", "key", "alibi_slopes"), marks=pytest.mark.slow),
    ],
)
def test_vmap_is_a_loop(implementation: Any, mapped: tuple[str, ...]) -> None:
    """Where a tuple falls to plain JAX, after vmap has added its axes."""
    both = jax.jit(jax.value_and_grad(lambda own, shared: loss_of(TINY, implementation)(shared | own), argnums=(0, 1)))
    with precision_of(TINY):
        shared, own = asked_of(TINY), asked_of(TINY, mapped)
        elements = [own, jax.tree.map(jnp.flip, own), jax.tree.map(jnp.sin, own)]
        stacked = jax.tree.map(lambda *arrays: jnp.stack(arrays), *elements)
        at_once = jax.vmap(both, in_axes=(0, None))(stacked, shared)
        one_by_one = jax.tree.map(lambda *arrays: jnp.stack(arrays), *(both(element, shared) for element in elements))
    jax.tree.map(lambda *ab: np.testing.assert_allclose(*ab, **ROUNDING), at_once, one_by_one)


# implementation, platform, what is chosen; None where nothing is.
CHOICES = [
    (None, "cpu", "cpu"),
    (None, "cuda", None),
    (None, "gpu", None),
    (None, "tpu", None),
    ("cpu", "cpu", "cpu"),
    ("cpu", "cuda", None),
    ("cuda", "cpu", None),
    ("cuda", "cuda", None),
    *((name, platform, name) for name in ("blockwise", "reference") for platform in ("cpu", "cuda", "tpu")),
    ("xla", "cpu", "reference"),
    (("cuda", "cpu"), "cpu", "cpu"),
    (("cpu", "blockwise"), "cpu", "cpu"),
    (("blockwise", "cpu"), "cpu", "blockwise"),
    (FALLS_TO_BLOCKWISE, "cpu", "blockwise"),
    (FALLS_TO_REFERENCE, "cpu", "reference"),
    (("cpu", "blockwise"), "cuda", "blockwise"),
    (("cpu", "xla"), "tpu", "reference"),
    (("cuda", "cpu"), "tpu", None),
]
WORDS = r'platform .*implementation="blockwise"'


@pytest.mark.parametrize(("implementation", "platform", "expected"), CHOICES, ids=str)
def test_which_says_what_is_lowered(implementation: Any, platform: str, expected: str | None) -> None:
    """For any platform, none of which need be here, and with shapes alone."""
    case = QUICK[-2]
    structs = {name: jax.ShapeDtypeStruct(array.shape, array.dtype) for name, array in case.arrays().items()}
    options = case.arguments() | {"implementation": implementation}
    traced = jax.jit(lambda arrays: jax_fa4.attention(**arrays, **options)).trace(structs)
    lower = functools.partial(traced.lower, lowering_platforms=({"gpu": "cuda"}.get(platform, platform),))
    if expected is None:
        with pytest.raises(NotImplementedError, match=WORDS):
            jax_fa4.which(**structs, **options, platform=platform)
        with pytest.raises(NotImplementedError, match=WORDS):
            lower()
        return
    assert jax_fa4.which(**structs, **options, platform=platform) == expected
    found = set(re.findall(r"jax_fa4_cpu_\w+|while", lower().as_text()))
    assert found == {"cpu": {"jax_fa4_cpu_forward"}, "blockwise": {"while"}, "reference": set()}[expected]


def test_which_takes_the_arguments_of_a_call() -> None:
    case = Case(bias="full", mask="full", is_causal=True, query_offset="batch")
    arrays = case.arrays()
    names = ("query", "key", "value", "bias", "mask")
    by_position = jax_fa4.which(*(arrays[name] for name in names), query_offset=arrays["query_offset"])
    assert by_position == jax_fa4.which(**arrays, is_causal=True) == jax.default_backend() == "cpu"

    said = []
    jax.eval_shape(lambda arrays: said.append(jax_fa4.which(**arrays)), arrays)
    assert said == ["cpu"]
    with pytest.raises(ValueError, match="scale"):
        jax_fa4.which(**arrays, scale=-1.0)
    with pytest.raises(TypeError):
        jax_fa4.which(**arrays, no_such_argument=1)


@pytest.mark.parametrize("implementation", ["blockwise", "reference", FALLS_TO_BLOCKWISE], ids=str)
def test_plain_programs_call_no_kernel(implementation: Any) -> None:
    loss = loss_of(Case(query_length=5, key_length=9), implementation)
    gradient = jax.jit(jax.grad(loss)).lower(asked_of(Case(query_length=5, key_length=9)))
    assert kernel_calls(gradient.compile()) == {}
    assert "jax_fa4" not in gradient.as_text()


OFFSETS_AND_WINDOWS = [
    (2**31 - 1, (None, 0)),
    (-(2**31), (None, 0)),
    (2**31 - 1, (2**31 - 1, 2**31 - 1)),
    (-(2**31) + 3, (5, 2**31 - 1)),
    (2**31 - 3, (2**31 - 5, None)),
]


@pytest.mark.parametrize("implementation", [None, "blockwise", "reference"])
@pytest.mark.parametrize("offset, window", OFFSETS_AND_WINDOWS)
def test_positions_at_the_ends_of_int32_do_not_wrap(offset: int, window: Any, implementation: Any) -> None:
    case = Case(batch=1, query_length=7, key_length=20, window=window)
    arrays = case.arrays() | {"query_offset": np.asarray(offset, np.int32)}
    results = jax_fa4.attention(**arrays, **case.arguments(), implementation=implementation, return_residual=True)
    tolerance.assert_forward(arrays, case.arguments(), *map(np.asarray, results))
