"""wgmma GEMMs, D = A B^T in bf16 with fp32 accumulation: a producer warpgroup and one or two consumer warpgroups.

Shared memory holds a ring of two K tiles with a full and an empty mbarrier each; a consumer warpgroup computes 64 rows.
With `a_in_registers` each thread reads its part of A from global memory instead (RS).
"""

from dataclasses import dataclass

import cutlass
import cutlass.cute as cute
import cutlass.utils.hopper_helpers as hopper
from cutlass import BFloat16, Float32, Int32, Int64
from cutlass.cute.nvgpu import warpgroup
from gemm_plan import STAGES, TILE_K, operand_box
from toolkit import Kernel, Map, Pointer, Scalar, TensorMap, ptx, wait

MMA_K = 16
WARPGROUP = 128
ROWS = 64  # of a consumer warpgroup


@dataclass(frozen=True)
class Gemm:
    """The compile-time choices: tile, majors of A and B, and where A comes from."""

    m: int
    n: int
    a_major: str = "k"
    b_major: str = "k"
    a_in_registers: bool = False

    @property
    def consumers(self) -> int:
        return self.m // ROWS

    @property
    def threads(self) -> int:
        return (1 + self.consumers) * WARPGROUP

    @property
    def bytes_per_stage(self) -> int:
        return ((0 if self.a_in_registers else self.m) + self.n) * TILE_K * 2


def load_operand(tile, tensor_map, major, rows, row, k, full):
    """TMA of `rows` x 64 of an operand: one box when K-major, boxes of 64 rows when MN-major."""
    for first in range(0, rows, rows if major == "k" else 64):
        at = [k, row] if major == "k" else [row + first, k]
        ptx.cp_async_bulk_tensor_shared_cta_global(cute.domain_offset((first, 0), tile).iterator, tensor_map, at, full)


@cute.jit
def produce(maps, tensors, full, empty, m0, n0, tiles, gemm: cutlass.Constexpr):
    """One warp refills a slot once every consumer warp has handed it back."""
    for tile in cutlass.range(tiles, unroll=1):
        slot = tile % STAGES
        wait(empty + slot, (tile // STAGES) & 1 ^ 1)
        if ptx.elect_sync():
            ptx.mbarrier_arrive_expect_tx(full + slot, gemm.bytes_per_stage)
            k = tile * TILE_K
            if cutlass.const_expr(not gemm.a_in_registers):
                load_operand(tensors[0][None, None, slot], maps[0], gemm.a_major, gemm.m, m0, k, full + slot)
            load_operand(tensors[1][None, None, slot], maps[1], gemm.b_major, gemm.n, n0, k, full + slot)


@cute.jit
def consume(mma, a, tensors, full, empty, warp, tiles, gemm: cutlass.Constexpr):
    """Accumulate all K tiles; a slot is handed back when the wgmma that read it are done."""
    slice_of_thread = mma.get_slice(warp * 32 + cute.arch.lane_idx())
    b_tiles = mma.make_fragment_B(slice_of_thread.partition_B(tensors[1]))
    a_tiles = None if gemm.a_in_registers else mma.make_fragment_A(slice_of_thread.partition_A(tensors[0]))
    accumulator = cute.make_rmem_tensor(slice_of_thread.partition_shape_C((gemm.m, gemm.n)), Float32)
    mma.set(warpgroup.Field.ACCUMULATE, False)
    for tile in cutlass.range(tiles, unroll=1):
        slot = tile % STAGES
        if cutlass.const_expr(gemm.a_in_registers):
            a_fragment = a_of_thread(mma, a, warp, tile, gemm)
        wait(full + slot, (tile // STAGES) & 1)
        warpgroup.fence()
        for k in cutlass.range_constexpr(TILE_K // MMA_K):
            a_part = a_fragment[None, None, k] if gemm.a_in_registers else a_tiles[None, None, k, slot]
            cute.gemm(mma, accumulator, a_part, b_tiles[None, None, k, slot], accumulator)
            mma.set(warpgroup.Field.ACCUMULATE, True)
        warpgroup.commit_group()
        warpgroup.wait_group(0)
        if ptx.elect_sync():
            ptx.mbarrier_arrive(empty + slot)
    return accumulator


def first_element(warp):
    """A thread's row and column of register 0; register i is at `row + i // 2 % 2 * 8, column + i % 2 + i // 4 * 8`."""
    lane = cute.arch.lane_idx()
    return warp * 16 + lane // 4, lane % 4 * 2


def a_of_thread(mma, a, warp, tile, gemm):
    """The A fragment of a K tile, read two neighbouring elements at a time."""
    fragment = mma.make_fragment_A(mma.partition_shape_A((gemm.m, TILE_K)))
    pairs = cute.recast_tensor(fragment, Int32)
    row, column = first_element(warp)
    for i in range(cute.size(pairs)):
        pairs[i] = a[row + i % 2 * 8, (tile * TILE_K + column) // 2 + i // 2 * 4]
    return fragment


def store(accumulator, out, ldo, m0, n0, warp):
    d = cute.make_tensor(out, cute.make_layout((1 << 16, 1 << 12), stride=(ldo, 1)))
    row, column = first_element(warp)
    for i in range(cute.size(accumulator)):
        d[m0 + row + i // 2 % 2 * 8, n0 + column + i % 2 + i // 4 * 8] = accumulator[i]


@cute.kernel
def gemm_kernel(
    a_map: TensorMap, b_map: TensorMap, out: cute.Pointer, ldo: Int32, tiles: Int32, gemm: cutlass.Constexpr
):
    multiply_tile((a_map.get_ptr(), b_map.get_ptr()), None, None, out, ldo, tiles, gemm)


@cute.kernel
def gemm_rs_kernel(
    a: cute.Pointer, lda: Int32, b_map: TensorMap, out: cute.Pointer, ldo: Int32, tiles: Int32, gemm: cutlass.Constexpr
):
    multiply_tile((None, b_map.get_ptr()), a, lda, out, ldo, tiles, gemm)


@cute.jit
def multiply_tile(maps, a, lda, out, ldo, tiles, gemm: cutlass.Constexpr):
    thread, _, _ = cute.arch.thread_idx()
    block_m, block_n, _ = cute.arch.block_idx()
    warp = cute.arch.make_warp_uniform(cute.arch.warp_idx())
    m0, n0 = block_m * gemm.m, block_n * gemm.n
    mma, a_layout, b_layout = plan(gemm)
    memory = cutlass.memory.SmemAllocator()
    tensors = (
        memory.allocate_tensor(BFloat16, a_layout.outer, byte_alignment=1024, swizzle=a_layout.inner),
        memory.allocate_tensor(BFloat16, b_layout.outer, byte_alignment=1024, swizzle=b_layout.inner),
    )
    full, empty = memory.allocate_array(Int64, STAGES), memory.allocate_array(Int64, STAGES)

    if thread == 0:
        for slot in cutlass.range_constexpr(STAGES):
            ptx.mbarrier_init(full + slot, 1)
            ptx.mbarrier_init(empty + slot, 4 * gemm.consumers)  # one arrival of each consumer warp
        ptx.fence_mbarrier_init()
    ptx.barrier_cta_sync_aligned(0)

    # Two warpgroups start with as many registers as an instruction can name; only a third makes them scarce.
    scarce = gemm.consumers == 2
    if warp < 4:
        if cutlass.const_expr(scarce):
            ptx.setmaxregister(40, "decrease")
        if warp == 0:
            produce(maps, tensors, full, empty, m0, n0, tiles, gemm)
    else:
        if cutlass.const_expr(scarce):
            ptx.setmaxregister(200, "increase")
        rows = None
        if cutlass.const_expr(gemm.a_in_registers):
            pairs = cute.make_layout((1 << 16, 1 << 12), stride=(lda // 2, 1))
            rows = cute.domain_offset((m0, 0), cute.make_tensor(cute.recast_ptr(a, dtype=Int32), pairs))
        accumulator = consume(mma, rows, tensors, full, empty, warp - 4, tiles, gemm)
        store(accumulator, out, ldo, m0, n0, warp - 4)


def plan(gemm):
    """The tiled MMA and the layouts of the rings of A and B in shared memory."""
    majors = {"k": warpgroup.OperandMajorMode.K, "mn": warpgroup.OperandMajorMode.MN}
    layouts = {"k": cutlass.utils.LayoutEnum.ROW_MAJOR, "mn": cutlass.utils.LayoutEnum.COL_MAJOR}
    source = warpgroup.OperandSource.RMEM if gemm.a_in_registers else warpgroup.OperandSource.SMEM
    mma = hopper.make_trivial_tiled_mma(
        BFloat16, BFloat16, majors[gemm.a_major], majors[gemm.b_major], Float32, (gemm.consumers, 1, 1),
        tiler_mn=(ROWS, gemm.n), a_source=source,
    )  # fmt: skip
    tile = (gemm.m, gemm.n, TILE_K)
    # The helper speaks of B as [N, K]: K-major is row-major for it, too.
    a_layout = hopper.make_smem_layout_a(layouts[gemm.a_major], tile, BFloat16, STAGES)
    b_layout = hopper.make_smem_layout_b(layouts[gemm.b_major], tile, BFloat16, STAGES)
    return mma, a_layout, b_layout


def variant(name: str, gemm: Gemm) -> Kernel:
    about = (
        f"D = A B^T, A is [M, K], B is [N, K], K = 64 tiles, out[m * ldo + n]; grid = (M / {gemm.m}, N / {gemm.n}); "
        "an MN-major map has rows as its innermost dimension"
    )
    b = Map("b", operand_box(gemm.b_major, gemm.n), "128B")
    rest = (Pointer("out", "float32"), Scalar("ldo"), Scalar("tiles"))
    if gemm.a_in_registers:
        parameters = (Pointer("a", "bfloat16"), Scalar("lda"), b, *rest)
        return Kernel(name, about + "; lda even", gemm_rs_kernel, parameters, gemm.threads, (gemm,))
    parameters = (Map("a", operand_box(gemm.a_major, gemm.m), "128B"), b, *rest)
    return Kernel(name, about, gemm_kernel, parameters, gemm.threads, (gemm,))


def kernels(arch: str) -> list[Kernel]:
    if arch != "sm_90a":
        return []
    return [
        variant("wgmma_m64_n64", Gemm(64, 64)),
        variant("wgmma_m64_n128_mn", Gemm(64, 128, "mn", "mn")),
        variant("wgmma_m128_n128_k_mn", Gemm(128, 128, "k", "mn")),
        variant("wgmma_m128_n256_mn_k", Gemm(128, 256, "mn", "k")),
        variant("wgmma_m64_n128_rs", Gemm(64, 128, a_in_registers=True)),
        variant("wgmma_m128_n64_rs_mn", Gemm(128, 64, b_major="mn", a_in_registers=True)),
    ]
