"""What a Hopper forward variant is made of, as plain data: tile shape, shared memory, barriers, registers.

The kernel allocates from these tables and the manifest is written from them; tests read them without the compiler.
"""

from dataclasses import dataclass
from typing import ClassVar

from jax_fa4.kernels.parts import WARP, Region, Ring, Role, Stream, regions_of
from jax_fa4.kernels.plan import DTYPE_BYTES, SHARED_CAPACITY, SWIZZLE_ROW, TilePlan

WARPGROUP = 4  # warps that issue wgmma together
QUERY_ROWS = 64  # of a query tile: M of every wgmma, of one warpgroup
OWNER_WORDS = 4  # beside those of a block's keys: one for all of them
SMALL_BYTES = 2048  # of shared memory for all but tiles
MOST_SLOTS = 4  # of K, and of V, that are of use

HEAD_DIMS = ((64, 64), (96, 96), (128, 128), (192, 128), (256, 256))


@dataclass(frozen=True)
class ForwardPlan(TilePlan):
    """One variant of the forward pass; see TilePlan.

    query_tiles: warpgroups that multiply, each with a query tile of its own.
    block: keys of a block.
    takes_turns: the warpgroups issue their products in turn, so that the softmax of one runs under those of another.
    registers: of a thread of the warpgroups that multiply, and of the others.
    """

    query_tiles: int = 2
    block: int = 128
    takes_turns: bool = True
    registers: tuple[int, int] = (240, 32)

    architecture: ClassVar[str] = "sm90"
    head_dims: ClassVar[tuple[tuple[int, int], ...]] = HEAD_DIMS
    query_rows: ClassVar[int] = QUERY_ROWS
    # While the special function unit does a block's exponentials, the tensor core does half a block: no polynomials.
    polynomial: ClassVar[int] = 0
    degree: ClassVar[int] = 0

    @property
    def roles(self) -> tuple[Role, ...]:
        """The programs of a CTA's warps; a warpgroup's four warps have one register count."""
        most, least = self.registers
        return (
            Role("attend", 0, WARPGROUP * self.query_tiles, most),
            Role("load", WARPGROUP * self.query_tiles, 1, least),
            Role("epilogue", WARPGROUP * self.query_tiles + 1, 1, least),
            Role("owners" if self.is_general else "idle", WARPGROUP * self.query_tiles + 2, 1, least),
            Role("idle", WARPGROUP * self.query_tiles + 3, 1, least),
        )

    @property
    def value_row(self) -> int:
        """Bytes of a row in a panel of V: whole panels make up all columns, for they follow along N of a product."""
        whole = self.value_head_dim * DTYPE_BYTES[self.dtype]
        return SWIZZLE_ROW if whole % SWIZZLE_ROW == 0 else SWIZZLE_ROW // 2

    @property
    def output_over_query(self) -> bool:
        """Whether an output tile takes the room of its query tile: beside it two blocks would not fit."""
        own = self.query_tiles * (self.query_bytes + self.output_tile_bytes)
        return SHARED_CAPACITY - SMALL_BYTES - own < 2 * (self.keys.tile_bytes + self.values.tile_bytes)

    @property
    def key_rows(self) -> int:
        """Keys of a block whose K a CTA has: all."""
        return self.block

    @property
    def keys(self) -> Stream:
        """The tiles of K."""
        return Stream("k", "k", 1, 0, self.panels(self.head_dim), self.block * SWIZZLE_ROW, self.panel)

    @property
    def values(self) -> Stream:
        """The tiles of V."""
        panels = self.value_head_dim // self.value_panel
        return Stream("v", "v", 1, 0, panels, self.block * self.value_row, self.value_panel, self.value_row)

    @property
    def slots(self) -> int:
        """Slots of the rings of K and of V: as many as fit."""
        outputs = 0 if self.output_over_query else self.output_tile_bytes
        room = SHARED_CAPACITY - SMALL_BYTES - self.query_tiles * (self.query_bytes + outputs)
        return min(room // (self.keys.tile_bytes + self.values.tile_bytes), MOST_SLOTS)

    @property
    def rings(self) -> tuple[Ring, ...]:
        """All hand-overs between roles."""
        each, all_warps = self.query_tiles, WARPGROUP * self.query_tiles  # one elected lane of each warp arrives
        over = self.output_over_query
        rings = [
            Ring("q", "load", "attend", each, 1, 1, 0 if over else WARPGROUP,
                 "a query tile; empty once its last scores are computed, or, see room, its output has left"),
            Ring("k", "load", "attend", 1, self.slots, 1, all_warps, "keys of a block"),
            Ring("v", "load", "attend", 1, self.slots, 1, all_warps, "values of a block"),
            Ring("out", "attend", "epilogue", each, 1, WARPGROUP, 1, "a finished tile, or part, in shared memory"),
        ]  # fmt: skip
        if over:
            rings.append(Ring("room", "epilogue", "load", each, 1, 1, 1, "the output has left its query tile's place"))
        if self.is_general:
            rings += [
                Ring("owners", "owners", "attend", 1, 1, 1, all_warps, "whose a key is"),
                Ring("clean", "owners", "attend", 1, self.slots, 1, 0,
                     "values without padding; as many ahead as the ring of values has slots"),
            ]  # fmt: skip
        return tuple(rings)

    @property
    def shared(self) -> tuple[Region, ...]:
        """Shared memory; an output tile without room of its own lies over the query tile."""
        sizes = {"q": self.query_tiles * self.query_bytes}
        sizes |= {stream.region: self.slots * stream.tile_bytes for stream in (self.keys, self.values)}
        sizes |= {} if self.output_over_query else {"out": self.query_tiles * self.output_tile_bytes}
        sizes |= {"owners": (self.block + OWNER_WORDS) * 4} if self.is_general else {}
        sizes |= {"barriers": sum(ring.barriers for ring in self.rings) * 8}
        return regions_of(sizes)

    def broken_limits(self) -> list[str]:
        """Returns every limit that the plan breaks, with its numbers."""
        found = []
        if self.query_tiles not in (1, 2, 3):
            found.append(f"{self.query_tiles} query tiles: 1 to 3")
        if self.block % 16 or not 16 <= self.block <= 256 or (self.is_general and self.block % WARP):
            found.append(f"blocks of {self.block} keys: a multiple of 16, in general variants of {WARP}, up to 256")
        if self.slots < 2:
            found.append(f"{self.slots} slots for keys and for values: the next keys come before the values, so 2")
        return found + super().broken_limits()
