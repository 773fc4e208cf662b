"""Which implementation does what: the support table, and the choice for a platform."""

from __future__ import annotations

from jax_fa4 import calls, manifest
from jax_fa4.spec import KERNEL_IMPLEMENTATIONS, PLAIN_IMPLEMENTATIONS, SIMULATED, AttentionSpec, Operands

# The platform of implementations that are not named after it.
_PLATFORMS = {SIMULATED: "cpu"}


def refusal(
    implementation: str, spec: AttentionSpec, operands: Operands, platform: str, direction: str = "forward"
) -> str | None:
    """Why this implementation cannot run the call where it is lowered for `platform`; None if it can."""
    if implementation in PLAIN_IMPLEMENTATIONS:
        return None
    own = _PLATFORMS.get(implementation, implementation)
    if own != platform:
        return f"its kernels run on platform {own} only"
    return None if implementation == "cpu" else _refusal_of_kernels(spec, operands, direction)


def _refusal_of_kernels(spec: AttentionSpec, operands: Operands, direction: str) -> str | None:
    """Likewise for the compiled GPU kernels."""
    variants = manifest.variants()
    if not variants:
        return "this build has no CUDA kernels"
    if direction == "backward":
        return "gradients have no CUDA kernel yet"
    dtype = str(operands.query.dtype)
    if spec.out_dtype not in (None, dtype):
        return f"its kernels have no {spec.out_dtype} output of {dtype} inputs"
    dtypes = {variant.dtype: None for variant in variants}
    if dtype not in dtypes:
        return f"its kernels take {', '.join(dtypes)}, not {dtype}"
    asked = manifest.features(spec, operands)
    able = [variant for variant in variants if variant.dtype == dtype and asked <= variant.features]
    if not able:
        unknown = asked - frozenset().union(*(variant.features for variant in variants))
        return f"its kernels cannot do {', '.join(sorted(unknown or asked))}"
    most = max(variant.head_dim for variant in able)
    for name, array in (("head_dim", operands.query), ("value head_dim", operands.value)):
        head_dim = array.shape[-1]
        if head_dim > most or head_dim % 8:
            return f"its kernels take a {name} up to {most} that is a multiple of 8, not {head_dim}"
    return None


def choose(spec: AttentionSpec, operands: Operands, platform: str, direction: str = "forward") -> str:
    """The first implementation of the call that can run on the platform.

    Args:
      spec: the call.
      operands: its arrays, or what has their shapes and dtypes.
      platform: that the program is lowered for.
      direction: "forward" or "backward".

    Raises:
      NotImplementedError: none can; says why and what would.
    """
    if not spec.implementation and platform not in KERNEL_IMPLEMENTATIONS:
        kernels = [name for name in calls.TARGETS if name == "cpu" or (name == "cuda" and manifest.variants())]
        raise NotImplementedError(
            f"jax_fa4 has no kernels for platform {platform!r}; this build has them for {', '.join(kernels)}. "
            f'Pass implementation="blockwise": memory-linear plain JAX for any platform'
        )
    wanted = spec.implementation or (platform,)
    reasons = []
    for implementation in wanted:
        reason = refusal(implementation, spec, operands, platform, direction)
        if reason is None:
            return implementation
        reasons.append(f"{implementation}: {reason}")
    raise NotImplementedError(
        f"jax_fa4.attention cannot be lowered for platform {platform!r} ({'; '.join(reasons)}). Pass "
        'implementation="blockwise" (memory-linear plain JAX for any platform), or a tuple of names that ends with it'
    )
