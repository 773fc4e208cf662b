"""What each dimension of a call's arrays means: the letters that sharding rules are made of. Knows nothing of JAX.

A dimension of extent 1 is shared or has nothing to shard: it has no letter (None). Batch axes are "b0", "b1", ... in
the order of the call. Heads are "N" on the query's side and "K" on the key's: query head n reads key head n // (N / K).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

Shape = tuple[Any, ...]
Letters = tuple[str | None, ...]

_FORWARD_OPERANDS = ("TNH", "SKH", "SKV", "NTS", "NTS", "N", "N", "T", "S", "", "", "")
_FORWARD_RESULTS = ("TNV", "NT")
_GRADIENTS = ("TNH", "SKH", "SKV", "NTS", "N", "N")
OPERANDS = {
    "forward": _FORWARD_OPERANDS,
    # Output, log-sum-exp and their cotangents.
    "backward": (*_FORWARD_OPERANDS, *_FORWARD_RESULTS, *_FORWARD_RESULTS),
}
RESULTS = {"forward": _FORWARD_RESULTS, "backward": _GRADIENTS}
# Attribute of calls in partly manual regions, which the partitioner removes: extents of the mesh's axes in order, those
# of manual ones negated.
MESH = "mesh"
# One number per head.
PARAMETERS = ("sinks", "alibi_slopes")
# Operands of a user, whose shardings were the user's choice; what follows them in the backward call came out of JAX.
GIVEN = len(_FORWARD_OPERANDS)
_ABSENT = (0,)

# Letters that no shard may hold a part of, in words.
WHOLE = {
    "T": "query length",
    "S": "key length",
    "H": "head_dim",
    "V": "value head_dim",
}
NAMES = (
    "query", "key", "value", "bias", "mask", "sinks", "alibi_slopes", "query_segment_ids", "key_value_segment_ids",
    "query_seq_lengths", "key_value_seq_lengths", "query_offset", "output", "log_sum_exp", "gradient of the output",
    "gradient of the log_sum_exp",
)  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Call:
    """Letters of a call's operands and results, extents of the letters, and how many batch axes lead."""

    operands: tuple[Letters, ...]
    results: tuple[Letters, ...]
    extents: dict[str, Any]
    batch_axes: int

    @property
    def group(self) -> int:
        """Query heads that share a key head."""
        return int(self.extents.get("N", 1)) // int(self.extents.get("K", 1))


def of_call(direction: str, operands: Sequence[Shape], results: Sequence[Shape]) -> Call:
    """The letters of a call with these shapes of operands and results."""
    batch_axes = len(operands[0]) - len(OPERANDS[direction][0])
    extents: dict[str, Any] = {}

    def letters_of(shape: Shape, trailing: str) -> Letters:
        if shape == _ABSENT:
            return (None,)
        names = (*(f"b{axis}" for axis in range(batch_axes)), *trailing)
        found = tuple(None if extent == 1 else name for name, extent in zip(names, shape, strict=True))
        extents.update({name: extent for name, extent in zip(found, shape, strict=True) if name is not None})
        return found

    return Call(
        tuple(letters_of(shape, trailing) for shape, trailing in zip(operands, OPERANDS[direction], strict=True)),
        tuple(letters_of(shape, trailing) for shape, trailing in zip(results, RESULTS[direction], strict=True)),
        extents,
        batch_axes,
    )


def key_shards(query_heads: int, key_heads: int, query_shards: int) -> int | None:
    """Into how many shards key heads are cut where query heads are cut into `query_shards`.

    A shard must hold whole groups of query heads, with their key heads, or a part of one group, with its one key head:
    only then does query head n of the shard read key head n // (local N / local K).

    Returns:
      The number, a divisor of query_shards, consecutive query shards sharing a key shard; None if there is none.
    """
    group, local = query_heads // key_heads, query_heads // query_shards
    if query_heads % query_shards:
        return None
    if local % group == 0:
        return query_shards
    return key_heads if group % local == 0 else None


def length_error(name: str, letter: str, shards: int) -> str:
    """Words for an operand of which a device would hold a part of the length, or of a head."""
    if letter in "TS":
        instead = (
            "attention over a sharded sequence is jax_fa4.context_parallel; or give each device the whole length, "
            "which gathers it: jax.lax.with_sharding_constraint before the call, in a mesh of Explicit axes jax.reshard"
        )
    else:
        instead = (
            "shard heads or the batch instead, with jax.lax.with_sharding_constraint before the call, in a mesh of "
            "Explicit axes with jax.reshard"
        )
    return (
        f"jax_fa4.attention: {name} has its {WHOLE[letter]} cut into {shards} shards, which no kernel can do: {instead}"
    )


def heads_error(query_heads: int, key_heads: int, shards: int) -> str:
    """Words for heads cut so that a shard holds parts of two groups."""
    return (
        f"jax_fa4.attention: {query_heads} query heads over {key_heads} key heads cannot be cut into {shards} shards: "
        "each must hold whole groups of query heads that share a key head, or a part of one group; shard heads over "
        "fewer devices, or repeat key and value"
    )
