"""TMA load and store with every swizzle: out(x, y, z) = src(x + dx, y + dy, z + dz) + add, tile by tile.

Boxes may hang over the edges of either tensor. Loads swizzle and stores do not, or the other way round: a layout that
were wrong in the same way on both sides would not cancel out.
"""

import cutlass
import cutlass.cute as cute
from cutlass import BFloat16, Float32, Int32, Int64
from toolkit import SHARED, SWIZZLE_BYTES, Kernel, Map, Scalar, TensorMap, ptx, wait

THREADS = 64


def swizzled(index, swizzle):
    """Where the bf16 element `index` of a tile lies: address bits 4.. are XORed with bits 7.. of the byte offset."""
    mask = max(SWIZZLE_BYTES[swizzle] // 16, 1) - 1
    return index ^ (((index >> 6) & mask) << 3)


@cute.kernel
def copy_tile(
    src: TensorMap, dst: TensorMap, dx: Int32, dy: Int32, dz: Int32, add: Float32,
    box: cutlass.Constexpr, load_swizzle: cutlass.Constexpr, store_swizzle: cutlass.Constexpr,
):  # fmt: skip
    thread, _, _ = cute.arch.thread_idx()
    block = cute.arch.block_idx()
    elements = 1
    for extent in box:
        elements *= extent
    loaded = cutlass.Array(BFloat16, elements, space=SHARED, alignment=1024)
    stored = cutlass.Array(BFloat16, elements, space=SHARED, alignment=1024)
    full = cutlass.Array(Int64, 1, space=SHARED, alignment=8)
    origin = [block[i] * box[i] for i in range(len(box))]
    shifted = [x + d for x, d in zip(origin, (dx, dy, dz), strict=False)]

    if thread == 0:
        ptx.mbarrier_init(full, 1)
        ptx.fence_mbarrier_init()
    ptx.barrier_cta_sync_aligned(0)
    if thread == 0:
        ptx.mbarrier_arrive_expect_tx(full, elements * 2)
        ptx.cp_async_bulk_tensor_shared_cta_global(loaded, src.get_ptr(), shifted, full)
    wait(full, 0)

    for i in range(thread, elements, THREADS):
        value = Float32(loaded[swizzled(i, load_swizzle)]) + add
        stored[swizzled(i, store_swizzle)] = BFloat16(value)
    ptx.fence_proxy("async_shared", space=ptx.SharedSpace.shared_cta)
    ptx.barrier_cta_sync_aligned(0)
    if thread == 0:
        ptx.cp_async_bulk_tensor_global_shared_cta(dst.get_ptr(), stored, origin)
        ptx.cp_async_bulk_commit_group()
        ptx.cp_async_bulk_wait_group(0)


def variant(load_swizzle: str, store_swizzle: str, box: tuple[int, ...]) -> Kernel:
    name = f"tma_copy_{len(box)}d_{load_swizzle}_to_{store_swizzle}".lower()
    about = "out(x, y, z) = src(x + dx, y + dy, z + dz) + add, zeros outside src; grid = ceil(extents of out / box)"
    parameters = (
        Map("src", box, load_swizzle), Map("dst", box, store_swizzle),
        Scalar("dx"), Scalar("dy"), Scalar("dz"), Scalar("add", "f32"),
    )  # fmt: skip
    return Kernel(name, about, copy_tile, parameters, THREADS, constants=(box, load_swizzle, store_swizzle))


def kernels(arch: str) -> list[Kernel]:
    return [
        variant("none", "none", (24, 16)),
        variant("32B", "none", (16, 32)),
        variant("64B", "none", (32, 32)),
        variant("128B", "none", (64, 32)),
        variant("none", "32B", (16, 32)),
        variant("none", "64B", (32, 32)),
        variant("none", "128B", (64, 32)),
        variant("128B", "none", (64, 4, 6)),
        variant("none", "64B", (32, 6, 3)),
    ]
