"""How the test kernels are launched: arguments of small integers, and what must come out, bit by bit."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import build_kernels
import ml_dtypes
import numpy as np
from jax_fa4_simulator import Kernel, Result, TensorMap, bound, empty, mutate, run
from numpy.typing import NDArray

Array = NDArray[Any]
Results = list[tuple[Array, "Array | Callable[[Array], None]"]]
ARCHITECTURES = ("sm_90a", "sm_100a")


@dataclass(frozen=True)
class Problem:
    """The arguments of one launch, and arrays that the kernel writes, each with what it must hold or its own check."""

    grid: tuple[int, ...]
    arguments: list[Any]
    results: Results


@dataclass(frozen=True)
class Launch:
    """A kernel of `kernels/` and a problem for it; `explained` are mutants that change nothing: see `mutate.Case`."""

    name: str
    problem: Callable[[], Problem]
    architectures: tuple[str, ...] = ARCHITECTURES
    explained: Mapping[str, str] = field(default_factory=dict)

    def case(self, arch: str) -> mutate.Case:
        """Compiles the kernels where that has not happened yet."""
        folder = build_kernels.built(arch)
        about = json.loads((folder / f"{self.name}.json").read_text())
        kernel = bound(folder / f"{self.name}.ptx")

        def launch(mutant: Kernel, **options: Any) -> tuple[Result, Results]:
            problem = self.problem()
            result = run(
                mutant,
                grid=problem.grid,
                block=about["block"],
                cluster=about["cluster"],
                dynamic_shared=about["dynamic_shared_bytes"],
                arguments=problem.arguments,
                raise_on_report=False,
                **options,
            )
            return result, problem.results

        return mutate.Case(f"{arch} {self.name}", kernel, launch, check, self.explained)


def check(results: Results) -> None:
    for got, wanted in results:
        if callable(wanted):
            wanted(got)
        else:
            np.testing.assert_array_equal(got, wanted)


def integers(seed: int, *shape: int, dtype: Any = np.float32, most: int = 8) -> Array:
    """Small whole numbers, which float32 adds and multiplies without rounding."""
    values: Array = np.random.default_rng(seed).integers(-most, most + 1, shape).astype(dtype)
    return values


def filled(shape: tuple[int, ...], value: float, dtype: Any = np.float32) -> Array:
    array = empty(shape, dtype)
    array[...] = value
    return array


def add_scaled() -> Problem:
    n, guard = 300, 340  # the third CTA has 44 elements; what follows them stays as it is
    a, b, out = integers(1, n), integers(2, n), filled((guard,), 99)
    wanted = np.concatenate([a + b * 3, np.full(guard - n, 99, np.float32)])
    return Problem((3,), [a, b, out, np.int32(n), np.float32(3)], [(out, wanted)])


def swap() -> Problem:
    src, out = integers(3, 6, 128), filled((6, 128), np.nan)
    return Problem((6,), [src, out], [(out, 2 * src[[1, 0, 3, 2, 5, 4]] + src)])


def bulk_reduce() -> Problem:
    src, out = integers(4, 5, 128), filled((128,), 7)
    return Problem((5,), [src, out], [(out, 7 + src.sum(0))])


def ordered_reduce() -> Problem:
    src, out, semaphore = integers(5, 6, 128), filled((128,), 3), empty(1, np.int32)
    wanted = np.full(128, 3, np.float32)
    for part in src[::-1]:
        wanted = 2 * wanted + part
    return Problem((6,), [src, out, semaphore], [(out, wanted), (semaphore, np.array([6], np.int32))])


def steal_tiles() -> Problem:
    tiles = 7
    src, out, owner = integers(6, tiles, 128), filled((tiles, 128), 5), filled((tiles,), tiles, np.int32)
    return Problem((tiles,), [src, out, owner], [(out, src + 5), (owner, check_owners)])


def check_owners(owner: Array) -> None:
    """Which CTA does a tile is for the schedule to say; one that does any does its own."""
    np.testing.assert_array_equal(owner[owner], owner)


def shifted(src: Array, shape: tuple[int, ...], shift: tuple[int, ...]) -> Array:
    """An array of `shape` whose element i is src[i + shift], zero outside src."""
    wanted = np.zeros(shape, np.float32)
    for at in np.ndindex(*shape):
        source = tuple(i + d for i, d in zip(at, shift, strict=True))
        if all(0 <= i < extent for i, extent in zip(source, src.shape, strict=True)):
            wanted[at] = src[source]
    return wanted


def tma_copy(load_swizzle: str, store_swizzle: str, box: tuple[int, ...]) -> Callable[[], Problem]:
    # Not multiples of the box: the last tiles hang over the end of dst, and over both ends of src.
    src_shape = tuple(2 * extent - 3 for extent in reversed(box[1:]))
    dst_shape = tuple(extent + extent // 2 + 1 for extent in reversed(box[1:]))
    shift = (2, -3, 1)[: len(box)][::-1]
    width, pitch = box[0] + 8, box[0] + 16  # rows are longer than the tensor is wide
    src = integers(7, *src_shape, pitch, dtype=ml_dtypes.bfloat16)
    wanted = np.full((*dst_shape, pitch), 77, ml_dtypes.bfloat16)
    wanted[..., :width] = shifted(src[..., :width], (*dst_shape, width), shift) + 1
    grid = tuple(-(-extent // step) for extent, step in zip((width, *reversed(dst_shape)), box, strict=True))

    def problem() -> Problem:
        out = filled((*dst_shape, pitch), 77, ml_dtypes.bfloat16)
        maps = [
            TensorMap(src[..., :width], box, swizzle=load_swizzle),
            TensorMap(out[..., :width], box, swizzle=store_swizzle),
        ]
        dx, dy, dz = (*shift[::-1], 0, 0)[:3]
        scalars = [np.int32(dx), np.int32(dy), np.int32(dz), np.float32(1)]
        # A 2D copy has no use for dz, and the compiler keeps the parameter all the same.
        return Problem(grid, [*maps, *scalars], [(out, wanted)])

    return problem


def tma_launch(load_swizzle: str, store_swizzle: str, box: tuple[int, ...]) -> Launch:
    name = f"tma_copy_{len(box)}d_{load_swizzle}_to_{store_swizzle}".lower()
    return Launch(name, tma_copy(load_swizzle, store_swizzle, box))


NO_FENCE_AFTER_READS = {
    "fence.proxy.async.shared::cta": "between reading a response and the request that overwrites it. The simulator "
    "asks for no proxy fence between a read and an asynchronous write: shipped rings of tensor copies have none, and "
    "the barrier that follows orders them; its mutant is caught"
}

LAUNCHES = [
    Launch("add_scaled", add_scaled),
    Launch("swap_by_bulk_copy", swap),
    Launch("swap_by_remote_arrive", swap),
    Launch("bulk_reduce_add", bulk_reduce),
    Launch("ordered_reduce", ordered_reduce),
    Launch("steal_tiles", steal_tiles, ("sm_100a",), NO_FENCE_AFTER_READS),
    tma_launch("none", "none", (24, 16)),
    tma_launch("32B", "none", (16, 32)),
    tma_launch("64B", "none", (32, 32)),
    tma_launch("128B", "none", (64, 32)),
    tma_launch("none", "32B", (16, 32)),
    tma_launch("none", "64B", (32, 32)),
    tma_launch("none", "128B", (64, 32)),
    tma_launch("128B", "none", (64, 4, 6)),
    tma_launch("none", "64B", (32, 6, 3)),
]
