"""What a Hopper forward variant is made of, as plain data: tile shape, shared memory, barriers, registers.

The kernel allocates from these tables and the manifest is written from them; tests read them without the compiler.
"""

from dataclasses import dataclass
from typing import Any

from jax_fa4.kernels.parts import WARP, Region, Ring, Role, Stream, overlapping

WARPGROUP = 4  # warps that issue wgmma together
QUERY_ROWS = 64  # of a query tile: M of every wgmma, of one warpgroup
SHARED_CAPACITY = 232448  # bytes that a CTA may have, 227 KB
REGISTERS = 65536  # of a multiprocessor
SWIZZLE_ROW = 128  # bytes of a row in the 128-byte swizzle that tensor copies and tensor core share
ATOM_ROWS = 8  # of that swizzle
OWNER_WORDS = 4  # beside those of a block's keys: one for all of them
SMALL_BYTES = 2048  # of shared memory for all but tiles
MOST_SLOTS = 4  # of K, and of V, that are of use

DTYPE_BYTES = {"bfloat16": 2, "float16": 2}
OUTPUT_BYTES = DTYPE_BYTES | {"float32": 4}
KINDS = ("dense", "banded", "general")
HEAD_DIMS = ((64, 64), (96, 96), (128, 128), (192, 128), (256, 256))


@dataclass(frozen=True)
class ForwardPlan:
    """One variant of the forward pass.

    kind: "dense", rows see all keys; "banded", a band of them (causal, windows); "general", all features.
    output: dtype of the output where it is not that of the inputs.
    query_tiles: warpgroups that multiply, each with a query tile of its own.
    block: keys of a block.
    takes_turns: the warpgroups issue their products in turn, so that the softmax of one runs under those of another.
    rescale_threshold: a row's maximum may be exceeded by so many powers of two before the accumulator is rescaled.
    registers: of a thread of the warpgroups that multiply, and of the others.
    """

    dtype: str = "bfloat16"
    head_dim: int = 128
    value_head_dim: int = 128
    kind: str = "dense"
    output: str = ""
    query_tiles: int = 2
    block: int = 128
    takes_turns: bool = True
    rescale_threshold: float = 8.0
    registers: tuple[int, int] = (240, 32)

    def __post_init__(self) -> None:
        """Refuses what cannot be built, in words."""
        if problems := self.problems():
            raise ValueError("; ".join(problems))

    @property
    def name(self) -> str:
        """The variant's name, which its entry begins with."""
        heads = f"d{self.head_dim}" + (f"v{self.value_head_dim}" if self.value_head_dim != self.head_dim else "")
        output = f"_{self.output}" if self.output else ""
        return f"jax_fa4_forward_sm90_{self.dtype}_{heads}_{self.kind}{output}"

    @property
    def is_general(self) -> bool:
        """Whether the variant has all features."""
        return self.kind == "general"

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
    def threads(self) -> int:
        """Threads of a CTA."""
        return sum(role.warps for role in self.roles) * WARP

    def role(self, name: str) -> Role:
        """Returns the role of that name."""
        return next(role for role in self.roles if role.name == name)

    @property
    def query_rows(self) -> int:
        """Rows of a query tile."""
        return QUERY_ROWS

    @property
    def rows(self) -> int:
        """Rows of a CTA's tile."""
        return self.query_tiles * QUERY_ROWS

    @property
    def panel(self) -> int:
        """Columns of a panel of an input, whose rows are those of the swizzle."""
        return SWIZZLE_ROW // DTYPE_BYTES[self.dtype]

    @property
    def value_row(self) -> int:
        """Bytes of a row in a panel of V: whole panels make up all columns, for they follow along N of a product."""
        whole = self.value_head_dim * DTYPE_BYTES[self.dtype]
        return SWIZZLE_ROW if whole % SWIZZLE_ROW == 0 else SWIZZLE_ROW // 2

    @property
    def value_panel(self) -> int:
        """Columns of a panel of V."""
        return self.value_row // DTYPE_BYTES[self.dtype]

    @property
    def output_bytes(self) -> int:
        """Bytes of an element of the output."""
        return OUTPUT_BYTES[self.output or self.dtype]

    @property
    def output_panel(self) -> int:
        """Columns of a panel of the output."""
        return SWIZZLE_ROW // self.output_bytes

    @property
    def output_panel_bytes(self) -> int:
        """Shared bytes of a panel of the output."""
        return QUERY_ROWS * SWIZZLE_ROW

    @property
    def output_parts(self) -> int:
        """Parts in which an output tile passes through its room in shared memory, each as large as one of 16 bits."""
        return self.output_bytes // DTYPE_BYTES[self.dtype]

    def panels(self, columns: int) -> int:
        """Panels of a tile with so many columns; the last may be filled in part."""
        return -(-columns // self.panel)

    @property
    def query_bytes(self) -> int:
        """Shared bytes of a query tile."""
        return self.panels(self.head_dim) * QUERY_ROWS * SWIZZLE_ROW

    @property
    def output_tile_bytes(self) -> int:
        """Shared bytes for an output tile, or a part of it."""
        return self.panels(self.value_head_dim) * self.output_panel_bytes

    @property
    def output_pitch(self) -> int:
        """Bytes from one output tile in shared memory to the next."""
        return self.query_bytes if self.output_over_query else self.output_tile_bytes

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
        regions, offset = [], 0
        for name, size in sizes.items():
            regions.append(Region(name, offset, size))
            offset += size
        return tuple(regions)

    @property
    def shared_bytes(self) -> int:
        """Dynamic shared memory of a launch."""
        return self.shared[-1].end

    def manifest(self) -> dict[str, Any]:
        """What a launch must know, as the manifest has it."""
        return {
            "dtype": self.dtype, "output": self.output or self.dtype, "kind": self.kind,
            "head_dim": self.head_dim, "value_head_dim": self.value_head_dim,
            "threads": self.threads, "shared_bytes": self.shared_bytes, "cluster": [1, 1, 1],
            "tile_rows": self.rows, "minimum_rows": 0,
            # Tiles of a band take unequal times: the hardware hands them out one by one, the longest first.
            "persistent": self.kind == "dense", "dependent": False,
            "registers": {role.name: role.registers for role in self.roles},
        }  # fmt: skip

    def problems(self) -> list[str]:
        """Returns every limit that the plan breaks, with its numbers."""
        if self.dtype not in DTYPE_BYTES:
            return [f"dtype {self.dtype!r}: one of {', '.join(DTYPE_BYTES)}"]
        if self.output not in ("", "float32"):
            return [f"output {self.output!r}: float32, or empty for that of the inputs"]
        if self.kind not in KINDS:
            return [f"kind {self.kind!r}: one of {', '.join(KINDS)}"]
        if (self.head_dim, self.value_head_dim) not in HEAD_DIMS:
            return [f"head_dim {self.head_dim} with values of {self.value_head_dim}: one of {HEAD_DIMS}"]
        found = []
        if self.query_tiles not in (1, 2, 3):
            found.append(f"{self.query_tiles} query tiles: 1 to 3")
        if self.block % 16 or not 16 <= self.block <= 256 or (self.is_general and self.block % WARP):
            found.append(f"blocks of {self.block} keys: a multiple of 16, in general variants of {WARP}, up to 256")
        if self.shared_bytes > SHARED_CAPACITY:
            found.append(f"shared memory: {self.shared_bytes} bytes of {SHARED_CAPACITY}")
        if self.slots < 2:
            found.append(f"{self.slots} slots for keys and for values: the next keys come before the values, so 2")
        found += [f"{a} and {b} overlap" for a, b in overlapping(self.shared)]
        registers = sum(role.registers * role.warps * WARP for role in self.roles)
        if registers > REGISTERS:
            found.append(f"registers: {registers} of {REGISTERS}")
        if any(role.registers % 8 for role in self.roles):
            found.append("setmaxnreg takes multiples of 8")
        return found
