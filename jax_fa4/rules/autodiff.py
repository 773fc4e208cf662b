"""Derivatives: custom_vjp over the primitives; the derivative of the gradients themselves goes through blockwise."""

from __future__ import annotations

import dataclasses
import functools
from typing import Any

import jax
from jax.ad_checkpoint import checkpoint_name
from jax.extend.core import Primitive
from jax.interpreters import ad, batching, mlir

from jax_fa4 import blockwise, primitive
from jax_fa4.rules import sharding
from jax_fa4.spec import DIFFERENTIABLE, Array, AttentionSpec, Operands

# For policies of jax.checkpoint: a block that saves both runs no kernel twice.
CHECKPOINT_NAMES = ("jax_fa4_output", "jax_fa4_log_sum_exp")

Residuals = tuple[Operands, Array, Array]


def attention(spec: AttentionSpec, operands: Operands) -> tuple[Array, Array]:
    """Output (B, T, N, Hv) and log-sum-exp (B, N, T) by a kernel, differentiable in reverse mode to any order."""
    guarded = {name: reverse_mode_only(array) for name, array in _differentiable(operands).items()}
    return _attention(spec, operands._replace(**guarded))


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _attention(spec: AttentionSpec, operands: Operands) -> tuple[Array, Array]:
    return primitive.forward(spec, operands)


def _attention_forward(spec: AttentionSpec, operands: Operands) -> tuple[tuple[Array, Array], Residuals]:
    spec = dataclasses.replace(spec, differentiated=True)
    results = _attention(spec, operands)  # not the primitive: whoever differentiates this again needs its rule
    output, log_sum_exp = (checkpoint_name(x, name) for x, name in zip(results, CHECKPOINT_NAMES, strict=True))
    return (output, log_sum_exp), (operands, output, log_sum_exp)


def _attention_backward(spec: AttentionSpec, residuals: Residuals, cotangents: tuple[Array, Array]) -> tuple[Operands]:
    operands, output, log_sum_exp = residuals
    gradients = _gradients(spec, operands, (output, log_sum_exp), cotangents)
    return (_as_cotangents(gradients, operands),)


_attention.defvjp(_attention_forward, _attention_backward)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _gradients(
    spec: AttentionSpec, operands: Operands, results: tuple[Array, Array], cotangents: tuple[Array, Array]
) -> dict[str, Array]:
    """Gradients of the differentiable operands that are present.

    That of bias is a call of its own, as it costs products of its own: where nobody uses it, XLA removes the call.
    """
    names = tuple(_differentiable(operands))
    residuals = (*results, *cotangents)
    found = primitive.backward(spec, operands, residuals, tuple(name for name in names if name != "bias"))
    if "bias" in names:
        found |= primitive.backward(spec, operands, residuals, ("bias",))
    return found


def _gradients_forward(
    spec: AttentionSpec, operands: Operands, results: tuple[Array, Array], cotangents: tuple[Array, Array]
) -> tuple[dict[str, Array], Any]:
    return _gradients(spec, operands, results, cotangents), (operands, cotangents)


def _gradients_backward(spec: AttentionSpec, residuals: Any, second: dict[str, Array]) -> tuple[Any, ...]:
    """The vector-Jacobian product of the gradients, in plain memory-linear JAX.

    The gradients are a function of operands and cotangents alone: output and log-sum-exp are functions of the operands,
    whose share is counted there, so their own cotangents are zero.
    """
    operands, cotangents = residuals

    def gradients(inputs: dict[str, Array], cotangents: tuple[Array, Array]) -> dict[str, Array]:
        _, pullback = jax.vjp(lambda inputs: blockwise.attention(spec, operands._replace(**inputs)), inputs)
        (found,) = pullback(cotangents)
        return dict(found)

    _, pullback = jax.vjp(gradients, _differentiable(operands), cotangents)
    of_operands, of_cotangents = pullback(second)
    return _as_cotangents(of_operands, operands), None, of_cotangents


_gradients.defvjp(_gradients_forward, _gradients_backward)


def _differentiable(operands: Operands) -> dict[str, Array]:
    return {name: array for name in DIFFERENTIABLE if (array := getattr(operands, name)) is not None}


def _as_cotangents(gradients: dict[str, Array], operands: Operands) -> Operands:
    typed = {name: sharding.typed_like(array, getattr(operands, name)) for name, array in gradients.items()}
    return Operands(*(typed.get(name) for name in Operands._fields))


def _refuse_forward_mode(*_: Any, **__: Any) -> Any:
    raise NotImplementedError(
        "jax_fa4.attention with a kernel has derivatives in reverse mode only (grad, vjp, and vjp of vjp), and so has "
        "jax_fa4.context_parallel.attention: for jvp, linearize, jacfwd, hessian or other forward-mode derivatives "
        'pass implementation="blockwise" to jax_fa4.attention'
    )


def _refuse_second_derivatives(*_: Any, **__: Any) -> Any:
    raise NotImplementedError(
        "jax_fa4.context_parallel.attention has first derivatives only: for second ones pass "
        'implementation="blockwise" to jax_fa4.attention, on arrays whose length axis is not cut'
    )


# The identity. Its derivative is a linear identity that can be transposed, which is all that reverse mode does with it,
# but not evaluated, which is what forward mode asks for: JAX's own words there would not say what to do instead.
reverse_mode_only_p = Primitive("jax_fa4_reverse_mode_only")
_tangent_p = Primitive("jax_fa4_tangent")


def reverse_mode_only(array: Array) -> Array:
    """Returns the array; whoever evaluates its derivative in forward mode gets a NotImplementedError."""
    return reverse_mode_only_p.bind(array)


for _primitive in (reverse_mode_only_p, _tangent_p):
    _primitive.def_abstract_eval(lambda aval: aval)
    batching.primitive_batchers[_primitive] = functools.partial(
        lambda primitive, arrays, axes: (primitive.bind(*arrays), axes[0]), _primitive
    )
reverse_mode_only_p.def_impl(lambda array: array)
mlir.register_lowering(reverse_mode_only_p, lambda ctx, array: [array])
ad.deflinear2(_tangent_p, lambda cotangent, _: [cotangent])
ad.primitive_jvps[reverse_mode_only_p] = lambda primals, tangents: (
    reverse_mode_only_p.bind(*primals),
    tangents[0] if isinstance(tangents[0], ad.Zero) else _tangent_p.bind(tangents[0]),
)
_tangent_p.def_impl(_refuse_forward_mode)
# Attention on one device never asks for this: _gradients has a rule of its own.
ad.primitive_jvps[primitive.backward_p] = _refuse_second_derivatives
mlir.register_lowering(_tangent_p, _refuse_forward_mode)
