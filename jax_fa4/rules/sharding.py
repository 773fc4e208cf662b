"""Meshes in types: manual axes (jax.shard_map), Explicit axes. The only module that reads JAX's private names."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax
from jax import lax
from jax.sharding import NamedSharding, PartitionSpec

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


def vary_over(axes: frozenset[str], array: Array) -> Array:
    """Types an array as varying over these manual axes at least."""
    missing = tuple(sorted(axes - varying_axes(jax.typeof(array))))
    return lax.pcast(array, missing, to="varying") if missing else array


def result_type(operands: Sequence[Any], shape: tuple[Any, ...], dtype: Any) -> Any:
    """Abstract value of a result: it varies over every manual axis that any operand varies over."""
    like = operands[0]
    union = frozenset().union(*(varying_axes(aval) for aval in operands))
    sharding = NamedSharding(like.sharding.mesh, PartitionSpec(*(None for _ in shape)))
    changes: dict[str, Any] = {
        "shape": shape,
        "dtype": jax.numpy.dtype(dtype),
        "weak_type": False,
        "sharding": sharding,
    }
    if hasattr(like, "manual_axis_type"):
        changes["manual_axis_type"] = like.manual_axis_type.update(varying=union)
    else:
        changes["vma"] = union
    return like.update(**changes)


def typed_like(cotangent: Array, primal: Array) -> Array:
    """The cotangent with the primal's sharding, which in a mesh of Explicit axes is part of its type."""
    wanted = jax.typeof(primal).sharding
    return cotangent if jax.typeof(cotangent).sharding == wanted else jax.reshard(cotangent, wanted)
