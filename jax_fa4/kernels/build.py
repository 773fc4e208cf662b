"""Compiles the variants: `python jax_fa4/kernels/build.py --arch sm_100a --out DIR [--line-info] [NAME ...]`.

Writes NAME.cubin and NAME.ptx for each, and manifest.json. One architecture for a process: the compiler reads it from
the environment when it is imported.
"""

import argparse
import functools
import importlib.metadata
import json
import multiprocessing
import os
import re
import sys
import tempfile
import time
import types
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

if __name__ == "__main__" and not __package__:
    # By path, kernels are compiled while the package's own extension, which importing it needs, does not exist yet.
    sys.path.pop(0)
    package = types.ModuleType("jax_fa4")
    package.__path__ = [str(Path(__file__).resolve().parents[1])]
    sys.modules["jax_fa4"] = package

from jax_fa4.kernels.sm100.plan import ForwardPlan
from jax_fa4.kernels.variants import ARCHITECTURES, TensorMapParameter, forward_parameters, forward_plans

# The first CUDA version whose driver knows the architecture.
MINIMUM_DRIVER = {"sm_100a": 12080, "sm_100f": 12090}


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--arch", required=True, choices=ARCHITECTURES)
    parser.add_argument("--out", required=True, type=Path)
    parser.add_argument("--line-info", action="store_true", help="PTX with source lines, for tests: larger cubins")
    parser.add_argument("--jobs", type=int, default=os.cpu_count(), help="variants compiled at the same time")
    parser.add_argument("names", nargs="*", help="variants; all when absent")
    arguments = parser.parse_args()
    plans = {plan.name: plan for plan in forward_plans()}
    unknown = set(arguments.names) - set(plans)
    if unknown:
        parser.error(f"no variant {', '.join(sorted(unknown))}; there are {', '.join(plans)}")
    arguments.out.mkdir(parents=True, exist_ok=True)
    os.environ["CUTE_DSL_ARCH"] = arguments.arch
    names = arguments.names or list(plans)
    # Forked before the compiler is imported, so that each process has a compiler of its own.
    with ProcessPoolExecutor(arguments.jobs, mp_context=multiprocessing.get_context("fork")) as processes:
        compile_one = functools.partial(compile_forward, out=arguments.out, line_info=arguments.line_info)
        variants = list(processes.map(compile_one, [plans[name] for name in names]))
    manifest = {
        "architecture": arguments.arch,
        "minimum_driver": MINIMUM_DRIVER[arguments.arch],
        "compiler": f"nvidia-cutlass-dsl {importlib.metadata.version('nvidia-cutlass-dsl')}",
        "variants": variants,
    }
    (arguments.out / "manifest.json").write_text(json.dumps(manifest, indent=1) + "\n")


def compile_forward(plan: ForwardPlan, out: Path, line_info: bool) -> dict[str, Any]:
    """Compiles one variant; returns its entry in the manifest."""
    started = time.monotonic()
    compiled = trace_forward(plan, line_info)
    text = compiled.__ptx__
    (out / f"{plan.name}.ptx").write_text(text)
    (out / f"{plan.name}.cubin").write_bytes(compiled.__cubin__)
    shared_bytes = dynamic_shared_bytes(str(compiled.ir_module))
    if shared_bytes != plan.shared_bytes:
        raise AssertionError(f"{plan.name}: the plan has {plan.shared_bytes} shared bytes, the kernel {shared_bytes}")
    print(f"{plan.name}: {time.monotonic() - started:.1f} s, {len(compiled.__cubin__)} bytes of cubin")
    return {
        "name": plan.name,
        "entry": re.search(r"\.entry (\w+)", text)[1],  # type: ignore[index]
        "dtype": plan.dtype,
        "head_dim": plan.head_dim,
        "banded": plan.banded,
        "parameters": [parameter.describe() for parameter in forward_parameters(plan)],
        "threads": plan.threads,
        "shared_bytes": plan.shared_bytes,
        "cluster": [1, 1, 1],
        "tile_rows": 256,
        "registers": {role.name: role.registers for role in plan.roles},
    }


def trace_forward(plan: ForwardPlan, line_info: bool) -> Any:
    """Runs the compiler on one variant; the architecture is in the environment by now."""
    import cutlass
    import cutlass.cute as cute
    from cutlass.cute.runtime import make_fake_stream, make_ptr

    from jax_fa4.kernels.sm100.forward import forward

    numbers = {"i32": cutlass.Int32, "f32": cutlass.Float32}
    parameters = forward_parameters(plan)

    @cute.jit
    def host(arguments: tuple[Any, ...], stream):
        forward.set_name_prefix(plan.name, remove_cutlass_symbol=True, keep_mangled_name=False)
        plain = iter(arguments)
        values = [
            tensor_map_type(parameter) if isinstance(parameter, TensorMapParameter) else next(plain)
            for parameter in parameters
        ]
        # One CTA per SM: says to ptxas how many registers a thread starts with, which setmaxnreg needs.
        forward(*values, plan).launch(
            grid=[1, 1, 1], block=[plan.threads, 1, 1], cluster=[1, 1, 1], min_blocks_per_mp=1, stream=stream
        )

    plain = tuple(
        make_ptr(cutlass.Float32, 0, cute.AddressSpace.gmem, assumed_align=4)
        if parameter.kind == "pointer"
        else numbers[parameter.kind](0)
        for parameter in parameters
        if not isinstance(parameter, TensorMapParameter)
    )
    with tempfile.TemporaryDirectory() as dump:
        options = f"--keep-ptx --keep-cubin --dump-dir={dump}" + (" --generate-line-info" if line_info else "")
        return cute.compile(host, plain, make_fake_stream(), options=options)


def tensor_map_type(parameter: TensorMapParameter) -> Any:
    """A map that gives the parameter its type; a launch brings its own."""
    import cutlass
    import cutlass.experimental.cuda as cuda

    dtype = {"bfloat16": cutlass.BFloat16, "float16": cutlass.Float16}[parameter.dtype]
    pitch = parameter.box[0] * dtype.width // 8
    strides = [pitch * (i + 1) // 16 for i in range(len(parameter.box) - 1)]
    return cuda.create_tensor_map_tiled(
        cutlass.Int64(0), dtype, list(parameter.box), strides, list(parameter.box),
        swizzle=cuda.TensorMapSwizzle.from_name("s" + parameter.swizzle.lower()),
    )  # fmt: skip


def dynamic_shared_bytes(host_module: str) -> int:
    """Returns what the traced host function launches with: the bytes stand neither in the PTX nor in the cubin."""
    configuration = "!llvm.struct<(array<3 x i32>, array<3 x i32>, i64, ptr, ptr, i32)>"
    slot = re.search(rf"(%\w+) = llvm.getelementptr %\w+\[0, 2\] : \(!llvm.ptr\) -> !llvm.ptr, "
                     rf"{re.escape(configuration)}", host_module)[1]  # type: ignore[index]  # fmt: skip
    value = re.search(rf"llvm.store (%\w+), {slot} : i64", host_module)[1]  # type: ignore[index]
    return int(re.search(rf"{value} = llvm.mlir.constant\((\d+) : i64\)", host_module)[1])  # type: ignore[index]


if __name__ == "__main__":
    main()
