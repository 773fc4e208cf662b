"""The epilogue role: copies finished output tiles from shared memory to the array; rows beyond its end are left out."""

import cutlass
import cutlass.cute as cute
from cutlass import Int32
from cutlass.experimental import primitives as ptx

from jax_fa4.kernels.sm100.plan import QUERY_TILES, TILE


@cute.jit
def store(cta: cutlass.Constexpr):
    """Both query tiles of each tile, in the order in which the correction role finishes them."""
    plan, walk = cta.plan, cta.walk
    use = Int32(0)
    for index in cutlass.range(walk.first, walk.count, walk.stride, unroll=1):
        tile = walk.tile(index)
        for i in cutlass.range_constexpr(QUERY_TILES):
            ring = cta.rings.out.of(i)
            ring.wait_full(use)
            if ptx.elect_sync():
                for panel in cutlass.range_constexpr(plan.panels):
                    source = cta.shared.out.subview((i * plan.tile_bytes + panel * plan.panel_bytes) // 4)
                    position = [panel * plan.panel, tile.head, tile.first_row + i * TILE, tile.batch]
                    ptx.cp_async_bulk_tensor_global_shared_cta(cta.arrays.out, source, position)
                cute.arch.cp_async_bulk_commit_group()
                cute.arch.cp_async_bulk_wait_group(0, read=True)
                ptx.mbarrier_arrive(ring.empty_barrier(use))
        use += 1
