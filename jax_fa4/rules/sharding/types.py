"""Types of values in meshes: manual axes (inside jax.shard_map) and shardings over Explicit axes."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import jax
from jax import lax
from jax.sharding import NamedSharding, PartitionSpec

from jax_fa4.rules.sharding import axes
from jax_fa4.rules.sharding.axes import Call
from jax_fa4.spec import Array, Operands


def varying_axes(aval: Any) -> frozenset[str]:
    """The manual axes over which a value is known to differ between devices (empty outside shard_map)."""
    if hasattr(aval, "manual_axis_type"):
        return frozenset(aval.manual_axis_type.varying)
    return frozenset(getattr(aval, "vma", ()))


def vary_alike(operands: Operands, *others: Array) -> Operands:
    """Types all operands as varying over the union of their manual axes, and those of other values.

    The transpose of that cast sums gradients of replicated operands over the axes where they are replicated; without it
    they would silently be too large or too small under jax.shard_map.
    """
    union = frozenset().union(*(varying_axes(jax.typeof(array)) for array in (*operands, *others) if array is not None))
    return Operands(*(None if array is None else vary_over(union, array) for array in operands))


def vary_over(names: frozenset[str], array: Array) -> Array:
    """Types an array as varying over these manual axes at least."""
    missing = tuple(sorted(names - varying_axes(jax.typeof(array))))
    return lax.pcast(array, missing, to="varying") if missing else array


def result_types(direction: str, operands: Sequence[Any], results: Sequence[tuple[Any, Any]]) -> list[Any]:
    """Abstract values of results, from those of all operands of the call.

    They vary over every manual axis that any operand varies over, and lie on Explicit axes as the operands do: batch
    and heads may be cut. The gradient of a key that is whole while its query heads are cut is whole.

    Args:
      direction: "forward" or "backward".
      operands: abstract values.
      results: (shape, dtype) of each.

    Raises:
      ValueError: shardings over Explicit axes that contradict each other, or that cut a length or head_dim.
    """
    call = axes.of_call(direction, [aval.shape for aval in operands], [shape for shape, _ in results])
    mesh = operands[0].sharding.mesh
    cuts = _explicit_cuts(call, mesh, [tuple(aval.sharding.spec) for aval in operands])
    specs = [PartitionSpec(*(cuts.get(letter) for letter in letters)) for letters in call.results]
    union = frozenset().union(*(varying_axes(aval) for aval in operands))
    return [
        _changed(operands[0], shape, dtype, union, NamedSharding(mesh, spec))
        for (shape, dtype), spec in zip(results, specs, strict=True)
    ]


def typed_like(cotangent: Array, primal: Array) -> Array:
    """The cotangent with the primal's sharding, which in a mesh of Explicit axes is part of its type."""
    wanted = jax.typeof(primal).sharding
    return cotangent if jax.typeof(cotangent).sharding == wanted else jax.reshard(cotangent, wanted)


def _changed(like: Any, shape: Any, dtype: Any, varying: frozenset[str], sharding: NamedSharding) -> Any:
    changes: dict[str, Any] = {
        "shape": shape,
        "dtype": jax.numpy.dtype(dtype),
        "weak_type": False,
        "sharding": sharding,
    }
    if hasattr(like, "manual_axis_type"):
        changes["manual_axis_type"] = like.manual_axis_type.update(varying=varying)
    else:
        changes["vma"] = varying
    return like.update(**changes)


def _explicit_cuts(call: Call, mesh: Any, specs: Sequence[Any]) -> dict[str | None, Any]:
    """Mesh axes of each letter. Sinks and slopes follow the heads, however they lie."""
    cuts: dict[str | None, tuple[str, ...]] = {}
    whose: dict[str | None, str] = {}
    for position, (letters, spec) in enumerate(zip(call.operands, specs, strict=True)):
        name = axes.NAMES[position]
        if name in axes.PARAMETERS:
            continue
        for letter, entry in zip(letters, spec, strict=False):
            cut = (entry,) if isinstance(entry, str) else entry
            if letter is None or not isinstance(cut, tuple) or not cut:
                continue
            if letter in axes.WHOLE:
                if position < axes.GIVEN:
                    raise ValueError(axes.length_error(name, letter, _shards(mesh, cut)))
            elif cuts.setdefault(letter, cut) != cut:
                raise ValueError(
                    f"jax_fa4.attention: {name} is sharded over mesh axes {cut} where {whose[letter]} is over "
                    f"{cuts[letter]}: give them the same sharding with jax.reshard"
                )
            else:
                whose.setdefault(letter, name)
    _settle_heads(call, mesh, cuts)
    used = [axis for letter, cut in cuts.items() if letter != "K" for axis in cut]
    if len(used) != len(set(used)):
        listed = ", ".join(f"{whose.get(letter, 'query')} {cut}" for letter, cut in cuts.items())
        raise ValueError(
            f"jax_fa4.attention: a mesh axis cuts two axes of the call ({listed}): change one of them with jax.reshard"
        )
    return {letter: cut if len(cut) > 1 else cut[0] for letter, cut in cuts.items()}


def _settle_heads(call: Call, mesh: Any, cuts: dict[str | None, tuple[str, ...]]) -> None:
    """Heads of query and key fit each other; heads of a key alone cut those of the query too."""
    if "N" not in cuts and "K" in cuts:
        cuts["N"] = cuts["K"]
    if "N" not in cuts:
        return
    query_heads, key_heads = call.extents.get("N", 1), call.extents.get("K", 1)
    shards = _shards(mesh, cuts["N"])
    allowed = axes.key_shards(query_heads, key_heads, shards)
    if allowed is None:
        raise ValueError(axes.heads_error(query_heads, key_heads, shards))
    if "K" in cuts and (cuts["N"][: len(cuts["K"])] != cuts["K"] or _shards(mesh, cuts["K"]) > allowed):
        raise ValueError(
            f"jax_fa4.attention: heads of the key are sharded over mesh axes {cuts['K']}, those of the query over "
            f"{cuts['N']}: give them the same sharding with jax.reshard, or leave the key's whole"
        )


def _shards(mesh: Any, cut: Sequence[str]) -> int:
    return math.prod(int(mesh.shape[axis]) for axis in cut)
