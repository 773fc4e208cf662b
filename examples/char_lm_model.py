"""A small decoder-only transformer in flax.nnx that takes its attention as an argument, and sampling from it."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

import jax_fa4

Attention = Callable[..., jax.Array]  # jax_fa4.attention or jax.nn.dot_product_attention
Cache = list[tuple[jax.Array, jax.Array]]  # by layer: keys and values, each (batch, length, key/value heads, head_dim)


@dataclasses.dataclass(frozen=True)
class Config:
    """The shape of the model; every other layer looks back no further than `window` tokens."""

    vocabulary: int
    width: int = 128
    layers: int = 4
    query_heads: int = 8
    key_value_heads: int = 2
    head_dim: int = 32
    hidden: int = 512
    window: int = 64

    def local_window_size(self, layer: int) -> tuple[int, int] | None:
        """How many keys before and after its own position a query of this layer sees; None is no limit."""
        return (self.window, 0) if layer % 2 == 0 else None


def rotate(x: jax.Array, offset: jax.Array | int) -> jax.Array:
    """Rotary position embedding of (batch, length, heads, head_dim), the first token standing at `offset`."""
    half = x.shape[-1] // 2
    positions = jnp.arange(x.shape[1]) + offset
    angles = positions[:, None, None] * 10_000.0 ** (-jnp.arange(half) / half)
    cos, sin = jnp.cos(angles), jnp.sin(angles)
    first, second = x[..., :half], x[..., half:]
    return jnp.concatenate([first * cos - second * sin, first * sin + second * cos], axis=-1)


class GroupedQueryAttention(nnx.Module):
    """Causal self-attention in which several query heads share a key/value head."""

    def __init__(self, config: Config, layer: int, attention: Attention, rngs: nnx.Rngs):
        self.config = config
        self.attention = attention
        self.local_window_size = config.local_window_size(layer)
        query_width = config.query_heads * config.head_dim
        key_value_width = config.key_value_heads * config.head_dim
        self.query = nnx.Linear(config.width, query_width, use_bias=False, rngs=rngs)
        self.key = nnx.Linear(config.width, key_value_width, use_bias=False, rngs=rngs)
        self.value = nnx.Linear(config.width, key_value_width, use_bias=False, rngs=rngs)
        self.out = nnx.Linear(query_width, config.width, use_bias=False, rngs=rngs)

    def _project(self, x: jax.Array, offset: jax.Array | int) -> tuple[jax.Array, jax.Array, jax.Array]:
        heads = (*x.shape[:2], -1, self.config.head_dim)
        query, key, value = (linear(x).reshape(heads) for linear in (self.query, self.key, self.value))
        return rotate(query, offset), rotate(key, offset), value

    def __call__(self, x: jax.Array) -> jax.Array:
        """Attends within x, (batch, length, width)."""
        query, key, value = self._project(x, 0)
        attended = self.attention(query, key, value, is_causal=True, local_window_size=self.local_window_size)
        return self.out(attended.reshape(*x.shape[:2], -1))

    def extend(
        self, x: jax.Array, cache: tuple[jax.Array, jax.Array], offset: jax.Array
    ) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
        """The same for a few new tokens that stand at `offset`, earlier ones being in the cache."""
        query, key, value = self._project(x, offset)
        keys, values = (
            jax.lax.dynamic_update_slice_in_dim(old, new, offset, axis=1)
            for old, new in zip(cache, (key, value), strict=True)
        )
        # Slots not yet written lie after the query's position, where causality hides them.
        attended = self.attention(
            query, keys, values, is_causal=True, local_window_size=self.local_window_size, query_offset=offset
        )
        return self.out(attended.reshape(*x.shape[:2], -1)), (keys, values)


class Block(nnx.Module):
    """Attention, then an MLP, each on a normalised residual stream."""

    def __init__(self, config: Config, layer: int, attention: Attention, rngs: nnx.Rngs):
        self.attention_norm = nnx.RMSNorm(config.width, rngs=rngs)
        self.attention = GroupedQueryAttention(config, layer, attention, rngs)
        self.mlp_norm = nnx.RMSNorm(config.width, rngs=rngs)
        self.up = nnx.Linear(config.width, config.hidden, use_bias=False, rngs=rngs)
        self.down = nnx.Linear(config.hidden, config.width, use_bias=False, rngs=rngs)

    def _mlp(self, x: jax.Array) -> jax.Array:
        return self.down(jax.nn.gelu(self.up(self.mlp_norm(x))))

    def __call__(self, x: jax.Array) -> jax.Array:
        """One layer for the whole of x, (batch, length, width)."""
        x = x + self.attention(self.attention_norm(x))
        return x + self._mlp(x)

    def extend(
        self, x: jax.Array, cache: tuple[jax.Array, jax.Array], offset: jax.Array
    ) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
        """One layer for a few new tokens that stand at `offset`."""
        attended, cache = self.attention.extend(self.attention_norm(x), cache, offset)
        x = x + attended
        return x + self._mlp(x), cache


def _run_block(block: Block, x: jax.Array) -> jax.Array:
    return block(x)


# A block's backward pass recomputes everything but attention, whose output and log-sum-exp are small and dear.
_run_block_checkpointed = nnx.remat(
    _run_block, policy=jax.checkpoint_policies.save_only_these_names(*jax_fa4.CHECKPOINT_NAMES)
)


class CharLM(nnx.Module):
    """Logits of the next byte."""

    def __init__(self, config: Config, attention: Attention, rngs: nnx.Rngs):
        self.config = config
        self.embedding = nnx.Embed(config.vocabulary, config.width, rngs=rngs)
        self.blocks = nnx.List([Block(config, layer, attention, rngs) for layer in range(config.layers)])
        self.norm = nnx.RMSNorm(config.width, rngs=rngs)
        self.head = nnx.Linear(config.width, config.vocabulary, use_bias=False, rngs=rngs)

    def __call__(self, tokens: jax.Array) -> jax.Array:
        """Logits (batch, length, vocabulary) of tokens (batch, length)."""
        x = self.embedding(tokens)
        for block in self.blocks:
            x = _run_block_checkpointed(block, x)
        return self.head(self.norm(x))

    def extend(self, tokens: jax.Array, cache: Cache, offset: jax.Array) -> tuple[jax.Array, Cache]:
        """Logits of a few new tokens that stand at `offset`, and the cache with them in it."""
        x = self.embedding(tokens)
        new_cache = []
        for block, entry in zip(self.blocks, cache, strict=True):
            x, entry = block.extend(x, entry, offset)
            new_cache.append(entry)
        return self.head(self.norm(x)), new_cache

    def empty_cache(self, batch: int, length: int) -> Cache:
        """Room for `length` tokens."""
        shape = (batch, length, self.config.key_value_heads, self.config.head_dim)
        return [(jnp.zeros(shape), jnp.zeros(shape)) for _ in self.blocks]


def generate(
    graphdef: Any, parameters: Any, prompt: jax.Array, key: jax.Array, *, new_tokens: int, temperature: float
) -> jax.Array:
    """`new_tokens` sampled tokens that continue `prompt` (int32, one axis), with a key-value cache."""
    model = nnx.merge(graphdef, parameters)

    def sample(logits: jax.Array, step: jax.Array | int) -> jax.Array:
        return jax.random.categorical(jax.random.fold_in(key, step), logits / temperature).astype(jnp.int32)

    cache = model.empty_cache(1, len(prompt) + new_tokens)
    logits, cache = model.extend(prompt[None], cache, jnp.int32(0))
    first = sample(logits[0, -1], 0)

    def step(carry: tuple[jax.Array, Cache], index: jax.Array) -> tuple[tuple[jax.Array, Cache], jax.Array]:
        token, cache = carry
        logits, cache = model.extend(token[None, None], cache, len(prompt) + index - 1)
        return (sample(logits[0, 0], index), cache), token

    (last, _), tokens = jax.lax.scan(step, (first, cache), jnp.arange(1, new_tokens, dtype=jnp.int32))
    return jnp.append(tokens, last)
