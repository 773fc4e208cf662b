"""The FFI targets called directly: what is malformed is refused in words; one symbol leaves each kernel object."""

from __future__ import annotations

import pathlib
import re
import shutil
import subprocess
import sys
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jax_fa4 import _ffi, calls
from jax_fa4.spec import AttentionSpec, Operands

ROOT = pathlib.Path(__file__).parents[1]
# Two batch axes, the outer one of vmap.
BATCH, T, S, N, K, H, HV = (1, 2), 6, 5, 4, 2, 8, 3
SPEC = AttentionSpec(scale=0.5)
OPERANDS = Operands(
    query=jnp.zeros((*BATCH, T, N, H)), key=jnp.zeros((*BATCH, S, K, H)), value=jnp.zeros((*BATCH, S, K, HV))
)
OUTPUT, ROWS = ((*BATCH, T, N, HV), jnp.float32), ((*BATCH, N, T), jnp.float32)
RESIDUALS = tuple(jnp.zeros(shape, dtype) for shape, dtype in (OUTPUT, ROWS, OUTPUT, ROWS))
# JAX turns INVALID_ARGUMENT into a ValueError where it runs a program that it has run before.
REFUSED = (jax.errors.JaxRuntimeError, ValueError)


def call(direction: str, arrays: list[Any], results: list[Any], attributes: dict[str, Any]) -> list[Any]:
    types = [jax.ShapeDtypeStruct(shape, dtype) for shape, dtype in results]
    return jax.ffi.ffi_call(calls.TARGETS["cpu"][direction], types)(*arrays, **attributes)


def forward(
    operands: Operands = OPERANDS, results: tuple[Any, ...] = (OUTPUT, ROWS), drop: str = "", **attributes: Any
) -> list[Any]:
    given = {name: value for name, value in calls.attributes(SPEC).items() if name != drop} | attributes
    return call("forward", calls.pack(operands), list(results), given)


def backward(operands: Operands = OPERANDS, residuals: tuple[Any, ...] = RESIDUALS, **replaced: Any) -> list[Any]:
    results = calls.backward_results(operands, residuals, ("query", "key", "value"))
    for place, result in replaced.items():
        results[("query", "key", "value", "bias", "sinks", "alibi_slopes").index(place)] = result
    return call("backward", [*calls.pack(operands), *residuals], results, calls.attributes(SPEC))


def with_operands(**replaced: Any) -> Any:
    return lambda: forward(OPERANDS._replace(**replaced))


MALFORMED = {
    "query_rank": (
        with_operands(query=jnp.zeros((T, N, H))),
        "query has shape [6, 4, 8]; allowed are 1 to 8 batch axes",
    ),
    "key_rank": (with_operands(key=jnp.zeros((2, S, K, H))), "key has"),
    "value_length": (
        with_operands(value=jnp.zeros((*BATCH, S + 1, K, HV))),
        "value has shape [1, 2, 6, 2, 3]; expected [1, 1 or 2, 5, 2, 3]",
    ),
    "head_ratio": (
        with_operands(query=jnp.zeros((*BATCH, T, 3, H))),
        "query has 3 heads, key has 2: query heads must be a multiple of key heads",
    ),
    "batch": (
        with_operands(key=jnp.zeros((1, 3, S, K, H))),
        "key has shape [1, 3, 5, 2, 8] where the batch of others is [1, 2]; allowed is the same extent or 1",
    ),
    "mixed_types": (
        with_operands(key=OPERANDS.key.astype(jnp.bfloat16)),
        "key has a wrong element type; allowed: one float type for query, key and value",
    ),
    "unknown_type": (
        with_operands(query=OPERANDS.query.astype(jnp.int8)),
        "query has an element type that is not float32, bfloat16, float16, float64, int32 or bool",
    ),
    "mask_type": (with_operands(mask=jnp.zeros((*BATCH, N, T, S))), "mask has a wrong element type; allowed: bool"),
    "mask_shape": (
        with_operands(mask=jnp.zeros((*BATCH, N, T, S + 1), bool)),
        "mask has shape [1, 2, 4, 6, 6]; expected [1, 1 or 2, 1 or 4, 1 or 6, 1 or 5]",
    ),
    "length_type": (
        with_operands(query_seq_lengths=jnp.zeros(BATCH)),
        "query_seq_lengths has a wrong element type; allowed: int32",
    ),
    "one_segment_ids": (
        with_operands(query_segment_ids=jnp.zeros((*BATCH, T), jnp.int32)),
        "query_segment_ids and key_value_segment_ids come together",
    ),
    "no_head_dim": (
        with_operands(query=jnp.zeros((*BATCH, T, N, 0)), key=jnp.zeros((*BATCH, S, K, 0))),
        "head_dim must be at least 1",
    ),
    "result_shape": (
        lambda: forward(results=(((1, 1, T, N, HV), jnp.float32), ROWS)),
        "output has shape [1, 1, 6, 4, 3]; expected [1, 2, 6, 4, 3]",
    ),
    "result_type": (
        lambda: forward(results=(OUTPUT, (ROWS[0], jnp.bfloat16))),
        "log_sum_exp has a wrong element type; allowed: float32, or float64 where the query is",
    ),
    "result_absent": (lambda: forward(results=((calls.ABSENT, jnp.float32), ROWS)), "output is missing"),
    "result_count": (lambda: forward(results=(OUTPUT,)), "got 1 results; expected 2"),
    "operand_count": (
        lambda: call("forward", calls.pack(OPERANDS)[:-1], [OUTPUT, ROWS], calls.attributes(SPEC)),
        "got 11 operands; expected 12",
    ),
    "no_scale": (lambda: forward(drop="scale"), "attribute scale is missing or of a wrong type"),
    "scale_type": (lambda: forward(scale=np.float32(1)), "attribute scale is missing or of a wrong type"),
    "window_is_text": (lambda: forward(window_left="none"), "attribute window_left is missing or of a wrong type"),
    "scale_nan": (lambda: forward(scale=np.float64("nan")), "scale must be finite and > 0"),
    "negative_cap": (
        lambda: forward(logits_soft_cap=np.float64(-1)),
        "logits_soft_cap must be finite and > 0, in float32 too, or 0 for none",
    ),
    "window": (lambda: forward(window_right=np.int64(-2)), "windows must be >= 0, or -1 for no limit"),
    "residual_absent": (
        lambda: backward(residuals=(jnp.zeros(calls.ABSENT), *RESIDUALS[1:])),
        "output is missing",
    ),
    "gradient_of_absent": (
        lambda: backward(bias=((*BATCH, N, T, S), jnp.float32)),
        "a gradient is asked for of an operand that is absent",
    ),
    "gradient_shape": (
        lambda: backward(key=((*BATCH, S, N, H), jnp.float32)),
        "gradient of key has shape [1, 2, 5, 4, 8]; expected [1, 2, 5, 2, 8]",
    ),
}


@pytest.mark.parametrize("case", MALFORMED)
def test_malformed_calls_are_refused(case: str) -> None:
    run, words = MALFORMED[case]
    with pytest.raises(REFUSED, match=f"INVALID_ARGUMENT.*jax_fa4 .*{re.escape(words)}"):
        jax.block_until_ready(run())


def test_well_formed_calls_are_accepted() -> None:
    output, log_sum_exp = forward()
    # All logits are 0: S keys of probability 1 / S.
    np.testing.assert_array_equal(output, np.zeros(OUTPUT[0]))
    np.testing.assert_allclose(log_sum_exp, np.full(ROWS[0], np.log(S)), rtol=4 * np.finfo(np.float32).eps)
    for gradient, like in zip(backward(), OPERANDS[:3], strict=False):
        np.testing.assert_array_equal(gradient, np.zeros(like.shape))


def test_a_newer_version_is_refused() -> None:
    newer = _ffi.CONTRACT_VERSION + 1
    words = f"version {newer} of the calls; this library knows up to {_ffi.CONTRACT_VERSION}: install a newer jax_fa4"
    with pytest.raises(REFUSED, match=re.escape(words)):
        jax.block_until_ready(forward(version=np.int64(newer)))


def test_unknown_instruction_set_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("JAX_FA4_CPU_ISA", "abacus")
    words = f"JAX_FA4_CPU_ISA=abacus: no such instruction set on this machine; there are {_ffi.cpu_instruction_sets()}"
    with pytest.raises(REFUSED, match=re.escape(words)):
        jax.block_until_ready(forward())


def kernel_objects() -> list[pathlib.Path]:
    build = f"build/cp{sys.version_info.major}{sys.version_info.minor}-*"
    return sorted(ROOT.glob(f"{build}/CMakeFiles/kernels_*.dir/ffi/cpu/*.o"))


@pytest.mark.skipif(shutil.which("nm") is None, reason="needs nm")
@pytest.mark.skipif(not kernel_objects(), reason="needs the build folder of this Python")
def test_a_kernel_object_exports_one_symbol() -> None:
    """A weak symbol compiled for AVX-512 could be the one that the linker picks for everybody."""
    for path in kernel_objects():
        printed = subprocess.run(["nm", "--demangle", path], check=True, capture_output=True, text=True).stdout
        # "address kind name"; an undefined symbol has no address. A small letter is local, but for u, v and w.
        defined = [line.split(maxsplit=2)[1:] for line in printed.splitlines() if not line.startswith(" ")]
        exported = [(kind, name) for kind, name in defined if kind.isupper() or kind in "uvw"]
        assert [name for _, name in exported] == [f"jax_fa4::cpu::{path.name.split('.')[0]}"], path
        assert exported[0][0] in "DRB", f"{path}: {exported}"
