"""The words that a plan is written in: roles, rings, regions of memory, streams of tiles."""

from dataclasses import dataclass

from jax_fa4.kernels.tile_loop import Int

WARP = 32


@dataclass(frozen=True)
class Role:
    """Warps that run one program; `registers` is what each thread has once it has started."""

    name: str
    first_warp: int
    warps: int
    registers: int


@dataclass(frozen=True)
class Ring:
    """Slots that pass between two roles. Use n takes slot n % slots; both sides count their uses, so none is stored.

    copies: one ring for each query tile, or one for both.
    full: arrivals that make a slot full.
    empty: arrivals that hand it back, or 0 where another ring's order already says that it is free (see `about`).
    pair: passes between a role of both CTAs of a pair and the leader's MMA role.
    """

    name: str
    producer: str
    consumer: str
    copies: int
    slots: int
    full: int
    empty: int
    about: str
    pair: bool = False

    @property
    def barriers(self) -> int:
        """Its mbarriers: all full ones come before the empty ones."""
        return self.copies * self.slots * (2 if self.empty else 1)


@dataclass(frozen=True)
class Region:
    """A named part of shared memory (offset and extent in bytes) or of tensor memory (in columns)."""

    name: str
    offset: int
    extent: int

    @property
    def end(self) -> int:
        """One past the last byte or column."""
        return self.offset + self.extent


@dataclass(frozen=True)
class Stream:
    """The tiles of keys, or of values, block after block: uses of a ring that both may share.

    region: where the ring's slots lie. panels, panel_bytes: of what a CTA has of a tile. panel_columns: of the array in
      a panel. row_bytes: of a row in a panel, the extent of its swizzle.
    Block n is use `per_block * n + first`.
    """

    ring: str
    region: str
    per_block: int
    first: int
    panels: int
    panel_bytes: int
    panel_columns: int
    row_bytes: int = 128

    @property
    def tile_bytes(self) -> int:
        """Bytes of what a CTA has of a tile: those of a slot."""
        return self.panels * self.panel_bytes

    def use(self, block: Int) -> Int:
        """Returns the ring's use that holds this block."""
        return block * self.per_block + self.first


def regions_of(sizes: dict[str, int]) -> tuple[Region, ...]:
    """Returns regions of these extents, one after the other."""
    regions, offset = [], 0
    for name, size in sizes.items():
        regions.append(Region(name, offset, size))
        offset += size
    return tuple(regions)


def overlapping(regions: tuple[Region, ...]) -> list[tuple[str, str]]:
    """Returns the names of the pairs that share a byte or a column."""
    return [
        (a.name, b.name)
        for i, a in enumerate(regions)
        for b in regions[i + 1 :]
        if a.offset < b.end and b.offset < a.end
    ]
