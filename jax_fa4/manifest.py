"""Which GPU kernels were compiled: read from their manifests, for the support table and for the launcher."""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from jax_fa4 import extension
from jax_fa4.spec import AttentionSpec, Operands

# A folder of kernels in place of those that the package brings: what `python -m jax_fa4.kernels.build` wrote.
VARIABLE = "JAX_FA4_KERNELS"
PACKAGED = Path(__file__).parent / "compiled"

_BANDED = frozenset({"causal", "window", "query_offset"})
# What a kind of kernel can do beyond dense attention.
FEATURES = {
    "dense": frozenset[str](),
    "banded": _BANDED,
    "general": _BANDED | {"logits_soft_cap", "sinks", "alibi_slopes", "segment_ids", "seq_lengths"},
}  # fmt: skip

# Numbers and words of a row that the launcher takes as they are, under its own names for them.
_TAKEN = {
    "entry": "entry", "element": "dtype", "output": "output", "head_dim": "head_dim",
    "value_head_dim": "value_head_dim", "threads": "threads", "shared_bytes": "shared_bytes", "rows": "tile_rows",
    "minimum_rows": "minimum_rows",
}  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Variant:
    """One compiled kernel.

    Attributes:
      name: of the variant.
      dtype: of query, key and value.
      output: dtype of the output.
      head_dim: of query and key, the largest; smaller multiples of 8 are padded with zeros when they are loaded.
      value_head_dim: likewise, of value and output.
      features: what it can do beyond dense attention, see `features`.
      minimum_rows: it is chosen only where a head has more query rows than that.
      architecture: the GPUs it is for, "sm_90a", or a family of them, "sm_100f".
    """

    name: str
    dtype: str
    output: str
    head_dim: int
    value_head_dim: int
    features: frozenset[str]
    minimum_rows: int
    architecture: str

    def runs_on(self, capability: tuple[int, int]) -> bool:
        """Whether it runs on GPUs of this compute capability; ffi/cuda/variants.cc has the same rule."""
        number, kind = int(self.architecture.rstrip("af")[3:]), self.architecture[-1]
        own = 10 * capability[0] + capability[1]
        if kind == "a":
            return number == own
        return number <= own and (kind != "f" or number // 10 == capability[0])


def features(spec: AttentionSpec, operands: Operands) -> frozenset[str]:
    """What the call asks for beyond dense attention, in words that ffi/cuda/features.cc has too."""
    left, right = spec.window
    asked = {
        "causal": left is None and right == 0,
        "window": left is not None or (right is not None and right > 0),
        "logits_soft_cap": spec.logits_soft_cap is not None,
        "segment_ids": operands.query_segment_ids is not None,
        "seq_lengths": operands.query_seq_lengths is not None or operands.key_value_seq_lengths is not None,
    }
    for name in ("query_offset", "bias", "mask", "sinks", "alibi_slopes"):
        asked[name] = getattr(operands, name) is not None
    return frozenset(name for name, present in asked.items() if present)


def variants() -> tuple[Variant, ...]:
    """The kernels that there are now, in order of preference; the launcher is told when they are others than before.

    Raises:
      FileNotFoundError: JAX_FA4_KERNELS names a folder without a manifest.
      ValueError: a manifest is not of the form that this version writes.
    """
    global _known
    named = os.environ.get(VARIABLE)
    folder = Path(named) if named else PACKAGED
    files = [path for path in (folder / "manifest.json", *sorted(folder.glob("*/manifest.json"))) if path.is_file()]
    if named and not files:
        raise FileNotFoundError(f"{VARIABLE}={named}: there is no manifest.json, as jax_fa4.kernels.build writes it")
    stamp = tuple((path, path.stat().st_mtime_ns) for path in files)
    if stamp != _known[0]:
        read = [_read(path) for path in files]
        extension.register_variants("\n".join(line for _, lines in read for line in lines))
        _known = stamp, tuple(variant for found, _ in read for variant in found)
    return _known[1]


_known: tuple[tuple[Any, ...], tuple[Variant, ...]] = ((), ())


def _read(path: Path) -> tuple[list[Variant], list[str]]:
    """The variants of a manifest, and the same in the launcher's form: a line has a word and its values."""
    try:
        manifest = json.loads(path.read_text())
        rows, architecture = manifest["variants"], manifest["architecture"]
        lines = [line for row in rows for line in _lines(path.parent, manifest, row)]
        return [_variant(row, architecture) for row in rows], lines
    except KeyError as error:
        raise ValueError(
            f"{path}: {error} is missing or unknown, so another version of jax_fa4 wrote it; build the kernels again"
        ) from error


def _variant(row: dict[str, Any], architecture: str) -> Variant:
    given: dict[str, Any] = {"features": FEATURES[row["kind"]], "architecture": architecture}
    named = {field.name: row[field.name] for field in dataclasses.fields(Variant) if field.name not in given}
    return Variant(**given, **named)


def _lines(folder: Path, manifest: dict[str, Any], row: dict[str, Any]) -> Iterator[str]:
    yield f"variant {row['name']}"
    yield f"arch {manifest['architecture']}"
    yield f"minimum_driver {manifest['minimum_driver']}"
    for image in ("cubin", "ptx"):
        file = folder / f"{row['name']}.{image}"
        if file.is_file():
            yield f"{image} {file.resolve()}"
    for own, name in _TAKEN.items():
        yield f"{own} {row[name]}"
    yield f"features {' '.join(sorted(FEATURES[row['kind']]))}"
    yield f"cluster {' '.join(map(str, row['cluster']))}"
    yield f"dependent {int(row['dependent'])}"
    yield f"persistent {int(row['persistent'])}"
    for parameter in row["parameters"]:
        yield " ".join(["parameter", *_parameter(parameter)])


def _parameter(parameter: dict[str, Any]) -> Iterator[str]:
    yield parameter["kind"]
    yield parameter["name"]
    if parameter["kind"] == "tensor_map":
        yield parameter["swizzle"]
        for axis, extent in zip(parameter["axes"], parameter["box"], strict=True):
            yield axis
            yield str(extent)
