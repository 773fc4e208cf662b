"""tcgen05 GEMMs, D = A B^T in bf16 with fp32 accumulation: a TMA warp, an MMA warp and four epilogue warps.

Shared memory holds a ring of two K tiles with a full and an empty mbarrier each. One output tile per CTA, or per pair
of CTAs (`pair`): the even CTA then issues the MMAs, each CTA loads its half of the rows of A and of B. With
`multicast` two CTAs compute tiles of their own with the same B, of which each loads one half for both.
With `a_in_tmem` the epilogue warps first carry A from global to tensor memory (TS), in the same ring.
"""

from dataclasses import dataclass

import cutlass
import cutlass.cute as cute
from cutlass import BFloat16, Float32, Int32, Int64
from gemm_plan import STAGES, TILE_K, Gemm, operand_box
from toolkit import SHARED, Kernel, Map, Pointer, Scalar, TensorMap, cluster_sync, ptx, wait

MMA_K = 16
LOAD_WARP, MMA_WARP = 4, 5
THREADS = 6 * 32
EPILOGUE_THREADS = 4 * 32
CHUNK = 32  # columns per tcgen05.ld


@dataclass(frozen=True)
class Shared:
    """A CTA's shared memory: the ring of operand tiles, its mbarriers, and where tensor memory was allocated."""

    a: cutlass.Array
    b: cutlass.Array
    full: cutlass.Array
    empty: cutlass.Array
    a_full: cutlass.Array
    done: cutlass.Array
    tmem: cutlass.Array


def allocate_shared(gemm: Gemm) -> Shared:
    def tiles(rows):
        return cutlass.Array(BFloat16, STAGES * rows * TILE_K, space=SHARED, alignment=1024)

    def mbarriers(count):
        return cutlass.Array(Int64, count, space=SHARED, alignment=8)

    a, b = tiles(gemm.rows), tiles(gemm.b_rows)
    tmem = cutlass.Array(Int32, 1, space=SHARED)
    return Shared(a, b, mbarriers(STAGES), mbarriers(STAGES), mbarriers(STAGES), mbarriers(1), tmem)


def load_operand(destination, tensor_map, major, rows, row, k, full, gemm, multicast=None):
    """TMA of `rows` x 64 of an operand: one box when K-major, boxes of 64 rows when MN-major."""
    for first in range(0, rows, rows if major == "k" else 64):
        target = destination.subview(first * TILE_K)
        at = [k, row] if major == "k" else [row + first, k]
        if gemm.pair or multicast is not None:
            ptx.cp_async_bulk_tensor_shared_cluster_global(
                target, tensor_map, at, full, [], multicast_mask=multicast, group=gemm.group if gemm.pair else None
            )
        else:
            ptx.cp_async_bulk_tensor_shared_cta_global(target, tensor_map, at, full)


def leads(gemm):
    """Whether this CTA issues the MMAs: the even one of a pair, and any that is alone."""
    return ptx.cluster_ctarank() == 0 if gemm.pair else cutlass.Boolean(True)


@cute.jit
def load(shared, maps, m0, n0, tiles, gemm: cutlass.Constexpr):
    """The TMA warp: refill a slot when its last readers, the MMAs of every CTA that has it, are done."""
    b_first = ptx.cluster_ctarank() * gemm.b_rows_loaded if gemm.cluster == 2 else 0
    b_offset = b_first * TILE_K if gemm.multicast else 0
    multicast = cutlass.Int16(3) if gemm.multicast else None
    for tile in cutlass.range(tiles, unroll=1):
        slot = tile % STAGES
        full = shared.full.subview(slot)
        wait(shared.empty.subview(slot), (tile // STAGES) & 1 ^ 1)
        if ptx.elect_sync():
            # In a pair both CTAs' copies complete on the mbarrier of the even one, which alone expects their bytes.
            if leads(gemm):
                ptx.mbarrier_arrive_expect_tx(full, gemm.bytes_per_stage)
            if cutlass.const_expr(not gemm.a_in_tmem):
                a = shared.a.subview(slot * gemm.rows * TILE_K)
                load_operand(a, maps[0], gemm.a_major, gemm.rows, m0, tile * TILE_K, full, gemm)
            b = shared.b.subview(slot * gemm.b_rows * TILE_K + b_offset)
            n = n0 + b_first
            load_operand(b, maps[1], gemm.b_major, gemm.b_rows_loaded, n, tile * TILE_K, full, gemm, multicast)


def descriptor(address, major):
    """Rows of 128 bytes in swizzle atoms of 8; MN-major operands step 64 rows x 64 k for the next 64 rows."""
    return ptx.Tcgen05SmemDesc.build(
        address, leading_byte_offset=16 if major == "k" else 64 * TILE_K * 2, stride_byte_offset=8 * 128,
        layout=ptx.Tcgen05SmemSwizzle.SWIZZLE_128B,
    )  # fmt: skip


@cute.jit
def multiply(shared, tmem, tiles, gemm: cutlass.Constexpr):
    """The MMA warp: one K tile at a time into the same accumulator."""
    instruction = ptx.Tcgen05InstrDesc.build(
        c_dtype=Float32, a_dtype=BFloat16, b_dtype=BFloat16, n_dim=gemm.n, m_dim=gemm.m,
        a_major=int(gemm.a_major != "k"), b_major=int(gemm.b_major != "k"),
    )  # fmt: skip
    a_first, b_first = descriptor(shared.a, gemm.a_major), descriptor(shared.b, gemm.b_major)
    # 16 elements of K are 32 bytes inside a row of the swizzle atom, or 16 rows of 128 bytes.
    a_step, b_step = (MMA_K * 2 if major == "k" else MMA_K * 128 for major in (gemm.a_major, gemm.b_major))
    d = ptx.make_tmem_ptr(tmem, Int32)
    for tile in cutlass.range(tiles, unroll=1):
        slot, parity = tile % STAGES, (tile // STAGES) & 1
        wait(shared.full.subview(slot), parity)
        if cutlass.const_expr(gemm.a_in_tmem):
            wait(shared.a_full.subview(slot), parity)
            ptx.tcgen05_fence("after_thread_sync")
        if ptx.elect_sync():
            for i in cutlass.range_constexpr(TILE_K // MMA_K):
                if cutlass.const_expr(gemm.a_in_tmem):
                    a = ptx.make_tmem_ptr(a_column(tmem, slot, gemm) + i * MMA_K // 2, Int32)
                else:
                    a = a_first.advance_start_address(slot * (gemm.rows * TILE_K * 2) + i * a_step)
                b = b_first.advance_start_address(slot * (gemm.b_rows * TILE_K * 2) + i * b_step)
                accumulate = cutlass.Boolean(tile > 0) if i == 0 else cutlass.Boolean(True)
                ptx.tcgen05_mma("f16", gemm.group, d, a, b, instruction, accumulate)
            commit(shared.empty.subview(slot), gemm, both=gemm.cluster == 2)
            if tile == tiles - 1:
                commit(shared.done, gemm, both=gemm.pair)


def commit(barrier, gemm, both):
    """Arrive once the MMAs so far are done, on the mbarriers of both CTAs where both wait for them."""
    ptx.tcgen05_commit(barrier, group=gemm.group, multicast_mask=cutlass.Int16(3) if both else None)


def a_column(tmem, slot, gemm):
    return tmem + gemm.columns + slot * (TILE_K // 2)


@cute.jit
def carry_a(shared, tmem, a, lda, m0, tiles, gemm: cutlass.Constexpr):
    """Epilogue warps, TS only: bring each K tile of A from global to tensor memory, a row per thread."""
    thread, _, _ = cute.arch.thread_idx()
    warp = cute.arch.make_warp_uniform(cute.arch.warp_idx())
    two_elements = cute.make_layout((1 << 16, 1 << 12), stride=(lda // 2, 1))
    row = cute.make_tensor(cute.recast_ptr(a, dtype=Int32), two_elements)
    for tile in cutlass.range(tiles, unroll=1):
        slot, parity = tile % STAGES, (tile // STAGES) & 1
        wait(shared.empty.subview(slot), parity ^ 1)
        ptx.tcgen05_fence("after_thread_sync")
        pairs = cute.make_rmem_tensor(cute.make_layout(TILE_K // 2), Int32)
        for i in cutlass.range_constexpr(TILE_K // 2):
            pairs[i] = row[m0 + thread, tile * (TILE_K // 2) + i]
        ptx.tcgen05_st("32x32b", ptx.make_tmem_ptr(a_column(tmem, slot, gemm) + (warp * 32 << 16), Int32), pairs.load())
        ptx.tcgen05_wait("store")
        ptx.tcgen05_fence("before_thread_sync")
        ptx.mbarrier_arrive(shared.a_full.subview(slot))


def place(shape, lane, j):
    """The lane (of the slice that a tcgen05.ld addresses) and column of register j, PTX ISA 9.7.16.2.3."""
    if shape == "32x32b":
        return lane, j
    if shape == "16x256b":
        return lane // 4 + 8 * (j // 2 % 2), 8 * (j // 4) + 2 * (lane % 4) + j % 2
    return lane // 4 + 8 * (j % 2), 4 * (j // 2) + lane % 4  # 16x128b


@cute.jit
def store(shared, tmem, out, ldo, m0, n0, gemm: cutlass.Constexpr):
    """The epilogue warps: each reads the 32 lanes of tensor memory that are its own and writes them out in fp32."""
    warp = cute.arch.make_warp_uniform(cute.arch.warp_idx())
    lane = cute.arch.lane_idx()
    d = cute.make_tensor(out, cute.make_layout((1 << 16, 1 << 12), stride=(ldo, 1)))
    row, column = m0 + warp * 32, n0
    if cutlass.const_expr(gemm.rows == 64):
        # 64 rows: 16 in each warp's lanes, or, in a pair, 32 with the columns' halves in lanes 0.. and 64..
        row = m0 + (warp % 2 * 32 if gemm.pair else warp * 16)
        column = n0 + (warp // 2 * gemm.columns if gemm.pair else 0)
    lanes_read = 32 if gemm.load_shape == "32x32b" else 16
    lanes_used = 16 if gemm.m == 64 else 32
    registers = CHUNK * lanes_read // 32
    repeat = {"32x32b": registers, "16x128b": registers // 2, "16x256b": registers // 4}[gemm.load_shape]
    wait(shared.done, 0)
    ptx.tcgen05_fence("after_thread_sync")
    for first_lane in cutlass.range_constexpr(0, lanes_used, lanes_read):
        for first in cutlass.range_constexpr(0, gemm.columns, CHUNK):
            source = ptx.make_tmem_ptr(tmem + ((warp * 32 + first_lane) << 16) + first, Int32)
            values = ptx.tcgen05_ld(gemm.load_shape, source, num=repeat)
            ptx.tcgen05_wait("load")
            for j in cutlass.range_constexpr(registers):
                r, c = place(gemm.load_shape, lane, j)
                d[row + first_lane + r, column + first + c] = values[j].bitcast(Float32)


@cute.kernel
def gemm_kernel(
    a_map: TensorMap, b_map: TensorMap, out: cute.Pointer, ldo: Int32, tiles: Int32, gemm: cutlass.Constexpr
):
    multiply_tile((a_map.get_ptr(), b_map.get_ptr()), None, None, out, ldo, tiles, gemm)


@cute.kernel
def gemm_ts_kernel(
    a: cute.Pointer, lda: Int32, b_map: TensorMap, out: cute.Pointer, ldo: Int32, tiles: Int32, gemm: cutlass.Constexpr
):
    multiply_tile((None, b_map.get_ptr()), a, lda, out, ldo, tiles, gemm)


@cute.jit
def multiply_tile(maps, a, lda, out, ldo, tiles, gemm: cutlass.Constexpr):
    block_m, block_n, _ = cute.arch.block_idx()
    warp = cute.arch.make_warp_uniform(cute.arch.warp_idx())
    m0, n0 = block_m * gemm.rows, block_n * gemm.n
    shared = allocate_shared(gemm)

    if warp == LOAD_WARP and ptx.elect_sync():
        for slot in cutlass.range_constexpr(STAGES):
            ptx.mbarrier_init(shared.full.subview(slot), 1)
            ptx.mbarrier_init(shared.empty.subview(slot), 2 if gemm.multicast else 1)
            if cutlass.const_expr(gemm.a_in_tmem):
                ptx.mbarrier_init(shared.a_full.subview(slot), EPILOGUE_THREADS)
        ptx.mbarrier_init(shared.done, 1)
        ptx.fence_mbarrier_init()
    if cutlass.const_expr(gemm.pair):
        cluster_sync()  # an allocation for a pair needs both CTAs to have started
    if warp == MMA_WARP:
        ptx.tcgen05_alloc(shared.tmem, gemm.columns_allocated, group=gemm.group)
        ptx.tcgen05_relinquish_alloc_permit(group=gemm.group)
    sync(gemm)
    tmem = shared.tmem.load()

    if warp == LOAD_WARP:
        load(shared, maps, m0, n0, tiles, gemm)
    if warp == MMA_WARP and leads(gemm):
        multiply(shared, tmem, tiles, gemm)
    if warp < LOAD_WARP:
        if cutlass.const_expr(gemm.a_in_tmem):
            carry_a(shared, tmem, a, lda, m0, tiles, gemm)
        store(shared, tmem, out, ldo, m0, n0, gemm)

    # Tensor memory is freed by both CTAs of a pair at once, after all their warps have read it. And nobody may signal
    # an mbarrier of a CTA that has exited: the commits to `done`, for which warps waited, are the last to signal any.
    sync(gemm)
    if warp == MMA_WARP:
        ptx.tcgen05_dealloc(ptx.make_tmem_ptr(tmem, Int32), gemm.columns_allocated, group=gemm.group)


def sync(gemm):
    cluster_sync() if gemm.cluster == 2 else ptx.barrier_cta_sync_aligned(0)


def variant(name: str, gemm: Gemm) -> Kernel:
    about = (
        f"D = A B^T, A is [M, K], B is [N, K], K = 64 tiles, out[m * ldo + n]; grid = (M / {gemm.rows}, N / {gemm.n}); "
        "an MN-major map has rows as its innermost dimension"
    )
    b = Map("b", operand_box(gemm.b_major, gemm.b_rows_loaded), "128B")
    rest = (Pointer("out", "float32"), Scalar("ldo"), Scalar("tiles"))
    if gemm.a_in_tmem:
        parameters = (Pointer("a", "bfloat16"), Scalar("lda"), b, *rest)
        return Kernel(name, about + "; lda even", gemm_ts_kernel, parameters, THREADS, (gemm,), gemm.cluster)
    parameters = (Map("a", operand_box(gemm.a_major, gemm.rows), "128B"), b, *rest)
    return Kernel(name, about, gemm_kernel, parameters, THREADS, (gemm,), gemm.cluster)


def kernels(arch: str) -> list[Kernel]:
    if arch != "sm_100a":
        return []
    return [
        variant("gemm_m64_n64", Gemm(64, 64, load_shape="16x256b")),
        variant("gemm_m64_n256_mn", Gemm(64, 256, "mn", "mn", load_shape="16x128b")),
        variant("gemm_m128_n64", Gemm(128, 64)),
        variant("gemm_m128_n128_mn_k", Gemm(128, 128, "mn", "k", load_shape="16x128b")),
        variant("gemm_m128_n256_k_mn", Gemm(128, 256, "k", "mn")),
        variant("gemm_m128_n128_multicast", Gemm(128, 128, multicast=True)),
        variant("gemm_m128_n128_multicast_mn", Gemm(128, 128, "mn", "mn", multicast=True)),
        variant("gemm_m128_n128_ts", Gemm(128, 128, a_in_tmem=True)),
        variant("gemm_m128_n64_ts_mn", Gemm(128, 64, b_major="mn", a_in_tmem=True)),
        variant("gemm_pair_m128_n128", Gemm(128, 128, pair=True)),
        variant("gemm_pair_m256_n64", Gemm(256, 64, pair=True)),
        variant("gemm_pair_m256_n256_mn", Gemm(256, 256, "mn", "mn", pair=True)),
    ]
