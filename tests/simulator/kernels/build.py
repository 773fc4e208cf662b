"""Compile every test kernel for one architecture: `python build.py sm_100a OUT_DIR` writes NAME.ptx, .cubin, .json."""

import importlib
import json
import os
import re
import sys
import tempfile
from pathlib import Path

FAMILIES = (
    "elementwise", "tma_copy", "cluster_exchange", "bulk_reduce", "semaphore_reduce",
    "gemm_sm100", "work_stealing", "gemm_sm90",
)  # fmt: skip
ARCHITECTURES = ("sm_90a", "sm_100a")


def compile_kernel(kernel, out: Path) -> None:
    import cutlass
    import cutlass.cute as cute
    import cutlass.experimental.cuda as cuda
    from cutlass.cute.runtime import make_fake_stream, make_ptr
    from toolkit import Map, Pointer

    dtypes = {"bfloat16": cutlass.BFloat16, "float32": cutlass.Float32, "int32": cutlass.Int32}
    swizzles = {"none": "none", "32B": "s32b", "64B": "s64b", "128B": "s128b"}

    def placeholder(parameter):
        if isinstance(parameter, Pointer):
            return make_ptr(dtypes[parameter.dtype], 0, cute.AddressSpace.gmem, assumed_align=16)
        return {"i32": cutlass.Int32, "f32": cutlass.Float32}[parameter.kind](0)

    def tensor_map(parameter):
        # The kernel is launched with maps of the caller's own; this one only gives the parameter its type.
        dtype = dtypes[parameter.dtype]
        pitch = parameter.box[0] * dtype.width // 8
        strides = [pitch * (i + 1) // 16 for i in range(len(parameter.box) - 1)]
        swizzle = cuda.TensorMapSwizzle.from_name(swizzles[parameter.swizzle])
        return cuda.create_tensor_map_tiled(
            cutlass.Int64(0), dtype, list(parameter.box), strides, list(parameter.box), swizzle=swizzle
        )

    @cute.jit
    def host(arguments: tuple, stream):
        kernel.device.set_name_prefix(kernel.name, remove_cutlass_symbol=True, keep_mangled_name=False)
        plain = iter(arguments)
        values = [tensor_map(p) if isinstance(p, Map) else next(plain) for p in kernel.parameters]
        # One CTA per SM: says to ptxas how many registers a thread starts with, which setmaxnreg needs.
        kernel.device(*values, *kernel.constants).launch(
            grid=[kernel.cluster, 1, 1],
            block=[kernel.block, 1, 1],
            cluster=[kernel.cluster, 1, 1],
            min_blocks_per_mp=1,
            stream=stream,
        )

    arguments = tuple(placeholder(p) for p in kernel.parameters if not isinstance(p, Map))
    with tempfile.TemporaryDirectory() as dump:
        options = f"--keep-ptx --keep-cubin --generate-line-info --dump-dir={dump}"
        compiled = cute.compile(host, arguments, make_fake_stream(), options=options)
    text = compiled.__ptx__
    description = {
        "entry": re.search(r"\.entry (\w+)", text)[1],
        "about": kernel.about,
        "parameters": [p.describe() for p in kernel.parameters],
        "block": [kernel.block, 1, 1],
        "cluster": [kernel.cluster, 1, 1],
        "dynamic_shared_bytes": dynamic_shared_bytes(str(compiled.ir_module)),
    }
    (out / f"{kernel.name}.ptx").write_text(text)
    (out / f"{kernel.name}.cubin").write_bytes(compiled.__cubin__)
    (out / f"{kernel.name}.json").write_text(json.dumps(description, indent=1) + "\n")


def dynamic_shared_bytes(host_module: str) -> int:
    """The constant that the host's launch configuration (grid, block, dynamic shared bytes, ...) is given."""
    field = (
        r"\[0, 2\] : \(!llvm.ptr\) -> !llvm.ptr, !llvm.struct<\(array<3 x i32>, array<3 x i32>, i64, ptr, ptr, i32\)>"
    )
    slot = re.search(rf"(%\w+) = llvm.getelementptr %\w+{field}", host_module)[1]
    value = re.search(rf"llvm.store (%\w+), {slot} : i64", host_module)[1]
    return int(re.search(rf"{value} = llvm.mlir.constant\((\d+) : i64\)", host_module)[1])


def main() -> None:
    arch, out = sys.argv[1], Path(sys.argv[2]).resolve()
    only = sys.argv[3:]
    if arch not in ARCHITECTURES:
        raise SystemExit(f"architecture {arch!r}: one of {', '.join(ARCHITECTURES)}")
    out.mkdir(parents=True, exist_ok=True)
    os.environ["CUTE_DSL_ARCH"] = arch  # read when cutlass is imported
    sys.path.insert(0, str(Path(__file__).parent))
    for family in FAMILIES:
        for kernel in importlib.import_module(family).kernels(arch):
            if not only or kernel.name in only:
                compile_kernel(kernel, out)


if __name__ == "__main__":
    main()
