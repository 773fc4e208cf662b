"""Which implementation does what: the support table, and the choice for a platform."""

from __future__ import annotations

from collections.abc import Iterable

import jax

from jax_fa4 import calls, manifest
from jax_fa4.manifest import Variant
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
    rows = manifest.variants()
    if not rows:
        return "this build has no CUDA kernels"
    if direction == "backward":
        return "gradients have no CUDA kernel yet"
    # Those for long calls alone have a twin for short ones, and the length may be unknown (jax.export).
    rows = tuple(row for row in rows if row.minimum_rows == 0) or rows
    gpus = _gpus()
    rows, all_rows = tuple(row for row in rows if all(map(row.runs_on, gpus))), rows
    if not rows:
        there = _listed(f"sm_{major}{minor}" for major, minor in gpus)
        return f"its kernels are for {_listed(row.architecture for row in all_rows)}, not for {there}"
    dtype = str(operands.query.dtype)
    able = [row for row in rows if row.dtype == dtype]
    if not able:
        return f"its kernels take {_listed(row.dtype for row in rows)}, not {dtype}"
    asked = manifest.features(spec, operands)
    rows, able = tuple(able), [row for row in able if asked <= row.features]
    if not able:
        unknown = asked - frozenset().union(*(row.features for row in rows))
        return f"its kernels cannot do {', '.join(sorted(unknown or asked))}"
    output = spec.out_dtype or dtype
    rows, able = tuple(able), [row for row in able if row.output == output]
    if not able:
        together = f" together with {', '.join(sorted(asked))}" if asked else ""
        return f"its kernels have no {output} output of {dtype} inputs{together}"
    return _refusal_of_head_dims(able, operands.query.shape[-1], operands.value.shape[-1])


def _gpus() -> tuple[tuple[int, int], ...]:
    """The compute capabilities of this process's GPUs; none where it has none, as when it exports for some."""
    try:
        devices = jax.local_devices(backend="cuda")
    except RuntimeError:
        return ()
    found = (str(getattr(device, "compute_capability", "")).split(".") for device in devices)
    return tuple(sorted({(int(parts[0]), int(parts[1])) for parts in found if len(parts) == 2}))


def _refusal_of_head_dims(rows: Iterable[Variant], head_dim: int, value_head_dim: int) -> str | None:
    if head_dim % 8 == 0 and value_head_dim % 8 == 0:
        for row in rows:
            if head_dim <= row.head_dim and value_head_dim <= row.value_head_dim:
                return None
    pairs = _listed((f"({row.head_dim}, {row.value_head_dim})" for row in rows), " or ")
    return (
        f"its kernels take (head_dim, value head_dim) up to {pairs}, both multiples of 8, "
        f"not ({head_dim}, {value_head_dim})"
    )


def _listed(words: Iterable[str], separator: str = ", ") -> str:
    return separator.join(dict.fromkeys(words))


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
    what = "the gradient of jax_fa4.attention" if direction == "backward" else "jax_fa4.attention"
    raise NotImplementedError(
        f"{what} cannot be lowered for platform {platform!r} ({'; '.join(reasons)}). {_advice(wanted, direction)}"
    )


def _advice(wanted: tuple[str, ...], direction: str) -> str:
    tried = "({})".format(", ".join(f'"{name}"' for name in (*wanted, "blockwise")))
    if direction == "backward":
        return (
            'Pass implementation="blockwise" (memory-linear plain JAX for any platform), or '
            f"implementation={tried}: the forward pass by a kernel, its gradient by blockwise"
        )
    return (
        'Pass implementation="blockwise" (memory-linear plain JAX for any platform), or '
        f"implementation={tried}, which tries one after the other"
    )
