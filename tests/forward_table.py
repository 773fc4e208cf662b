"""The calls that the GPU kernels are tested on, wherever they run: in the simulator and on a GPU."""

from __future__ import annotations

import dataclasses

from cases import FORWARD_AND_BACKWARD, Case

PLAIN = Case(dtype="bfloat16", batch=1, query_length=200, key_length=150, head_dim=128, query_heads=2)


def for_gpu(case: Case) -> Case:
    """The case without what kernels refuse: dense bias and mask, wide floats, head_dims that are no multiple of 8."""
    sizes = [8 * -(-size // 8) for size in (case.head_dim, case.value_head_dim or case.head_dim)]
    dtype = "bfloat16" if case.dtype in ("float32", "float64") else case.dtype
    return dataclasses.replace(
        case, dtype=dtype, head_dim=sizes[0], value_head_dim=sizes[1], bias=None, mask=None, causal_alignment=(
            "top_left" if case.query_offset else case.causal_alignment
        ),
    )  # fmt: skip


# One call for each feature and combination of features of the CPU's table.
FEATURES = {case.id: case for case in map(for_gpu, FORWARD_AND_BACKWARD) if case.query_length > 0}

# Sizes around the edges of tiles, queries and keys not alike.
EDGES = (1, 2, 63, 127, 128, 129, 255, 256, 257, 384, 511, 513, 640, 1023, 1100)
SIZES = [(EDGES[i], EDGES[(i * 4 + 3) % len(EDGES)]) for i in range(len(EDGES))]
SIZES += [(size, size) for size in (1, 128, 256, 300, 1100)] + [(1, 1100), (1100, 1)]

ONE = Case("bfloat16", batch=1, query_heads=1, key_value_heads=1, head_dim=64)
KINDS = {
    "dense": ONE,
    "causal": dataclasses.replace(ONE, is_causal=True, causal_alignment="bottom_right"),
    "window": dataclasses.replace(ONE, window=(100, 30), head_dim=96),
    "general": dataclasses.replace(
        ONE, is_causal=True, query_offset="scalar", sinks=True, segments="packed", lengths="both", nan_padding=True
    ),
}  # fmt: skip

# Query heads for each head of keys: they share tiles, as many as a power of two of them.
GROUPS = (1, 2, 3, 4, 6, 8)
# (head_dim, value head_dim): those of the variants, and smaller ones that are padded.
HEADS = ((64, 64), (96, 96), (128, 128), (192, 128), (40, 72), (136, 8))
WIDEST_HEADS = ((256, 256), (256, 200))  # of Hopper's kernels alone

# Which kind of variant a call takes: that with the fewest features which has those of the call.
VARIANTS = (
    (PLAIN, "dense"),
    (dataclasses.replace(PLAIN, is_causal=True), "banded"),
    (dataclasses.replace(PLAIN, window=(5, None)), "banded"),
    (dataclasses.replace(PLAIN, is_causal=True, query_offset="batch", batch=2), "banded"),
    (dataclasses.replace(PLAIN, is_causal=True, causal_alignment="bottom_right"), "banded"),
    (dataclasses.replace(PLAIN, sinks=True), "general"),
)


def of_size(kind: str, sizes: tuple[int, int]) -> Case:
    """A kind's case with these lengths of queries and keys."""
    return dataclasses.replace(KINDS[kind], query_length=sizes[0], key_length=sizes[1])


def grouped(group: int, is_causal: bool) -> Case:
    """So many query heads on each head of keys."""
    return dataclasses.replace(PLAIN, query_heads=2 * group, key_value_heads=2, batch=2, is_causal=is_causal)


def of_head_dims(dtype: str, heads: tuple[int, int]) -> Case:
    """With these head_dims, of which the largest logits come first."""
    return dataclasses.replace(
        PLAIN, dtype=dtype, head_dim=heads[0], value_head_dim=heads[1], falling_logits=True, key_length=500
    )
