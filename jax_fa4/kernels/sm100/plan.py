"""What a forward variant is made of, as plain data: tile shape, memory maps, barriers, registers.

The kernel allocates from these tables and the manifest is written from them; tests read them without the compiler.
"""

import itertools
from dataclasses import dataclass

from jax_fa4.kernels.tile_loop import Int

TILE = 128  # rows of a query tile, and keys of a block: the largest M of one CTA's tensor core, and one TMEM lane a row
QUERY_TILES = 2  # a CTA works on one while the tensor core works on the other
SHARED_CAPACITY = 232448  # bytes that a CTA may have, 227 KB
TMEM_COLUMNS = 512
REGISTERS = 65536  # of a multiprocessor
WARP = 32
SWIZZLE_ROW = 128  # bytes of a row in the 128-byte swizzle that tensor copies and tensor core share
ATOM_ROWS = 8  # of that swizzle
P_PARTS = 4  # in which P is stored
SMALL_BYTES = 3072  # of shared memory for factors, barriers and the address of tensor memory

DTYPE_BYTES = {"bfloat16": 2, "float16": 2}


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
    """

    name: str
    producer: str
    consumer: str
    copies: int
    slots: int
    full: int
    empty: int
    about: str

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


def overlapping(regions: tuple[Region, ...]) -> list[tuple[str, str]]:
    """Returns the names of the pairs that share a byte or a column."""
    return [
        (a.name, b.name)
        for i, a in enumerate(regions)
        for b in regions[i + 1 :]
        if a.offset < b.end and b.offset < a.end
    ]


@dataclass(frozen=True)
class ForwardPlan:
    """One variant of the forward pass.

    banded: rows see a band of keys (causal, windows). Otherwise all of them.
    rescale_threshold: a row's maximum may be exceeded by so many powers of two before the accumulator is rescaled.
    head_parts: parts of P, of `P_PARTS`, that the tensor core starts with.
    polynomial: of every 16 columns the last so many take exp2 on the FMA units instead of the special function unit, by
      a polynomial of this degree.
    """

    dtype: str = "bfloat16"
    head_dim: int = 128
    banded: bool = False
    rescale_threshold: float = 8.0
    head_parts: int = 3
    polynomial: int = 2
    degree: int = 5
    softmax_registers: int = 192
    correction_registers: int = 80
    other_registers: int = 48

    def __post_init__(self) -> None:
        """Refuses what cannot be built, in words."""
        problems = self.problems()
        if problems:
            raise ValueError("; ".join(problems))

    @property
    def roles(self) -> tuple[Role, ...]:
        """The programs of a CTA's warps; a warpgroup's four warps have one register count."""
        return (
            Role("softmax", 0, 4 * QUERY_TILES, self.softmax_registers),
            Role("correction", 8, 4, self.correction_registers),
            Role("mma", 12, 1, self.other_registers),
            Role("epilogue", 13, 1, self.other_registers),
            Role("load", 14, 1, self.other_registers),
            Role("idle", 15, 1, self.other_registers),
        )

    @property
    def name(self) -> str:
        """The variant's name, which its entry begins with."""
        kind = "banded" if self.banded else "dense"
        return f"jax_fa4_forward_sm100_{self.dtype}_d{self.head_dim}_{kind}"

    @property
    def threads(self) -> int:
        """Threads of a CTA."""
        return sum(role.warps for role in self.roles) * WARP

    def role(self, name: str) -> Role:
        """Returns the role of that name."""
        return next(role for role in self.roles if role.name == name)

    @property
    def register_groups(self) -> tuple[tuple[Role, ...], ...]:
        """Neighbouring roles with as many registers: whole warpgroups, of which all warps set them at once."""
        return tuple(tuple(roles) for _, roles in itertools.groupby(self.roles, lambda role: role.registers))

    @property
    def tile_bytes(self) -> int:
        """Bytes of 128 rows of an operand."""
        return TILE * self.head_dim * DTYPE_BYTES[self.dtype]

    @property
    def panel(self) -> int:
        """Columns of a swizzled panel: a tile lies in shared memory as panels of 128 rows x 128 bytes."""
        return SWIZZLE_ROW // DTYPE_BYTES[self.dtype]

    @property
    def panels(self) -> int:
        """Panels of a tile."""
        return self.head_dim // self.panel

    @property
    def panel_bytes(self) -> int:
        """Bytes of a panel."""
        return TILE * SWIZZLE_ROW

    @property
    def kv_slots(self) -> int:
        """As many tiles of keys or values as fit beside two of Q and two of the output, but no more than are of use."""
        fixed = 2 * QUERY_TILES * self.tile_bytes + SMALL_BYTES
        return min((SHARED_CAPACITY - fixed) // self.tile_bytes, 6)

    @property
    def rings(self) -> tuple[Ring, ...]:
        """All hand-overs between roles."""
        each, warpgroup = QUERY_TILES, 4  # one elected lane of each warp arrives
        return (
            Ring("q", "load", "mma", each, 1, 1, 1, "a query tile; empty once its last scores are computed"),
            Ring("kv", "load", "mma", 1, self.kv_slots, 1, 1, "keys and values of a block in turn"),
            Ring("s", "mma", "softmax", each, 1, 1, 0, "scores; overwritten only after P over them was used"),
            Ring("p", "softmax+correction", "mma", each, 1, 2 * warpgroup, 0,
                 "the head of P is stored and the accumulator rescaled; the next needs the scores in between"),
            Ring("p_tail", "softmax", "mma", each, 1, warpgroup, 0, "the rest of P; as p"),
            Ring("factor", "softmax", "correction", each, 1, warpgroup, 0,
                 "what a block multiplies a row by; the next follows scores that correction let happen"),
            Ring("inverse", "softmax", "correction", each, 1, warpgroup, warpgroup,
                 "what a row is multiplied by at last; tiles of one block have no other order that tells it was read"),
            Ring("o", "mma", "correction", each, 1, 1, 0, "the sum of a tile; p of the next tile says it was read"),
            Ring("out", "correction", "epilogue", each, 1, warpgroup, 1, "a finished tile in shared memory"),
        )  # fmt: skip

    @property
    def shared(self) -> tuple[Region, ...]:
        """Shared memory."""
        sizes = {
            "q": QUERY_TILES * self.tile_bytes,
            "kv": self.kv_slots * self.tile_bytes,
            "out": QUERY_TILES * self.tile_bytes,
            "factors": QUERY_TILES * TILE * 4,
            "inverses": QUERY_TILES * TILE * 4,
            "barriers": sum(ring.barriers for ring in self.rings) * 8,
            "tmem_address": 4,
        }
        regions, offset = [], 0
        for name, size in sizes.items():
            regions.append(Region(name, offset, size))
            offset += size
        return tuple(regions)

    @property
    def shared_bytes(self) -> int:
        """Dynamic shared memory of a launch."""
        return self.shared[-1].end

    @property
    def tmem(self) -> tuple[Region, ...]:
        """Tensor memory; P lies in the upper half of the scores it is made of, which its thread has read by then."""
        widths = (("s", TILE), ("o", self.head_dim))
        return tuple(
            Region(f"{name}{i}", self.column(name, i), width) for name, width in widths for i in range(QUERY_TILES)
        )

    def column(self, name: str, i: Int) -> Int:
        """Returns the first TMEM column of the scores "s", weights "p" or accumulator "o" of query tile i."""
        if name == "o":
            return QUERY_TILES * TILE + i * self.head_dim
        return i * TILE + {"s": 0, "p": TILE - TILE * DTYPE_BYTES[self.dtype] // 4}[name]

    def problems(self) -> list[str]:
        """Returns every limit that the plan breaks, with its numbers."""
        found = []
        if self.dtype not in DTYPE_BYTES:
            return [f"dtype {self.dtype!r}: one of {', '.join(DTYPE_BYTES)}"]
        if self.head_dim not in (64, 128):
            return [f"head_dim {self.head_dim}: 64 or 128"]
        if self.shared_bytes > SHARED_CAPACITY:
            found.append(f"shared memory: {self.shared_bytes} bytes of {SHARED_CAPACITY}")
        if self.kv_slots < 2:
            found.append(f"{self.kv_slots} slots for keys and values: a block needs 2")
        if self.tmem[-1].end > TMEM_COLUMNS:
            found.append(f"tensor memory: {self.tmem[-1].end} columns of {TMEM_COLUMNS}")
        found += [f"{a} and {b} overlap" for a, b in overlapping(self.shared) + overlapping(self.tmem)]
        registers = sum(role.registers * role.warps * WARP for role in self.roles)
        if registers > REGISTERS:
            found.append(f"registers: {registers} of {REGISTERS}")
        if any(sum(role.warps for role in group) % 4 for group in self.register_groups):
            found.append("roles of one warpgroup have one register count")
        if any(role.registers % 8 for role in self.roles):
            found.append("setmaxnreg takes multiples of 8")
        if not 1 <= self.head_parts <= P_PARTS:
            found.append(f"head_parts {self.head_parts}: 1 to {P_PARTS}")
        if not 0 <= self.polynomial <= 16 or self.polynomial % 2:
            found.append(f"polynomial {self.polynomial}: an even number up to 16")
        return found
