"""The call for whoever holds whole arrays: jax.shard_map around `attention`, batch and heads cut too if asked for."""

from __future__ import annotations

import functools
import inspect
import math
from typing import Any

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from jax_fa4.attention import prepare
from jax_fa4.context_parallel.attention import AxisName, attention
from jax_fa4.spec import Array

_BATCH, _LENGTH, _HEADS = "batch", "length", "heads"
_ROWS = (_BATCH, _LENGTH, _HEADS, None)
# What the axes of each array are, aligned at the right.
_AXES: dict[str, tuple[str | None, ...]] = {
    "query": _ROWS,
    "key": _ROWS,
    "value": _ROWS,
    "sinks": (_HEADS,),
    "alibi_slopes": (_HEADS,),
    "query_segment_ids": (_BATCH, _LENGTH),
    "key_value_segment_ids": (_BATCH, _LENGTH),
    "query_seq_lengths": (_BATCH,),
    "key_value_seq_lengths": (_BATCH,),
    "query_offset": (_BATCH,),
}


def sharded_attention(
    query: Array,
    key: Array,
    value: Array,
    *,
    axis_name: AxisName,
    mesh: Mesh | None = None,
    batch_axis_name: AxisName | None = None,
    head_axis_name: AxisName | None = None,
    **options: Any,
) -> Any:
    """`context_parallel.attention` of whole arrays: cuts them over a mesh and calls it in jax.shard_map.

    Mesh axes of Auto and of Explicit type; arrays that lie otherwise are brought to where they are needed. Under
    jax.jit, next to layers whose activations lie as here, nothing moves.

    Args:
      query: (B, T, N, H) with T the length of the sequence, or without the batch axis; in the order of `layout`.
      key: (B, S, K, H).
      value: (B, S, K, Hv).
      axis_name: mesh axis, or several, the major one first, over which the length axes are cut.
      mesh: default is that of jax.set_mesh.
      batch_axis_name: mesh axes over which the batch axes are cut; default none.
      head_axis_name: mesh axes over which the heads are cut, those of keys and values too; default none.
      **options: the other arguments of `context_parallel.attention`, arrays whole.

    Returns:
      What `attention` returns, whole and cut like the query.

    Raises:
      ValueError: no mesh; a mesh axis that does not exist; an extent that its mesh axes do not divide; what `attention`
        raises.
      TypeError, NotImplementedError: what `attention` raises.
    """
    bound = inspect.signature(attention).bind(query, key, value, axis_name=axis_name, **options)
    bound.apply_defaults()
    prepare(bound.arguments)
    names = {_BATCH: batch_axis_name, _LENGTH: axis_name, _HEADS: head_axis_name}
    context = mesh if mesh is not None else jax.sharding.get_abstract_mesh()
    _check_mesh(context, names)
    given = {"query": query, "key": key, "value": value, **options}
    arrays = {name: given.pop(name) for name in _AXES if hasattr(given.get(name), "shape")}
    specs = {name: _spec(name, array, names, context) for name, array in arrays.items()}
    if any(kind == AxisType.Explicit for kind in context.axis_types):
        arrays = {name: jax.reshard(array, NamedSharding(context, specs[name])) for name, array in arrays.items()}
    call = functools.partial(attention, axis_name=axis_name, **given)
    results = PartitionSpec(*specs["query"][:-1])
    mapped = jax.shard_map(lambda arrays: call(**arrays), mesh=mesh, in_specs=(specs,), out_specs=results)
    return mapped(arrays)


def _check_mesh(mesh: Any, names: dict[str, Any]) -> None:
    if not mesh.axis_names:
        raise ValueError("sharded_attention needs a mesh: pass mesh=, or call it under jax.set_mesh(mesh)")
    for what, axes in names.items():
        unknown = [axis for axis in _tuple(axes) if axis not in mesh.axis_names]
        if unknown:
            raise ValueError(f"the mesh has no axis {unknown[0]!r} to cut {what} over, it has {mesh.axis_names}")
    used = [axis for axes in names.values() for axis in _tuple(axes)]
    if twice := {axis for axis in used if used.count(axis) > 1}:
        raise ValueError(
            f"mesh axis {', '.join(sorted(twice))} is named twice: batch, length and heads need axes of their own, got "
            f"batch {names[_BATCH]!r}, length {names[_LENGTH]!r}, heads {names[_HEADS]!r}"
        )


def _spec(name: str, array: Array, names: dict[str, Any], mesh: Any) -> PartitionSpec:
    """How the array is cut. What the batch shares, by extent 1 or without an axis for it, stays whole there."""
    axes = _AXES[name]
    is_row = axes == _ROWS
    entries: list[Any] = []
    for what, extent in zip(axes[len(axes) - np.ndim(array) :], array.shape, strict=True):
        is_shared = what == _BATCH and extent == 1 and not is_row
        over = () if what is None or is_shared else _tuple(names[what])
        parts = math.prod(mesh.shape[one] for one in over)
        if extent % parts:
            raise ValueError(
                f"{name} of shape {array.shape} cannot be cut: {what} {extent} is no multiple of {parts}, the devices "
                f"along {', '.join(over)}"
            )
        entries.append(over or None)
    return PartitionSpec(*entries)


def _tuple(axes: Any) -> tuple[str, ...]:
    return () if axes is None else (axes,) if isinstance(axes, str) else tuple(axes)
