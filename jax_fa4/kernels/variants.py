"""What is compiled: every variant, and its entry's parameters in order with what they mean."""

from dataclasses import dataclass

from jax_fa4.kernels.sm100.plan import TILE, ForwardPlan

ARCHITECTURES = ("sm_100a", "sm_100f")

# Columns of 16 whose exp2 the FMA units do, by head_dim: from counts, not measured on a GPU. A block of 128 x 128
# scores takes 8 * (129 - 8 n) clocks of the special function unit, about 450 + 40 n issue slots of a scheduler, and
# 8 * head_dim clocks of the tensor core.
POLYNOMIAL_COLUMNS = {64: 4, 128: 2}


@dataclass(frozen=True)
class TensorMapParameter:
    """A tensor map; extents and box are innermost first, and rank 4: head_dim, heads, length, batch."""

    name: str
    meaning: str
    dtype: str
    box: tuple[int, ...]
    swizzle: str = "128B"

    def describe(self) -> dict[str, object]:
        """As the manifest has it."""
        return {
            "name": self.name, "kind": "tensor_map", "meaning": self.meaning, "dtype": self.dtype,
            "rank": len(self.box), "box": list(self.box), "swizzle": self.swizzle,
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
    """Returns the variants of the forward pass."""
    return [
        ForwardPlan(dtype=dtype, head_dim=head_dim, banded=banded, polynomial=POLYNOMIAL_COLUMNS[head_dim])
        for dtype in ("bfloat16", "float16")
        for head_dim in (64, 128)
        for banded in (False, True)
    ]


def forward_parameters(plan: ForwardPlan) -> list[Parameter]:
    """Returns the parameters of the forward entry, in order."""
    box = (plan.panel, 1, TILE, 1)
    maps = [
        TensorMapParameter(name, meaning, plan.dtype, box)
        for name, meaning in (
            ("query", "query, B T N H"), ("key", "key, B S K H"), ("value", "value, B S K H"), ("output", "B T N H"),
        )
    ]  # fmt: skip
    return [
        *maps,
        PlainParameter("log_sum_exp", "pointer", "natural log-sum-exp, B N T", "float32"),
        PlainParameter("queries", "i32", "T, at least 1"),
        PlainParameter("keys", "i32", "S, at least 1"),
        PlainParameter("heads", "i32", "N"),
        PlainParameter("group", "i32", "N / K"),
        PlainParameter("batch", "i32", "B"),
        PlainParameter("section", "i32", "heads whose keys and values share the L2 cache, at least 1"),
        PlainParameter("low", "i32", "banded: the lowest key minus the row that sees it, within +-2^30"),
        PlainParameter("high", "i32", "banded: the highest key minus the row that sees it, within +-2^30"),
        PlainParameter("scale_log2", "f32", "softmax scale times log2(e)"),
    ]
