"""The Flax adapters against Flax's own attention in both of its APIs, and the example that trains a model with them."""

from __future__ import annotations

import json
import os
import pathlib
import subprocess
import sys
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

pytest.importorskip("flax")

from flax import linen, nnx

import jax_fa4
from jax_fa4.flax import AttentionFn, attention_fn

BATCH, LENGTH, FEATURES, HEADS, HEAD_DIM = 2, 12, 32, 4, 8
# A layer chains four sums (projections in, logits, values, projection out), its gradient as many again, of at most
# FEATURES terms each; reordering a float32 sum of n terms moves it by at most n rounding errors.
REORDERED = 8 * FEATURES * float(np.finfo(np.float32).eps)
EXAMPLE = pathlib.Path(__file__).parents[1] / "examples" / "train_char_lm.py"


def normal(*shape: int, seed: int = 0) -> jax.Array:
    return jnp.asarray(np.random.default_rng(seed).standard_normal(shape, np.float32))


def assert_equal_up_to_reordering(actual: Any, expected: Any) -> None:
    """Leaf by leaf, relative to the largest value of all leaves (some gradients are zero but for rounding)."""
    assert jax.tree.structure(actual) == jax.tree.structure(expected)
    largest = max(float(jnp.abs(leaf).max()) for leaf in jax.tree.leaves(expected))
    assert largest > 0
    for got, wanted in zip(jax.tree.leaves(actual), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(got, wanted, rtol=0, atol=REORDERED * largest)


def padding_mask(make_attention_mask: Any) -> jax.Array:
    real = jnp.arange(LENGTH) < jnp.array([[LENGTH], [LENGTH - 5]])
    return make_attention_mask(jnp.ones_like(real), real)


def masks(module: Any) -> dict[str, jax.Array | None]:
    causal = module.make_causal_mask(jnp.ones((BATCH, LENGTH)))
    padding = padding_mask(module.make_attention_mask)
    return {
        "none": None,
        "causal": causal,
        "padding": padding,
        "both": module.combine_masks(causal, padding),
        "boolean": causal != 0,
        "shared": causal[:1],
    }


def nnx_layer(function: Any, **options: Any) -> nnx.MultiHeadAttention:
    return nnx.MultiHeadAttention(
        num_heads=HEADS,
        in_features=FEATURES,
        attention_fn=function,
        rngs=nnx.Rngs(0),
        **{"decode": False, "keep_rngs": False, **options},
    )


def linen_layer(function: Any, **options: Any) -> linen.MultiHeadDotProductAttention:
    return linen.MultiHeadDotProductAttention(num_heads=HEADS, attention_fn=function, **options)


def nnx_value_and_gradients(function: Any, call: dict[str, Any], **options: Any) -> Any:
    graphdef, parameters = nnx.split(nnx_layer(function, **options))

    @jax.jit
    def run(parameters: Any, x: jax.Array) -> Any:
        out, pullback = jax.vjp(lambda p, x: nnx.merge(graphdef, p)(x, **call), parameters, x)
        return out, pullback(normal(*out.shape, seed=2))

    return run(parameters, normal(BATCH, LENGTH, FEATURES, seed=1))


def linen_value_and_gradients(function: Any, call: dict[str, Any]) -> Any:
    x = normal(BATCH, LENGTH, FEATURES, seed=1)
    parameters = linen_layer(linen.dot_product_attention).init(jax.random.key(0), x)

    @jax.jit
    def run(parameters: Any, x: jax.Array) -> Any:
        out, pullback = jax.vjp(lambda p, x: linen_layer(function).apply(p, x, **call), parameters, x)
        return out, pullback(normal(*out.shape, seed=2))

    return run(parameters, x)


@pytest.mark.slow
@pytest.mark.parametrize(("name", "num_kv_heads"), [*((name, HEADS) for name in masks(nnx)), ("both", 2), ("none", 1)])
def test_nnx_layer_and_its_gradients(name: str, num_kv_heads: int) -> None:
    call = {"mask": masks(nnx)[name]}
    ours, flaxs = (
        nnx_value_and_gradients(function, call, num_kv_heads=num_kv_heads)
        for function in (attention_fn, nnx.dot_product_attention)
    )
    assert_equal_up_to_reordering(ours, flaxs)


@pytest.mark.parametrize("name", ["none", "padding"])
def test_nnx_layer_called_with_is_causal(name: str) -> None:
    # Flax broadcasts its causal mask to the shape of the mask it is given, so that one must be of full size.
    mask = masks(nnx)[name]
    call = {"mask": mask, "is_causal": True}
    ours, flaxs = (nnx_value_and_gradients(function, call) for function in (attention_fn, nnx.dot_product_attention))
    assert_equal_up_to_reordering(ours, flaxs)


@pytest.mark.slow
@pytest.mark.parametrize("name", masks(linen))
def test_linen_layer_and_its_gradients(name: str) -> None:
    call = {"mask": masks(linen)[name]}
    flaxs = linen_value_and_gradients(linen.dot_product_attention, call)
    ours = linen_value_and_gradients(attention_fn, call)
    assert_equal_up_to_reordering(ours, flaxs)


def test_options_of_the_adapter_act_as_the_mask_that_they_stand_for() -> None:
    back = jnp.arange(LENGTH)[:, None] - jnp.arange(LENGTH)[None, :]
    window = ((back >= 0) & (back <= 3))[None, None]
    windowed = AttentionFn(is_causal=True, local_window_size=(3, 0))
    ours = nnx_value_and_gradients(windowed, {})
    flaxs = nnx_value_and_gradients(nnx.dot_product_attention, {"mask": window})
    assert_equal_up_to_reordering(ours, flaxs)


def test_scale_and_soft_cap_and_implementation_reach_the_call() -> None:
    query, key, value = (normal(BATCH, LENGTH, HEADS, HEAD_DIM, seed=seed) for seed in range(3))
    options = {"scale": 0.7, "logits_soft_cap": 1.5, "implementation": "reference"}
    ours = AttentionFn(**options)(query, key, value)
    logits = 1.5 * jnp.tanh(jnp.einsum("btnh,bsnh->bnts", query, key) * 0.7 / 1.5)
    assert_equal_up_to_reordering(ours, jnp.einsum("bnts,bsnh->btnh", jax.nn.softmax(logits), value))


def test_equal_options_are_one_static_argument() -> None:
    assert AttentionFn(is_causal=True) == AttentionFn(is_causal=True) != attention_fn
    assert hash(AttentionFn(local_window_size=(3, 0))) == hash(AttentionFn(local_window_size=(3, 0)))


@pytest.mark.slow
@pytest.mark.parametrize("batch", [(), (2,), (2, 3), (2, 1, 3)])
@pytest.mark.parametrize("shape", ["full", "heads shared", "batch shared", "batch axes left out", "one axis varies"])
def test_any_number_of_batch_axes_with_bias_and_mask(batch: tuple[int, ...], shape: str) -> None:
    query, key = normal(*batch, 5, HEADS, HEAD_DIM), normal(*batch, 7, HEADS, HEAD_DIM, seed=1)
    value = normal(*batch, 7, HEADS, 6, seed=2)
    leading = {
        "full": (*batch, HEADS),
        "heads shared": (*batch, 1),
        "batch shared": (1,) * len(batch) + (HEADS,),
        "batch axes left out": (HEADS,),
        "one axis varies": (*batch[:1], *(1,) * len(batch[1:]), HEADS),
    }[shape]
    bias = normal(*leading, 5, 7, seed=3)
    mask = (normal(*leading, 5, 7, seed=4) < 0.5).at[..., 0].set(True)
    ours = jax.jit(attention_fn)(query, key, value, bias=bias, mask=mask.astype(jnp.float32))
    assert ours.shape == (*batch, 5, HEADS, 6)
    flaxs = jax.jit(linen.dot_product_attention)(query, key, value, bias=bias, mask=mask)
    assert_equal_up_to_reordering(ours, flaxs)


def test_gradient_of_the_bias_over_two_batch_axes() -> None:
    query, key, value = (normal(2, 3, 6, HEADS, HEAD_DIM, seed=seed) for seed in range(3))
    bias, weight = normal(HEADS, 6, 6, seed=3), normal(2, 3, 6, HEADS, HEAD_DIM, seed=4)
    ours, flaxs = (
        jax.grad(lambda bias, call=function: (weight * call(query, key, value, bias=bias)).sum())(bias)
        for function in (attention_fn, linen.dot_product_attention)
    )
    assert_equal_up_to_reordering(ours, flaxs)


def test_decoding_with_nnx_equals_the_causal_layer() -> None:
    x = normal(BATCH, LENGTH, FEATURES, seed=1)
    layer = nnx_layer(attention_fn, num_kv_heads=2)
    expected = nnx_layer(nnx.dot_product_attention, num_kv_heads=2)(x, mask=nnx.make_causal_mask(x[..., 0]))
    layer.init_cache(x.shape)
    decode = nnx.jit(lambda layer, token: layer(token, decode=True))
    tokens = [decode(layer, x[:, i : i + 1]) for i in range(LENGTH)]
    assert_equal_up_to_reordering(jnp.concatenate(tokens, axis=1), expected)


def test_decoding_with_linen_equals_the_causal_layer() -> None:
    x = normal(BATCH, LENGTH, FEATURES, seed=1)
    layer = linen_layer(attention_fn, decode=True)
    variables = layer.init(jax.random.key(0), x)
    parameters, cache = variables["params"], variables["cache"]
    expected = linen_layer(linen.dot_product_attention).apply(
        {"params": parameters}, x, mask=linen.make_causal_mask(x[..., 0])
    )
    decode = jax.jit(lambda cache, token: layer.apply({"params": parameters, "cache": cache}, token, mutable="cache"))
    tokens = []
    for i in range(LENGTH):
        token, changed = decode(cache, x[:, i : i + 1])
        cache = changed["cache"]
        tokens.append(token)
    assert_equal_up_to_reordering(jnp.concatenate(tokens, axis=1), expected)


def test_promotes_dtypes_as_flax_does() -> None:
    arrays = [normal(BATCH, LENGTH, HEADS, HEAD_DIM, seed=seed) for seed in range(3)]
    mixed = [arrays[0].astype(jnp.bfloat16), arrays[1], arrays[2].astype(jnp.float16)]
    assert attention_fn(*mixed).dtype == nnx.dot_product_attention(*mixed).dtype == jnp.float32
    ours, flaxs = (function(*arrays, dtype=jnp.bfloat16) for function in (attention_fn, nnx.dot_product_attention))
    assert ours.dtype == flaxs.dtype == jnp.bfloat16
    # Both round the probabilities and the result: two roundings each, and |result| <= max |value|.
    bound = 4 * float(jnp.finfo(jnp.bfloat16).eps) * float(jnp.abs(arrays[2]).max())
    np.testing.assert_allclose(ours.astype(jnp.float32), flaxs.astype(jnp.float32), rtol=0, atol=bound)


def test_a_query_without_keys_gives_zero_and_no_gradient() -> None:
    arrays = tuple(normal(BATCH, LENGTH, HEADS, HEAD_DIM, seed=seed) for seed in range(3))
    mask = jnp.ones((1, 1, LENGTH, LENGTH)).at[:, :, 4].set(0)
    out, pullback = jax.vjp(lambda *arrays: attention_fn(*arrays, mask=mask), *arrays)
    assert not out[:, 4].any() and out[:, 3].any()
    query_gradient, *others = pullback(jnp.zeros_like(out).at[:, 4].set(1.0))
    assert not query_gradient.any() and not any(gradient.any() for gradient in others)


@pytest.mark.parametrize("precision", ["highest", "bfloat16", jax.lax.Precision.HIGH, ("high", "default")])
def test_takes_precisions_that_float32_accumulation_meets(precision: Any) -> None:
    query, key, value = (normal(BATCH, LENGTH, HEADS, HEAD_DIM, seed=seed) for seed in range(3))
    expected = attention_fn(query, key, value)
    np.testing.assert_array_equal(attention_fn(query, key, value, precision=precision), expected)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"dropout_rate": 0.1, "deterministic": False}, r"dropout_rate=0\.1.*deterministic=True"),
        ({"module": object()}, r"module=object.*sow_weights=False"),
        ({"precision": "TF32_TF32_F32"}, r"precision='TF32_TF32_F32'.*jax\.lax\.Precision"),
        ({"precision": jax.lax.DotAlgorithmPreset.BF16_BF16_F32}, "BF16_BF16_F32"),
        ({"qk_attn_weights_einsum": jnp.einsum}, "qk_attn_weights_einsum=.*leave it at None"),
        ({"attn_weights_value_einsum": jnp.einsum}, "attn_weights_value_einsum="),
        ({"einsum_dot_general": jax.lax.dot_general}, "einsum_dot_general="),
    ],
)
def test_refuses_in_words_what_it_cannot_do(arguments: dict[str, Any], words: str) -> None:
    x = normal(BATCH, LENGTH, HEADS, HEAD_DIM)
    with pytest.raises(NotImplementedError, match=words):
        attention_fn(x, x, x, **arguments)


def test_layers_refuse_dropout_and_sown_weights() -> None:
    x = normal(BATCH, LENGTH, FEATURES)
    with pytest.raises(NotImplementedError, match="dropout_rate"):
        nnx_layer(attention_fn, dropout_rate=0.5)(x, deterministic=False, rngs=nnx.Rngs(dropout=0))
    nnx_layer(attention_fn, dropout_rate=0.5)(x, deterministic=True)
    with pytest.raises(NotImplementedError, match="sow_weights"):
        nnx_layer(attention_fn)(x, sow_weights=True)
    with pytest.raises(NotImplementedError, match="sow_weights"):
        linen_layer(attention_fn).init(jax.random.key(0), x, sow_weights=True)
    with pytest.raises(NotImplementedError, match="dropout_rate"):
        dropping = linen_layer(attention_fn, dropout_rate=0.5, deterministic=False)
        dropping.init({"params": jax.random.key(0), "dropout": jax.random.key(1)}, x)


@pytest.mark.parametrize("options", [{"is_causal": True}, {"local_window_size": (3, 0)}])
def test_decoding_refuses_positions_that_the_cache_does_not_keep(options: dict[str, Any]) -> None:
    layer = nnx_layer(AttentionFn(**options), decode=True)
    layer.init_cache((BATCH, LENGTH, FEATURES))
    with pytest.raises(ValueError, match=f"{LENGTH} keys.*decode mode"):
        layer(normal(BATCH, 1, FEATURES))


def test_refuses_batch_axes_that_do_not_fit() -> None:
    x = normal(BATCH, LENGTH, HEADS, HEAD_DIM)
    with pytest.raises(ValueError, match=r"same batch axes.*key \(1, 12, 4, 8\)"):
        attention_fn(x, x[:1], x[:1])
    with pytest.raises(ValueError, match=r"mask must be broadcastable.*remove leading axes"):
        attention_fn(x, x, x, mask=jnp.ones((1, 1, 1, LENGTH, LENGTH)))


@pytest.mark.slow
def test_the_example_trains_compares_and_writes(tmp_path: pathlib.Path) -> None:
    pytest.importorskip("optax")
    pytest.importorskip("matplotlib")
    root = str(pathlib.Path(jax_fa4.__file__).parents[1])
    path = os.pathsep.join(filter(None, (root, os.environ.get("PYTHONPATH"))))
    run = subprocess.run(
        [sys.executable, str(EXAMPLE), "--quick", "--out", str(tmp_path)],
        env={**os.environ, "PYTHONPATH": path, "JAX_PLATFORMS": "cpu"},
        capture_output=True,
        text=True,
        timeout=180,  # a guard against hanging, far above the quarter of a minute that it takes
    )
    assert run.returncode == 0, run.stderr
    assert "differ by at most" in run.stdout
    assert (tmp_path / "loss_curves.png").read_bytes().startswith(b"\x89PNG")
    results = json.loads((tmp_path / "results.json").read_text())
    for history in results["histories"].values():
        (_, first), *_, (_, last) = history["validation"]
        # Guessing a byte uniformly costs log(256) nats: the model starts there and must learn which bytes are common.
        assert first > 0.9 * np.log(256) and last < 0.75 * np.log(256)
    # The curves start from the same parameters: only float32 rounding inside one forward pass tells them apart.
    ours, theirs = (history["losses"][0] for history in results["histories"].values())
    assert abs(ours - theirs) <= REORDERED * ours
    assert all(cost["step_seconds"] > 0 and cost["temporary_bytes"] > 0 for cost in results["costs"])
