"""The same kernels on a GPU and in the simulator: `python tests/gpu/differential.py [--write-docs]`.

Single instructions, the simulator's test kernels for sm_90a, and the attention kernels. Results that are defined to
the last bit must be equal; those that are not are compared, and the differences become a table. Exit status 1 if a
defined bit differs.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

sys.path.extend(
    [str(Path(__file__).parents[2] / folder) for folder in ("tests", "tests/cuda", "tests/simulator", "benchmarks")]
)

import build_kernels
import card
import devices
import jax_fa4_simulator
import ml_dtypes
import numpy as np
import raw
import table
from cases import Case
from forward_table import PLAIN
from gemm_launches import GEMMS
from instructions import APPROXIMATIONS, COUNT, FLOATS, INTEGERS, Instruction
from jax_fa4_simulator import TensorMap, bound
from launcher import Launcher, owner_of
from launches import LAUNCHES, Launch, Problem, check

PAGE = Path(__file__).parents[2] / "docs" / "simulator_on_gpu.md"
ARCHITECTURE = "sm_90a"
Array = np.ndarray[Any, Any]


@dataclasses.dataclass(frozen=True)
class Difference:
    """Between two arrays of results.

    Attributes:
      what: was executed.
      count: of results.
      differing: results with other bits.
      ulps: the most by which two differ, in units of the last place: each result's, or of sums the largest one's.
      errors: the most by which the GPU's and the simulator's are off the exact result, where that is known.
      is_defined: every bit is, so that none may differ.
    """

    what: str
    count: int
    differing: int
    ulps: float
    errors: tuple[float, float] | None
    is_defined: bool

    @property
    def is_wrong(self) -> bool:
        return self.is_defined and self.differing > 0


def spacing(array: Array) -> Array:
    """The unit of the last place of each number."""
    info: Any = ml_dtypes.finfo(array.dtype)
    size = np.maximum(np.abs(array.astype(np.float64)), float(info.smallest_normal))
    exponent = np.floor(np.log2(np.where(np.isfinite(size), size, 1)))
    result: Array = np.exp2(exponent) * float(info.eps)
    return result


def largest(distance: Array, unit: Array) -> float:
    finite = np.isfinite(distance)
    return float(np.max(distance[finite] / unit[finite], initial=0))


def difference(
    what: str, gpu: Array, simulator: Array, exact: Array | None = None, *, defined: bool, of_largest: bool = False
) -> Difference:
    """Of results of one dtype; `exact` in double precision."""
    words = f"u{gpu.dtype.itemsize}"
    unequal = np.ascontiguousarray(gpu).view(words) != np.ascontiguousarray(simulator).view(words)
    if gpu.dtype.kind in "iu":
        return Difference(what, gpu.size, int(unequal.sum()), float(unequal.any()), None, defined)
    ours, theirs = simulator.astype(np.float64), gpu.astype(np.float64)
    both = np.isfinite(ours) & np.isfinite(theirs)
    ulps = float("inf") if np.any(unequal & ~both & ~(np.isnan(ours) & np.isnan(theirs))) else 0.0
    with np.errstate(invalid="ignore"):
        unit = spacing(simulator)
        unit = np.full_like(unit, unit[np.isfinite(ours)].max(initial=0)) if of_largest else unit
        ulps = max(ulps, largest(np.abs(ours - theirs), unit))
        errors = None
        if exact is not None:
            unit = spacing(exact.astype(gpu.dtype))
            errors = largest(np.abs(theirs - exact), unit), largest(np.abs(ours - exact), unit)
    return Difference(what, gpu.size, int(unequal.sum()), ulps, errors, defined)


def of_instruction(launcher: Launcher, instruction: Instruction) -> Difference:
    """One instruction on many numbers."""
    inputs, found = instruction.inputs(), []
    text, grid = instruction.ptx(), COUNT // 128
    for is_gpu in (True, False):
        result = jax_fa4_simulator.empty(COUNT, np.uint32)
        arguments = [*inputs, result]
        if is_gpu:
            launcher.launch(text.encode(), "one_instruction", grid=[grid], block=[128], arguments=arguments)
        else:
            jax_fa4_simulator.run(text, grid=grid, arguments=arguments)
        found.append(instruction.numbers(result))
    exact = None
    if instruction.exact is not None:
        with np.errstate(all="ignore"):
            numbers = [instruction.numbers(words).astype(np.float64) for words in inputs]
            operands = numbers[: 2 if instruction.name.startswith("div") else 1]
            exact = instruction.exact(*operands)
    return difference(instruction.name, *found, exact, defined=instruction.exact is None)


def with_random_values(problem: Problem) -> Problem:
    """bfloat16 inputs drawn from a normal distribution in place of small whole numbers."""
    random = np.random.default_rng(0)
    written = {id(owner_of(array)) for array, _ in problem.results}

    def drawn(array: Array) -> Array:
        if array.dtype != ml_dtypes.bfloat16 or id(owner_of(array)) in written:
            return array
        return random.standard_normal(array.shape).astype(array.dtype)

    def changed(argument: Any) -> Any:
        if isinstance(argument, TensorMap):
            return dataclasses.replace(argument, tensor=drawn(argument.tensor))  # type: ignore[arg-type]
        return drawn(argument) if isinstance(argument, np.ndarray) else argument

    return dataclasses.replace(problem, arguments=[changed(argument) for argument in problem.arguments])


def of_kernel(launcher: Launcher, launch: Launch, make: Callable[[], Problem], what: str, *, exact: bool) -> Difference:
    """One of the simulator's test kernels: its cubin where there is one, in the simulator its PTX."""
    folder = build_kernels.built(ARCHITECTURE)
    about = json.loads((folder / f"{launch.name}.json").read_text())
    text = folder / f"{launch.name}.ptx"
    cubin = text.with_suffix(".cubin")
    image = cubin.read_bytes() if cubin.exists() and not is_simulator(launcher) else text.read_bytes()
    shape = {
        "block": about["block"], "cluster": about["cluster"], "dynamic_shared": about["dynamic_shared_bytes"],
    }  # fmt: skip
    there, here = make(), make()
    launcher.launch(image, about["entry"], grid=there.grid, arguments=there.arguments, **shape)
    jax_fa4_simulator.run(bound(text), grid=here.grid, arguments=here.arguments, **shape)
    if exact:
        check(there.results)
        check(here.results)
    arrays = [np.concatenate([array.ravel() for array, _ in problem.results]) for problem in (there, here)]
    return difference(what, *arrays, defined=exact, of_largest=not exact)


def of_attention(driver: Path, kernels: Path, case: Case) -> Iterator[Difference]:
    """Output and log-sum-exp of one call: cubins on the GPU, their PTX in the simulator."""
    found = []
    simulator = jax_fa4_simulator.driver_path()
    for library, folder in ((driver, kernels), (simulator, devices.texts_of(kernels))):
        os.environ["JAX_FA4_CUDA_DRIVER"], os.environ["JAX_FA4_KERNELS"] = str(library), str(folder)
        there = raw.Driver(library)
        found.append(raw.prepare(there, case).run(there.stream()))
    for name, gpu, own in zip(("output", "log-sum-exp"), *found, strict=True):
        yield difference(f"attention, {case.id}: {name}", gpu, own, defined=False, of_largest=True)


def is_simulator(launcher: Launcher) -> bool:
    return str(jax_fa4_simulator.driver_path()) == launcher.library._name


# Of each kind of variant.
ATTENTION = (
    dataclasses.replace(PLAIN, query_length=300, key_length=333),
    dataclasses.replace(PLAIN, query_length=300, key_length=333, is_causal=True, head_dim=64),
    dataclasses.replace(PLAIN, is_causal=True, sinks=True, logits_soft_cap=5.0, segments="packed", alibi=True),
)


def differences(launcher: Launcher, driver: Path, kernels: Path | None) -> Iterator[Difference]:
    """All of them; those of attention where there are kernels."""
    for instruction in (*INTEGERS, *FLOATS, *APPROXIMATIONS):
        yield of_instruction(launcher, instruction)
    for launch in (*LAUNCHES, *GEMMS):
        if ARCHITECTURE in launch.architectures:
            yield of_kernel(launcher, launch, launch.problem, f"{launch.name}, whole numbers", exact=True)
    for launch in GEMMS:
        if ARCHITECTURE in launch.architectures:
            what = f"{launch.name}, random bfloat16"
            yield of_kernel(launcher, launch, lambda one=launch: with_random_values(one.problem()), what, exact=False)
    for case in ATTENTION if kernels else ():
        yield from of_attention(driver, kernels, case)


HEADER = ("executed", "results", "differ", "most ulps apart", "GPU off by, ulps", "simulator off by, ulps")


def row(found: Difference) -> list[str]:
    errors = ("-", "-") if found.errors is None else (f"{found.errors[0]:.3g}", f"{found.errors[1]:.3g}")
    return [found.what, str(found.count), str(found.differing), f"{found.ulps:.3g}", *errors]


def rendered(found: list[Difference]) -> str:
    is_text = [True] + [False] * (len(HEADER) - 1)
    defined, others = ([one for one in found if one.is_defined == which] for which in (True, False))
    wrong = [one.what for one in defined if one.is_wrong]
    parts = [
        "## Defined to the last bit",
        f"{len(defined)} instructions and kernels; of these differ: {', '.join(wrong) or 'none'}.",
        table.render(HEADER[:3], [row(one)[:3] for one in defined], is_text=is_text[:3], markdown=True),
        "## Not defined to the last bit",
        "Approximate functions, of which the manual bounds the error, and sums of products, whose order and internal "
        "width are the tensor core's own: the simulator adds plain float32 in the order of K. Ulps are those of each "
        "result, for sums and for attention those of the largest result; errors are against double precision.",
        table.render(HEADER, [row(one) for one in others], is_text=is_text, markdown=True),
    ]
    return "\n\n".join(part for part in parts if part)


def page(found: list[Difference], machine: dict[str, str]) -> str:
    head = [
        "# The simulator beside a GPU",
        "Written by `python tests/gpu/differential.py --write-docs`: the same kernels on the same inputs.",
        "\n".join(f"* {name}: {text}" for name, text in machine.items()),
    ]
    return "\n\n".join([*head, rendered(found)]) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--driver", type=Path, help="library of the driver; NVIDIA's on this machine")
    parser.add_argument("--kernels", type=Path, help="folder of attention kernels for sm_90a, cubins and PTX")
    parser.add_argument("--write-docs", action="store_true", help=f"also write docs/{PAGE.name}")
    options = parser.parse_args()
    # The simulator's driver has to be the GPU whose kernels it is given.
    os.environ.setdefault("JAX_FA4_SIMULATOR_DEVICE", "h200")
    driver = options.driver or devices.driver_of_machine()
    kernels = options.kernels or devices.compiled_kernels(ARCHITECTURE)
    if not json.loads((kernels / "manifest.json").read_text())["variants"]:
        print(f"{kernels} has no attention kernels: these are left out", file=sys.stderr)
        kernels = None
    found = list(differences(Launcher(driver), driver, kernels))
    print(rendered(found))
    if options.write_docs:
        PAGE.write_text(page(found, card.describe()))
    sys.exit(1 if any(one.is_wrong for one in found) else 0)


if __name__ == "__main__":
    main()
