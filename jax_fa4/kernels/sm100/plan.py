"""What a forward variant is made of, as plain data: tile shape, memory maps, barriers, registers.

The kernel allocates from these tables and the manifest is written from them; tests read them without the compiler.
"""

import itertools
from dataclasses import dataclass, replace
from typing import ClassVar

from jax_fa4.kernels.parts import Region, Ring, Role, Stream, overlapping, regions_of
from jax_fa4.kernels.plan import DTYPE_BYTES, SHARED_CAPACITY, SWIZZLE_ROW, TilePlan
from jax_fa4.kernels.tile_loop import Int

TILE = 128  # rows of a query tile, and keys of a block: the largest M of one CTA's tensor core, and one TMEM lane a row
QUERY_TILES = 2  # a CTA works on one while the tensor core works on the other
CTA_ROWS = QUERY_TILES * TILE
TMEM_COLUMNS = 512
PANEL_BYTES = TILE * SWIZZLE_ROW  # a tile lies in shared memory as panels of 128 rows x 128 bytes
P_PARTS = 4  # in which P is stored
OWNER_WORDS = TILE + 4  # of a block's keys, and one for all of them
SMALL_BYTES = 3072  # of shared memory for all but tiles

HEAD_DIMS = ((64, 64), (96, 96), (128, 128), (192, 128))


@dataclass(frozen=True)
class ForwardPlan(TilePlan):
    """One variant of the forward pass; see TilePlan.

    ctas: 2 for a pair, whose query tiles are multiplied with the same keys and values; each CTA loads half of these.
    head_parts: parts of P, of `P_PARTS`, that the tensor core starts with.
    polynomial: of every 16 columns the last so many take exp2 on the FMA units instead of the special function unit, by
      a polynomial of this degree.
    """

    ctas: int = 1
    head_parts: int = 3
    polynomial: int = 2
    degree: int = 5
    softmax_registers: int = 192
    correction_registers: int = 80
    other_registers: int = 48

    architecture: ClassVar[str] = "sm100"
    head_dims: ClassVar[tuple[tuple[int, int], ...]] = HEAD_DIMS
    query_rows: ClassVar[int] = TILE

    @property
    def query_tiles(self) -> int:
        """Query tiles of a CTA."""
        return QUERY_TILES

    @property
    def block(self) -> int:
        """Keys of a block."""
        return TILE

    @property
    def is_pair(self) -> bool:
        """Whether two CTAs share keys and values."""
        return self.ctas == 2

    @property
    def roles(self) -> tuple[Role, ...]:
        """The programs of a CTA's warps; a warpgroup's four warps have one register count."""
        return (
            Role("softmax", 0, 4 * QUERY_TILES, self.softmax_registers),
            Role("correction", 8, 4, self.correction_registers),
            Role("mma", 12, 1, self.other_registers),
            Role("epilogue", 13, 1, self.other_registers),
            Role("load", 14, 1, self.other_registers),
            Role("owners" if self.is_general else "idle", 15, 1, self.other_registers),
        )

    @property
    def register_groups(self) -> tuple[tuple[Role, ...], ...]:
        """Neighbouring roles with as many registers: whole warpgroups, of which all warps set them at once."""
        return tuple(tuple(roles) for _, roles in itertools.groupby(self.roles, lambda role: role.registers))

    @property
    def output_over_query(self) -> bool:
        """Whether an output tile takes the room of its query tile: there is none beside it."""
        return self.head_dim > TILE

    @property
    def key_rows(self) -> int:
        """Keys of a block whose K a CTA has: operand B of a pair lies in halves of the columns of the product."""
        return TILE // self.ctas

    @property
    def value_columns(self) -> int:
        """Columns of V that a CTA has; likewise."""
        return self.value_head_dim // self.ctas

    @property
    def keys(self) -> Stream:
        """The tiles of K."""
        return self.stream("k", 0, self.panels(self.head_dim), self.key_rows * SWIZZLE_ROW)

    @property
    def values(self) -> Stream:
        """The tiles of V."""
        return self.stream("v", 1, self.panels(self.value_columns), PANEL_BYTES)

    def stream(self, name: str, order: int, panels: int, panel_bytes: int) -> Stream:
        """Returns the tiles of K or V; of the same size they share a ring."""
        if self.head_dim == self.value_head_dim:
            return Stream("kv", "kv", 2, order, panels, panel_bytes, self.panel)
        return Stream(name, name, 1, 0, panels, panel_bytes, self.panel)

    @property
    def tile_slots(self) -> dict[str, int]:
        """Slots of the rings of K and V: as many as fit, but no more than are of use. K is loaded first."""
        outputs = 0 if self.output_over_query else self.output_tile_bytes
        room = SHARED_CAPACITY - SMALL_BYTES - QUERY_TILES * (self.query_bytes + outputs)
        k, v = self.keys.tile_bytes, self.values.tile_bytes
        if self.head_dim == self.value_head_dim:
            return {"kv": min(room // k, 6)}
        return {"k": (room + v) // (k + v), "v": room // (k + v)}

    @property
    def rings(self) -> tuple[Ring, ...]:
        """All hand-overs between roles."""
        each, warpgroup = QUERY_TILES, 4  # one elected lane of each warp arrives
        rings = [
            Ring("q", "load", "mma", each, 1, 1, 1, "a query tile; empty once its last scores are computed"),
            *(Ring(name, "load", "mma", 1, slots, 1, 1, "keys and values of a block in turn")
              for name, slots in self.tile_slots.items()),
            Ring("s", "mma", "softmax", each, 1, 1, 0, "scores; overwritten only after P over them was used"),
            Ring("p", "softmax+correction", "mma", each, 1, 2 * warpgroup * self.ctas, 0,
                 "the head of P is stored and the accumulator rescaled; the next needs the scores in between"),
            Ring("p_tail", "softmax", "mma", each, 1, warpgroup * self.ctas, 0, "the rest of P; as p"),
            Ring("factor", "softmax", "correction", each, 1, warpgroup, 0,
                 "what a block multiplies a row by; the next follows scores that correction let happen"),
            Ring("inverse", "softmax", "correction", each, 1, warpgroup, warpgroup,
                 "what a row is multiplied by at last; tiles of one block have no other order that tells it was read"),
            Ring("o", "mma", "correction", each, 1, 1, 0, "the sum of a tile; p of the next tile says it was read"),
            Ring("out", "correction", "epilogue", each, 1, warpgroup, 1, "a finished tile, or part, in shared memory"),
        ]  # fmt: skip
        if self.output_over_query:
            rings.append(Ring("room", "epilogue", "load", each, 1, 1, 1, "the output has left its query tile's place"))
        if self.is_general:
            values = self.values
            rings += [
                Ring("owners", "owners", "softmax", 1, 1, 1, QUERY_TILES * warpgroup, "whose a key is"),
                Ring("clean", "owners", "mma", 1, self.tile_slots[values.ring], 1, 0,
                     "values without padding; as many ahead as the ring of values has slots"),
            ]  # fmt: skip
        return tuple(replace(ring, pair=self.is_pair and "mma" in (ring.producer, ring.consumer)) for ring in rings)

    @property
    def shared(self) -> tuple[Region, ...]:
        """Shared memory; an output tile without room of its own lies over the query tile."""
        sizes = {"q": QUERY_TILES * self.query_bytes}
        for stream in (self.keys, self.values):
            sizes[stream.region] = self.tile_slots[stream.ring] * stream.tile_bytes
        if not self.output_over_query:
            sizes["out"] = QUERY_TILES * self.output_tile_bytes
        sizes |= {"factors": QUERY_TILES * TILE * 4, "inverses": QUERY_TILES * TILE * 4}
        sizes |= {"owners": OWNER_WORDS * 4} if self.is_general else {}
        sizes |= {"barriers": sum(ring.barriers for ring in self.rings) * 8, "tmem_address": 4}
        return regions_of(sizes)

    @property
    def tmem(self) -> tuple[Region, ...]:
        """Tensor memory; P lies in the upper half of the scores it is made of, which its thread has read by then."""
        widths = (("s", TILE), ("o", self.value_head_dim))
        return tuple(
            Region(f"{name}{i}", self.column(name, i), width) for name, width in widths for i in range(QUERY_TILES)
        )

    def column(self, name: str, i: Int) -> Int:
        """Returns the first TMEM column of the scores "s", weights "p" or accumulator "o" of query tile i."""
        if name == "o":
            return QUERY_TILES * TILE + i * self.value_head_dim
        return i * TILE + {"s": 0, "p": TILE - TILE * DTYPE_BYTES[self.dtype] // 4}[name]

    def unknown(self) -> list[str]:
        """Returns what no variant is for."""
        if found := super().unknown():
            return found
        if self.ctas != 1 and (self.ctas, self.kind, self.value_head_dim % (2 * self.panel)) != (2, "dense", 0):
            return [f"{self.ctas} CTAs for {self.name}: 1, or 2 in dense variants, with whole panels of V in each"]
        return []

    def broken_limits(self) -> list[str]:
        """Returns every limit that the plan breaks, with its numbers."""
        found = []
        if sum(self.tile_slots.values()) < 2:
            found.append(f"{self.tile_slots} slots for keys and values: a block needs 2")
        if self.tmem[-1].end > TMEM_COLUMNS:
            found.append(f"tensor memory: {self.tmem[-1].end} columns of {TMEM_COLUMNS}")
        found += [f"{a} and {b} overlap" for a, b in overlapping(self.tmem)]
        if any(sum(role.warps for role in group) % 4 for group in self.register_groups):
            found.append("roles of one warpgroup have one register count")
        if not 1 <= self.head_parts <= P_PARTS:
            found.append(f"head_parts {self.head_parts}: 1 to {P_PARTS}")
        if not 0 <= self.polynomial <= 16 or self.polynomial % 2:
            found.append(f"polynomial {self.polynomial}: an even number up to 16")
        return found + super().broken_limits()
