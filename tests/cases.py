"""The calls of attention that implementations are tested on, each described by what is present and how large it is."""

from __future__ import annotations

import dataclasses
from typing import Any, Literal

import ml_dtypes
import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]

DTYPES: dict[str, np.dtype[Any]] = {
    "float32": np.dtype(np.float32),
    "bfloat16": np.dtype(ml_dtypes.bfloat16),
    "float16": np.dtype(np.float16),
    "float64": np.dtype(np.float64),
}
SHORT_NAMES = {"float32": "f32", "bfloat16": "bf16", "float16": "f16", "float64": "f64"}

# What growing logits rise by from the first key to the last: enough for a new row maximum in every tile.
GROWTH = 80.0

# Kinds of length of successive batch elements; where both sides have them, an empty one meets one that is not.
QUERY_LENGTHS = ("last", "edge", "beyond", "zero", "short", "negative", "edge")
KEY_LENGTHS = ("edge", "beyond", "last", "short", "zero", "last", "negative")


@dataclasses.dataclass(frozen=True)
class Case:
    """One call of attention.

    Attributes:
      value_head_dim: None is head_dim.
      window: local_window_size.
      bias: which axes of (B, N, T, S) it has; "blocked" is a full one that is -inf for all keys of every third query.
      mask: which axes it has; "none_visible" is a single False.
      lengths: which sides have lengths. They straddle tile edges; 0, negative and too large ones are among them.
      segments: "packed" is a few sorted segments, then padding; "halves" are two long ones and a little padding, so
        that some tiles lie in one, some straddle both, some have padding too; "singletons" is one for each token.
      query_offset: the form of the run-time offset: chunked prefill and, in one batch element, queries before all keys.
      parameter_dtype: dtype of bias, sinks and slopes; None is the inputs' for bias, the log-sum-exp's for the others.
      growing_logits, falling_logits: logits rise along the keys by GROWTH, or fall: kernels visit them in either order.
      nan_padding: query, key and value are NaN beyond lengths and where segment ids are negative.
    """

    dtype: str = "float32"
    batch: int = 2
    query_length: int = 67
    key_length: int = 130
    query_heads: int = 4
    key_value_heads: int = 2
    head_dim: int = 40
    value_head_dim: int | None = None
    scale: float | None = None
    is_causal: bool = False
    causal_alignment: Literal["top_left", "bottom_right"] = "top_left"
    window: tuple[int | None, int | None] | None = None
    logits_soft_cap: float | None = None
    bias: Literal["full", "head", "key", "query", "blocked"] | None = None
    mask: Literal["full", "key", "none_visible"] | None = None
    lengths: Literal["both", "query", "key"] | None = None
    segments: Literal["packed", "halves", "singletons"] | None = None
    query_offset: Literal["scalar", "batch"] | None = None
    sinks: bool = False
    alibi: bool = False
    parameter_dtype: str | None = None
    growing_logits: bool = False
    falling_logits: bool = False
    nan_padding: bool = False
    seed: int = 0

    @property
    def id(self) -> str:
        value_dim = f"v{self.value_head_dim}" if self.value_head_dim is not None else ""
        features = [
            ("scale{:g}", self.scale),
            ("causal", self.is_causal),
            ("bottom_right", self.causal_alignment == "bottom_right"),
            ("window{0[0]}_{0[1]}", self.window),
            ("cap{:g}", self.logits_soft_cap),
            ("bias_{}", self.bias),
            ("mask_{}", self.mask),
            ("lengths_{}", self.lengths),
            ("segments_{}", self.segments),
            ("offset_{}", self.query_offset),
            ("sinks", self.sinks),
            ("alibi", self.alibi),
            ("parameters_{}", SHORT_NAMES.get(self.parameter_dtype or "")),
            ("growing", self.growing_logits),
            ("falling", self.falling_logits),
            ("nan_padding", self.nan_padding),
            ("seed{}", self.seed),
        ]
        shape = (
            f"{SHORT_NAMES[self.dtype]}-b{self.batch}-t{self.query_length}-s{self.key_length}"
            f"-n{self.query_heads}k{self.key_value_heads}-h{self.head_dim}{value_dim}"
        )
        return "-".join([shape, *(text.format(value) for text, value in features if value)])

    @property
    def array_dtype(self) -> np.dtype[Any]:
        """Dtype of query, key, value and output."""
        return DTYPES[self.dtype]

    @property
    def log_sum_exp_dtype(self) -> np.dtype[Any]:
        return DTYPES["float64" if self.dtype == "float64" else "float32"]

    def arguments(self) -> dict[str, Any]:
        """The static keyword arguments of attention(), those left out that are at their default."""
        given = {
            "scale": self.scale,
            "is_causal": self.is_causal or None,
            "local_window_size": self.window,
            "logits_soft_cap": self.logits_soft_cap,
            "causal_alignment": None if self.causal_alignment == "top_left" else self.causal_alignment,
        }
        return {name: value for name, value in given.items() if value is not None}

    def arrays(self) -> dict[str, Array]:
        """The array arguments of attention() by name, absent ones left out; the same at each call."""
        arrays = self._query_key_value()
        arrays |= self._parameters() | self._integers()
        if self.mask is not None:
            arrays["mask"] = self._mask()
        if self.nan_padding:
            self._fill_padding(arrays)
        return arrays

    def cotangents(self) -> tuple[Array, Array]:
        """d_output (B, T, N, Hv) and d_log_sum_exp (B, T, N), finite on empty rows too."""
        rows = (self.batch, self.query_length, self.query_heads)
        d_output = self._normal("d_output", (*rows, self._value_dim), self.array_dtype)
        return d_output, self._normal("d_log_sum_exp", rows, self.log_sum_exp_dtype)

    @property
    def _value_dim(self) -> int:
        return self.head_dim if self.value_head_dim is None else self.value_head_dim

    def _generator(self, name: str) -> np.random.Generator:
        """One for each array, so that an array does not depend on which others are present."""
        return np.random.default_rng([self.seed, *name.encode()])

    def _normal(self, name: str, shape: tuple[int, ...], dtype: np.dtype[Any]) -> Array:
        return self._generator(name).standard_normal(shape).astype(dtype)

    def _query_key_value(self) -> dict[str, Array]:
        dtype = self.array_dtype
        keys = (self.batch, self.key_length, self.key_value_heads)
        query = self._normal("query", (self.batch, self.query_length, self.query_heads, self.head_dim), dtype)
        key = self._normal("key", (*keys, self.head_dim), dtype)
        if self.growing_logits or self.falling_logits:
            # The sum of ones * rise over head_dim, times 1 / sqrt(head_dim), is GROWTH at the last key.
            rise = np.linspace(0, GROWTH / self.head_dim**0.5, self.key_length)
            if self.falling_logits:
                rise = rise[::-1]
            query = (query.astype(np.float64) / 8 + 1).astype(dtype)
            key = (key.astype(np.float64) / 8 + rise[:, None, None]).astype(dtype)
        return {"query": query, "key": key, "value": self._normal("value", (*keys, self._value_dim), dtype)}

    def _parameters(self) -> dict[str, Array]:
        given = None if self.parameter_dtype is None else DTYPES[self.parameter_dtype]
        per_head = given or self.log_sum_exp_dtype
        parameters = {}
        if self.bias is not None:
            bias = self._normal("bias", self._shape_of(self.bias), given or self.array_dtype)
            if self.bias == "blocked":
                bias[:, :, ::3] = -np.inf
            parameters["bias"] = bias
        if self.sinks:
            parameters["sinks"] = self._normal("sinks", (self.query_heads,), per_head)
        if self.alibi:
            parameters["alibi_slopes"] = (0.5 ** np.arange(1, self.query_heads + 1)).astype(per_head)
        return parameters

    def _shape_of(self, kind: str) -> tuple[int, int, int, int]:
        has_axes = {"head": (0, 1, 1, 1), "key": (1, 0, 0, 1), "query": (1, 1, 1, 0), "none_visible": (0, 0, 0, 0)}
        full = (self.batch, self.query_heads, self.query_length, self.key_length)
        b, n, t, s = (extent if has else 1 for extent, has in zip(full, has_axes.get(kind, (1, 1, 1, 1)), strict=True))
        return b, n, t, s

    def _mask(self) -> Array:
        assert self.mask is not None
        mask = self._generator("mask").random(self._shape_of(self.mask)) < 0.7
        if self.mask == "full":
            mask[:, :, 2:4] = False
        return mask if self.mask != "none_visible" else np.zeros_like(mask)

    def _integers(self) -> dict[str, Array]:
        integers: dict[str, Array] = {}
        if self.lengths in ("both", "query"):
            integers["query_seq_lengths"] = self._lengths(self.query_length, QUERY_LENGTHS)
        if self.lengths in ("both", "key"):
            integers["key_value_seq_lengths"] = self._lengths(self.key_length, KEY_LENGTHS)
        if self.segments is not None:
            integers["query_segment_ids"] = self._segment_ids("query_segment_ids", self.query_length)
            is_self_attention = self.query_length == self.key_length
            name = "query_segment_ids" if is_self_attention else "key_value_segment_ids"
            integers["key_value_segment_ids"] = self._segment_ids(name, self.key_length)
        if self.query_offset == "scalar":
            integers["query_offset"] = np.asarray(29, np.int32)
        elif self.query_offset == "batch":
            offsets = [self.key_length - self.query_length, -17, 1, -self.query_length, 64]
            integers["query_offset"] = np.resize(np.asarray(offsets, np.int32), self.batch)
        return integers

    def _lengths(self, extent: int, kinds: tuple[str, ...]) -> Array:
        edges = {
            "edge": min(65, extent),
            "last": extent - 1,
            "beyond": extent + 7,
            "short": 63,
            "zero": 0,
            "negative": -3,
        }
        lengths = np.asarray([edges[kind] for kind in kinds], np.int32)
        return np.resize(np.roll(lengths, -self.seed), self.batch)

    def _segment_ids(self, name: str, extent: int) -> Array:
        if self.segments == "singletons":
            return np.tile(np.arange(extent, dtype=np.int32), (self.batch, 1))
        if self.segments == "halves":
            ids = (np.arange(extent) >= extent // 2 + 10).astype(np.int32)
            ids[-5:] = -1
            return np.tile(ids, (self.batch, 1))
        generator = self._generator(name)
        ids = np.sort(generator.integers(0, 4, (self.batch, extent), np.int32), axis=1)
        padding = generator.integers(1, max(2, extent // 4), (self.batch, 1), np.int32)
        ids[np.arange(extent) >= extent - padding] = -1
        return ids

    def _fill_padding(self, arrays: dict[str, Array]) -> None:
        for side, names in (("query", ("query",)), ("key_value", ("key", "value"))):
            extent = arrays[names[0]].shape[1]
            is_padding = np.zeros((self.batch, extent), bool)
            if f"{side}_seq_lengths" in arrays:
                is_padding |= np.arange(extent) >= arrays[f"{side}_seq_lengths"][:, None]
            if f"{side}_segment_ids" in arrays:
                is_padding |= arrays[f"{side}_segment_ids"] < 0
            for name in names:
                arrays[name][is_padding] = np.nan


def _everything(dtype: str, **changes: Any) -> Case:
    """All features in one call: rows of every kind, full, partial and empty."""
    case = Case(
        dtype, batch=3, query_length=130, is_causal=True, window=(47, None), logits_soft_cap=3.0, bias="full",
        mask="full", lengths="both", segments="packed", query_offset="batch", sinks=True, alibi=True, nan_padding=True,
    )  # fmt: skip
    return dataclasses.replace(case, **changes)


# A few of each kind; the rest of FORWARD_AND_BACKWARD varies them.
QUICK = (
    Case(),
    Case(is_causal=True),
    Case("bfloat16", is_causal=True, causal_alignment="bottom_right"),
    Case("float16", window=(3, 5)),
    Case(bias="head", logits_soft_cap=2.0),
    Case("bfloat16", mask="full", sinks=True),
    Case(batch=7, lengths="both", nan_padding=True),
    Case("bfloat16", query_length=130, is_causal=True, segments="packed", alibi=True, nan_padding=True),
    Case("float64", query_offset="batch", is_causal=True, sinks=True),
    Case("bfloat16", query_length=1, key_length=257, query_heads=8, key_value_heads=1, head_dim=64, lengths="key"),
    Case("bfloat16", query_length=128, key_length=127, query_heads=8, head_dim=80, value_head_dim=40),
    Case(query_length=65, key_length=0, sinks=True),
    # Few rows, each with one key: its probability is exactly 1, in the backward pass too.
    Case(batch=8, query_length=16, key_length=16, query_heads=8, key_value_heads=8, is_causal=True, window=(0, None)),
    Case("bfloat16", growing_logits=True, key_length=257, head_dim=64),
    Case(mask="none_visible"),
    _everything("float32"),
    _everything("bfloat16"),
)

_FEATURES = (
    Case(scale=0.3),
    Case(is_causal=True, causal_alignment="bottom_right"),
    Case(window=(17, None)),
    Case("bfloat16", window=(None, 10)),
    Case(logits_soft_cap=2.0),
    Case(bias="full"),
    Case("bfloat16", bias="key"),
    Case("float16", bias="query"),
    Case(mask="full"),
    Case("bfloat16", mask="key"),
    Case("bfloat16", lengths="key", nan_padding=True, seed=3),
    Case("float16", lengths="query"),
    Case(segments="packed"),
    Case(query_length=257, key_length=257, segments="halves", nan_padding=True),
    Case("bfloat16", query_offset="scalar", is_causal=True),
    Case("float16", query_offset="batch", window=(20, 20)),
    Case(sinks=True),
    Case(alibi=True),
    Case("bfloat16", bias="head", sinks=True, alibi=True, parameter_dtype="bfloat16"),
    Case("float16", bias="full", sinks=True, alibi=True, parameter_dtype="float32"),
    Case(bias="key", sinks=True, alibi=True, parameter_dtype="bfloat16"),
)

_SHAPES = (
    Case(query_length=1, key_length=1, query_heads=1, key_value_heads=1, head_dim=1),
    Case("bfloat16", query_length=1, key_length=1, head_dim=8),
    Case("float16", query_length=0, key_length=65, bias="full", sinks=True),
    Case("bfloat16", query_length=130, key_length=1, is_causal=True, causal_alignment="bottom_right"),
    Case("bfloat16", query_length=64, key_length=64, query_heads=2, head_dim=128, is_causal=True),
    Case("float16", query_length=63, key_length=65, key_value_heads=4, head_dim=8, is_causal=True),
    Case(
        "bfloat16", query_length=129, key_length=257, key_value_heads=1, head_dim=64, is_causal=True,
        causal_alignment="bottom_right",
    ),
    Case(query_length=257, key_length=129, query_heads=2, head_dim=128, value_head_dim=64, is_causal=True),
    Case("float16", query_length=128, key_length=127, query_heads=8, head_dim=64, value_head_dim=128),
    Case(head_dim=8, value_head_dim=1, is_causal=True),
    Case("bfloat16", head_dim=1, value_head_dim=8),
    Case("float64"),
    Case("float64", query_length=130, is_causal=True, segments="packed", nan_padding=True),
    # So many rows of one head that its gradients are summed in stripes; so many tiles that tasks take several.
    Case(batch=1, query_length=1100, key_length=300, query_heads=2, key_value_heads=1, head_dim=16, is_causal=True),
    Case(batch=4, query_length=600, key_length=200, key_value_heads=4, head_dim=16, is_causal=True),
    Case("bfloat16", batch=4, query_length=600, key_length=200, key_value_heads=4, head_dim=16, window=(90, 3)),
    Case(batch=1, query_length=400, key_length=390, query_heads=8, key_value_heads=1, head_dim=16, window=(60, 3)),
)  # fmt: skip

_COMBINATIONS = (
    Case("bfloat16", is_causal=True, window=(33, None), sinks=True, logits_soft_cap=2.0),
    Case("bfloat16", batch=7, is_causal=True, causal_alignment="bottom_right", lengths="both", nan_padding=True),
    Case("float16", segments="packed", window=(25, 9), sinks=True, nan_padding=True),
    Case("bfloat16", bias="key", mask="full", sinks=True, logits_soft_cap=3.0, parameter_dtype="float32"),
    Case("float16", query_length=130, bias="head", alibi=True, is_causal=True),
    Case("bfloat16", query_offset="batch", window=(40, 0), lengths="key", sinks=True),
    _everything("float16"),
    _everything("float64", segments=None),
    _everything("bfloat16", sinks=False, query_offset=None, causal_alignment="bottom_right", seed=1),
)

_ADVERSARIAL = (
    Case(growing_logits=True, key_length=257, head_dim=64),
    Case("float16", growing_logits=True, key_length=257, head_dim=64, sinks=True),
    Case("bfloat16", falling_logits=True, key_length=257, head_dim=64),
    Case("float64", growing_logits=True, is_causal=True, causal_alignment="bottom_right"),
    Case("bfloat16", mask="none_visible", sinks=True, bias="full"),
    Case("bfloat16", query_length=130, segments="singletons"),
    Case(segments="singletons", sinks=True),
    Case(bias="blocked"),
    Case("bfloat16", bias="blocked", sinks=True, is_causal=True),
)

# Few queries and many keys, which kernels may deal to several tasks; some of these see no key.
_DECODING = (
    Case("bfloat16", batch=1, query_length=1, key_length=5000, query_heads=8, key_value_heads=1, head_dim=64),
    Case(
        batch=1, query_length=5, key_length=3001, is_causal=True, causal_alignment="bottom_right", sinks=True,
        growing_logits=True,
    ),
    Case("float16", batch=1, query_length=4, key_length=2500, window=(100, 0), query_offset="scalar", alibi=True),
    Case("float64", query_length=2, key_length=2100, lengths="key", segments="packed", nan_padding=True, sinks=True),
    Case(
        "bfloat16", batch=3, query_length=1, key_length=1500, key_value_heads=4, head_dim=80, logits_soft_cap=5.0,
        lengths="key", nan_padding=True,
    ),
    Case(
        "float16", batch=1, query_length=3, key_length=1203, query_heads=6, head_dim=192, value_head_dim=128,
        bias="full", sinks=True,
    ),
    Case(query_length=2, key_length=1001, query_heads=8, head_dim=64, segments="halves", nan_padding=True),
    Case(
        "bfloat16", batch=1, query_length=4, key_length=700, key_value_heads=1, is_causal=True,
        causal_alignment="bottom_right", window=(90, None), alibi=True,
    ),
    Case("float64", query_length=3, key_length=900, head_dim=20, bias="key", mask="key", logits_soft_cap=3.0),
    Case(
        "bfloat16", query_length=1, key_length=130, query_heads=3, key_value_heads=3, head_dim=33, value_head_dim=17,
        segments="packed", nan_padding=True, growing_logits=True,
    ),
    Case(query_length=3, key_length=611, query_heads=6, mask="full", window=(200, 0), query_offset="batch", sinks=True),
)  # fmt: skip

FORWARD_AND_BACKWARD = (*QUICK, *_FEATURES, *_SHAPES, *_COMBINATIONS, *_ADVERSARIAL, *_DECODING)
