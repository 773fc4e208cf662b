"""The build: the same bytes anywhere, nothing compiled twice, one set of cubins for a family of GPUs."""

from __future__ import annotations

import difflib
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import built_forward
import pytest
import sass

from jax_fa4.kernels import build
from jax_fa4.kernels.variants import forward_plans, hopper_plans

needs_compiler = pytest.mark.skipif(
    not built_forward.available(), reason="nvidia-cutlass-dsl, which compiles the kernels, exists for Linux alone"
)

NAME = forward_plans()[0].name


def run(package: Path, *arguments: object, **environment: str) -> str:
    """Runs the command from the sources of a package; returns what it prints."""
    command = [sys.executable, "-P", str(package / "kernels" / "build.py"), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=True, env=os.environ | environment).stdout


def contents(folder: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in folder.iterdir() if file.is_file()}


@pytest.fixture(scope="module")
def package(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the sources, as an sdist has them: without an extension."""
    copy = tmp_path_factory.mktemp("sources") / "jax_fa4"
    shutil.copytree(built_forward.SOURCES, copy / "kernels", ignore=shutil.ignore_patterns("__pycache__"))
    return copy


@pytest.fixture(scope="module")
def once(package: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One variant for the family of sm_100."""
    folder = tmp_path_factory.mktemp("once")
    run(package, "--arch", "sm_100f", "--out", folder, NAME)
    return folder


@pytest.mark.slow
@needs_compiler
def test_bytes_do_not_depend_on_where_or_when(once: Path, tmp_path: Path) -> None:
    sources = built_forward.SOURCES.parent
    other = tmp_path / "a longer path" / "out"
    printed = run(sources, "--arch", "sm_100f", "--out", other, NAME, PYTHONHASHSEED="1", TZ="Asia/Tokyo")
    assert "cached" not in printed
    assert contents(other) == contents(once)
    assert set(contents(once)) == {f"{NAME}.cubin", f"{NAME}.ptx", "manifest.json"}


@needs_compiler
def test_an_unchanged_variant_is_not_compiled_again(package: Path, once: Path, tmp_path: Path) -> None:
    # A compiler that cannot be imported shows that nothing is compiled.
    (tmp_path / "cutlass").mkdir()
    (tmp_path / "cutlass" / "__init__.py").write_text("raise ImportError('not to be used')")
    arguments = ("--arch", "sm_100f", "--cache", once / ".cache", NAME)
    printed = run(package, "--out", tmp_path / "out", *arguments, PYTHONPATH=str(tmp_path))
    assert "cached" in printed
    assert contents(tmp_path / "out") == contents(once)


def test_what_a_variant_is_made_of_is_in_its_key(
    package: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    plans = {plan.name: plan for plan in forward_plans()}
    job = build.Job("sm_100f", tmp_path, tmp_path, line_info=False)
    jobs = [job, build.Job("sm_100a", tmp_path, tmp_path, False), build.Job("sm_100f", tmp_path, tmp_path, True)]
    keys = [build.cache_key(plan, job) for plan in plans.values() for job in jobs]
    assert len(set(keys)) == 3 * len(plans)
    elsewhere = build.Job("sm_100f", tmp_path / "other", tmp_path / "other", line_info=False)
    assert build.cache_key(plans[NAME], elsewhere) == keys[0]
    monkeypatch.setattr(build, "compiler", lambda: "nvidia-cutlass-dsl 0.0")
    assert build.cache_key(plans[NAME], job) not in keys


@pytest.mark.parametrize(("source", "counts"), [("sm100/mma.py", True), ("mask.py", True), ("variants.py", False)])
def test_a_changed_source_is_compiled(source: str, counts: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """All sources count but the list of variants: each has its row in its key."""
    plan, job = forward_plans()[0], build.Job("sm_100f", Path(), Path(), line_info=False)
    before, changed, text = build.cache_key(plan, job), build.KERNELS / source, Path.read_text
    assert changed.exists()
    monkeypatch.setattr(
        Path, "read_text", lambda file, *rest, **named: text(file, *rest, **named) + "\n" * (file == changed)
    )
    assert (build.cache_key(plan, job) != before) == counts


@pytest.mark.slow
@needs_compiler
def test_hopper_by_the_same_command_from_an_installed_package(tmp_path: Path) -> None:
    name = hopper_plans()[0].name
    command = [sys.executable, "-P", "-m", "jax_fa4.kernels.build", "--arch", "sm_90a", "--out", str(tmp_path), name]
    subprocess.run(command, check=True, cwd=tmp_path, capture_output=True)
    manifest = json.loads((tmp_path / "manifest.json").read_text())
    assert [row["name"] for row in manifest["variants"]] == [name] and manifest["architecture"] == "sm_90a"
    assert ".target sm_90a" in (tmp_path / f"{name}.ptx").read_text()
    assert code(tmp_path, name) == code(built_forward.built("sm_90a"), name)


def test_each_architecture_has_its_own_variants(tmp_path: Path) -> None:
    with pytest.raises(subprocess.CalledProcessError) as raised:
        run(built_forward.SOURCES.parent, "--arch", "sm_90a", "--out", tmp_path, NAME)
    assert f"no variant {NAME}; sm_90a has {hopper_plans()[0].name}" in raised.value.stderr


def test_an_unknown_variant_is_refused_in_words(tmp_path: Path) -> None:
    with pytest.raises(subprocess.CalledProcessError) as raised:
        run(built_forward.SOURCES.parent, "--arch", "sm_100f", "--out", tmp_path, "forward")
    assert f"no variant forward; sm_100f has {NAME}" in raised.value.stderr


@needs_compiler
def test_what_is_no_variant_any_more_does_not_stay(package: Path, once: Path, tmp_path: Path) -> None:
    (tmp_path / "jax_fa4_forward_of_yesterday.cubin").touch()
    run(package, "--arch", "sm_100f", "--out", tmp_path, "--cache", once / ".cache", NAME)
    assert set(contents(tmp_path)) == {f"{NAME}.cubin", f"{NAME}.ptx", "manifest.json"}


@pytest.mark.slow
@needs_compiler
def test_the_family_has_all_that_the_kernels_use(package: Path, once: Path, tmp_path: Path) -> None:
    """What is shipped for the family of sm_100 is the program that tests execute as sm_100a's."""
    run(package, "--arch", "sm_100a", "--out", tmp_path, NAME)
    lines = [(folder / f"{NAME}.ptx").read_text().splitlines() for folder in (tmp_path, once)]
    changed = [line for line in difflib.ndiff(*lines) if line[0] in "+-"]
    assert changed == ["- .target sm_100a", "+ .target sm_100f"]
    assert code(tmp_path) == code(once)


@needs_compiler
def test_line_information_leaves_the_code_as_it_is(package: Path, once: Path) -> None:
    """What tests execute and measure has it, and what is shipped has not."""
    measured = built_forward.built("sm_100a")
    assert code(measured) == code(once)
    shipped = (once / f"{NAME}.cubin").stat().st_size
    assert shipped <= sass.bytes_without_lines(measured / f"{NAME}.cubin") < 1.05 * shipped


def code(folder: Path, name: str = NAME) -> list[Any]:
    found = [section.content for section in sass.sections(folder / f"{name}.cubin") if section.name.startswith(".text")]
    assert found
    return found
