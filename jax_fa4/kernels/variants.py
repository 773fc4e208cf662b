"""What is compiled: every variant, and its entry's parameters in order with what they mean."""

from dataclasses import dataclass

from jax_fa4.kernels.sm90 import plan as sm90
from jax_fa4.kernels.sm100.plan import HEAD_DIMS, TILE, ForwardPlan

Plan = ForwardPlan | sm90.ForwardPlan


@dataclass(frozen=True)
class Tuning:
    """Numbers of a variant that are not measured on a GPU yet: chosen by counts (`make bench-model`).

    polynomial: columns of 16 whose exp2 the FMA units do: so many that the special function unit, and whatever then is
      the next, leave the tensor core the most room.
    registers: of a thread of softmax, of correction, of the others; so few that nothing is spilled.
    """

    kind: str
    head_dim: int
    polynomial: int
    registers: tuple[int, int, int] = (192, 80, 48)
    ctas: int = 1


# With heads of 192 one CTA's shared memory is as busy as its special function unit: a share would gain nothing.
# A general block has no registers left for more polynomials.
TUNING = (
    Tuning("dense", 128, 4, ctas=2), Tuning("dense", 192, 4, ctas=2),
    Tuning("dense", 64, 4), Tuning("dense", 96, 4), Tuning("dense", 128, 4), Tuning("dense", 192, 0),
    Tuning("banded", 64, 4), Tuning("banded", 96, 4), Tuning("banded", 128, 4), Tuning("banded", 192, 0),
    *(Tuning("general", head_dim, 2, (192, 96, 32)) for head_dim in (64, 96, 128)),
    Tuning("general", 192, 0, (192, 96, 32)),
)  # fmt: skip


def tuning(kind: str, head_dim: int, ctas: int) -> Tuning:
    """Returns the numbers of a variant."""
    return next(row for row in TUNING if (row.kind, row.head_dim, row.ctas) == (kind, head_dim, ctas))


# Kind, dtype of the output, CTAs that share keys and values; pairs of them for the largest value heads alone, of which
# each CTA can have half in whole panels.
VARIANTS = (("dense", "", 2), ("dense", "", 1), ("banded", "", 1), ("general", "", 1), ("general", "float32", 1))


@dataclass(frozen=True)
class TensorMapParameter:
    """A tensor map; axes and box are innermost first."""

    name: str
    meaning: str
    dtype: str
    axes: tuple[str, ...]
    box: tuple[int, ...]
    swizzle: str = "128B"

    def describe(self) -> dict[str, object]:
        """As the manifest has it."""
        return {
            "name": self.name, "kind": "tensor_map", "meaning": self.meaning, "dtype": self.dtype,
            "rank": len(self.box), "axes": list(self.axes), "box": list(self.box), "swizzle": self.swizzle,
        }  # fmt: skip


@dataclass(frozen=True)
class PlainParameter:
    """A pointer or a 32-bit number: kind is "pointer", "i32" or "f32"."""

    name: str
    kind: str
    meaning: str
    dtype: str | None = None

    def describe(self) -> dict[str, object]:
        """As the manifest has it."""
        described: dict[str, object] = {"name": self.name, "kind": self.kind, "meaning": self.meaning}
        return described | ({"dtype": self.dtype} if self.dtype else {})


Parameter = TensorMapParameter | PlainParameter


def forward_plans() -> list[ForwardPlan]:
    """Returns the variants of the forward pass: a call takes the first that can do it."""
    return [
        forward_plan(dtype, heads, *variant)
        for dtype in ("bfloat16", "float16")
        for heads in HEAD_DIMS
        for variant in VARIANTS
        if variant[2] == 1 or heads[1] == TILE
    ]


def forward_plan(dtype: str, heads: tuple[int, int], kind: str, output: str, ctas: int) -> ForwardPlan:
    """Returns a variant with the numbers of its row of the tuning table."""
    row = tuning(kind, heads[0], ctas)
    softmax, correction, others = row.registers
    return ForwardPlan(
        dtype, *heads, kind, output, ctas, polynomial=row.polynomial, softmax_registers=softmax,
        correction_registers=correction, other_registers=others,
    )  # fmt: skip


@dataclass(frozen=True)
class HopperTile:
    """A tile of FlashAttention-3's: what it publishes for 16-bit inputs, in hopper/tile_size.h of its sources.

    kinds: of the variants. blocks: keys of a block.
    query_tiles: of 64 rows, each of a warpgroup. registers: of a thread of those, and of the others.
    """

    head_dim: int
    kinds: tuple[str, ...]
    query_tiles: int
    block: int
    registers: tuple[int, int] = (240, 32)


THREE = (160, 32)  # registers where three warpgroups multiply
HOPPER_TILES = (
    HopperTile(64, ("dense", "banded"), 3, 128, THREE),
    HopperTile(64, ("general",), 2, 128),
    HopperTile(96, ("dense", "banded", "general"), 2, 128),
    HopperTile(128, ("dense",), 2, 176),
    HopperTile(128, ("banded", "general"), 2, 128),
    HopperTile(192, ("dense", "banded"), 2, 128),
    HopperTile(192, ("general",), 2, 96),
    HopperTile(256, ("dense", "banded"), 2, 80),
    HopperTile(256, ("general",), 2, 64),
)  # fmt: skip

HOPPER_VARIANTS = (("dense", ""), ("banded", ""), ("general", ""), ("general", "float32"))


def hopper_plans() -> list[sm90.ForwardPlan]:
    """Returns the variants of the forward pass for sm_90a, likewise."""
    return [
        hopper_plan(dtype, heads, *variant)
        for dtype in ("bfloat16", "float16")
        for heads in sm90.HEAD_DIMS
        for variant in HOPPER_VARIANTS
    ]


def hopper_plan(dtype: str, heads: tuple[int, int], kind: str, output: str) -> sm90.ForwardPlan:
    """Returns a variant with the tile of its row of the table."""
    row = next(row for row in HOPPER_TILES if row.head_dim == heads[0] and kind in row.kinds)
    # With larger heads a product takes longer than a softmax: there is nothing to wait for.
    in_turn = row.head_dim <= 128
    return sm90.ForwardPlan(
        dtype, *heads, kind, output, row.query_tiles, row.block, in_turn, registers=row.registers
    )  # fmt: skip


QUERY_AXES = ("head_dim", "pack", "length", "heads", "batch")
KEY_AXES = ("head_dim", "heads", "length", "batch")

# Of general variants: operands that may be absent, and which of them are floats of any dtype.
OPTIONAL = (
    "sinks", "alibi_slopes", "query_segment_ids", "key_value_segment_ids", "query_seq_lengths",
    "key_value_seq_lengths", "query_offset",
)  # fmt: skip
OPTIONAL_FLOATS = ("sinks", "alibi_slopes")


def optional_arrays(plan: Plan) -> tuple[str, ...]:
    """Returns the operands of a variant that may be absent."""
    return {"dense": (), "banded": ("query_offset",), "general": OPTIONAL}[plan.kind]


def forward_parameters(plan: Plan) -> list[Parameter]:
    """Returns the parameters of the forward entry, in order."""
    # Where heads are packed, the launch gives the box's rows to `pack` and `length` together.
    query, key = (plan.panel, 1, plan.query_rows, 1, 1), (plan.panel, 1, plan.key_rows, 1)
    value, swizzle = (plan.value_panel, 1, plan.block, 1), f"{plan.value_row}B"
    output = (plan.output_panel, 1, plan.query_rows, 1, 1)
    return [
        TensorMapParameter("query", "query, B T N H", plan.dtype, QUERY_AXES, query),
        TensorMapParameter("key", "key, B S K H", plan.dtype, KEY_AXES, key),
        TensorMapParameter("value", "value, B S K Hv", plan.dtype, KEY_AXES, value, swizzle),
        TensorMapParameter("output", "B T N Hv", plan.output or plan.dtype, QUERY_AXES, output),
        *plain_parameters(plan),
    ]


def plain_parameters(plan: Plan) -> list[PlainParameter]:
    """Returns those behind the tensor maps."""
    parameters = [
        PlainParameter("log_sum_exp", "pointer", "natural log-sum-exp, B N T", "float32"),
        PlainParameter("queries", "i32", "T, at least 1"),
        PlainParameter("keys", "i32", "S"),
        PlainParameter("heads", "i32", "packed heads: N / pack"),
        PlainParameter("group", "i32", "packed heads that share a head of keys: N / K / pack"),
        PlainParameter("pack_shift", "i32", "log2 of pack, the query heads in a packed head"),
        PlainParameter("batch", "i32", "B"),
        PlainParameter("section", "i32", "packed heads whose keys and values share the L2 cache, at least 1"),
        PlainParameter("scale_log2", "f32", "softmax scale times log2(e)"),
    ]
    if plan.kind != "dense":
        parameters += [
            PlainParameter("low", "i32", "the lowest key minus the position that sees it; -2^30: no limit"),
            PlainParameter("high", "i32", "the highest key minus the position that sees it; 2^30: no limit"),
        ]
    for name in optional_arrays(plan):
        parameters.append(PlainParameter(name, "pointer", "null where absent"))
        parameters.append(PlainParameter(f"{name}_stride", "i32", "elements between batch entries, 0 if shared"))
    if plan.is_general:
        for name in OPTIONAL_FLOATS:
            meaning = "0 float32, 1 bfloat16, 2 float16, 3 float64"
            parameters.append(PlainParameter(f"{name}_dtype", "i32", meaning))
        parameters.append(PlainParameter("logits_soft_cap", "f32", "0: none"))
    return parameters
