"""merge joins attention over two parts of the keys into attention over all of them, derivatives and empty rows too."""

from __future__ import annotations

from collections.abc import Iterator

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.test_util import check_grads

from jax_fa4 import reference
from jax_fa4.merge import merge
from jax_fa4.spec import Array, AttentionSpec, Operands

BATCH, QUERIES, KEYS, HEADS, HEAD_DIM = 2, 6, 8, 2, 3
# Rounding of float64 sums of about ten terms of order one.
ROUNDING = {"rtol": 1e-13, "atol": 1e-13}


@pytest.fixture(autouse=True)
def float64() -> Iterator[None]:
    with jax.enable_x64(True):
        yield


def _normal(seed: int, *shape: int) -> Array:
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape))


def _causal(operands: Operands, first_key: int) -> tuple[Array, Array]:
    """Causal attention to keys that start at first_key; the first two queries stand before key 0, hence are empty."""
    operands = operands._replace(query_offset=jnp.array([-2 - first_key], jnp.int32))
    output, log_sum_exp = reference.attention(AttentionSpec(scale=0.5, window=(None, 0)), operands)
    return output, jnp.swapaxes(log_sum_exp, 1, 2)


def _whole(operands: Operands) -> tuple[Array, Array]:
    return _causal(operands, 0)


def _halves(operands: Operands) -> tuple[Array, Array]:
    middle = 2
    first = operands._replace(key=operands.key[:, :middle], value=operands.value[:, :middle])
    second = operands._replace(key=operands.key[:, middle:], value=operands.value[:, middle:], sinks=None)
    return merge(*_causal(first, 0), *_causal(second, middle))


@pytest.mark.parametrize("with_sinks", [False, True])
def test_halves_join_into_the_whole(with_sinks: bool) -> None:
    operands = Operands(
        query=_normal(0, BATCH, QUERIES, HEADS, HEAD_DIM),
        key=_normal(1, BATCH, KEYS, HEADS, HEAD_DIM),
        value=_normal(2, BATCH, KEYS, HEADS, HEAD_DIM),
        sinks=_normal(3, 1, HEADS) if with_sinks else None,
    )
    out_weight, lse_weight = _normal(4, BATCH, QUERIES, HEADS, HEAD_DIM), _normal(5, BATCH, QUERIES, HEADS)

    def results_and_gradients(function):
        def loss(operands: Operands):
            out, lse = function(operands)
            return jnp.sum(out_weight * out) + jnp.sum(lse_weight * jnp.where(lse == -jnp.inf, 0, lse)), (out, lse)

        return jax.jit(jax.grad(loss, has_aux=True))(operands)

    gradients, (out, lse) = results_and_gradients(_halves)
    expected_gradients, (expected_out, expected_lse) = results_and_gradients(_whole)
    assert with_sinks or np.all(np.isneginf(lse[:, :2]))
    assert np.all(out[:, :2] == 0) and np.all(np.isfinite(lse[:, 2:]))
    np.testing.assert_allclose(out, expected_out, **ROUNDING)
    np.testing.assert_allclose(lse, expected_lse, **ROUNDING)
    jax.tree.map(lambda one, two: np.testing.assert_allclose(one, two, **ROUNDING), gradients, expected_gradients)


@pytest.mark.slow
def test_second_derivatives_in_both_modes() -> None:
    shape = (2, 3, 2)
    arguments = (_normal(0, *shape, 4), _normal(1, *shape), _normal(2, *shape, 4), _normal(3, *shape))
    check_grads(jax.jit(merge), arguments, order=2, modes=["fwd", "rev"])


@pytest.mark.parametrize("differentiate", [jax.jacfwd, jax.jacrev, jax.hessian])
def test_empty_rows_add_nothing(differentiate) -> None:
    out1, out2 = _normal(0, 4, 1, 3).at[jnp.array([1, 3])].set(0), _normal(1, 4, 1, 3).at[2:].set(0)
    lse1, lse2 = jnp.array([[0.5], [-jnp.inf], [1.0], [-jnp.inf]]), jnp.array([[-1.0], [2.0], [-jnp.inf], [-jnp.inf]])
    out, lse = jax.jit(merge)(out1, lse1, out2, lse2)
    np.testing.assert_array_equal(out[1:], jnp.stack([out2[1], out1[2], jnp.zeros((1, 3))]))
    np.testing.assert_array_equal(lse[1:], jnp.stack([lse2[1], lse1[2], lse2[3]]))

    def sums(*arguments):
        out, lse = merge(*arguments)
        return jnp.sum(jnp.sin(out)) + jnp.sum(jnp.where(lse == -jnp.inf, 0, lse) ** 2)

    derivatives = jax.jit(differentiate(sums, argnums=(0, 1, 2, 3)))(out1, lse1, out2, lse2)
    assert all(np.all(np.isfinite(derivative)) for derivative in jax.tree.leaves(derivatives))
    if differentiate is not jax.hessian:
        empty1, empty2 = np.array([1, 3]), np.array([2, 3])
        assert not np.any(derivatives[0][empty1]) and not np.any(derivatives[1][empty1])
        assert not np.any(derivatives[2][empty2]) and not np.any(derivatives[3][empty2])


def test_large_log_sum_exps_do_not_overflow() -> None:
    ones = jnp.ones((1, 1, 2), jnp.float32)
    out, lse = merge(ones, jnp.full((1, 1), 1e4, jnp.float32), 3 * ones, jnp.full((1, 1), 1e4, jnp.float32))
    np.testing.assert_array_equal(out, 2 * ones)
    np.testing.assert_allclose(lse, 1e4 + np.log(2), rtol=1e-6)


def test_low_precision_outputs_are_joined_in_float32() -> None:
    out1, out2 = (_normal(seed, 5, 2, 4).astype(jnp.bfloat16) for seed in (0, 1))
    lse1, lse2 = (_normal(seed, 5, 2).astype(jnp.float32) for seed in (2, 3))
    out, lse = merge(out1, lse1, out2, lse2)
    exact, _ = merge(out1.astype(jnp.float32), lse1, out2.astype(jnp.float32), lse2)
    assert out.dtype == jnp.bfloat16 and lse.dtype == jnp.float32 and exact.dtype == jnp.float32
    np.testing.assert_array_equal(out, exact.astype(jnp.bfloat16))
    assert merge(out1, lse1, out2.astype(jnp.float32), lse2)[0].dtype == jnp.float32
    assert merge(out1, lse1.astype(jnp.float64), out2, lse2)[1].dtype == jnp.float64


def test_log_sum_exp_in_the_layout_of_the_kernels_is_refused() -> None:
    out, lse = jnp.zeros((2, 5, 3, 4)), jnp.zeros((2, 3, 5))
    with pytest.raises(ValueError, match=r"lse1 \(2, 3, 5\).*\(\.\.\., T, N\)"):
        merge(out, lse, out, lse)
