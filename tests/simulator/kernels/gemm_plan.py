"""The ring of K tiles that the GEMMs share; what a tcgen05 GEMM is compiled for, and the sizes that follow."""

from dataclasses import dataclass

STAGES = 2
TILE_K = 64  # one 128-byte swizzle row of bf16


@dataclass(frozen=True)
class Gemm:
    """The compile-time choices: the MMA's M and N, majors of A and B, and how the work is shared out."""

    m: int
    n: int
    a_major: str = "k"
    b_major: str = "k"
    pair: bool = False
    multicast: bool = False
    a_in_tmem: bool = False
    load_shape: str = "32x32b"

    @property
    def cluster(self) -> int:
        return 2 if self.pair or self.multicast else 1

    @property
    def group(self) -> str:
        return "cta_2" if self.pair else "cta_1"

    @property
    def rows(self) -> int:
        """Rows of A, and of D, in one CTA."""
        return self.m // 2 if self.pair else self.m

    @property
    def b_rows(self) -> int:
        """Rows of B in one CTA's shared memory."""
        return self.n // 2 if self.pair else self.n

    @property
    def b_rows_loaded(self) -> int:
        """Rows of B that one CTA loads."""
        return self.n // self.cluster

    @property
    def bytes_per_stage(self) -> int:
        """What completes on one full mbarrier; that of a pair is the even CTA's."""
        own = (0 if self.a_in_tmem else self.rows) + self.b_rows
        return own * TILE_K * 2 * (2 if self.pair else 1)

    @property
    def lanes_split_n(self) -> bool:
        """M = 128 over a pair: lanes 64.. of a CTA hold the upper half of the columns of its 64 rows."""
        return self.pair and self.m == 128

    @property
    def columns(self) -> int:
        """Tensor memory columns of D."""
        return self.n // 2 if self.lanes_split_n else self.n

    @property
    def columns_allocated(self) -> int:
        """A power of two; A in tensor memory follows D with two bf16 to a column."""
        used = self.columns + (STAGES * TILE_K // 2 if self.a_in_tmem else 0)
        return 1 << (used - 1).bit_length()


def operand_box(major: str, rows: int) -> tuple[int, int]:
    """The TMA box of a K tile: all rows when K-major, 64 of them, innermost, when MN-major."""
    return (TILE_K, rows) if major == "k" else (64, TILE_K)
