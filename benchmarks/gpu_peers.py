"""Each implementation on a GPU as a program that enqueues one call, on data laid out beforehand as it likes it best."""

from __future__ import annotations

import dataclasses
import functools
import importlib
import importlib.util
from collections.abc import Callable
from typing import Any

import gpu_cases as cases
import jax
import jax.numpy as jnp
import numpy as np
import peers
from cpu_cases import OURS, WINDOW
from gpu_cases import Case

import jax_fa4

# What has to be importable for a peer.
MODULES = {
    cases.TORCH_FLASH: "torch", cases.TORCH_CUDNN: "torch", cases.TORCH_EFFICIENT: "torch",
    cases.FLASH_2: "flash_attn.flash_attn_interface", cases.FLASH_3: "flash_attn_interface",
    cases.FLASH_4: "flash_attn.cute.interface", cases.TOKAMAX: "tokamax", cases.FA4_JAX: "fa4_jax",
}  # fmt: skip
TORCH_BACKENDS = {
    cases.TORCH_FLASH: "FLASH_ATTENTION", cases.TORCH_CUDNN: "CUDNN_ATTENTION",
    cases.TORCH_EFFICIENT: "EFFICIENT_ATTENTION",
}  # fmt: skip
# Logits or masks beyond this size are most of a card's memory.
MOST_BYTES = 16 * 2**30
ROWS = 16  # that are judged, of each sequence


@dataclasses.dataclass(frozen=True)
class GpuProgram(peers.Program):
    """`run` enqueues a call and returns its result at once; `read` makes of it rows of the output as NumPy arrays.

    wait: until the result is there, and with it all that was enqueued before.
    temporary_bytes: of memory beyond operands and result; None where that is not known.
    """

    wait: Callable[[Any], Any]
    temporary_bytes: int | None = None


def is_gpu() -> bool:
    return bool(jax.default_backend() == "gpu")


def missing(peer: str) -> str | None:
    """Says what is not installed."""
    module = MODULES.get(peer)
    try:
        found = module is None or importlib.util.find_spec(module) is not None
    except ImportError:  # of the package that it is in
        found = False
    return None if found else f"not installed: {module}"


def unable(peer: str, case: Case) -> str | None:
    """Says why a peer has no figure for a case."""
    if peer == cases.JAX_XLA and case.logits_bytes > MOST_BYTES:
        return f"its logits would take {case.logits_bytes / 2**30:.0f} GiB"
    if peer == cases.JAX_CUDNN and not is_gpu():
        return "needs a GPU"
    if reason := missing(peer):
        return reason
    if peer in TORCH_BACKENDS and case.mask == WINDOW:
        return "no windows without a mask of all pairs"
    if peer == cases.FA4_JAX and case.mask == WINDOW:
        return "a window is a function there, which is not tried"
    return None


def prepare(peer: str, case: Case, arrays: tuple[Any, Any, Any]) -> GpuProgram:
    """The program on these arrays."""
    if peer in (OURS, cases.JAX_CUDNN, cases.JAX_XLA, cases.TOKAMAX, cases.FA4_JAX):
        return jax_program(jax_attention(peer, case), arrays, is_ours=peer == OURS)
    return torch_program(torch_attention(peer, case), arrays, by_heads=peer in TORCH_BACKENDS)


def judged_rows(length: int) -> Any:
    """Positions whose results are judged: the first, the last, and some between."""
    return np.unique(np.linspace(0, length - 1, ROWS).astype(np.int32))


def expected(case: Case, arrays: tuple[Any, Any, Any]) -> Any:
    """The output at judged_rows, in plain float32 JAX: (batch, rows, heads, head_dim)."""
    rows = jnp.asarray(judged_rows(case.length))

    @jax.jit
    def compute(query: Any, key: Any, value: Any) -> Any:
        query = jnp.take(query, rows, axis=1)
        grouped = query.reshape(*query.shape[:2], case.key_value_heads, -1, case.head_dim)
        precise = functools.partial(jnp.einsum, preferred_element_type=jnp.float32, precision="highest")
        logits = precise("brkgd,bskd->bkgrs", grouped, key) * case.head_dim**-0.5
        behind = rows[:, None] - jnp.arange(case.length)
        seen = jnp.full(behind.shape, True) if case.mask == cases.FULL else behind >= 0
        seen &= True if case.window is None else behind <= case.window
        weights = jax.nn.softmax(jnp.where(seen, logits, -jnp.inf), axis=-1)
        output = precise("bkgrs,bskd->brkgd", weights, value.astype(jnp.float32))
        return output.reshape(query.shape)

    return np.asarray(compute(*arrays))


def jax_attention(peer: str, case: Case) -> Callable[..., Any]:
    """A function of query, key and value."""
    masks: dict[str, Any] = {"is_causal": case.mask != cases.FULL, "local_window_size": case.window_size}
    if peer == OURS:
        return functools.partial(jax_fa4.attention, implementation="cuda" if is_gpu() else "cpu", **masks)
    if peer == cases.TOKAMAX:
        tokamax: Any = importlib.import_module("tokamax")
        # Its own kernels: by default it would fall to XLA's form without a word.
        return functools.partial(tokamax.dot_product_attention, implementation=("mosaic", "triton"), **masks)
    if peer == cases.FA4_JAX:
        fa4: Any = importlib.import_module("fa4_jax")
        return functools.partial(fa4.flash_attn, causal=case.mask != cases.FULL, backend="cute")
    name = "cudnn" if peer == cases.JAX_CUDNN else "xla"
    return functools.partial(jax.nn.dot_product_attention, implementation=name, **masks)


def jax_program(attend: Callable[..., Any], arrays: tuple[Any, ...], *, is_ours: bool = False) -> GpuProgram:
    """A compiled one, known to have our custom call or none, as it should."""
    compiled = jax.jit(attend).lower(*arrays).compile()
    target = "jax_fa4_cuda_forward" if is_gpu() else "jax_fa4_cpu_forward"
    assert (target in (compiled.as_text() or "")) == is_ours, f"wrong number of calls of {target}"
    plan = compiled.memory_analysis()

    def read(result: Any) -> list[Any]:
        return [np.asarray(rows(result), np.float32)]

    rows = jax.jit(lambda output: jnp.take(output, judged_rows(output.shape[1]), axis=1))
    temporary = None if plan is None else int(plan.temp_size_in_bytes)
    return GpuProgram(lambda: compiled(*arrays), read, jax.block_until_ready, temporary)


def torch_attention(peer: str, case: Case) -> Callable[..., Any]:
    """A function of query, key and value as torch tensors."""
    is_causal = case.mask != cases.FULL
    if peer in TORCH_BACKENDS:
        import torch
        from torch.nn.attention import SDPBackend, sdpa_kernel

        backend = getattr(SDPBackend, TORCH_BACKENDS[peer])
        grouped = {"enable_gqa": True} if case.heads != case.key_value_heads else {}
        attend = functools.partial(
            torch.nn.functional.scaled_dot_product_attention, is_causal=is_causal, **grouped
        )  # fmt: skip

        def run(*tensors: Any) -> Any:
            with sdpa_kernel(backend), torch.inference_mode():
                return attend(*tensors)

        return run
    module: Any = importlib.import_module(MODULES[peer])
    window = {"window_size": case.window_size} if case.window_size else {}
    return functools.partial(module.flash_attn_func, causal=is_causal, **window)


def torch_program(attend: Callable[..., Any], arrays: tuple[Any, ...], *, by_heads: bool) -> GpuProgram:
    """On the arrays' own device; by_heads: (batch, heads, length, head_dim), contiguous."""
    import torch

    tensors = [torch.from_dlpack(array) for array in arrays]
    if by_heads:
        tensors = [tensor.transpose(1, 2).contiguous() for tensor in tensors]
    on_gpu = tensors[0].is_cuda

    def run() -> Any:
        result = attend(*tensors)
        return result[0] if isinstance(result, tuple) else result

    def read(result: Any) -> list[Any]:
        output = result.transpose(1, 2) if by_heads else result
        positions = torch.as_tensor(judged_rows(output.shape[1]), device=output.device)
        return [output.index_select(1, positions).float().cpu().numpy()]

    def wait(_: Any) -> None:
        if on_gpu:
            torch.cuda.synchronize()

    return GpuProgram(run, read, wait, _torch_memory(run, wait) if on_gpu else None)


def _torch_memory(run: Callable[[], Any], wait: Callable[[Any], Any]) -> int:
    """Bytes by which a call's peak exceeds what was there before and its result."""
    import torch

    run()
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    result = run()
    wait(result)
    return int(torch.cuda.max_memory_allocated() - before - result.numel() * result.element_size())


def matrix_program(edge: int) -> GpuProgram:
    """A product of two bfloat16 matrices, whose rate is taken for the card's."""
    left, right = (jax.random.normal(seed, (edge, edge), jnp.bfloat16) for seed in jax.random.split(jax.random.key(1)))
    compiled = jax.jit(jnp.matmul).lower(left, right).compile()
    return GpuProgram(lambda: compiled(left, right), lambda result: [result], jax.block_until_ready)
