"""What is measured: calls of attention, and the lists of them."""

from __future__ import annotations

import dataclasses
import itertools
import math
from typing import Any

import ml_dtypes
import numpy as np

FORWARD, BOTH = "forward", "forward + backward"
# The backward pass has five products where the forward one has two.
FLOPS_OF_PASS = {FORWARD: 1.0, BOTH: 3.5}
DTYPES = ("float32", "bfloat16")
FULL, CAUSAL, WINDOW = "full", "causal", "window"

OURS, BLOCKWISE, JAX_NN, TORCH = "jax_fa4", "blockwise", "jax.nn", "torch"
ONNX_RUNTIME, OPENVINO = "ONNX Runtime", "OpenVINO"
EVERYONE = (OURS, BLOCKWISE, JAX_NN, TORCH, ONNX_RUNTIME, OPENVINO)
ONE_THREAD = f"{OURS}, one thread"

# Groups, in the order of the report.
LENGTHS, HEAD_DIMS, GROUPED, WINDOWS = "lengths", "head_dims", "grouped", "windows"
FEATURES, DECODE, TINY, MEMORY, CORES = "features", "decode", "tiny", "memory", "cores"

# Random numbers beyond so many rows repeat: the time to make them, not to use them, is saved.
FRESH_ROWS = 8192


@dataclasses.dataclass(frozen=True)
class Case:
    """One call of attention, batch 1."""

    group: str
    dtype: str
    queries: int
    keys: int
    heads: int = 8
    key_value_heads: int = 8
    head_dim: int = 64
    mask: str = FULL
    window: int | None = None
    passes: tuple[str, ...] = (FORWARD, BOTH)
    programs: tuple[str, ...] = EVERYONE

    @property
    def name(self) -> str:
        """What --cases matches."""
        length = f"n{self.queries}" if self.queries == self.keys else f"t{self.queries}-s{self.keys}"
        heads = f"h{self.heads}" + (f"on{self.key_value_heads}" if self.key_value_heads != self.heads else "")
        return f"{self.group}/{self.dtype}-{length}-d{self.head_dim}-{heads}-{self.mask}{self.window or ''}"

    @property
    def title(self) -> str:
        """For people; without the dtype."""
        length = f"N {self.queries}" if self.queries == self.keys else f"T {self.queries}, S {self.keys}"
        heads = f"{self.heads} head{'s' if self.heads > 1 else ''}"
        heads += f" on {self.key_value_heads}" if self.key_value_heads != self.heads else ""
        return f"{length}, D {self.head_dim}, {heads}, {self.mask}{f' {self.window}' if self.window else ''}"

    @property
    def visible_pairs(self) -> float:
        """Pairs of query and key that count: half of all when causal, by custom, and exactly those of a window."""
        if self.window is not None:
            return float(sum(min(query, self.window) + 1 for query in range(self.queries)))
        return self.queries * self.keys * (0.5 if self.mask == CAUSAL else 1.0)

    def flops(self, pass_name: str) -> float:
        """Floating point operations that the pass is counted as."""
        return FLOPS_OF_PASS[pass_name] * 4 * self.visible_pairs * self.head_dim * self.heads

    @property
    def key_value_bytes(self) -> int:
        """What decoding has to read."""
        return 2 * self.keys * self.key_value_heads * self.head_dim * np.dtype(self.numpy_dtype).itemsize

    @property
    def logits_bytes(self) -> int:
        """What an implementation writes that does not work in tiles."""
        return 4 * self.queries * self.keys * self.heads

    @property
    def numpy_dtype(self) -> Any:
        """NumPy's, or that which stands in for it."""
        return ml_dtypes.bfloat16 if self.dtype == "bfloat16" else np.float32

    def arrays(self) -> tuple[Any, Any, Any, Any]:
        """Query, key, value and the cotangent of the output: (1, length, heads, head_dim)."""
        random = np.random.default_rng(0)

        def normal(length: int, heads: int) -> Any:
            fresh = random.standard_normal((1, min(length, FRESH_ROWS), heads, self.head_dim), np.float32)
            fresh = fresh.astype(self.numpy_dtype)
            return np.tile(fresh, (1, math.ceil(length / FRESH_ROWS), 1, 1))[:, :length]

        queries, keys = (self.queries, self.heads), (self.keys, self.key_value_heads)
        return normal(*queries), normal(*keys), normal(*keys), normal(*queries)


def square(group: str, dtype: str, length: int, heads: int, mask: str, **options: Any) -> Case:
    """As many keys as queries, and as many heads of both unless said."""
    return Case(group, dtype, length, length, heads, **{"key_value_heads": heads, "mask": mask, **options})


# Fewer heads the longer, for time's sake.
HEADS = {128: 8, 256: 8, 512: 8, 1024: 8, 2048: 4, 4096: 2, 8192: 1, 16384: 1}
HEADS_OF_128 = {512: 4, 2048: 2, 4096: 1}
LONGEST = 16384
# Of so many the slow peers take seconds.
MANY_KEYS = 131072


def length_cases() -> list[Case]:
    found = []
    for head_dim, heads_of in ((64, HEADS), (128, HEADS_OF_128)):
        for (length, heads), mask, dtype in itertools.product(heads_of.items(), (FULL, CAUSAL), DTYPES):
            case = square(LENGTHS, dtype, length, heads, mask, head_dim=head_dim)
            # The backward pass over all pairs of the longest would take a minute.
            passes = (FORWARD,) if (length, mask) == (LONGEST, FULL) else case.passes
            found.append(dataclasses.replace(case, passes=passes))
    return found


def of_2048(group: str, head_dim: int, heads: int, key_value_heads: int) -> list[Case]:
    """Full ones forward only, for time's sake."""
    options = {"key_value_heads": key_value_heads, "head_dim": head_dim}
    full = [square(group, dtype, 2048, heads, FULL, passes=(FORWARD,), **options) for dtype in DTYPES]
    return full + [square(group, dtype, 2048, heads, CAUSAL, **options) for dtype in DTYPES]


def head_dim_cases() -> list[Case]:
    return [*of_2048(HEAD_DIMS, 80, 3, 3), *of_2048(HEAD_DIMS, 96, 2, 2), *of_2048(HEAD_DIMS, 256, 1, 1)]


def grouped_cases() -> list[Case]:
    return [*of_2048(GROUPED, 64, 4, 1), *of_2048(GROUPED, 128, 4, 2)]


def window_cases() -> list[Case]:
    return [square(WINDOWS, dtype, 8192, 1, WINDOW, window=512) for dtype in DTYPES]


def feature_cases() -> list[Case]:
    """Programs of these are ours with each feature in turn."""
    return [square(FEATURES, dtype, 2048, 2, CAUSAL, programs=(OURS,)) for dtype in DTYPES]


def decode_cases() -> list[Case]:
    """Few queries against many keys; eight query heads on one have their rows packed."""
    return [
        Case(
            DECODE, dtype, queries, keys, 8, key_value_heads, head_dim=128, passes=(FORWARD,),
            programs=EVERYONE if keys < MANY_KEYS else (OURS, TORCH, ONNX_RUNTIME),
        )
        for keys, key_value_heads, queries, dtype in itertools.product(
            (4096, 32768, MANY_KEYS), (8, 1), (1, 16), DTYPES
        )
    ]  # fmt: skip


def core_cases() -> list[Case]:
    """Measured on all cores, with one thread of ours beside."""
    return [
        square(CORES, dtype, 2048, heads, mask, head_dim=head_dim, programs=(OURS, ONE_THREAD, *EVERYONE[1:]))
        for (head_dim, heads), mask, dtype in itertools.product(((64, 4), (128, 2)), (FULL, CAUSAL), DTYPES)
    ]


def decode_cases_of_all_cores() -> list[Case]:
    middle = [case for case in decode_cases() if case.keys == 32768]
    return [dataclasses.replace(case, programs=(OURS, ONE_THREAD, TORCH)) for case in middle]


def of_one_core() -> list[Case]:
    return [*length_cases(), *head_dim_cases(), *grouped_cases(), *window_cases(), *feature_cases(), *decode_cases()]


def of_all_cores() -> list[Case]:
    return [*core_cases(), *decode_cases_of_all_cores()]


QUICK = (
    "lengths/*-n2048-d64-*-causal", "cores/float32-n2048-d64-*-causal", "decode/float32-t1-s4096-d128-h8-full", "tiny",
)  # fmt: skip
