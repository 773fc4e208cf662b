"""The MMA role: one thread issues every tensor-core instruction of a CTA or pair, so that two query tiles overlap.

While softmax works on the scores of one query tile, the tensor core multiplies P and V, then Q and K, of the other.
"""

from dataclasses import dataclass
from typing import Any

import cutlass
import cutlass.cute as cute
from cutlass import Boolean, Float32, Int32
from cutlass.experimental import primitives as ptx

from jax_fa4.kernels.cta import DTYPES
from jax_fa4.kernels.plan import ATOM_ROWS, SWIZZLE_ROW
from jax_fa4.kernels.sm100.cta import Cta
from jax_fa4.kernels.sm100.plan import P_PARTS, PANEL_BYTES, QUERY_TILES, TILE
from jax_fa4.kernels.sm100.rings import group_of, leads

MMA_K = 16  # elements of the summed extent that one instruction takes
FIRST, SECOND = 0, 1


@cute.jit
def multiply(cta: cutlass.Constexpr):
    """The leader of a pair issues for both CTAs."""
    if leads(cta.plan.is_pair):
        issue(cta)


@cute.jit
def issue(cta: cutlass.Constexpr):
    """S0 = Q0 K, S1 = Q1 K; then for each further block O_i += P_i V and S_i = Q_i K of the next; then the last P V."""
    rings, walk = cta.rings, cta.walk
    products = Products(cta)
    block, tile_number = Int32(0), Int32(0)
    for index in cutlass.range(walk.first, walk.count, walk.stride, unroll=1):
        loop = walk.loop(walk.tile(index))
        if loop.count > 0:
            products.await_keys(block)
            for i in cutlass.range_constexpr(QUERY_TILES):
                rings.q.of(i).wait_full(tile_number)
                products.scores(i, block)
            products.release_keys(block)
            for step in cutlass.range(1, loop.count, unroll=1):
                this, following = block + step - 1, block + step
                products.await_values(this)
                products.values(FIRST, this, step > 1)
                products.await_keys(following)
                products.scores(FIRST, following)
                products.values(SECOND, this, step > 1)
                products.release_values(this)
                products.scores(SECOND, following)
                products.release_keys(following)
            for i in cutlass.range_constexpr(QUERY_TILES):
                rings.q.of(i).commit_empty(tile_number)
            last = block + loop.count - 1
            products.await_values(last)
            for i in cutlass.range_constexpr(QUERY_TILES):
                products.values(i, last, loop.count > 1)
                rings.o.of(i).commit_full(tile_number)
            products.release_values(last)
            block += loop.count
            tile_number += 1


@dataclass(frozen=True)
class Products:
    """Descriptors and issue of the two products of attention; blocks are counted over all tiles of the CTA."""

    cta: Cta

    def await_keys(self, block: Any) -> None:
        """Waits for the keys of a block."""
        self.cta.keys.ring.wait_full(self.cta.keys.stream.use(block))

    def release_keys(self, block: Any) -> None:
        """Hands them back once the products issued so far are done."""
        self.cta.keys.ring.commit_empty(self.cta.keys.stream.use(block))

    def await_values(self, block: Any) -> None:
        """Waits for the values of a block, without padding where there may be some."""
        self.cta.values.ring.wait_full(self.cta.values.stream.use(block))
        if self.cta.rings.clean is not None:
            self.cta.rings.clean.wait_full(block)

    def release_values(self, block: Any) -> None:
        """Hands them back once the products issued so far are done."""
        self.cta.values.ring.commit_empty(self.cta.values.stream.use(block))

    def scores(self, i: int, block: Any) -> None:
        """S_i = Q_i K^T: both lie in shared memory with head_dim innermost."""
        keys = self.cta.keys
        d = ptx.make_tmem_ptr(self.cta.column("s", i), Int32)
        issue_scores(self, d, i * self.cta.plan.query_bytes, keys.offset(keys.stream.use(block)))
        self.cta.rings.s.of(i).commit_full(0)

    def values(self, i: int, block: Any, accumulate: Any) -> None:
        """O_i += P_i V: P lies in tensor memory, V in shared memory with the summed extent, keys, outermost."""
        plan, rings, values = self.cta.plan, self.cta.rings, self.cta.values
        v = values.offset(values.stream.use(block))
        head = plan.head_parts * (TILE // P_PARTS)
        rings.p.of(i).wait_full(block)
        ptx.tcgen05_fence("after_thread_sync")
        issue_values(self, i, v, accumulate, range(0, head, MMA_K))
        if head < TILE:
            rings.p_tail.of(i).wait_full(block)
            ptx.tcgen05_fence("after_thread_sync")
            issue_values(self, i, v, accumulate, range(head, TILE, MMA_K))


@cute.jit
def issue_scores(products: cutlass.Constexpr, d, q: cutlass.Constexpr, k):
    """All of head_dim, 16 columns an instruction, which are 32 bytes inside a row of a panel."""
    plan, shared = products.cta.plan, products.cta.shared
    instruction = instruction_descriptor(plan, TILE, False)
    k_panel, group = products.cta.keys.stream.panel_bytes, group_of(plan.is_pair)
    q_first, k_first = descriptor(shared.q, 16), descriptor(shared.k, 16)
    if ptx.elect_sync():
        for column in cutlass.range_constexpr(0, plan.head_dim, MMA_K):
            panel, within = column // plan.panel, column % plan.panel * 2
            a = q_first.advance_start_address(q + panel * PANEL_BYTES + within)
            b = k_first.advance_start_address(k + panel * k_panel + within)
            ptx.tcgen05_mma("f16", group, d, a, b, instruction, Boolean(column > 0))


@cute.jit
def issue_values(products: cutlass.Constexpr, i: cutlass.Constexpr, v, accumulate, keys: cutlass.Constexpr):
    """The given keys, 16 an instruction: 8 columns of P, and 16 rows of V, whose panels are `PANEL_BYTES` apart."""
    plan = products.cta.plan
    d = ptx.make_tmem_ptr(products.cta.column("o", i), Int32)
    instruction = instruction_descriptor(plan, plan.value_head_dim, True)
    v_first, group = descriptor(products.cta.shared.v, PANEL_BYTES), group_of(plan.is_pair)
    if ptx.elect_sync():
        for key in keys:
            p = ptx.make_tmem_ptr(products.cta.column("p", i) + key // 2, Int32)
            b = v_first.advance_start_address(v + key * SWIZZLE_ROW)
            ptx.tcgen05_mma("f16", group, d, p, b, instruction, accumulate if key == 0 else Boolean(True))


def descriptor(address: Any, leading: int) -> Any:
    """Rows of 128 bytes in swizzle atoms of 8; `leading` is the distance of panels where they follow along rows."""
    return ptx.Tcgen05SmemDesc.build(
        address,
        leading_byte_offset=leading,
        stride_byte_offset=ATOM_ROWS * SWIZZLE_ROW,
        layout=ptx.Tcgen05SmemSwizzle.SWIZZLE_128B,
    )


def instruction_descriptor(plan: Any, n: int, rows_of_b_summed: bool) -> Any:
    """128 rows of each CTA x n in float32."""
    dtype = DTYPES[plan.dtype]
    return ptx.Tcgen05InstrDesc.build(
        c_dtype=Float32, a_dtype=dtype, b_dtype=dtype, n_dim=n, m_dim=TILE * plan.ctas,
        a_major=0, b_major=int(rows_of_b_summed),
    )  # fmt: skip
