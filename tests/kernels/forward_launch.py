"""Runs a compiled forward kernel in the simulator on NumPy arrays, as the launch path would on a GPU."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jax_fa4_simulator import Kernel, Result, TensorMap, bound, empty, run
from numpy.typing import NDArray

Array = NDArray[Any]
UNBOUNDED = 1 << 30


@dataclass(frozen=True)
class Variant:
    """A built kernel and what the manifest says of it."""

    kernel: Kernel
    manifest: dict[str, Any]


def read_variants(folder: Path) -> dict[str, Variant]:
    """Returns the variants that were built, by name."""
    manifest = json.loads((folder / "manifest.json").read_text())
    return {
        entry["name"]: Variant(bound(folder / f"{entry['name']}.ptx", entry["entry"]), entry)
        for entry in manifest["variants"]
    }


def device_array(like: Array) -> Array:
    """Returns a copy where a kernel can use it."""
    array = empty(like.shape, like.dtype)
    array[...] = like
    return array


def band_of(is_causal: bool, window: tuple[int | None, int | None], offset: int) -> tuple[int, int]:
    """Returns (low, high): a row sees the keys from row + low to row + high."""
    left, right = window
    low = -UNBOUNDED if left is None else offset - left
    high = UNBOUNDED if right is None else offset + right
    return low, min(high, offset) if is_causal else high


@dataclass
class Launch:
    """One launch and its results; query is B T N H, key and value B S K H."""

    variant: Variant
    query: Array
    key: Array
    value: Array
    band: tuple[int, int] = (0, 0)
    scale: float | None = None
    ctas: int | None = None
    section: int = 1

    def __post_init__(self) -> None:
        batch, queries, heads, _ = self.query.shape
        self.output = device_array(np.full(self.query.shape, np.nan, self.query.dtype))
        self.log_sum_exp = device_array(np.full((batch, heads, queries), np.nan, np.float32))
        self.tiles = batch * heads * -(-queries // self.variant.manifest["tile_rows"])

    def arguments(self) -> list[Any]:
        """The parameters, by the names that the manifest gives them."""
        batch, queries, heads, head_dim = self.query.shape
        scale = head_dim**-0.5 if self.scale is None else self.scale
        values: dict[str, Any] = {
            "query": self.query, "key": self.key, "value": self.value, "output": self.output,
            "log_sum_exp": self.log_sum_exp, "queries": queries, "keys": self.key.shape[1], "heads": heads,
            "group": heads // self.key.shape[2], "batch": batch, "section": self.section,
            "low": self.band[0], "high": self.band[1], "scale_log2": np.float32(scale * math.log2(math.e)),
        }  # fmt: skip
        return [self.argument(parameter, values) for parameter in self.variant.manifest["parameters"]]

    @staticmethod
    def argument(parameter: dict[str, Any], values: dict[str, Any]) -> Any:
        value = values[parameter["name"]]
        if parameter["kind"] == "tensor_map":
            return TensorMap(value, parameter["box"], swizzle=parameter["swizzle"])
        return np.int32(value) if parameter["kind"] == "i32" else value

    def run(self, **options: Any) -> Result:
        """Launches; a report raises."""
        manifest = self.variant.manifest
        result = run(
            self.variant.kernel,
            grid=self.ctas or self.tiles,
            block=manifest["threads"],
            cluster=manifest["cluster"],
            dynamic_shared=manifest["shared_bytes"],
            arguments=self.arguments(),
            **options,
        )
        assert result.executed.sum() > 0
        return result
