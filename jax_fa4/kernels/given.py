"""What a launch gives: its parameters by their names, and what they say together."""

import dataclasses
from dataclasses import dataclass
from typing import Any

import cutlass.experimental.cuda as cuda
from cutlass import Float32
from cutlass.base_dsl.typing import GridConstant

from jax_fa4.kernels.optional import Offsets, Optional, OptionalArray
from jax_fa4.kernels.row_softmax import LOG2_E
from jax_fa4.kernels.tile_loop import Band, Each, Problem
from jax_fa4.kernels.variants import plain_parameters

TensorMap: Any = GridConstant[cuda.TensorMap]


@dataclass(frozen=True)
class Arrays:
    """The arrays of a launch: tensor maps, a pointer for log-sum-exp, and the arrays of a general variant."""

    q: Any
    k: Any
    v: Any
    out: Any
    log_sum_exp: Any
    optional: Any = None


@dataclass(frozen=True)
class Scores:
    """What products of query and key are multiplied by; a soft cap of logits in general variants. Times log2(e)."""

    scale_log2: Any
    cap_log2: Any = None


class Given:
    """The parameters of a launch by their names."""

    def __init__(self, plan: Any, values: tuple[Any, ...]) -> None:
        self.plan = plan
        names = [parameter.name for parameter in plain_parameters(plan)]
        self.values = dict(zip(names, values, strict=True))

    def __getitem__(self, name: str) -> Any:
        return self.values[name]

    def problem(self) -> Problem:
        """Returns the extents of the launch."""
        band = Band(self["low"], self["high"]) if "low" in self.values else None
        each: Each | None = None
        if self.plan.kind == "banded":
            each = Offsets(self.array("query_offset"))
        elif self.plan.is_general:
            each = self.optional()
        return Problem(
            self["queries"], self["keys"], self["heads"], self["batch"], band, self["pack_shift"], each
        )  # fmt: skip

    def optional(self) -> Optional:
        """Returns the arrays of a general variant."""
        return Optional(*(self.array(field.name) for field in dataclasses.fields(Optional)))

    def array(self, name: str) -> OptionalArray:
        """Returns an array that may be absent."""
        return OptionalArray(self[name], self[f"{name}_stride"], self.values.get(f"{name}_dtype"))

    def scores(self) -> Scores:
        """Returns what scores are multiplied by and limited to."""
        cap = self.values.get("logits_soft_cap")
        return Scores(self["scale_log2"], None if cap is None else cap * Float32(LOG2_E))

    def arrays(self, query: Any, key: Any, value: Any, output: Any) -> Arrays:
        """Returns what the launch reads and writes; the arguments are tensor maps."""
        optional = self.optional() if self.plan.is_general else None
        q, k, v, out = (one.get_ptr() for one in (query, key, value, output))
        return Arrays(q, k, v, out, self["log_sum_exp"], optional)
