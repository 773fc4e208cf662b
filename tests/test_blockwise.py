"""blockwise and reference are the attention that a loop over rows computes, with equal derivatives; memory linear."""

from __future__ import annotations

from collections.abc import Iterator

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import export
from jax.test_util import check_grads

from jax_fa4 import blockwise, reference
from jax_fa4.spec import DIFFERENTIABLE, Array, AttentionSpec, Operands

# Neither length is a multiple of its block: 4 blocks of queries and 3 of keys.
BATCH, QUERIES, KEYS, HEADS, KEY_HEADS, HEAD_DIM, VALUE_DIM = 2, 13, 19, 4, 2, 3, 2
# Rounding of float64 sums of some tens of terms of order one.
ROUNDING = {"rtol": 1e-12, "atol": 1e-12}

SHAPES = {
    "query": (BATCH, QUERIES, HEADS, HEAD_DIM),
    "key": (BATCH, KEYS, KEY_HEADS, HEAD_DIM),
    "value": (BATCH, KEYS, KEY_HEADS, VALUE_DIM),
    "bias": (1, HEADS, QUERIES, KEYS),
    "mask": (BATCH, 1, QUERIES, KEYS),
    "sinks": (1, HEADS),
    "alibi_slopes": (1, HEADS),
    "query_segment_ids": (1, QUERIES),
    "key_value_segment_ids": (1, KEYS),
    "query_seq_lengths": (BATCH,),
    "key_value_seq_lengths": (BATCH,),
    "query_offset": (BATCH,),
}
SEGMENTS = ("query_segment_ids", "key_value_segment_ids")
LENGTHS = ("query_seq_lengths", "key_value_seq_lengths")

# Spec, optional operands, shapes other than those of SHAPES.
CASES = {
    "shared keys": (AttentionSpec(0.6), (), {"key": (1, *SHAPES["key"][1:])}),
    "causal, offset, sinks, column bias": (
        AttentionSpec(0.6, window=(None, 0)),
        ("query_offset", "sinks", "bias"),
        {"bias": (BATCH, 1, 1, KEYS)},
    ),
    "segments, lengths, row bias": (
        AttentionSpec(0.6),
        (*SEGMENTS, *LENGTHS, "bias"),
        {"bias": (1, HEADS, QUERIES, 1)},
    ),
    "everything": (AttentionSpec(0.6, window=(7, 4), logits_soft_cap=1.5), tuple(SHAPES)[3:], {}),
}


@pytest.fixture(autouse=True)
def float64_and_small_blocks(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(blockwise, "BLOCK_QUERIES", 4)
    monkeypatch.setattr(blockwise, "BLOCK_KEYS", 8)
    with jax.enable_x64(True):
        yield


@pytest.fixture
def quick_compilation() -> Iterator[None]:
    """Most of the time of these tests is LLVM's; second derivatives of nested loops are large programs."""
    before = jax.config.read("jax_disable_most_optimizations")
    jax.config.update("jax_disable_most_optimizations", True)
    yield
    jax.config.update("jax_disable_most_optimizations", before)


def _operands(optional: tuple[str, ...] = (), shapes: dict[str, tuple[int, ...]] | None = None) -> Operands:
    random = np.random.default_rng(0)
    arrays = {}
    for name in ("query", "key", "value", *optional):
        shape = (SHAPES | (shapes or {}))[name]
        if name == "mask":
            arrays[name] = jnp.asarray(random.random(shape) < 0.8)
        elif name in SEGMENTS:
            arrays[name] = jnp.sort(jnp.asarray(random.integers(-1, 2, shape), jnp.int32), axis=1)
        elif name in (*LENGTHS, "query_offset"):
            # Beyond the sequence as well as within it: lengths are clamped.
            values = {"query_seq_lengths": (40, 9), "key_value_seq_lengths": (11, 40), "query_offset": (5, -4)}[name]
            arrays[name] = jnp.asarray(values, jnp.int32)
        else:
            arrays[name] = jnp.asarray(random.normal(size=shape))
    return Operands(**arrays)


def _row_by_row(spec: AttentionSpec, operands: Operands) -> tuple[np.ndarray, np.ndarray]:
    """The definition, one softmax at a time, in NumPy."""
    full = {"bias": (BATCH, HEADS, QUERIES, KEYS), "mask": (BATCH, HEADS, QUERIES, KEYS)}
    given = {}
    for name, array in operands._asdict().items():
        if array is not None:
            given[name] = np.broadcast_to(array, full.get(name, (BATCH, *SHAPES[name][1:])))
    left, right = (np.inf if side is None else side for side in spec.window)
    output, log_sum_exp = np.zeros((BATCH, QUERIES, HEADS, VALUE_DIM)), np.full((BATCH, HEADS, QUERIES), -np.inf)
    keys = np.arange(KEYS)
    for b, n, i in np.ndindex(BATCH, HEADS, QUERIES):
        k = n // (HEADS // KEY_HEADS)
        position = i + (given["query_offset"][b] if "query_offset" in given else 0)
        logits = spec.scale * given["key"][b, :, k] @ given["query"][b, i, n]
        if "bias" in given:
            logits = logits + given["bias"][b, n, i]
        if spec.logits_soft_cap:
            logits = spec.logits_soft_cap * np.tanh(logits / spec.logits_soft_cap)
        if "alibi_slopes" in given:
            logits = logits - given["alibi_slopes"][b, n] * np.abs(position - keys)
        seen = (keys >= position - left) & (keys <= position + right)
        if "mask" in given:
            seen &= given["mask"][b, n, i]
        if SEGMENTS[0] in given:
            own, others = given[SEGMENTS[0]][b, i], given[SEGMENTS[1]][b]
            seen &= (own == others) & (others >= 0)
        if LENGTHS[0] in given:
            seen &= (i < given[LENGTHS[0]][b]) & (keys < given[LENGTHS[1]][b])
        exponentials = np.exp(logits[seen])
        total = exponentials.sum() + (np.exp(given["sinks"][b, n]) if "sinks" in given else 0)
        if total:
            output[b, i, n] = exponentials @ given["value"][b, seen, k] / total
            log_sum_exp[b, n, i] = np.log(total)
    return output, log_sum_exp


def _results_and_gradients(attention, spec: AttentionSpec):
    """The jitted function operands -> ((output, log-sum-exp), gradients of a randomly weighted sum of both)."""
    random = np.random.default_rng(1)
    output_weight = random.normal(size=(BATCH, QUERIES, HEADS, VALUE_DIM))
    log_sum_exp_weight = random.normal(size=(BATCH, HEADS, QUERIES))

    @jax.jit
    def function(operands: Operands):
        def loss(variables: dict[str, Array]):
            output, log_sum_exp = attention(spec, operands._replace(**variables))
            finite = jnp.where(log_sum_exp == -jnp.inf, 0, log_sum_exp)
            return jnp.sum(output_weight * output) + jnp.sum(log_sum_exp_weight * finite), (output, log_sum_exp)

        given = {name: getattr(operands, name) for name in DIFFERENTIABLE if getattr(operands, name) is not None}
        gradients, results = jax.grad(loss, has_aux=True)(given)
        return results, gradients

    return function


def _assert_close(one, two, **tolerance) -> None:
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, **tolerance), one, two)


@pytest.mark.slow
@pytest.mark.usefixtures("quick_compilation")
@pytest.mark.parametrize("case", CASES)
def test_blockwise_is_reference_is_row_by_row(case: str) -> None:
    spec, optional, shapes = CASES[case]
    operands = _operands(optional, shapes)
    expected, expected_gradients = _results_and_gradients(reference.attention, spec)(operands)
    results, gradients = _results_and_gradients(blockwise.attention, spec)(operands)
    _assert_close(expected, _row_by_row(spec, operands), **ROUNDING)
    _assert_close(results, expected, **ROUNDING)
    _assert_close(gradients, expected_gradients, **ROUNDING)
    assert all(np.any(gradient) for gradient in gradients.values())


@pytest.mark.slow
@pytest.mark.usefixtures("quick_compilation")
def test_second_derivatives_in_both_modes() -> None:
    spec, operands = AttentionSpec(0.6, window=(None, 0)), _operands(("sinks", "bias", "query_offset"))
    operands = operands._replace(query=operands.query[:, :6], key=operands.key[:, :11], value=operands.value[:, :11])
    operands = operands._replace(bias=operands.bias[:, :, :6, :11])
    names = [name for name in DIFFERENTIABLE if getattr(operands, name) is not None]

    @jax.jit
    def function(*arrays: Array) -> tuple[Array, Array]:
        return blockwise.attention(spec, operands._replace(**dict(zip(names, arrays, strict=True))))

    check_grads(function, [getattr(operands, name) for name in names], order=2, modes=["fwd", "rev"])


@pytest.mark.usefixtures("quick_compilation")
@pytest.mark.parametrize("attention", [reference.attention, blockwise.attention])
def test_empty_rows_are_zero_with_zero_derivatives(attention) -> None:
    """Rows before every key, and a row whose every bias is -inf."""
    operands = _operands(("bias", "query_offset"))
    operands = operands._replace(bias=operands.bias.at[:, :, 8].set(-jnp.inf))
    spec = AttentionSpec(0.6, window=(None, 0))
    empty = np.zeros((BATCH, QUERIES), bool)
    empty[1, :4] = empty[:, 8] = True
    (output, log_sum_exp), gradients = _results_and_gradients(attention, spec)(operands)
    assert not np.any(output[empty]) and np.all(np.any(output[~empty], axis=(1, 2)))
    np.testing.assert_array_equal(np.isneginf(log_sum_exp), np.broadcast_to(empty[:, None], log_sum_exp.shape))
    assert all(np.all(np.isfinite(gradient)) for gradient in gradients.values())
    assert not np.any(gradients["query"][empty]) and not np.any(gradients["bias"][:, :, 8])

    sinks = _operands(("sinks",)).sinks
    output, log_sum_exp = jax.jit(lambda operands: attention(spec, operands))(operands._replace(sinks=sinks))
    assert not np.any(output[empty])
    np.testing.assert_array_equal(log_sum_exp[1, :, :4], np.repeat(sinks[0][:, None], 4, axis=1))


@pytest.mark.slow
@pytest.mark.usefixtures("quick_compilation")
def test_hessian_is_finite_and_that_of_reference() -> None:
    operands = _operands(("query_offset", "sinks", "alibi_slopes", "key_value_seq_lengths"))
    spec = AttentionSpec(0.6, window=(6, 0), logits_soft_cap=1.5)

    def hessian(attention) -> Array:
        def loss(row: Array, slopes: Array) -> Array:
            query = operands.query.at[:, 3].set(row)
            output, log_sum_exp = attention(spec, operands._replace(query=query, alibi_slopes=slopes))
            return jnp.sum(output**2) + jnp.sum(log_sum_exp**2)

        return jax.jit(jax.hessian(loss, argnums=(0, 1)))(operands.query[:, 3], operands.alibi_slopes)

    results = hessian(blockwise.attention)
    by_query = results[0][0]
    # Query 3 sees keys in the first batch element and none in the second.
    assert np.any(by_query[0]) and not np.any(by_query[1])
    _assert_close(results, hessian(reference.attention), **ROUNDING)


@pytest.mark.usefixtures("quick_compilation")
@pytest.mark.parametrize("attention", [reference.attention, blockwise.attention])
@pytest.mark.parametrize("padded_by", [SEGMENTS, LENGTHS])
def test_what_padding_holds_reaches_nothing(attention, padded_by: tuple[str, str]) -> None:
    operands = _operands(padded_by)
    if padded_by == LENGTHS:
        query_real = np.arange(QUERIES) < operands.query_seq_lengths[:, None]
        key_real = np.arange(KEYS) < operands.key_value_seq_lengths[:, None]
    else:
        query_real, key_real = operands.query_segment_ids >= 0, operands.key_value_segment_ids >= 0
    assert not query_real.all() and not key_real.all()

    def padded(filling: float) -> Operands:
        fill = {"query": query_real, "key": key_real, "value": key_real}
        rows = {
            name: jnp.where(real[:, :, None, None], getattr(operands, name), filling) for name, real in fill.items()
        }
        return operands._replace(**rows)

    function = _results_and_gradients(attention, AttentionSpec(0.6, logits_soft_cap=1.5))
    expected = function(padded(0.0))
    jax.tree.map(np.testing.assert_array_equal, function(padded(np.nan)), expected)
    assert all(np.all(np.isfinite(gradient)) for gradient in expected[1].values())


@pytest.mark.usefixtures("quick_compilation")
@pytest.mark.parametrize("attention", [reference.attention, blockwise.attention])
def test_low_precision_inputs_are_computed_in_float32(attention) -> None:
    """Results of bfloat16 inputs are those of the same numbers in float32; gradients too, but for one last rounding."""
    narrow = Operands(*(array.astype(jnp.bfloat16) for array in _operands(("bias",))[:4]))
    wide = Operands(*(array.astype(jnp.float32) for array in narrow[:4]))
    spec = AttentionSpec(0.6, window=(None, 3), out_dtype="float32")
    results, gradients = _results_and_gradients(attention, spec)(narrow)
    expected, expected_gradients = _results_and_gradients(attention, spec)(wide)
    assert all(result.dtype == jnp.float32 for result in results)
    assert all(gradient.dtype == jnp.bfloat16 for gradient in gradients.values())
    _assert_close(results, expected, rtol=1e-6, atol=1e-6)
    half_ulp = 2.0**-8
    widened = jax.tree.map(lambda gradient: gradient.astype(jnp.float32), gradients)
    _assert_close(widened, expected_gradients, rtol=half_ulp, atol=1e-6)
    output, _ = jax.eval_shape(lambda: attention(AttentionSpec(0.6), narrow))
    assert output.dtype == jnp.bfloat16


@pytest.mark.usefixtures("quick_compilation")
@pytest.mark.parametrize("attention", [reference.attention, blockwise.attention])
@pytest.mark.parametrize(("batch", "queries", "keys"), [(0, 5, 5), (2, 0, 5), (2, 5, 0)])
def test_extents_of_zero(attention, batch: int, queries: int, keys: int) -> None:
    shapes = {
        "query": (batch, queries, 2, 3),
        "key": (batch, keys, 2, 3),
        "value": (batch, keys, 2, 4),
        "sinks": (1, 2),
    }
    operands = _operands(("sinks",), shapes)
    spec = AttentionSpec(0.6, window=(2, 0))
    output, log_sum_exp = jax.jit(lambda operands: attention(spec, operands))(operands)
    assert output.shape == (batch, queries, 2, 4) and log_sum_exp.shape == (batch, 2, queries)
    gradients = jax.jit(jax.grad(lambda operands: jnp.sum(attention(spec, operands)[0])))(operands)
    assert all(np.all(np.isfinite(gradient)) for gradient in jax.tree.leaves(gradients))
    if keys == 0:
        assert not np.any(output)
        np.testing.assert_array_equal(log_sum_exp, np.broadcast_to(operands.sinks[:, :, None], log_sum_exp.shape))


def test_vmap_over_offsets_shares_the_rest() -> None:
    operands = _operands(("sinks",))
    spec = AttentionSpec(0.6, window=(4, 0))
    offsets = jnp.array([[0], [-3], [6]], jnp.int32)

    def attend(offset: Array) -> tuple[Array, Array]:
        return blockwise.attention(spec, operands._replace(query_offset=offset))

    results = jax.jit(jax.vmap(attend))(offsets)
    for index, offset in enumerate(offsets):
        expected = _row_by_row(spec, operands._replace(query_offset=offset))
        _assert_close(jax.tree.map(lambda rows, index=index: rows[index], results), expected, **ROUNDING)


@pytest.mark.parametrize("attention", [reference.attention, blockwise.attention])
def test_export_with_a_symbolic_batch_extent(attention) -> None:
    spec, optional, _ = CASES["everything"]
    operands = _operands(optional)
    (extent,) = export.symbolic_shape("b")
    symbolic = jax.tree.map(
        lambda x: jax.ShapeDtypeStruct((extent if x.shape[0] == BATCH else 1, *x.shape[1:]), x.dtype), operands
    )
    exported = export.export(jax.jit(lambda operands: attention(spec, operands)))(symbolic)
    _assert_close(exported.call(operands), _row_by_row(spec, operands), **ROUNDING)


@pytest.mark.parametrize(
    ("spec", "optional", "tiles"),
    [
        (AttentionSpec(0.6), (), 16),
        (AttentionSpec(0.6, window=(None, 0)), (), 10),
        (AttentionSpec(0.6, window=(2, 0)), (), 7),
        (AttentionSpec(0.6), LENGTHS, 6),
        (AttentionSpec(0.6), SEGMENTS, 8),
    ],
)
def test_tiles_that_no_query_sees_are_not_computed(monkeypatch, spec: AttentionSpec, optional, tiles: int) -> None:
    """T = S = 16 in blocks of 4: counts the tiles whose logits are evaluated at run time."""
    monkeypatch.setattr(blockwise, "BLOCK_KEYS", 4)
    computed: list[int] = []
    masked_logits = reference.masked_logits

    def counting(spec: AttentionSpec, tile: Operands, rows: Array, columns: Array) -> Array:
        if columns.shape[0]:
            jax.debug.callback(lambda: computed.append(1))
        return masked_logits(spec, tile, rows, columns)

    monkeypatch.setattr(reference, "masked_logits", counting)
    array = jnp.ones((1, 16, 1, 2))
    limits = {
        "query_seq_lengths": jnp.array([7], jnp.int32),
        "key_value_seq_lengths": jnp.array([9], jnp.int32),
        "query_segment_ids": jnp.repeat(jnp.arange(2, dtype=jnp.int32), 8)[None],
        "key_value_segment_ids": jnp.repeat(jnp.arange(2, dtype=jnp.int32), 8)[None],
    }
    operands = Operands(array, array, array, **{name: limits[name] for name in optional})
    jax.block_until_ready(blockwise.attention(spec, operands))
    jax.effects_barrier()
    assert len(computed) == tiles


@pytest.mark.slow
def test_memory_of_gradients_is_linear(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(blockwise, "BLOCK_QUERIES", 64)
    monkeypatch.setattr(blockwise, "BLOCK_KEYS", 64)
    heads, spec = 2, AttentionSpec(0.6, window=(None, 0))

    def temporary_bytes(length: int) -> int:
        array = jax.ShapeDtypeStruct((1, length, heads, 16), jnp.float32)
        gradient = jax.grad(lambda q, k, v: jnp.sum(blockwise.attention(spec, Operands(q, k, v))[0]), argnums=(0, 1, 2))
        return jax.jit(gradient).lower(array, array, array).compile().memory_analysis().temp_size_in_bytes

    short, long = temporary_bytes(2048), temporary_bytes(4096)
    logits = 4096 * 4096 * heads * 4
    assert long < 2.5 * short
    assert long < logits / 16
