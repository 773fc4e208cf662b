"""The custom call as XLA's partitioners see it: its sharding rule, and what names devices inside jax.shard_map."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend.mlir import ir
from jax.extend.mlir.dialects import sdy
from jax.interpreters import mlir
from jax.sharding import PartitionSpec

from jax_fa4.rules.sharding import axes, partitioner
from jax_fa4.rules.sharding.axes import Call, Letters

_SYMBOLIC = (
    "in a program for several devices whose shapes are symbolic: export it with numbers for shapes, or pass "
    'implementation="reference"'
)
_OTHER_JAX = (
    f"under JAX {jax.__version__}, whose names for that are not those of JAX 0.10 and 0.11: call attention inside a "
    'jax.shard_map over all axes of the mesh, or pass implementation="blockwise"'
)


def custom_call(
    target: str, direction: str, ctx: Any, arrays: Sequence[Any], attributes: Mapping[str, Any]
) -> Sequence[Any]:
    """Lowers to one custom call that XLA can cut into shards.

    Args:
      target: name of the FFI target.
      direction: "forward" or "backward".
      ctx: JAX's lowering context.
      arrays: the operands as values of MLIR.
      attributes: those of the call.

    Raises:
      NotImplementedError: XLA would have to cut the call into shards, and cannot, for its shapes are symbolic or for
        this JAX does not let us say how. It would gather every operand onto every device, silently.
    """
    shapes = [[tuple(aval.shape) for aval in avals] for avals in (ctx.avals_in, ctx.avals_out)]
    is_symbolic = not all(isinstance(extent, int) for shape in (*shapes[0], *shapes[1]) for extent in shape)
    if (is_symbolic or not partitioner.AVAILABLE) and _is_to_be_cut(ctx):
        raise NotImplementedError(f"jax_fa4 cannot cut calls into shards {_SYMBOLIC if is_symbolic else _OTHER_JAX}")
    if is_symbolic or not partitioner.AVAILABLE:
        results: Sequence[Any] = jax.ffi.ffi_lowering(target)(ctx, *arrays, **attributes)
        return results
    mesh = _partially_manual_mesh(ctx)
    if mesh is not None and direction == "backward":
        ctx, arrays = _with_marker(ctx, arrays, mesh)
        attributes = {**attributes, axes.MESH: _signed_extents(mesh)}
    results = jax.ffi.ffi_lowering(target)(ctx, *arrays, **attributes)
    call = axes.of_call(direction, *shapes)
    operation: Any = results[0]
    operation.owner.attributes["sdy.sharding_rule"] = _rule(call, arrays, results)
    return results


def _rule(call: Call, arrays: Sequence[Any], results: Sequence[Any]) -> Any:
    """Every letter is a factor; query heads are (key head, head of its group), so that key and value follow.

    Heads of sinks and slopes are a factor of their own: parameters are often sharded over the axis of the batch, and
    what the partitioner does with a few numbers must not decide where the query goes.
    """
    sizes: list[int] = []
    factors: dict[str, int] = {}

    def factor(name: str, size: int) -> int:
        if name not in factors:
            factors[name] = len(sizes)
            sizes.append(size)
        return factors[name]

    def factors_of(letter: str | None, extent: int) -> list[int]:
        if letter is None:  # in no other array
            return [factor(f"own {len(sizes)}", extent)]
        if letter != "N":
            return [factor(letter, extent)]
        heads = [("K", extent // call.group), ("group", call.group)]
        return [factor(name, size) for name, size in heads if size > 1]

    def mapping(letters: Letters, value: Any) -> Any:
        extents = ir.ShapedType(value.type).shape
        dimensions = [
            sdy.DimMappingAttr.get(factor_indices=factors_of(letter, extent))
            for letter, extent in zip(letters, extents, strict=True)
        ]
        return sdy.TensorMappingAttr.get(dim_mappings=dimensions)

    marker = [(None,) * ir.ShapedType(array.type).rank for array in arrays[len(call.operands) :]]
    operands: list[Letters] = [*call.operands, *marker]
    for name in axes.PARAMETERS:
        position = axes.NAMES.index(name)
        operands[position] = tuple(name if letter == "N" else letter for letter in operands[position])
    return sdy.OpShardingRuleAttr.get(
        operand_mappings=[mapping(*pair) for pair in zip(operands, arrays, strict=True)],
        result_mappings=[mapping(*pair) for pair in zip(call.results, results, strict=True)],
        factor_sizes=sizes,
        is_custom=True,
    )


def _is_to_be_cut(ctx: Any) -> bool:
    """Whether the program is for several devices and leaves it to XLA, here, what each of them does."""
    context = ctx.module_context.axis_context
    mesh = getattr(context, "mesh", None)
    if mesh is not None and frozenset(mesh.axis_names) == frozenset(getattr(context, "manual_axes", ())):
        return False
    return int(getattr(context, "num_devices", None) or getattr(mesh, "size", None) or 1) > 1


def _partially_manual_mesh(ctx: Any) -> Any:
    """The mesh of a region of jax.shard_map that leaves axes of more than one device to the partitioner, or None."""
    mesh = ctx.avals_in[0].sharding.mesh
    left = _left_axes(mesh)
    return mesh if mesh.manual_axes and math.prod(mesh.shape[name] for name in left) > 1 else None


def _left_axes(mesh: Any) -> tuple[str, ...]:
    return tuple(name for name in mesh.axis_names if name not in mesh.manual_axes)


def _signed_extents(mesh: Any) -> Any:
    return np.asarray([-mesh.shape[n] if n in mesh.manual_axes else mesh.shape[n] for n in mesh.axis_names], np.int64)


def _with_marker(ctx: Any, arrays: Sequence[Any], mesh: Any) -> tuple[Any, list[Any]]:
    """One more operand, which the partitioner removes: an array of the mesh's form, cut into as many shards as devices.

    In a partially manual region XLA shows the partitioner devices by numbers of its own making. Sums over devices are
    written in the mesh's numbers, and the shard that a device holds of this array is its place in the mesh.
    """
    left = _left_axes(mesh)
    extents = tuple(mesh.shape[name] for name in left)
    explicit = [name if name in mesh.explicit_axes else None for name in left]
    automatic = [PartitionSpec.UNCONSTRAINED if name in mesh.explicit_axes else name for name in left]

    def marker() -> list[Any]:
        array = jnp.arange(math.prod(extents), dtype=jnp.int32).reshape(extents)
        if any(explicit):
            array = jax.reshard(array, PartitionSpec(*explicit))
        if not all(explicit):
            array = jax.lax.with_sharding_constraint(array, PartitionSpec(*automatic))
        return [array]

    inner = ctx.replace(avals_in=(), avals_out=(jax.core.ShapedArray(extents, jnp.int32),))
    values = mlir.lower_fun(marker, multiple_results=True)(inner)
    extended = ctx.replace(avals_in=(*ctx.avals_in, inner.avals_out[0]))
    return extended, [*arrays, *mlir.ir_tree_registry.flatten(values)[0]]
