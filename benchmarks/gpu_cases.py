"""What is measured on a GPU: calls of attention with the same number of tokens in each batch, and the lists of them."""

from __future__ import annotations

import dataclasses
import itertools
from typing import Any

import jax
import jax.numpy as jnp
from cpu_cases import CAUSAL, FULL, OURS, WINDOW

JAX_CUDNN, JAX_XLA = "jax.nn cuDNN", "jax.nn XLA"
TORCH_FLASH, TORCH_CUDNN, TORCH_EFFICIENT = "torch flash", "torch cuDNN", "torch efficient"
FLASH_2, FLASH_3, FLASH_4, TOKAMAX, FA4_JAX = "flash-attn 2", "flash-attn 3", "flash-attn 4", "tokamax", "fa4-jax"
PEERS = (
    JAX_CUDNN, JAX_XLA, TORCH_FLASH, TORCH_CUDNN, TORCH_EFFICIENT, FLASH_2, FLASH_3, FLASH_4, TOKAMAX, FA4_JAX,
)  # fmt: skip
EVERYONE = (OURS, *PEERS)

# Groups, in the order of the report.
LENGTHS, GROUPED, WINDOWS = "lengths", "grouped", "windows"

# How many heads the published benchmarks have at a head_dim.
HEADS = {64: 32, 128: 16, 256: 8}
GROUP = 4


@dataclasses.dataclass(frozen=True)
class Sizes:
    """How large all cases are: a GPU's, or those of a trial run."""

    tokens: int
    lengths: tuple[int, ...]
    head_dims: tuple[int, ...]
    window: int
    matrix: int
    """Of the product whose rate is the card's: its edge."""
    quick: tuple[int, ...]
    """Lengths of a quick run: these at head_dim 128, the second at the others."""


OF_A_GPU = Sizes(32768, (512, 1024, 2048, 4096, 8192, 16384, 32768), (64, 128, 256), 1024, 8192, (512, 4096, 16384))
OF_A_TRIAL = Sizes(128, (32, 64, 128), (64, 128), 32, 64, (32, 128))


@dataclasses.dataclass(frozen=True)
class Case:
    """One call of attention, as many keys as queries."""

    group: str
    batch: int
    length: int
    heads: int
    key_value_heads: int
    head_dim: int
    mask: str = FULL
    window: int | None = None
    dtype: str = "bfloat16"

    @property
    def name(self) -> str:
        """What --cases matches."""
        heads = f"h{self.heads}" + (f"on{self.key_value_heads}" if self.key_value_heads != self.heads else "")
        return f"{self.group}/d{self.head_dim}-{heads}-{self.mask}{self.window or ''}-n{self.length}"

    @property
    def title(self) -> str:
        """For people."""
        heads = f"{self.heads} heads" + (f" on {self.key_value_heads}" if self.key_value_heads != self.heads else "")
        mask = f"{self.mask} {self.window}" if self.window else self.mask
        return f"D {self.head_dim}, {heads}, {mask}, {self.batch} x {self.length}"

    @property
    def keys(self) -> int:
        """As many as queries."""
        return self.length

    @property
    def visible_pairs(self) -> float:
        """Of query and key, of one head of one sequence: half of all when causal, by custom; a window's exactly."""
        if self.window is not None:
            seen = min(self.length, self.window + 1)
            return seen * (seen + 1) / 2 + (self.length - seen) * (self.window + 1)
        return self.length**2 * (0.5 if self.mask == CAUSAL else 1.0)

    @property
    def flops(self) -> float:
        """Floating point operations that a forward pass is counted as."""
        return 4 * self.visible_pairs * self.head_dim * self.heads * self.batch

    @property
    def logits_bytes(self) -> int:
        """What an implementation writes that does not work in tiles, in float32."""
        return 4 * self.batch * self.heads * self.length**2

    @property
    def window_size(self) -> tuple[int, int] | None:
        """As jax.nn.dot_product_attention takes it."""
        return None if self.window is None else (self.window, 0)

    def arrays(self) -> tuple[Any, Any, Any]:
        """Query, key and value, (batch, length, heads, head_dim), drawn on the default device."""
        seeds = jax.random.split(jax.random.key(0), 3)
        heads = (self.heads, self.key_value_heads, self.key_value_heads)

        def draw(seed: Any, count: int) -> Any:
            return jax.random.normal(seed, (self.batch, self.length, count, self.head_dim), jnp.dtype(self.dtype))

        query, key, value = (draw(seed, count) for seed, count in zip(seeds, heads, strict=True))
        return query, key, value


def all_cases(sizes: Sizes) -> list[Case]:
    """Those of a full run."""

    def case(group: str, length: int, head_dim: int, key_value_heads: int, mask: str, window: int | None) -> Case:
        return Case(group, sizes.tokens // length, length, HEADS[head_dim], key_value_heads, head_dim, mask, window)

    found = [
        case(LENGTHS, length, head_dim, HEADS[head_dim], mask, None)
        for head_dim, mask, length in itertools.product(sizes.head_dims, (FULL, CAUSAL), sizes.lengths)
    ]
    found += [
        case(GROUPED, length, 128, HEADS[128] // GROUP, mask, None)
        for mask, length in itertools.product((FULL, CAUSAL), sizes.lengths)
    ]
    longer = [length for length in sizes.lengths if length > sizes.window]
    return found + [case(WINDOWS, length, 128, HEADS[128], WINDOW, sizes.window) for length in longer]


def quick_cases(sizes: Sizes) -> list[Case]:
    """A few of each group: head_dim 128 at some lengths, the others at one."""

    def is_quick(case: Case) -> bool:
        if case.group == LENGTHS and case.head_dim == 128:
            return case.length in sizes.quick
        return case.length == sizes.quick[1]

    return [case for case in all_cases(sizes) if is_quick(case)]
