"""Runs a compiled forward kernel in the simulator on NumPy arrays, as the launch path would on a GPU."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from cases import Case
from jax_fa4_simulator import Kernel, Result, TensorMap, bound, empty, run
from numpy.typing import NDArray

from jax_fa4.kernels.variants import OPTIONAL, OPTIONAL_FLOATS

Array = NDArray[Any]
DTYPE_NUMBERS = {"float32": 0, "bfloat16": 1, "float16": 2, "float64": 3}
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


def pack_of(manifest: dict[str, Any], group: int) -> int:
    """Returns how many query heads one packed head has: a power of two that divides the group and a tile's rows."""
    query = next(parameter for parameter in manifest["parameters"] if parameter["name"] == "query")
    rows = query["box"][query["axes"].index("length")]
    return min(group & -group, rows & -rows)


@dataclass
class Launch:
    """One launch and its results; query is B T N H, key B S K H, value B S K Hv.

    optional: the arrays of a general variant by name, as the public call has them.
    """

    variant: Variant
    query: Array
    key: Array
    value: Array
    band: tuple[int, int] = (0, 0)
    scale: float | None = None
    ctas: int | None = None
    section: int = 1
    soft_cap: float = 0.0
    optional: dict[str, Array] = field(default_factory=dict)

    def __post_init__(self) -> None:
        batch, queries, heads, _ = self.query.shape
        dtype = np.dtype(self.variant.manifest["output"]) if self.is_float32 else self.query.dtype
        self.output = device_array(np.full((*self.query.shape[:3], self.value.shape[3]), np.nan, dtype))
        self.log_sum_exp = device_array(np.full((batch, heads, queries), np.nan, np.float32))
        self.pack = pack_of(self.variant.manifest, heads // self.key.shape[2])
        if self.ctas is None:
            cluster = self.variant.manifest["cluster"][0]
            rows = self.variant.manifest["tile_rows"] * cluster
            self.ctas = batch * (heads // self.pack) * -(-queries * self.pack // rows) * cluster

    @property
    def is_float32(self) -> bool:
        return bool(self.variant.manifest["output"] == "float32")

    def arguments(self) -> list[Any]:
        """The parameters, by the names that the manifest gives them."""
        batch, queries, heads, head_dim = self.query.shape
        scale = head_dim**-0.5 if self.scale is None else self.scale
        values: dict[str, Any] = {
            "query": self.packed(self.query), "key": self.key, "value": self.value, "output": self.packed(self.output),
            "log_sum_exp": self.log_sum_exp, "queries": queries, "keys": self.key.shape[1], "heads": heads // self.pack,
            "group": heads // self.key.shape[2] // self.pack, "pack_shift": self.pack.bit_length() - 1,
            "batch": batch, "section": self.section, "low": self.band[0], "high": self.band[1],
            "scale_log2": np.float32(scale * math.log2(math.e)), "logits_soft_cap": np.float32(self.soft_cap),
        }  # fmt: skip
        for name in OPTIONAL:
            array = self.optional.get(name)
            values[name] = np.uint64(0) if array is None else array
            # One element for each entry of the batch, or a row of them; what has no batch axis is shared.
            shared = array is None or array.ndim == (1 if name in OPTIONAL_FLOATS else 0)
            values[f"{name}_stride"] = 0 if shared else array.size // batch  # type: ignore[union-attr]
            values[f"{name}_dtype"] = 0 if array is None else DTYPE_NUMBERS.get(array.dtype.name, 0)
        return [self.argument(parameter, values) for parameter in self.variant.manifest["parameters"]]

    def packed(self, array: Array) -> Array:
        """Returns a view with axes batch, heads, length, pack, head_dim: those of its tensor map, outermost first."""
        batch, length, heads, head_dim = array.shape
        stride = array.strides
        shape = (batch, heads // self.pack, length, self.pack, head_dim)
        strides = (stride[0], stride[2] * self.pack, stride[1], stride[2], stride[3])
        return np.lib.stride_tricks.as_strided(array, shape, strides)

    def argument(self, parameter: dict[str, Any], values: dict[str, Any]) -> Any:
        value = values[parameter["name"]]
        if parameter["kind"] == "tensor_map":
            if value.size == 0:  # no keys: a tensor map has no empty extents, and nothing is copied
                value = device_array(np.zeros([max(1, extent) for extent in value.shape], value.dtype))
            box = list(parameter["box"])
            if "pack" in parameter["axes"]:
                pack, length = parameter["axes"].index("pack"), parameter["axes"].index("length")
                box[pack], box[length] = self.pack, box[length] // self.pack
            return TensorMap(value, box, swizzle=parameter["swizzle"])
        return np.int32(value) if parameter["kind"] == "i32" else value

    def run(self, **options: Any) -> Result:
        """Launches; a report raises."""
        manifest = self.variant.manifest
        result = run(
            self.variant.kernel,
            grid=self.ctas,
            block=manifest["threads"],
            cluster=manifest["cluster"],
            dynamic_shared=manifest["shared_bytes"],
            arguments=self.arguments(),
            **options,
        )
        assert result.executed.sum() > 0
        return result


def launch_of(variant: Variant, case: Case, **options: Any) -> Launch:
    """The launch of a case as the launch path would make it."""
    arrays = {name: device_array(np.asarray(array)) for name, array in case.arrays().items()}
    arguments = case.arguments()
    band = band_of(
        arguments.get("is_causal", False), arguments.get("local_window_size") or (None, None), 0
    )  # fmt: skip
    optional = {name: arrays[name] for name in OPTIONAL if name in arrays}
    return Launch(
        variant, arrays["query"], arrays["key"], arrays["value"], band=band, scale=arguments.get("scale"),
        soft_cap=arguments.get("logits_soft_cap") or 0.0, optional=optional, **options,
    )  # fmt: skip
