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

# Innermost first: how every tensor map of our kernels sees an array.
_AXES = ("head_dim", "heads", "length", "batch")


@dataclasses.dataclass(frozen=True)
class Variant:
    """One compiled kernel.

    Attributes:
      name: of the variant.
      dtype: of query, key, value and output.
      head_dim: the largest; smaller ones are padded with zeros when they are loaded.
      features: what it can do beyond dense attention, see `features`.
    """

    name: str
    dtype: str
    head_dim: int
    features: frozenset[str]


def features(spec: AttentionSpec, operands: Operands) -> frozenset[str]:
    """What the call asks for beyond dense attention, in words that ffi/cuda/variants.cc has too."""
    left, right = spec.window
    asked = {
        "causal": left is None and right == 0,
        "window": left is not None or (right is not None and right > 0),
        "logits_soft_cap": spec.logits_soft_cap is not None,
        "grouped_heads": operands.query.shape[-2] != operands.key.shape[-2],
        "segment_ids": operands.query_segment_ids is not None,
        "seq_lengths": operands.query_seq_lengths is not None or operands.key_value_seq_lengths is not None,
    }
    for name in ("query_offset", "bias", "mask", "sinks", "alibi_slopes"):
        asked[name] = getattr(operands, name) is not None
    return frozenset(name for name, present in asked.items() if present)


def variants() -> tuple[Variant, ...]:
    """The kernels that there are now; the launcher is told when they are others than before.

    Raises:
      FileNotFoundError: JAX_FA4_KERNELS names a folder without a manifest.
    """
    global _known
    named = os.environ.get(VARIABLE)
    folder = Path(named) if named else PACKAGED
    files = [path for path in (folder / "manifest.json", *sorted(folder.glob("*/manifest.json"))) if path.is_file()]
    if named and not files:
        raise FileNotFoundError(f"{VARIABLE}={named}: there is no manifest.json, as jax_fa4.kernels.build writes it")
    stamp = tuple((path, path.stat().st_mtime_ns) for path in files)
    if stamp != _known[0]:
        found = [(path.parent, json.loads(path.read_text())) for path in files]
        extension.register_variants("\n".join(line for place, one in found for line in _rows(place, one)))
        _known = stamp, tuple(_variant(row) for _, one in found for row in one["variants"])
    return _known[1]


_known: tuple[tuple[Any, ...], tuple[Variant, ...]] = ((), ())


def _features(row: dict[str, Any]) -> frozenset[str]:
    return frozenset({"grouped_heads"} | ({"causal", "window"} if row["banded"] else set()))


def _variant(row: dict[str, Any]) -> Variant:
    return Variant(row["name"], row["dtype"], row["head_dim"], _features(row))


def _rows(folder: Path, manifest: dict[str, Any]) -> Iterator[str]:
    """A manifest in the launcher's form: a line has a word and its values."""
    for row in manifest["variants"]:
        yield f"variant {row['name']}"
        yield f"arch {manifest['architecture']}"
        yield f"entry {row['entry']}"
        for kind in ("cubin", "ptx"):
            file = folder / f"{row['name']}.{kind}"
            if file.is_file():
                yield f"{kind} {file.resolve()}"
        yield f"minimum_driver {manifest.get('minimum_driver', 0)}"
        yield f"element {row['dtype']}"
        yield f"output {row['dtype']}"
        yield f"head_dim {row['head_dim']}"
        yield f"value_head_dim {row.get('value_head_dim', row['head_dim'])}"
        yield "pads 1"
        yield f"features {' '.join(sorted(_features(row)))}"
        yield f"threads {row['threads']}"
        yield f"shared_bytes {row['shared_bytes']}"
        yield f"cluster {' '.join(map(str, row['cluster']))}"
        yield f"dependent {int(row.get('dependent', False))}"
        yield f"rows {row['tile_rows']}"
        # Tiles of a band take unequal times: the hardware hands them out one by one, the longest first.
        yield f"persistent {int(row.get('persistent', not row['banded']))}"
        for parameter in row["parameters"]:
            yield " ".join(["parameter", *_parameter(parameter)])


def _parameter(parameter: dict[str, Any]) -> Iterator[str]:
    yield parameter["kind"]
    yield parameter["name"]
    if parameter["kind"] == "tensor_map":
        yield parameter["swizzle"]
        for axis, extent in zip(parameter.get("axes", _AXES), parameter["box"], strict=True):
            yield axis
            yield str(extent)
