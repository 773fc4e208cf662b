"""Which implementation does what: the support table, and the choice for a platform."""

from __future__ import annotations

from jax_fa4 import calls
from jax_fa4.spec import KERNEL_IMPLEMENTATIONS, PLAIN_IMPLEMENTATIONS, AttentionSpec, Operands


def refusal(implementation: str, spec: AttentionSpec, operands: Operands, platform: str) -> str | None:
    """Why this implementation cannot run the call where it is lowered for `platform`; None if it can."""
    if implementation in PLAIN_IMPLEMENTATIONS:
        return None
    if implementation != platform:
        return f"its kernels run on platform {implementation} only"
    if implementation == "cuda":
        return "this build has no CUDA kernels"
    return None


def choose(spec: AttentionSpec, operands: Operands, platform: str) -> str:
    """The first implementation of the call that can run on the platform.

    Raises:
      NotImplementedError: none can; says why and what would.
    """
    if not spec.implementation and platform not in KERNEL_IMPLEMENTATIONS:
        raise NotImplementedError(
            f"jax_fa4 has no kernels for platform {platform!r}; this build has them for {', '.join(calls.TARGETS)}. "
            f'Pass implementation="blockwise": memory-linear plain JAX for any platform'
        )
    wanted = spec.implementation or (platform,)
    reasons = []
    for implementation in wanted:
        reason = refusal(implementation, spec, operands, platform)
        if reason is None:
            return implementation
        reasons.append(f"{implementation}: {reason}")
    raise NotImplementedError(
        f"jax_fa4.attention cannot be lowered for platform {platform!r} ({'; '.join(reasons)}). Pass "
        'implementation="blockwise" (memory-linear plain JAX for any platform), or a tuple of names that ends with it'
    )
