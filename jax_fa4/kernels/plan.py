"""What the plans of both architectures share: what a variant is for, its tiles as panels, its limits, its manifest."""

from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from typing import Any, ClassVar

from jax_fa4.kernels.parts import WARP, Region, Ring, Role, Stream, overlapping

SHARED_CAPACITY = 232448  # bytes that a CTA may have, 227 KB
REGISTERS = 65536  # of a multiprocessor
SWIZZLE_ROW = 128  # bytes of a row in the 128-byte swizzle that tensor copies and tensor core share
ATOM_ROWS = 8  # of that swizzle

DTYPE_BYTES = {"bfloat16": 2, "float16": 2}
OUTPUT_BYTES = DTYPE_BYTES | {"float32": 4}
KINDS = ("dense", "banded", "general")


@dataclass(frozen=True)
class TilePlan(ABC):
    """One variant of the forward pass, for any GPU.

    kind: "dense", rows see all keys; "banded", a band of them (causal, windows); "general", all features.
    output: dtype of the output where it is not that of the inputs.
    rescale_threshold: a row's maximum may be exceeded by so many powers of two before the accumulator is rescaled.
    """

    dtype: str = "bfloat16"
    head_dim: int = 128
    value_head_dim: int = 128
    kind: str = "dense"
    output: str = ""
    rescale_threshold: float = field(default=8.0, kw_only=True)

    # Of an architecture: its name, head_dims of keys and of values, rows of a query tile.
    architecture: ClassVar[str]
    head_dims: ClassVar[tuple[tuple[int, int], ...]]
    query_rows: ClassVar[int]

    def __post_init__(self) -> None:
        """Refuses what cannot be built, in words."""
        if problems := self.unknown() or self.broken_limits():
            raise ValueError("; ".join(problems))

    @property
    @abstractmethod
    def query_tiles(self) -> int:
        """Query tiles of a CTA."""

    @property
    @abstractmethod
    def block(self) -> int:
        """Keys of a block."""

    @property
    @abstractmethod
    def roles(self) -> tuple[Role, ...]:
        """The programs of a CTA's warps; a warpgroup's four warps have one register count."""

    @property
    @abstractmethod
    def rings(self) -> tuple[Ring, ...]:
        """All hand-overs between roles."""

    @property
    @abstractmethod
    def shared(self) -> tuple[Region, ...]:
        """Shared memory; an output tile without room of its own lies over the query tile."""

    @property
    @abstractmethod
    def keys(self) -> Stream:
        """The tiles of K."""

    @property
    @abstractmethod
    def values(self) -> Stream:
        """The tiles of V."""

    @property
    @abstractmethod
    def key_rows(self) -> int:
        """Keys of a block whose K a CTA has."""

    @property
    @abstractmethod
    def output_over_query(self) -> bool:
        """Whether an output tile takes the room of its query tile: there is none beside it."""

    @property
    def ctas(self) -> int:
        """CTAs that share keys and values."""
        return 1

    @property
    def name(self) -> str:
        """The variant's name, which its entry begins with."""
        heads = f"d{self.head_dim}" + (f"v{self.value_head_dim}" if self.value_head_dim != self.head_dim else "")
        output = f"_{self.output}" if self.output else ""
        pair = "_2cta" if self.ctas == 2 else ""
        return f"jax_fa4_forward_{self.architecture}_{self.dtype}_{heads}_{self.kind}{output}{pair}"

    @property
    def is_general(self) -> bool:
        """Whether the variant has all features."""
        return self.kind == "general"

    @property
    def threads(self) -> int:
        """Threads of a CTA."""
        return sum(role.warps for role in self.roles) * WARP

    def role(self, name: str) -> Role:
        """Returns the role of that name."""
        return next(role for role in self.roles if role.name == name)

    @property
    def rows(self) -> int:
        """Rows of a CTA's tile."""
        return self.query_tiles * self.query_rows

    @property
    def panel(self) -> int:
        """Columns of a panel of an input, whose rows are those of the swizzle."""
        return SWIZZLE_ROW // DTYPE_BYTES[self.dtype]

    @property
    def panel_bytes(self) -> int:
        """Shared bytes of a panel of a query tile, or of an output tile."""
        return self.query_rows * SWIZZLE_ROW

    def panels(self, columns: int) -> int:
        """Panels of a tile with so many columns; the last may be filled in part."""
        return -(-columns // self.panel)

    @property
    def query_bytes(self) -> int:
        """Shared bytes of a query tile."""
        return self.panels(self.head_dim) * self.panel_bytes

    @property
    def value_row(self) -> int:
        """Bytes of a row in a panel of V."""
        return SWIZZLE_ROW

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
    def output_parts(self) -> int:
        """Parts in which an output tile passes through its room in shared memory, each as large as one of 16 bits."""
        return self.output_bytes // DTYPE_BYTES[self.dtype]

    @property
    def output_tile_bytes(self) -> int:
        """Shared bytes for an output tile, or a part of it."""
        return self.panels(self.value_head_dim) * self.panel_bytes

    @property
    def output_pitch(self) -> int:
        """Bytes from one output tile in shared memory to the next."""
        return self.query_bytes if self.output_over_query else self.output_tile_bytes

    @property
    def shared_bytes(self) -> int:
        """Dynamic shared memory of a launch."""
        return self.shared[-1].end

    def manifest(self) -> dict[str, Any]:
        """What a launch must know, as the manifest has it."""
        return {
            "dtype": self.dtype, "output": self.output or self.dtype, "kind": self.kind,
            "head_dim": self.head_dim, "value_head_dim": self.value_head_dim,
            "threads": self.threads, "shared_bytes": self.shared_bytes, "cluster": [self.ctas, 1, 1],
            # Where one CTA can do all rows of a head, a pair would be idle by half.
            "tile_rows": self.rows, "minimum_rows": self.rows * (self.ctas - 1),
            # Tiles of a band take unequal times: the hardware hands them out one by one, the longest first.
            "persistent": self.kind == "dense", "dependent": False,
            "registers": {role.name: role.registers for role in self.roles},
        }  # fmt: skip

    def unknown(self) -> list[str]:
        """Returns what no variant is for; all else is computed from it."""
        if self.dtype not in DTYPE_BYTES:
            return [f"dtype {self.dtype!r}: one of {', '.join(DTYPE_BYTES)}"]
        if self.output not in ("", "float32"):
            return [f"output {self.output!r}: float32, or empty for that of the inputs"]
        if self.kind not in KINDS:
            return [f"kind {self.kind!r}: one of {', '.join(KINDS)}"]
        if (self.head_dim, self.value_head_dim) not in self.head_dims:
            return [f"head_dim {self.head_dim} with values of {self.value_head_dim}: one of {self.head_dims}"]
        return []

    def broken_limits(self) -> list[str]:
        """Returns every limit of the machine that the plan breaks, with its numbers."""
        found = []
        if self.shared_bytes > SHARED_CAPACITY:
            found.append(f"shared memory: {self.shared_bytes} bytes of {SHARED_CAPACITY}")
        found += [f"{a} and {b} overlap" for a, b in overlapping(self.shared)]
        registers = sum(role.registers * role.warps * WARP for role in self.roles)
        if registers > REGISTERS:
            found.append(f"registers: {registers} of {REGISTERS}")
        if any(role.registers % 8 for role in self.roles):
            found.append("setmaxnreg takes multiples of 8")
        return found
