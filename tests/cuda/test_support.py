"""What the CUDA kernels cannot do is refused at lowering, in words that say what is missing and what would do."""

from __future__ import annotations

import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import stub

import jax_fa4
from jax_fa4 import support
from jax_fa4.spec import AttentionSpec, Operands

SPEC = AttentionSpec(scale=1.0)


def operands(head_dim: int = 64, value_head_dim: int = 64, dtype: Any = jnp.bfloat16, **others: Any) -> Operands:
    def array(last: int) -> Any:
        return jax.ShapeDtypeStruct((1, 2, 8, 2, last), dtype)

    return Operands(array(head_dim), array(head_dim), array(value_head_dim), **others)


def refusal(spec: AttentionSpec, given: Operands, direction: str = "forward") -> str:
    with pytest.raises(NotImplementedError) as caught:
        support.choose(spec, given, "cuda", direction)
    words = str(caught.value)
    assert 'Pass implementation="blockwise" (memory-linear plain JAX for any platform)' in words
    assert 'implementation=("cuda", "blockwise")' in words
    return words


BIAS = jax.ShapeDtypeStruct((1, 1, 2, 8, 8), jnp.float32)
MASK = jax.ShapeDtypeStruct((1, 1, 1, 8, 8), jnp.bool_)
SINKS = jax.ShapeDtypeStruct((1, 1, 2), jnp.float32)
PAIRS = "(64, 64) or (96, 96) or (128, 128) or (192, 128)"


@pytest.mark.parametrize(
    ("given", "options", "words"),
    [
        (operands(dtype=jnp.float32), {}, "its kernels take bfloat16, float16, not float32"),
        (operands(dtype=jnp.float64), {}, "its kernels take bfloat16, float16, not float64"),
        (operands(bias=BIAS), {}, "its kernels cannot do bias"),
        (operands(mask=MASK), {}, "its kernels cannot do mask"),
        (operands(mask=MASK, bias=BIAS, sinks=SINKS), {}, "its kernels cannot do bias, mask"),
        (operands(), {"out_dtype": "float16"}, "its kernels have no float16 output of bfloat16 inputs)"),
        (operands(136, 128), {}, None),
        (operands(128, 136), {}, f"up to {PAIRS}, both multiples of 8, not (128, 136)"),
        (operands(200, 64), {}, f"up to {PAIRS}, both multiples of 8, not (200, 64)"),
        (operands(192, 192), {}, f"up to {PAIRS}, both multiples of 8, not (192, 192)"),
        (operands(60, 64), {}, f"up to {PAIRS}, both multiples of 8, not (60, 64)"),
        (operands(64, 4), {}, f"up to {PAIRS}, both multiples of 8, not (64, 4)"),
        (operands(8, 8), {"out_dtype": "float32"}, None),
        (operands(sinks=SINKS), {"window": (3, 4), "logits_soft_cap": 2.0, "out_dtype": "float32"}, None),
    ],
)
def test_what_the_kernels_do(every_kernel: Path, given: Operands, options: dict[str, Any], words: str | None) -> None:
    spec = AttentionSpec(scale=1.0, **options)
    if words is None:
        assert support.choose(spec, given, "cuda") == "cuda"
    else:
        found = refusal(spec, given)
        assert found.startswith("jax_fa4.attention cannot be lowered for platform 'cuda' (cuda: ")
        assert words in found


@pytest.mark.parametrize(
    ("rows", "given", "options", "words"),
    [
        ([stub.row("dense")], operands(), {"window": (None, 0)}, "its kernels cannot do causal)"),
        ([stub.row("banded")], operands(sinks=SINKS), {"window": (4, 0)}, "its kernels cannot do sinks)"),
        (
            [stub.row("banded"), stub.row("dense", output="float32")],
            operands(),
            {"window": (4, 0), "out_dtype": "float32"},
            "its kernels have no float32 output of bfloat16 inputs together with window",
        ),
        ([stub.row("dense"), stub.row("banded", minimum_rows=512)], operands(), {"window": (4, 0)}, "cannot do window"),
    ],
)
def test_builds_with_fewer_kernels(
    every_kernel: Path, rows: list[dict[str, Any]], given: Operands, options: dict[str, Any], words: str
) -> None:
    stub.write(every_kernel, *rows)
    assert words in refusal(AttentionSpec(scale=1.0, **options), given)


@pytest.mark.parametrize(
    ("gpus", "words"),
    [
        ([], None),  # exported for some
        ([(9, 0)], None),
        ([(10, 0)], f"up to {PAIRS}, both multiples of 8, not (256, 256)"),
        ([(9, 0), (10, 0)], "its kernels are for sm_100a, sm_90a, not for sm_90, sm_100"),
        ([(8, 0)], "its kernels are for sm_100a, sm_90a, not for sm_80"),
    ],
)
def test_kernels_for_the_gpus_that_are_there(
    every_kernel: Path, monkeypatch: pytest.MonkeyPatch, gpus: list[tuple[int, int]], words: str | None
) -> None:
    stub.write(every_kernel / "sm_90a", stub.row("dense", head_dim=256, value_head_dim=256), arch="sm_90a")
    monkeypatch.setattr(support, "_gpus", lambda: tuple(gpus))
    if words is None:
        assert support.choose(SPEC, operands(256, 256), "cuda") == "cuda"
    else:
        assert words in refusal(SPEC, operands(256, 256))


def test_the_gpus_that_are_there(monkeypatch: pytest.MonkeyPatch) -> None:
    assert support._gpus() == ()
    found = [SimpleNamespace(compute_capability=text) for text in ("9.0", "10.3", "9.0")]
    monkeypatch.setattr(jax, "local_devices", lambda backend: found)
    assert support._gpus() == ((9, 0), (10, 3))


def test_gradients(every_kernel: Path) -> None:
    words = refusal(SPEC, operands(), "backward")
    assert words == (
        "the gradient of jax_fa4.attention cannot be lowered for platform 'cuda' (cuda: gradients have no CUDA kernel "
        'yet). Pass implementation="blockwise" (memory-linear plain JAX for any platform), or '
        'implementation=("cuda", "blockwise"): the forward pass by a kernel, its gradient by blockwise'
    )


def test_which(every_kernel: Path) -> None:
    arrays = [jnp.zeros((1, 8, 2, 64), jnp.bfloat16)] * 3
    assert jax_fa4.which(*arrays, platform="cuda") == "cuda"
    assert jax_fa4.which(*arrays, platform="cpu", implementation="sim") == "sim"
    mask = jnp.ones((1, 1, 8, 8), bool)
    assert jax_fa4.which(*arrays, mask=mask, platform="cuda", implementation=("cuda", "blockwise")) == "blockwise"
    with pytest.raises(NotImplementedError, match="sim: its kernels run on platform cpu only"):
        jax_fa4.which(*arrays, platform="cuda", implementation="sim")


# --- Gradients on CUDA, until there is a kernel for them ---


def loss(implementation: Any) -> Any:
    """Of a call, whose value is used as well as its gradient."""

    def value(query: Any, key: Any, value: Any) -> Any:
        output = jax_fa4.attention(query, key, value, implementation=implementation)
        return jnp.sum(output.astype(jnp.float32)), output

    return jax.jit(jax.value_and_grad(value, (0, 1, 2), has_aux=True))


def test_refused_gradients_say_what_to_pass(every_kernel: Path) -> None:
    arrays = [jnp.ones((1, 8, 2, 64), jnp.bfloat16)] * 3
    with pytest.raises(NotImplementedError, match=re.escape('implementation=("cuda", "blockwise")')):
        loss(None).trace(*arrays).lower(lowering_platforms=("cuda",))
    for implementation in ("blockwise", ("cuda", "blockwise")):
        loss(implementation).trace(*arrays).lower(lowering_platforms=("cuda",))


def test_a_tuple_runs_the_kernel_forward_and_blockwise_backward(simulated_driver: Any, echo_kernels: Path) -> None:
    rng = np.random.default_rng(0)
    arrays = [jnp.asarray(rng.standard_normal((1, 8, 2, 64)), jnp.bfloat16) for _ in range(3)]
    (_, output), gradients = jax.block_until_ready(loss(("sim", "blockwise"))(*arrays))
    (launch,) = simulated_driver.take_launches()
    assert launch["kernel"] == "echo_0"
    np.testing.assert_array_equal(output, arrays[0])  # which no attention returns: it is the kernel's
    _, expected = loss("blockwise")(*arrays)
    for found, gradient in zip(gradients, expected, strict=True):
        np.testing.assert_array_equal(found, gradient)


def test_the_kernel_is_left_out_where_only_the_gradient_is_used(simulated_driver: Any, echo_kernels: Path) -> None:
    """The backward of blockwise needs no result of the forward."""
    simulated_driver.must_launch = False
    arrays = [jnp.ones((1, 8, 2, 64), jnp.bfloat16)] * 3
    grad = jax.jit(lambda *given: loss(("sim", "blockwise"))(*given)[1])
    for found, expected in zip(grad(*arrays), loss("blockwise")(*arrays)[1], strict=True):
        np.testing.assert_array_equal(found, expected)
    assert simulated_driver.take_launches() == []
