"""Compiles the variants: `python -m jax_fa4.kernels.build --arch sm_100f --out DIR [--line-info] [NAME ...]`.

Writes NAME.cubin and NAME.ptx for each, and manifest.json: the same bytes whenever the sources and the compiler are the
same, wherever they lie. Only line information has the sources' paths in it. One architecture for a process: the
compiler reads it from the environment when it is imported.
"""

import argparse
import functools
import hashlib
import importlib
import importlib.metadata
import inspect
import itertools
import json
import multiprocessing
import os
import re
import sys
import tempfile
import time
import types
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

if __name__ == "__main__":
    if __package__:
        # Importing the package has started JAX, whose threads forbid the forks below.
        os.execv(sys.executable, [sys.executable, "-P", __file__, *sys.argv[1:]])
    # By path, kernels are compiled while the package's own extension, which importing it needs, does not exist yet.
    if not sys.flags.safe_path:
        sys.path.pop(0)
    package = types.ModuleType("jax_fa4")
    package.__path__ = [str(Path(__file__).resolve().parents[1])]
    sys.modules["jax_fa4"] = package

from jax_fa4.kernels.variants import Plan, TensorMapParameter, forward_parameters, forward_plans, hopper_plans

COMPILER = "nvidia-cutlass-dsl"
KERNELS = Path(__file__).resolve().parent


@dataclass(frozen=True)
class Architecture:
    """What is compiled for a GPU architecture, and the first CUDA version whose driver loads such cubins."""

    plans: Callable[[], Sequence[Plan]]
    minimum_driver: int


# The drivers are from the PTX ISA's release history: sm_90a is of CUDA 12.0, sm_100a of the first release after 12.6,
# which is 12.8, and the family sm_100f of 12.9, as is sm_103, the other GPU in it.
ARCHITECTURES = {
    "sm_90a": Architecture(hopper_plans, 12000),
    "sm_100a": Architecture(forward_plans, 12080),
    "sm_100f": Architecture(forward_plans, 12090),
}


@dataclass(frozen=True)
class Job:
    """What all variants of a run are compiled with."""

    arch: str
    out: Path
    cache: Path
    line_info: bool


@dataclass(frozen=True)
class Built:
    """A variant that is there: its row in the manifest, how long it took, and the size of its cubin."""

    row: dict[str, Any]
    seconds: float
    cached: bool
    cubin_bytes: int


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--arch", required=True, choices=ARCHITECTURES)
    parser.add_argument("--out", required=True, type=Path)
    parser.add_argument("--cache", type=Path, help="compiled variants, by content, that need not be again; OUT/.cache")
    parser.add_argument("--line-info", action="store_true", help="PTX with source lines, for tests: larger cubins")
    parser.add_argument("--jobs", type=int, default=os.cpu_count(), help="variants compiled at the same time")
    parser.add_argument("names", nargs="*", help="variants; all when absent")
    arguments = parser.parse_args()
    plans = {plan.name: plan for plan in ARCHITECTURES[arguments.arch].plans()}
    unknown = set(arguments.names) - set(plans)
    if unknown:
        parser.error(f"no variant {', '.join(sorted(unknown))}; {arguments.arch} has {', '.join(plans)}")
    job = Job(arguments.arch, arguments.out, arguments.cache or arguments.out / ".cache", arguments.line_info)
    built = build([plans[name] for name in arguments.names or plans], job, arguments.jobs)
    manifest = {
        "architecture": job.arch,
        "minimum_driver": minimum_driver(job.arch),
        "compiler": compiler(),
        "variants": [one.row for one in built],
    }
    for file in (*job.out.glob("*.cubin"), *job.out.glob("*.ptx")):
        if file.stem not in {one.row["name"] for one in built}:
            file.unlink()  # of an earlier build: a wheel takes what lies here
    (job.out / "manifest.json").write_text(json.dumps(manifest, indent=1) + "\n")
    print(table(built))


def build(plans: list[Plan], job: Job, jobs: int) -> list[Built]:
    """Compiles the variants that are not in the cache, and puts all of them into the folder."""
    for folder in (job.out, job.cache):
        folder.mkdir(parents=True, exist_ok=True)
    os.environ["CUTE_DSL_ARCH"] = job.arch
    # Forked before the compiler is imported, so that each process has a compiler of its own.
    with ProcessPoolExecutor(jobs, mp_context=multiprocessing.get_context("fork")) as processes:
        return list(processes.map(functools.partial(build_one, job=job), plans))


def build_one(plan: Plan, job: Job) -> Built:
    """Puts one variant into the folder, from the cache or compiled."""
    started = time.monotonic()
    entry = job.cache / f"{plan.name}-{cache_key(plan, job)}"
    kept = {kind: entry.with_name(f"{entry.name}.{kind}") for kind in ("ptx", "cubin")}
    cached = all(file.exists() for file in kept.values())
    if not cached:
        ptx, cubin = compile_forward(plan, job.line_info)
        write_whole(kept["ptx"], ptx.encode())
        write_whole(kept["cubin"], cubin)
    for kind, file in kept.items():
        write_whole(job.out / f"{plan.name}.{kind}", file.read_bytes())
    name = re.search(r"\.entry (\w+)", kept["ptx"].read_text())[1]  # type: ignore[index]
    parameters = [parameter.describe() for parameter in forward_parameters(plan)]
    row = {"name": plan.name, "entry": name, **plan.manifest(), "parameters": parameters}
    return Built(row, time.monotonic() - started, cached, kept["cubin"].stat().st_size)


def cache_key(plan: Plan, job: Job) -> str:
    """Changes with all that a variant's code comes from. The list of variants is not of it: the plan says its part."""
    folders = (KERNELS, Path(inspect.getfile(type(plan))).resolve().parent)
    sources = [file for folder in folders for file in sorted(folder.glob("*.py")) if file.name != "variants.py"]
    parts = [job.arch, compiler(), repr(plan), repr(forward_parameters(plan))]
    parts += [f"{file.relative_to(KERNELS)}\n{file.read_text()}" for file in sources]
    parts.append(f"lines of {KERNELS}" if job.line_info else "no lines")
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:16]


@functools.cache
def compiler() -> str:
    """The compiler's packages with their versions: its libraries are those of CUDA 12 or of 13."""
    names = {distribution.metadata["Name"] for distribution in importlib.metadata.distributions()}
    used = sorted(name for name in names if name and name.startswith(COMPILER))
    return ", ".join(f"{name} {importlib.metadata.version(name)}" for name in used)


def minimum_driver(arch: str) -> int:
    """The first CUDA version whose driver loads what is compiled: also of the toolkit's own major version."""
    toolkit = 13000 if f"{COMPILER}-libs-cu13" in compiler() else 12000
    return max(ARCHITECTURES[arch].minimum_driver, toolkit)


def write_whole(file: Path, content: bytes) -> None:
    """Writes a file that other processes see whole or not at all."""
    with tempfile.NamedTemporaryFile(dir=file.parent, delete=False) as unfinished:
        unfinished.write(content)
    os.chmod(unfinished.name, 0o644)
    os.replace(unfinished.name, file)


def table(built: list[Built]) -> str:
    """What was built, a line each."""
    lines = [("variant", "seconds", "cubin bytes", "registers of a thread, by role")]
    for one in built:
        by_count = itertools.groupby(one.row["registers"].items(), lambda item: item[1])
        registers = ", ".join(f"{count} {'/'.join(role for role, _ in roles)}" for count, roles in by_count)
        seconds = "cached" if one.cached else f"{one.seconds:.1f}"
        lines.append((one.row["name"], seconds, str(one.cubin_bytes), registers))
    widths = [max(len(line[column]) for line in lines) for column in range(3)]
    return "\n".join(f"{a:{widths[0]}}  {b:>{widths[1]}}  {c:>{widths[2]}}  {d}" for a, b, c, d in lines)


def compile_forward(plan: Plan, line_info: bool) -> tuple[str, bytes]:
    """Compiles one variant; returns its PTX and its cubin."""
    try:
        compiled = trace_forward(plan, line_info)
    except Exception as error:
        raise RuntimeError(f"{plan.name} does not compile: {error}") from error
    shared_bytes = dynamic_shared_bytes(str(compiled.ir_module))
    if shared_bytes != plan.shared_bytes:
        raise AssertionError(f"{plan.name}: the plan has {plan.shared_bytes} shared bytes, the kernel {shared_bytes}")
    return compiled.__ptx__, compiled.__cubin__


def trace_forward(plan: Plan, line_info: bool) -> Any:
    """Runs the compiler on one variant; the architecture is in the environment by now."""
    import cutlass
    import cutlass.cute as cute
    from cutlass.cute.runtime import make_fake_stream, make_ptr

    package = type(plan).__module__.rpartition(".")[0]
    forward = importlib.import_module(f"{package}.forward").forward
    numbers = {"i32": cutlass.Int32, "f32": cutlass.Float32}
    parameters = forward_parameters(plan)
    cluster = plan.manifest()["cluster"]

    @cute.jit
    def host(others: tuple[Any, ...], stream):
        forward.set_name_prefix(plan.name, remove_cutlass_symbol=True, keep_mangled_name=False)
        maps = [tensor_map_type(parameter) for parameter in parameters if isinstance(parameter, TensorMapParameter)]
        # One CTA per SM: says to ptxas how many registers a thread starts with, which setmaxnreg needs.
        forward(*maps, others, plan).launch(
            grid=[1, 1, 1], block=[plan.threads, 1, 1], cluster=cluster, min_blocks_per_mp=1, stream=stream
        )

    others = tuple(
        make_ptr(element_type(parameter.dtype), 0, cute.AddressSpace.gmem, assumed_align=4)
        if parameter.kind == "pointer"
        else numbers[parameter.kind](0)
        for parameter in parameters
        if not isinstance(parameter, TensorMapParameter)
    )
    with tempfile.TemporaryDirectory() as dump:
        options = f"--keep-ptx --keep-cubin --dump-dir={dump}" + (" --generate-line-info" if line_info else "")
        return cute.compile(host, others, make_fake_stream(), options=options)


def element_type(dtype: str | None) -> Any:
    """The compiler's name of a dtype; None: one that only the launch knows."""
    import cutlass

    names = {"bfloat16": "BFloat16", "float16": "Float16", "float32": "Float32", "int32": "Int32", None: "Uint8"}
    return getattr(cutlass, names[dtype])


def tensor_map_type(parameter: TensorMapParameter) -> Any:
    """A map that gives the parameter its type; a launch brings its own."""
    import cutlass
    import cutlass.experimental.cuda as cuda

    dtype = element_type(parameter.dtype)
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
