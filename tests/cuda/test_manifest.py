"""Manifests of compiled kernels: what is read of them, and words for what makes no sense."""

from __future__ import annotations

import dataclasses
import json
import re
from pathlib import Path
from typing import Any

import echo
import jax.numpy as jnp
import pytest
import stub

from jax_fa4 import _ffi, manifest
from jax_fa4.spec import AttentionSpec, Operands


def test_rows_are_read(every_kernel: Path) -> None:
    rows = {row.name: row for row in manifest.variants()}
    assert list(rows) == [row["name"] for row in stub.every_row()]
    assert rows["dense_bfloat16_bfloat16_64_64_0"] == manifest.Variant(
        "dense_bfloat16_bfloat16_64_64_0", "bfloat16", "bfloat16", 64, 64, frozenset(), 0, "sm_100a"
    )
    general = rows["general_float16_float32_192_128_0"]
    assert (general.dtype, general.output, general.head_dim, general.value_head_dim) == ("float16", "float32", 192, 128)
    assert {"causal", "window", "query_offset"} == rows["banded_bfloat16_bfloat16_96_96_0"].features < general.features


@pytest.mark.parametrize(
    ("architecture", "runs"),
    [
        ("sm_90a", [(9, 0)]),
        ("sm_100a", [(10, 0)]),
        ("sm_100f", [(10, 0), (10, 3)]),
        ("sm_90", [(9, 0), (10, 0), (10, 3), (12, 0)]),
    ],
)
def test_where_kernels_run(every_kernel: Path, architecture: str, runs: list[tuple[int, int]]) -> None:
    variant = dataclasses.replace(manifest.variants()[0], architecture=architecture)
    gpus = [(8, 0), (9, 0), (10, 0), (10, 3), (12, 0)]
    assert [gpu for gpu in gpus if variant.runs_on(gpu)] == runs


def test_python_and_the_launcher_name_the_same_features() -> None:
    source = (Path(__file__).parents[2] / "ffi/cuda/features.cc").read_text()
    launcher = set(re.findall(r'^    \{"(\w+)", \[\]\(const Problem& p\)', source, re.MULTILINE))
    everything = Operands(*(jnp.zeros((1, 1, 2, 8)) for _ in Operands._fields))
    spec = AttentionSpec(scale=1.0, window=(3, 0), logits_soft_cap=1.0)
    assert manifest.features(spec, everything) | {"causal"} == launcher
    assert manifest.FEATURES["general"] == launcher - {"bias", "mask"}


def test_a_folder_without_kernels_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("JAX_FA4_KERNELS", str(tmp_path))
    with pytest.raises(FileNotFoundError, match=re.escape(f"JAX_FA4_KERNELS={tmp_path}: there is no manifest.json")):
        manifest.variants()


@pytest.mark.parametrize(
    ("gone", "given"),
    [
        ("kind", None),
        ("kind", "sparse"),
        ("output", None),
        ("value_head_dim", None),
        ("persistent", None),
        ("dependent", None),
        ("minimum_rows", None),
        ("axes", None),
        ("minimum_driver", None),
    ],
)
def test_manifests_of_another_version(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, gone: str, given: str | None
) -> None:
    content: dict[str, Any] = json.loads(json.dumps(echo.manifest(echo.row())))
    (row,) = content["variants"]
    for place in (content, row, row["parameters"][0]):
        if gone in place and gone != ("kind" if place is row["parameters"][0] else ""):
            del place[gone]
            if given:
                place[gone] = given
    (tmp_path / "manifest.json").write_text(json.dumps(content))
    monkeypatch.setenv("JAX_FA4_KERNELS", str(tmp_path))
    words = f"manifest.json: '{given or gone}' is missing or unknown, so another version of jax_fa4 wrote it; build"
    with pytest.raises(ValueError, match=re.escape(words)):
        manifest.variants()


COMPLETE = "variant x\narch sm_100a\nentry e\nptx p\nthreads 1\nrows 1\nhead_dim 8\nvalue_head_dim 8\n"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("arch sm_100a", '"arch" stands before the first variant'),
        ("variant x\ncolour red", 'key "colour" is unknown'),
        ("variant x\nfeatures magic", 'feature "magic" is unknown'),
        ("variant x\nthreads many", "threads is no number: many"),
        ("variant x\nelement int8", 'element "int8" is unknown; known are bfloat16, float16, float32'),
        ("variant x\nparameter i32 colour", 'no parameter of this kind is called "colour"'),
        ("variant x\nparameter f32 queries", 'no parameter of this kind is called "queries"'),
        ("variant x\nparameter pointer colour", 'no parameter of this kind is called "colour"'),
        ("variant x\nparameter tensor_map query 96B", 'swizzle "96B" is unknown; known are 128B, 32B, 64B, none'),
        ("variant x\nparameter tensor_map query none group 8", 'axis "group" is unknown'),
        ("variant x\nparameter tensor_map query none head_dim 257", "extents from 1 to 256, got 257"),
        ("variant x\nparameter tensor_map query none", "a tensor map has 1 to 5 axes"),
        ("variant x\narch sm_100a", "x has no entry or no arch"),
        ("variant x\narch sm_100a\nentry e", "x has neither cubin nor ptx"),
        (COMPLETE.replace("rows 1\n", ""), "x has no threads, rows or head dimensions"),
        (COMPLETE + "cluster 1 2 1", "x has a cluster that does not lie along x"),
        (COMPLETE + "parameter i32 keys\n" * 65, "x has more than 64 parameters"),
        (
            COMPLETE + "parameter tensor_map query none head_dim 8 pack 2 length 128",
            "x: the tensor map of query has an axis pack, of which its box has 1, and an axis length",
        ),
    ],
)
def test_rows_that_make_no_sense(text: str, words: str) -> None:
    with pytest.raises(ValueError, match=f"manifest of kernels: .*{re.escape(words)}"):
        _ffi.register_variants(text)
