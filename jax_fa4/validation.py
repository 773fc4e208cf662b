"""The one place where bad input is refused: the public call's arguments are checked and brought to canonical form."""

from __future__ import annotations

import difflib
import math
import numbers
from collections.abc import Iterable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jax_fa4.spec import IMPLEMENTATIONS, SIMULATED, Array, Operands

FLOAT_DTYPES = ("float32", "bfloat16", "float16", "float64")
CAUSAL_ALIGNMENTS = ("top_left", "bottom_right")
IMPLEMENTATION_ALIASES = {"xla": "reference"}

_FLOAT32_MIN, _FLOAT32_MAX = (float(x) for x in (np.finfo(np.float32).tiny, np.finfo(np.float32).max))
_INT32_MIN, _INT32_MAX = -(2**31), 2**31 - 1
_REQUIRED = ("query", "key", "value")
_BROADCAST = ("bias", "mask")

# Shapes of the small operands in a batched and in an unbatched call, as the names of their extents; "" is a scalar.
_FORMS: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "sinks": (("N",), ("N",)),
    "alibi_slopes": (("N",), ("N",)),
    "query_segment_ids": (("B T", "1 T"), ("T", "1 T")),
    "key_value_segment_ids": (("B S", "1 S"), ("S", "1 S")),
    "query_seq_lengths": (("B",), ("", "1")),
    "key_value_seq_lengths": (("B",), ("", "1")),
    "query_offset": (("", "B"), ("", "1")),
}
_INT32 = tuple(name for name in _FORMS if name not in ("sinks", "alibi_slopes"))
_CANONICAL_RANK = {name: 4 for name in (*_REQUIRED, *_BROADCAST)} | {
    "sinks": 2,
    "alibi_slopes": 2,
    "query_segment_ids": 2,
    "key_value_segment_ids": 2,
    "query_seq_lengths": 1,
    "key_value_seq_lengths": 1,
    "query_offset": 1,
}
# (operand, operand that it must agree with, axis from the right, what that axis is)
_AGREEMENTS = (
    ("key", "query", -4, "batch size"),
    ("value", "query", -4, "batch size"),
    ("value", "key", -3, "length"),
    ("value", "key", -2, "number of heads"),
    ("key", "query", -1, "head_dim"),
)
# Extents that kernels are chosen by and loops are built from.
_STATIC = (
    ("query", -2, "number of heads"),
    ("key", -2, "number of heads"),
    ("query", -1, "head_dim"),
    ("value", -1, "head_dim"),
)


def check_arrays(operands: Operands) -> Operands:
    """Converts the arrays of a public call to canonical Operands with one batch axis, or refuses them.

    Axes are only inserted, never expanded: what is shared over an axis keeps extent 1 there. Extents of batch and
    length may be symbolic, so they are compared but never converted to int.
    """
    given = operands._asdict()
    arrays = {name: _as_array(name, x) for name, x in given.items() if x is not None or name in _REQUIRED}
    for name, array in arrays.items():
        _check_dtype(name, array)
    _check_one_dtype(arrays)
    sizes = _check_query_key_value(arrays)
    _check_segment_pair(arrays, sizes)
    for name, array in arrays.items():
        if name in _BROADCAST:
            _check_broadcastable(name, array, sizes)
        elif name in _FORMS:
            _check_form(name, array, sizes)
    return Operands(**{name: _with_leading_axes(x, _CANONICAL_RANK[name]) for name, x in arrays.items()})


def check_options(
    *,
    scale: Any,
    head_dim: int,
    is_causal: Any,
    local_window_size: Any,
    logits_soft_cap: Any,
    causal_alignment: Any,
    query_offset_given: bool,
    return_residual: Any,
    deterministic: Any,
) -> tuple[float, tuple[int | None, int | None], float | None]:
    """Returns (scale, window, logits_soft_cap) as AttentionSpec holds them, or refuses the options of a public call."""
    flags = {"is_causal": is_causal, "return_residual": return_residual, "deterministic": deterministic}
    for name, flag in flags.items():
        if not isinstance(flag, (bool, np.bool_)):
            got = f"{_kind(flag)}{_static_hint(flag)}"
            raise TypeError(f"{name} must be True or False, known when the call is traced, got {got}")

    if not isinstance(causal_alignment, str):
        allowed = _quoted(CAUSAL_ALIGNMENTS)
        raise TypeError(f"causal_alignment must be a string, one of {allowed}, got {_kind(causal_alignment)}")
    if causal_alignment not in CAUSAL_ALIGNMENTS:
        raise ValueError(_unknown_name("causal_alignment", causal_alignment, CAUSAL_ALIGNMENTS))
    if causal_alignment == "bottom_right" and query_offset_given:
        raise ValueError(
            'causal_alignment "bottom_right" and query_offset contradict each other: '
            'both say where the first query stands; leave one out (query_offset goes with causal_alignment "top_left")'
        )

    left, right = _check_window(local_window_size)
    if is_causal:
        right = 0
    if scale is None:
        scale = 1.0 / math.sqrt(head_dim)
    scale = _positive_number("scale", scale, "multiply the query by it and pass scale=1.0")
    if logits_soft_cap is not None:
        logits_soft_cap = _positive_number(
            "logits_soft_cap", logits_soft_cap, "under jax.jit name it in static_argnames"
        )
    return scale, (left, right), logits_soft_cap


def check_implementation(implementation: Any) -> tuple[str, ...]:
    """Returns the names to try in order, aliases resolved; empty is the platform's own kernel."""
    if implementation is None:
        return ()
    allowed = (*IMPLEMENTATIONS, *IMPLEMENTATION_ALIASES)
    names = (implementation,) if isinstance(implementation, str) else implementation
    if not isinstance(names, Sequence):
        raise TypeError(
            f"implementation must be None, a name or a sequence of names, tried in order, got {_kind(names)}; "
            f"names are {_quoted(allowed)}"
        )
    if not names:
        raise ValueError(
            f"implementation is an empty {_kind(names)}: pass None for the platform's own kernel, "
            f"or at least one of {_quoted(allowed)}"
        )
    for name in names:
        if not isinstance(name, str):
            raise TypeError(f"implementation must hold strings, one of its entries is {_kind(name)}: {names!r}")
        if name not in allowed and name != SIMULATED:
            raise ValueError(_unknown_name("implementation", name, allowed))
    return tuple(dict.fromkeys(IMPLEMENTATION_ALIASES.get(name, name) for name in names))


def _as_array(name: str, value: Any) -> Array:
    if name in _INT32:
        value = _fit_int32(name, value)
    if not (isinstance(value, (jax.Array, np.ndarray, np.generic)) or hasattr(value, "__jax_array__")):
        wanted = "a jax.Array or a numpy.ndarray"
        raise TypeError(f"{name} must be {wanted}, got {_kind(value)}: convert it with jnp.asarray")
    try:
        array = jnp.asarray(value)
    except TypeError as error:
        raise TypeError(f"{name} is not an array that JAX can hold, got {_kind(value)}: {error}") from error
    # Under x64 a Python int that became a tracer is a weak int64; it follows int32 as it would in JAX arithmetic.
    if name in _INT32 and array.dtype == "int64" and array.weak_type:
        return array.astype(jnp.int32)
    return array


def _fit_int32(name: str, value: Any) -> Any:
    """Makes static integers int32; refuses those that JAX would wrap around silently."""
    static = isinstance(value, numbers.Integral) and not isinstance(value, bool)
    if static:
        low = high = int(value)
    elif isinstance(value, np.ndarray) and value.dtype.kind == "i" and value.size:
        low, high = int(value.min()), int(value.max())
    else:
        return value
    for extreme in (low, high):
        if not _INT32_MIN <= extreme <= _INT32_MAX:
            allowed = f"[{_INT32_MIN}, {_INT32_MAX}]"
            raise ValueError(f"{name} holds {extreme}, which does not fit int32: allowed is {allowed}")
    return np.asarray(low, np.int32) if static else value


def _check_dtype(name: str, array: Array) -> None:
    dtype = str(array.dtype)
    allowed: tuple[str, ...]
    if name == "mask":
        allowed, advice = ("bool",), "compare it with != 0, or pass numbers to be added to the logits as bias"
    elif name in _INT32:
        allowed, advice = ("int32",), "cast it with .astype(jnp.int32)"
    else:
        allowed, advice = FLOAT_DTYPES, "cast it with .astype"
    if dtype not in allowed:
        raise TypeError(f"{name} has dtype {dtype} (shape {array.shape}), allowed: {', '.join(allowed)}; {advice}")


def _check_one_dtype(arrays: dict[str, Array]) -> None:
    dtypes = {name: str(arrays[name].dtype) for name in _REQUIRED}
    if len(set(dtypes.values())) > 1:
        listed = ", ".join(f"{name} is {dtype}" for name, dtype in dtypes.items())
        raise TypeError(f"query, key and value must have the same dtype, but {listed}: cast them to one with .astype")


def _check_query_key_value(arrays: dict[str, Array]) -> dict[str, Any]:
    """Checks the three against each other and returns the extents by name; B is absent from an unbatched call."""
    query, key, value = (arrays[name] for name in _REQUIRED)
    shapes = _shapes(arrays, _REQUIRED)
    for name in _REQUIRED:
        if arrays[name].ndim not in (3, 4):
            raise ValueError(
                f"{name} must have 4 axes (batch, length, heads, head_dim) or 3 (length, heads, head_dim), "
                f"got {arrays[name].ndim} ({shapes})"
            )
    if not query.ndim == key.ndim == value.ndim:
        raise ValueError(f"query, key and value must all have a batch axis or all have none, got {shapes}")
    for name, other, axis, what in _AGREEMENTS:
        if axis < -query.ndim:
            continue
        extent, expected = arrays[name].shape[axis], arrays[other].shape[axis]
        if extent != expected:
            raise ValueError(f"{name} has {what} {extent}, {other} has {expected}: they must be equal ({shapes})")
    for name, axis, what in _STATIC:
        extent = arrays[name].shape[axis]
        if not isinstance(extent, int):
            raise ValueError(
                f"{name} has a symbolic {what} ({extent}): only batch and length may be symbolic ({shapes})"
            )
        if extent < 1:
            raise ValueError(f"{name} has {what} {extent}: at least 1 is needed ({shapes})")
    for name in ("query", "key"):
        length = arrays[name].shape[-3]
        if isinstance(length, int) and length > _INT32_MAX:
            raise ValueError(
                f"{name} has length {length}: allowed is at most {_INT32_MAX} (positions are int32; {shapes})"
            )
    query_heads, key_heads = query.shape[-2], key.shape[-2]
    if query_heads % key_heads:
        raise ValueError(
            f"key has {key_heads} heads, query has {query_heads}: query heads must be a multiple of key heads "
            f"({shapes}); the axes are (batch, length, heads, head_dim)"
        )
    batch = {"B": query.shape[0]} if query.ndim == 4 else {}
    return batch | {"N": query_heads, "T": query.shape[-3], "S": key.shape[-3]}


def _check_segment_pair(arrays: dict[str, Array], sizes: dict[str, Any]) -> None:
    pair = ("query_segment_ids", "key_value_segment_ids")
    present = [name for name in pair if name in arrays]
    if len(present) == 1:
        (absent,) = set(pair) - set(present)
        if sizes["T"] == sizes["S"]:
            advice = "pass both; self-attention takes the same array twice"
        else:
            advice = f"pass both, {pair[0]} of query's length {sizes['T']} and {pair[1]} of key's length {sizes['S']}"
        raise ValueError(f"{present[0]} is given without {absent} ({_shapes(arrays, present)}): {advice}")


def _check_broadcastable(name: str, array: Array, sizes: dict[str, Any]) -> None:
    # A leading axis of extent 1 is fine without a batch, as in NumPy's rule for the result (1, N, T, S).
    full = (sizes.get("B", 1), sizes["N"], sizes["T"], sizes["S"])
    aligned = zip(reversed(array.shape), reversed(full), strict=False)
    if array.ndim > 4 or not all(extent == 1 or extent == expected for extent, expected in aligned):
        target = f"(B, N, T, S) = {full}" if "B" in sizes else f"(N, T, S) = {full[1:]}"
        raise ValueError(
            f"{name} of shape {array.shape} does not broadcast to {target}: axes are aligned at the right "
            "and each must be 1 or of full extent; insert the missing ones, "
            f"as {name}[:, None] does for the heads of a (B, T, S) array"
        )


def _check_form(name: str, array: Array, sizes: dict[str, Any]) -> None:
    batched_forms, unbatched_forms = _FORMS[name]
    forms = batched_forms if "B" in sizes else unbatched_forms
    allowed = [tuple(1 if axis == "1" else sizes[axis] for axis in form.split()) for form in forms]
    if array.shape not in allowed:
        listed = " or ".join(
            f"({', '.join(form.split())}) = {shape}" if form.strip("1 ") else str(shape)
            for form, shape in zip(forms, allowed, strict=True)
        )
        call = "a batched call" if "B" in sizes else "a call without a batch axis"
        raise ValueError(f"{name} has shape {array.shape}, in {call} it must be {listed}")


def _with_leading_axes(array: Array, rank: int) -> Array:
    missing = rank - array.ndim
    return jnp.expand_dims(array, tuple(range(missing))) if missing else array


def _check_window(window: Any) -> tuple[int | None, int | None]:
    if window is None:
        return None, None
    is_pair = isinstance(window, (tuple, list))
    if is_pair and len(window) != 2:
        raise ValueError(f"local_window_size must be an int or (left, right), got {len(window)} entries: {window!r}")
    sides = tuple(window) if is_pair else (window, window)
    for side in sides:
        if is_pair and side is None:
            continue
        if not isinstance(side, numbers.Integral) or isinstance(side, bool):
            raise TypeError(
                "local_window_size must be None, an int or a pair (left, right) of ints or None, "
                f"known when the call is traced, got {_kind(side)}{' in a pair' if is_pair else ''}{_static_hint(side)}"
            )
        if not 0 <= int(side) <= _INT32_MAX:
            allowed = f"0 to {_INT32_MAX} on each side"
            raise ValueError(f"local_window_size is {window!r}: allowed is {allowed}; no limit is None")
    left, right = (None if side is None else int(side) for side in sides)
    return left, right


def _positive_number(name: str, value: Any, instead: str) -> float:
    if not isinstance(value, numbers.Real) or isinstance(value, bool):
        if isinstance(value, jax.core.Tracer):
            advice = f": {instead}"
        elif isinstance(value, (jax.Array, np.ndarray)):
            advice = f": convert it with float({name})"
        else:
            advice = ""
        raise TypeError(f"{name} must be a Python number, known when the call is traced, got {_kind(value)}{advice}")
    try:
        number = float(value)
    except OverflowError:
        number = math.inf
    if not (math.isfinite(number) and number > 0):
        raise ValueError(f"{name} is {value!r}: it must be finite and > 0")
    if not _FLOAT32_MIN <= number <= _FLOAT32_MAX:
        raise ValueError(
            f"{name} is {value!r}: it must be in float32's normal range, {_FLOAT32_MIN:.3g} to {_FLOAT32_MAX:.3g}"
        )
    return number


def _kind(value: Any) -> str:
    if isinstance(value, jax.core.Tracer):
        return f"a traced array {value.dtype}{value.shape}"
    if isinstance(value, (jax.Array, np.ndarray)):
        return f"an array {value.dtype}{value.shape}"
    return type(value).__name__


def _static_hint(value: Any) -> str:
    return "; under jax.jit name it in static_argnames" if isinstance(value, jax.core.Tracer) else ""


def _quoted(names: Iterable[str]) -> str:
    return ", ".join(f'"{name}"' for name in names)


def _unknown_name(argument: str, name: str, allowed: Sequence[str]) -> str:
    nearest = difflib.get_close_matches(name.lower(), allowed, n=1)
    suggestion = f'; did you mean "{nearest[0]}"?' if nearest else ""
    return f'{argument} "{name}" is unknown: allowed are {_quoted(allowed)}{suggestion}'


def _shapes(arrays: dict[str, Array], names: Iterable[str]) -> str:
    return ", ".join(f"{name} {arrays[name].shape}" for name in names)
