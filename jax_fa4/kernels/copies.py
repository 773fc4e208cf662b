"""Tensor copies into the slots of a ring: a tile of queries, keys or values, panel by panel."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import cutlass
import cutlass.cute as cute
from cutlass.experimental import primitives as ptx

from jax_fa4.kernels.given import Arrays
from jax_fa4.kernels.parts import Stream
from jax_fa4.kernels.tile_loop import Int


@dataclass(frozen=True)
class Tiles:
    """The tiles of K, or of V: their stream, its ring, its slots in shared memory, the tensor map they come from."""

    stream: Stream
    ring: Any
    slots: Any
    source: Any

    def offset(self, use: Any) -> Any:
        """Returns the byte where the slot of this use begins."""
        return self.ring.slot(use) * self.stream.tile_bytes


@dataclass(frozen=True)
class Copies:
    """What is loaded tile by tile: the ring of its slots, its tensor map, its slots in shared memory, their panels.

    panel_columns: of the array in a panel. row, column: where in a tile the part that this CTA loads begins.
    """

    ring: Any
    source: Any
    slots: Any
    panels: int
    panel_bytes: int
    panel_columns: int
    row: Int = 0
    column: Int = 0


def copies_of(tiles: Tiles, row: Int = 0, column: Int = 0) -> Copies:
    """Returns the copies of K or V."""
    stream = tiles.stream
    sizes = stream.panels, stream.panel_bytes, stream.panel_columns
    return Copies(tiles.ring, tiles.source, tiles.slots, *sizes, row, column)


def copies_of_queries(cta: Any, i: int) -> Copies:
    """Returns the copies of query tile i."""
    plan = cta.plan
    ring, slot = cta.rings.q.of(i), cta.shared.q.subview(i * plan.query_bytes // 4)
    return Copies(ring, cta.arrays.q, slot, plan.panels(plan.head_dim), plan.panel_bytes, plan.panel)


def await_room(cta: Any, i: int, visit: Any) -> None:
    """Waits until the output of the tile before has left the place of query tile i, where it has none of its own."""
    if cta.plan.output_over_query:
        take_room(cta.rings.room.of(i), visit)


@cute.jit
def take_room(room: cutlass.Constexpr, visit):
    """The hand-over of a visit but the first."""
    if visit > 0:
        room.wait_full(visit - 1)
        room.arrive_empty(visit - 1)


def copy_panel(to: Any, source: Any, at: list[Any], full: Any) -> None:
    """Copies a panel into this CTA's shared memory."""
    ptx.cp_async_bulk_tensor_shared_cta_global(to, source, at, full)


@cute.jit
def load_tile(
    copies: cutlass.Constexpr, use, position: cutlass.Constexpr, copy: cutlass.Constexpr = copy_panel
):  # fmt: skip
    """Loads this CTA's part of a tile when its slot is free; rows beyond the end of the array come as zeros."""
    if cutlass.const_expr(copies.ring.row.empty):
        copies.ring.wait_empty(use)
    if ptx.elect_sync():
        fill(copies, use, position, copy)


def fill(copies: Copies, use: Any, position: list[Any], copy: Callable[..., None]) -> None:
    """Starts the copies, one for each panel, that complete the slot."""
    full = copies.ring.full_barrier(use)
    size = copies.panels * copies.panel_bytes
    copies.ring.expect(use, size)
    outer, row, *others = position
    for panel in range(copies.panels):
        to = copies.slots.subview((copies.ring.slot(use) * size + panel * copies.panel_bytes) // 4)
        at = [copies.column + panel * copies.panel_columns, outer, copies.row + row, *others]
        copy(to, copies.source, at, full)


def prefetch_maps(arrays: Arrays) -> None:
    """Fetches the tensor maps early: the first copies would wait for them."""
    for tensor_map in (arrays.q, arrays.k, arrays.v, arrays.out):
        ptx.prefetch_tensormap(tensor_map)
