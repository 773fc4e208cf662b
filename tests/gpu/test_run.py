"""run.sh and prepare.py, as far as they go without a GPU: steps that fail do not stop the others, and are named."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

FOLDER = Path(__file__).parent
sys.path.append(str(FOLDER))

import prepare  # noqa: E402


def run(*steps: str, python: str, out: Path) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHON": python, "OUT": str(out), "ARTIFACTS": str(out / "none")}
    return subprocess.run([FOLDER / "run.sh", *steps], env=environment, capture_output=True, text=True)


def test_a_step_that_does_not_exist(tmp_path: Path) -> None:
    ended = run("fly", python="true", out=tmp_path)
    assert ended.returncode == 2
    assert "no step fly; there are " in ended.stdout


def test_steps_that_fail_do_not_stop_the_next(tmp_path: Path) -> None:
    ended = run("alone", "differential", python="false", out=tmp_path)
    assert ended.returncode == 1
    summary = [line.split()[:2] for line in ended.stdout.splitlines()[-2:]]
    assert summary == [["alone", "FAILED"], ["differential", "FAILED"]]


def test_steps_that_pass(tmp_path: Path) -> None:
    ended = run("alone", "differential", python="true", out=tmp_path)
    assert ended.returncode == 0
    assert [line.split()[1] for line in ended.stdout.splitlines()[-2:]] == ["passed", "passed"]
    assert (tmp_path / "alone.log").exists()


def test_what_is_compiled(tmp_path: Path) -> None:
    own, other, tests = prepare.commands("sm_90a", tmp_path, {"cu13": "/other/python"})
    assert own[0] == sys.executable
    assert own[-3:] == [str(tmp_path / "kernels"), "--cache", str(tmp_path / "cache")]
    assert (other[0], other[6]) == ("/other/python", str(tmp_path / "kernels-cu13"))
    assert tests[-2:] == ["sm_90a", str(tmp_path / "test_kernels")]
    assert len(prepare.commands("sm_100f", tmp_path, {})) == 1
