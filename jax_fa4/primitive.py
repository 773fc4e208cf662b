"""The two primitives, forward and backward: result types, batching, and one custom call per platform."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax.extend.core import Primitive
from jax.interpreters import batching, mlir

from jax_fa4 import blockwise, calls, extension, manifest, reference, support
from jax_fa4.rules import sharding
from jax_fa4.spec import DIFFERENTIABLE, Array, AttentionSpec, Operands

PLAIN = {"blockwise": blockwise.attention, "reference": reference.attention}


def forward(spec: AttentionSpec, operands: Operands) -> tuple[Array, Array]:
    """Output (B, T, N, Hv) and log-sum-exp (B, N, T) of operands with one batch axis."""
    output, log_sum_exp = forward_p.bind(*calls.pack(operands), spec=spec)
    return output, log_sum_exp


def backward(
    spec: AttentionSpec, operands: Operands, residuals: Sequence[Array], gradients: tuple[str, ...]
) -> dict[str, Array]:
    """The gradients asked for, each of its operand's shape.

    Args:
      spec: the call.
      operands: as forward took them, with one batch axis.
      residuals: output, log-sum-exp and their cotangents.
      gradients: names out of DIFFERENTIABLE.
    """
    results = backward_p.bind(*calls.pack(operands), *residuals, spec=spec, gradients=gradients)
    named = {name: result for name, result in zip(DIFFERENTIABLE, results, strict=True) if name in gradients}
    # Query, key or value shared over the batch (extent 1): their gradient is the sum over it.
    shapes = {name: getattr(operands, name).shape for name in named}
    return {
        name: array if array.shape == shapes[name] else jnp.sum(array, axis=0, keepdims=True)
        for name, array in named.items()
    }


def _add_axis(array: Array) -> Array:
    return array if array.shape == calls.ABSENT else jnp.expand_dims(array, 0)


def _forward_types(*avals: Any, spec: AttentionSpec) -> list[Any]:
    return sharding.result_types("forward", avals, calls.forward_results(spec, calls.unpack(avals)))


def _backward_types(*avals: Any, spec: AttentionSpec, gradients: tuple[str, ...]) -> list[Any]:
    operands, residuals = _split(avals)
    results = calls.backward_results(operands, residuals, gradients, spec.grad_dtype)
    return sharding.result_types("backward", avals, results)


def _batch(primitive: Primitive, arrays: Sequence[Array], axes: Sequence[Any], **params: Any) -> tuple[Any, Any]:
    """vmap adds one more leading batch axis: extent 1 for what is not mapped, so that nothing is copied."""

    def lead(array: Array, axis: Any) -> Array:
        if axis is None:
            return _add_axis(array)
        return jnp.moveaxis(array, axis, 0)

    results = primitive.bind(*map(lead, arrays, axes), **params)
    return results, [None if result.shape == calls.ABSENT else 0 for result in results]


def _plain_forward(implementation: str, *arrays: Array, spec: AttentionSpec) -> list[Array]:
    """The same call in plain JAX, for a tuple of implementations that ends there; vmap's axes are mapped again."""
    run = functools.partial(PLAIN[implementation], spec)
    return list(_over_outer_axes(lambda *one: run(calls.unpack(one)), calls.batch_axes(calls.unpack(arrays)))(*arrays))


def _plain_backward(
    implementation: str, *arrays: Array, spec: AttentionSpec, gradients: tuple[str, ...]
) -> list[Array]:
    def run(*one: Array) -> list[Array]:
        operands, residuals = _split(one)
        asked = {name: getattr(operands, name) for name in gradients}
        own, pullback = jax.vjp(lambda asked: PLAIN[implementation](spec, operands._replace(**asked)), asked)
        # Unless they are needed, XLA drops the kernel whose results the residuals are, where only the gradient is used.
        cotangents = _share_of_cotangents(own, residuals) if spec.partial else (residuals[2], residuals[3])
        (found,) = pullback(cotangents)
        return [found.get(name, jnp.zeros(calls.ABSENT, jnp.float32)) for name in DIFFERENTIABLE]

    operands, residuals = _split(arrays)
    results = calls.backward_results(operands, residuals, gradients, spec.grad_dtype)
    found = _over_outer_axes(run, calls.batch_axes(operands))(*arrays)
    # The absent ones were mapped too; query, key and value have full extent in the call's results.
    return [
        jnp.zeros(shape, dtype) if shape == calls.ABSENT else jnp.broadcast_to(array, shape).astype(dtype)
        for array, (shape, dtype) in zip(found, results, strict=True)
    ]


def _share_of_cotangents(own: Sequence[Array], residuals: Sequence[Array]) -> tuple[Array, Array]:
    """Cotangents of the call's own results, given output and log-sum-exp over these keys and others, and theirs.

    As merge() joins them, output = sum of w * own output and w = exp(own log-sum-exp - log_sum_exp). The kernels need
    no such step: their probabilities come from the log-sum-exp that they are given.
    """
    dtype = own[1].dtype
    own_output, output, d_output = (x.astype(dtype) for x in (own[0], residuals[0], residuals[2]))
    own_log_sum_exp, log_sum_exp, d_log_sum_exp = own[1], residuals[1], residuals[3]
    weight = jnp.where(own_log_sum_exp == -jnp.inf, 0, jnp.exp(own_log_sum_exp - log_sum_exp))
    distance = jnp.swapaxes(jnp.sum(d_output * (own_output - output), axis=-1), -1, -2)
    of_output = jnp.swapaxes(weight, -1, -2)[..., None] * d_output
    return of_output.astype(own[0].dtype), weight * (d_log_sum_exp + distance)


def _split(arrays: Sequence[Array]) -> tuple[Operands, Sequence[Array]]:
    """Arrays of the backward call: operands of the forward call, and output, log-sum-exp and their cotangents."""
    count = len(Operands._fields)
    return calls.unpack(arrays[:count]), arrays[count:]


def _over_outer_axes(run: Callable[..., Any], axes: int) -> Callable[..., Any]:
    """Maps a function of arrays with one batch axis over all batch axes but the last; extent 1 is shared."""
    if axes == 1:
        return run

    def mapped(*arrays: Array) -> Any:
        shared = [array.shape == calls.ABSENT or array.shape[0] == 1 for array in arrays]
        inner = [
            array if array.shape == calls.ABSENT or not alone else array[0]
            for array, alone in zip(arrays, shared, strict=True)
        ]
        one = _over_outer_axes(run, axes - 1)
        if all(shared):
            return jax.tree.map(lambda result: result[None], one(*inner))
        return jax.vmap(one, in_axes=tuple(None if alone else 0 for alone in shared))(*inner)

    return mapped


def _lower(direction: str, platform: str | None, ctx: Any, *arrays: Any, spec: AttentionSpec, **params: Any) -> Any:
    operands = calls.unpack(ctx.avals_in[: len(Operands._fields)])
    platform = platform or "/".join(ctx.module_context.platforms)
    chosen = support.choose(spec, operands, platform, direction)
    if chosen in PLAIN:
        plain = _plain_forward if direction == "forward" else _plain_backward
        lower = mlir.lower_fun(functools.partial(plain, chosen), multiple_results=True)
        return lower(ctx, *arrays, spec=spec, **params)
    target = calls.TARGETS[chosen][direction]
    return sharding.custom_call(target, direction, ctx, arrays, calls.attributes(spec))


def _define(name: str, direction: str, types: Callable[..., list[Any]]) -> Primitive:
    primitive = Primitive(name)
    primitive.multiple_results = True
    primitive.def_abstract_eval(types)

    @functools.cache
    def compiled(**params: Any) -> Callable[..., list[Array]]:
        return jax.jit(lambda *arrays: primitive.bind(*arrays, **params))

    primitive.def_impl(lambda *arrays, **params: compiled(**params)(*arrays))
    batching.primitive_batchers[primitive] = functools.partial(_batch, primitive)
    for platform in ("cpu", "cuda", None):
        mlir.register_lowering(primitive, functools.partial(_lower, direction, platform), platform=platform)
    return primitive


forward_p = _define("jax_fa4_forward", "forward", _forward_types)
backward_p = _define("jax_fa4_backward", "backward", _backward_types)

for _platform, _targets in extension.registrations().items():
    for _name, _handlers in _targets.items():
        jax.ffi.register_ffi_target(_name, _handlers, platform=_platform)
sharding.register((direction, target) for targets in calls.TARGETS.values() for direction, target in targets.items())
# A program that was exported elsewhere runs without being lowered here: the launcher knows its kernels from the start.
manifest.variants()
