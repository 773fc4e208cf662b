"""Each implementation as a callable of no arguments, on data laid out beforehand as it likes it best."""

from __future__ import annotations

import dataclasses
import functools
import importlib.metadata
import importlib.util
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
from cpu_cases import (
    BLOCKWISE,
    BOTH,
    CAUSAL,
    FORWARD,
    JAX_NN,
    ONE_THREAD,
    ONNX_RUNTIME,
    OPENVINO,
    OURS,
    TORCH,
    WINDOW,
    Case,
)

import jax_fa4

CUSTOM_CALLS = {FORWARD: ("jax_fa4_cpu_forward",), BOTH: ("jax_fa4_cpu_forward", "jax_fa4_cpu_backward")}
THREADS_VARIABLE = "JAX_FA4_CPU_THREADS"

# What has to be there for a peer, by the names under which it is installed.
PACKAGES = {
    JAX_NN: ("jax",), BLOCKWISE: ("jax_fa4",), TORCH: ("torch",), ONNX_RUNTIME: ("onnxruntime", "onnx"),
    OPENVINO: ("openvino",),
}  # fmt: skip

# jax.nn's logits beyond this size would take most of the run, and of the memory of a small machine.
MOST_LOGITS_BYTES = 200 * 2**20


@dataclasses.dataclass(frozen=True)
class Program:
    """`run` computes; `read` makes of its result NumPy arrays (batch, length, heads, head_dim).

    A program must outlive its runs: some run on memory that only it keeps.
    """

    run: Callable[[], Any]
    read: Callable[[Any], list[Any]]


def missing(peer: str) -> str | None:
    """Says which package of a peer is not installed."""
    absent = [package for package in PACKAGES.get(peer, ()) if importlib.util.find_spec(package) is None]
    return f"not installed: {', '.join(absent)}" if absent else None


def versions(peer: str) -> str:
    found = [f"{package} {importlib.metadata.version(package)}" for package in PACKAGES[peer]]
    return ", ".join(found)


def unable(peer: str, case: Case, pass_name: str) -> str | None:
    """Says why a peer has no figure for a case."""
    if peer == JAX_NN and case.logits_bytes > MOST_LOGITS_BYTES:
        return f"its logits would take {case.logits_bytes / 2**20:.0f} MiB"
    if peer not in (ONNX_RUNTIME, OPENVINO):
        return missing(peer)
    if pass_name == BOTH:
        return "forward only"
    if case.mask == WINDOW or case.key_value_heads != case.heads:
        return "no windows" if case.mask == WINDOW else "no grouped heads"
    if peer == ONNX_RUNTIME and case.dtype == "bfloat16":
        return "no bfloat16 on CPUs"
    return missing(peer)


def prepare(peer: str, case: Case, pass_name: str, threads: int) -> Program:
    if peer == ONE_THREAD:
        return with_threads(jax_program(OURS, case, pass_name), 1, threads)
    makers = {TORCH: torch_program, ONNX_RUNTIME: onnx_runtime_program, OPENVINO: openvino_program}
    if peer in makers:
        return makers[peer](case, pass_name, threads)
    return jax_program(peer, case, pass_name)


def with_threads(program: Program, threads: int, otherwise: int) -> Program:
    """The library reads the variable at each call: one process has both numbers of threads."""

    def run() -> Any:
        os.environ[THREADS_VARIABLE] = str(threads)
        try:
            return jax.block_until_ready(program.run())
        finally:
            os.environ[THREADS_VARIABLE] = str(otherwise)

    return dataclasses.replace(program, run=run)


def attention(implementation: str, case: Case, options: Mapping[str, Any]) -> Callable[..., Any]:
    """Function of query, key, value and a dictionary of the other operands."""
    window = (case.window, 0) if case.window is not None else None
    masks: dict[str, Any] = {"is_causal": case.mask in (CAUSAL, WINDOW), "local_window_size": window}
    if implementation == JAX_NN:
        return lambda query, key, value, _: jax.nn.dot_product_attention(
            query, key, value, implementation="xla", **masks
        )
    name = "cpu" if implementation == OURS else implementation
    return lambda query, key, value, others: jax_fa4.attention(
        query, key, value, implementation=name, **masks, **options, **others
    )


def jax_program(
    implementation: str,
    case: Case,
    pass_name: str,
    options: Mapping[str, Any] | None = None,
    others: Mapping[str, Any] | None = None,
) -> Program:
    """Ours, blockwise or jax.nn, known to consist of our custom calls or to have none, as it should."""
    attend = attention(implementation, case, options or {})
    arrays = [jnp.asarray(array) for array in case.arrays()]

    def both(query: Any, key: Any, value: Any, cotangent: Any, others: Any) -> Any:
        output, pullback = jax.vjp(lambda *inputs: attend(*inputs, others), query, key, value)
        return output, *pullback(cotangent)

    def forward(query: Any, key: Any, value: Any, _: Any, others: Any) -> Any:
        return (attend(query, key, value, others),)

    operands = (*arrays, dict(others or {}))
    compiled = jax.jit(forward if pass_name == FORWARD else both, keep_unused=True).lower(*operands).compile()
    text = compiled.as_text() or ""
    for name in CUSTOM_CALLS[pass_name]:
        assert (name in text) == (implementation == OURS), f"{implementation}: wrong number of calls of {name}"
    return Program(lambda: compiled(*operands), lambda results: [np.asarray(array) for array in results])


def by_heads(array: Any) -> Any:
    """(batch, heads, length, head_dim), contiguous; its own inverse."""
    return np.ascontiguousarray(array.swapaxes(1, 2))


def torch_program(case: Case, pass_name: str, threads: int) -> Program:
    import torch

    torch.set_num_threads(threads)

    def tensor(array: Any) -> Any:
        words = by_heads(array)
        if case.dtype == "bfloat16":
            return torch.from_numpy(words.view(np.int16)).view(torch.bfloat16)
        return torch.from_numpy(words)

    query, key, value, cotangent = (tensor(array) for array in case.arrays())
    options: dict[str, Any] = {"is_causal": case.mask == CAUSAL, "enable_gqa": case.key_value_heads != case.heads}
    if case.window is not None:
        behind = torch.arange(case.queries)[:, None] - torch.arange(case.keys)[None]
        options["attn_mask"] = (behind >= 0) & (behind <= case.window)
    attend = functools.partial(torch.nn.functional.scaled_dot_product_attention, query, key, value, **options)

    def forward() -> Any:
        with torch.inference_mode():
            return (attend(),)

    def both() -> Any:
        output = attend()
        return output.detach(), *torch.autograd.grad(output, (query, key, value), cotangent)

    if pass_name == BOTH:
        for operand in (query, key, value):
            operand.requires_grad_()
    return Program(
        forward if pass_name == FORWARD else both, lambda results: [by_heads(x.float().numpy()) for x in results]
    )


def onnx_runtime_program(case: Case, pass_name: str, threads: int) -> Program:
    """com.microsoft MultiHeadAttention with its operands and result bound: nothing is copied."""
    import onnxruntime
    from onnx import TensorProto, helper

    assert pass_name == FORWARD
    query, key, value, _ = case.arrays()
    # Queries (batch, length, heads * head_dim); keys and values by heads, which spares it a transposition.
    arrays = {"query": query.reshape(1, case.queries, -1), "key": by_heads(key), "value": by_heads(value)}
    infos = [helper.make_tensor_value_info(name, TensorProto.FLOAT, array.shape) for name, array in arrays.items()]
    result = helper.make_tensor_value_info("output", TensorProto.FLOAT, arrays["query"].shape)
    node = helper.make_node(
        "MultiHeadAttention", list(arrays), ["output"], domain="com.microsoft", num_heads=case.heads,
        unidirectional=int(case.mask == CAUSAL),
    )  # fmt: skip
    imports = [helper.make_opsetid("", 17), helper.make_opsetid("com.microsoft", 1)]
    graph = helper.make_graph([node], "attention", infos, [result])
    model = helper.make_model(graph, opset_imports=imports, ir_version=8)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    output = onnxruntime.OrtValue.ortvalue_from_numpy(np.zeros_like(arrays["query"]))
    binding = session.io_binding()
    for name, array in arrays.items():
        binding.bind_ortvalue_input(name, onnxruntime.OrtValue.ortvalue_from_numpy(array))
    binding.bind_ortvalue_output("output", output)
    return Program(
        lambda: session.run_with_iobinding(binding),
        lambda _: [output.numpy().reshape(1, case.queries, case.heads, case.head_dim)],
    )


def openvino_program(case: Case, pass_name: str, threads: int) -> Program:
    """scaled_dot_product_attention of opset 13, by heads, in the dtype of its operands."""
    # With its telemetry package the import would send a report in a forked process; without, it has a stub.
    sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]
    import openvino

    assert pass_name == FORWARD
    is_bfloat16 = case.dtype == "bfloat16"
    element = openvino.Type.bf16 if is_bfloat16 else openvino.Type.f32
    arrays = [by_heads(array) for array in case.arrays()]  # the last has the output's shape, and takes it
    parameters = [openvino.opset13.parameter(array.shape, element) for array in arrays[:3]]
    product = openvino.opset13.scaled_dot_product_attention(*parameters, causal=case.mask == CAUSAL)
    settings = {
        "INFERENCE_NUM_THREADS": threads, "INFERENCE_PRECISION_HINT": "bf16" if is_bfloat16 else "f32",
        "PERFORMANCE_HINT": "LATENCY", "ENABLE_CPU_PINNING": False,
    }  # fmt: skip
    model = openvino.Model([product], parameters)
    request = openvino.Core().compile_model(model, "CPU", settings).create_infer_request()
    # Tensors share the arrays' memory and do not keep it.
    words = [array.view(np.uint16) if is_bfloat16 else array for array in arrays]
    tensors = [openvino.Tensor(array, openvino.Shape(array.shape), element) for array in words]
    for index in range(3):
        request.set_input_tensor(index, tensors[index])
    request.set_output_tensor(0, tensors[3])

    def read(_: Any) -> list[Any]:
        return [by_heads(words[3].view(ml_dtypes.bfloat16) if is_bfloat16 else words[3])]

    return Program(lambda: request.infer(share_outputs=True), read)


def disagreement(case: Case, results: Sequence[Any], expected: Sequence[Any]) -> str | None:
    """Says how far results are from what was expected, if too far; how exact ours are is the tests' business.

    In the Euclidean norm: sums of at most `keys` float32 terms in another order, then a few roundings to the dtype.
    """
    allowed = case.keys**0.5 * float(jnp.finfo(jnp.float32).eps) + 2 * float(jnp.finfo(case.dtype).eps)
    for actual, wanted in zip(results, expected, strict=True):
        ours, theirs = (np.asarray(array, np.float64) for array in (actual, wanted))
        difference = np.linalg.norm(ours - theirs) / np.linalg.norm(theirs)
        if not difference <= allowed:
            return f"differs by {difference:.2g}, allowed {allowed:.2g}"
    return None
