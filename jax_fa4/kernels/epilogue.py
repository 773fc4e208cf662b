"""The epilogue role: copies finished output tiles from shared memory to the array; rows beyond its end are left out."""

from typing import Any

import cutlass
import cutlass.cute as cute
from cutlass import Int32
from cutlass.experimental import primitives as ptx


@cute.jit
def store(cta: cutlass.Constexpr):
    """The query tiles of each tile, part by part, in the order in which they are finished."""
    plan, walk = cta.plan, cta.walk
    visit = Int32(0)
    for index in cutlass.range(walk.first, walk.count, walk.stride, unroll=1):
        tile = walk.tile(index)
        for i in cutlass.range_constexpr(plan.query_tiles):
            ring = cta.rings.out.of(i)
            for part in cutlass.range_constexpr(plan.output_parts):
                use = visit * plan.output_parts + part
                ring.wait_full(use)
                if ptx.elect_sync():
                    copy_part(cta, i, part, walk.position(tile, i * plan.query_rows))
                    ptx.mbarrier_arrive(ring.empty_barrier(use))
            if cutlass.const_expr(plan.output_over_query):
                give_room(cta, i, visit)
        visit += 1


def copy_part(cta: Any, i: int, part: int, position: list[Any]) -> None:
    """Copies the panels of a part, and waits until they have been read."""
    plan = cta.plan
    panels = plan.output_tile_bytes // plan.panel_bytes
    for panel in range(panels):
        source = cta.shared.out.subview((i * plan.output_pitch + panel * plan.panel_bytes) // 4)
        column = (part * panels + panel) * plan.output_panel
        if column < plan.value_head_dim:
            ptx.cp_async_bulk_tensor_global_shared_cta(cta.arrays.out, source, [column, 0, *position])
    cute.arch.cp_async_bulk_commit_group()
    cute.arch.cp_async_bulk_wait_group(0, read=True)


@cute.jit
def give_room(cta: cutlass.Constexpr, i: cutlass.Constexpr, visit):
    """Lets the next query tile be loaded where the output was."""
    room = cta.rings.room.of(i)
    room.wait_empty(visit)
    if ptx.elect_sync():
        ptx.mbarrier_arrive(room.full_barrier(visit))
