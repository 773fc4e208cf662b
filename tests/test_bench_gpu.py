"""The benchmark on GPUs, without one: its arithmetic, what it leaves out and says so, its table, picture and page."""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
import time
import types
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"
sys.path.append(str(BENCHMARKS))

import card  # noqa: E402
import gpu  # noqa: E402
import gpu_cases as cases  # noqa: E402
import gpu_measurement  # noqa: E402
import gpu_peers  # noqa: E402
import gpu_report  # noqa: E402
from gpu_cases import Case  # noqa: E402
from gpu_measurement import InFlight, Measurement  # noqa: E402
from report import Style  # noqa: E402

OURS = "jax_fa4"
ABSENT = (cases.TORCH_EFFICIENT, cases.FLASH_2, cases.FLASH_3, cases.FLASH_4, cases.TOKAMAX, cases.FA4_JAX)
TINY = Case(cases.LENGTHS, 2, 48, 4, 2, 32)


@pytest.mark.parametrize("mask", [cases.FULL, cases.CAUSAL, cases.WINDOW])
@pytest.mark.parametrize(("length", "window"), [(48, 11), (48, 48), (48, 47)])
def test_pairs_are_counted(mask: str, length: int, window: int) -> None:
    case = dataclasses.replace(TINY, length=length, mask=mask, window=window if mask == cases.WINDOW else None)
    behind = np.arange(length)[:, None] - np.arange(length)
    seen = {cases.FULL: behind == behind, cases.WINDOW: (behind >= 0) & (behind <= window)}
    pairs = length**2 / 2 if mask == cases.CAUSAL else np.count_nonzero(seen[mask])
    assert case.visible_pairs == pairs
    assert case.flops == 4 * pairs * 32 * 4 * 2


def test_what_a_full_run_measures() -> None:
    listed = cases.all_cases(cases.OF_A_GPU)
    assert len({case.name for case in listed}) == len(listed)
    assert {case.batch * case.length for case in listed} == {32768}
    plain = {(case.head_dim, case.mask, case.length) for case in listed if case.group == cases.LENGTHS}
    assert plain == {
        (d, mask, 512 << i) for d in (64, 128, 256) for mask in (cases.FULL, cases.CAUSAL) for i in range(7)
    }
    assert {case.heads // case.key_value_heads for case in listed if case.group == cases.GROUPED} == {4}
    assert {case.window for case in listed if case.group == cases.WINDOWS} == {1024}
    quick = cases.quick_cases(cases.OF_A_GPU)
    assert set(quick) < set(listed)
    assert {case.group for case in quick} == {cases.LENGTHS, cases.GROUPED, cases.WINDOWS}


@pytest.mark.slow
@pytest.mark.parametrize("mask", [cases.FULL, cases.CAUSAL, cases.WINDOW])
def test_programs_that_run_here_are_right(mask: str) -> None:
    case = dataclasses.replace(TINY, mask=mask, window=9 if mask == cases.WINDOW else None)
    programs, absent = gpu_measurement.prepare(case)
    assert set(programs) >= {OURS, cases.JAX_XLA}
    assert set(programs) | set(absent) == set(cases.EVERYONE)
    assert absent[cases.JAX_CUDNN] == "needs a GPU"
    assert absent[cases.FLASH_4] == "not installed: flash_attn.cute.interface"


def test_a_peer_that_is_wrong_or_fails_is_left_out_with_words(monkeypatch: pytest.MonkeyPatch) -> None:
    arrays = TINY.arrays()
    good = gpu_peers.prepare(cases.JAX_XLA, TINY, arrays)
    real = gpu_peers.prepare

    def prepare(peer: str, case: Case, given: Any) -> Any:
        if peer == cases.TORCH_FLASH:
            return dataclasses.replace(good, run=lambda: good.run() * 1.05)
        if peer == cases.TORCH_CUDNN:
            raise ValueError("no engine | found\nand more")
        return real(peer, case, given)

    monkeypatch.setattr(gpu_peers, "missing", lambda peer: "absent" if peer in ABSENT else None)
    monkeypatch.setattr(gpu_peers, "prepare", prepare)
    programs, absent = gpu_measurement.prepare(TINY)
    assert cases.TORCH_FLASH not in programs
    assert absent[cases.TORCH_FLASH].startswith("differs by 0.0")
    assert absent[cases.TORCH_CUDNN] == "failed: ValueError: no engine / found"


@pytest.mark.slow
def test_peers_that_are_not_installed_here_are_called_as_they_want(monkeypatch: pytest.MonkeyPatch) -> None:
    """Stand-ins that take only what those packages take, by the names that they have for it."""

    def tokamax(
        query: Any, key: Any, value: Any, *, is_causal: bool, local_window_size: Any, implementation: Any
    ) -> Any:
        assert implementation == ("mosaic", "triton")
        masks: dict[str, Any] = {"is_causal": is_causal, "local_window_size": local_window_size}
        return jax.nn.dot_product_attention(query, key, value, implementation="xla", **masks)

    def fa4_jax(query: Any, key: Any, value: Any, *, causal: bool, backend: str) -> Any:
        assert backend == "cute"
        return jax.nn.dot_product_attention(query, key, value, implementation="xla", is_causal=causal)

    monkeypatch.setitem(sys.modules, "tokamax", types.SimpleNamespace(dot_product_attention=tokamax))
    monkeypatch.setitem(sys.modules, "fa4_jax", types.SimpleNamespace(flash_attn=fa4_jax))
    given = (OURS, cases.JAX_XLA, cases.TOKAMAX, cases.FA4_JAX)
    monkeypatch.setattr(gpu_peers, "missing", lambda peer: None if peer in given else "absent")
    window = dataclasses.replace(TINY, mask=cases.WINDOW, window=9)
    programs, absent = gpu_measurement.prepare(window)
    assert cases.TOKAMAX in programs
    assert "not tried" in absent[cases.FA4_JAX]
    programs, _ = gpu_measurement.prepare(dataclasses.replace(TINY, mask=cases.CAUSAL))
    assert {cases.TOKAMAX, cases.FA4_JAX} <= set(programs)


def test_ours_must_be_right(monkeypatch: pytest.MonkeyPatch) -> None:
    wanted = gpu_peers.expected(TINY, TINY.arrays())
    monkeypatch.setattr(gpu_peers, "expected", lambda case, arrays: wanted + 1)
    with pytest.raises(AssertionError, match=r"lengths/d32-h4on2-full-n48: jax_fa4 differs by"):
        gpu_measurement.prepare(TINY)


def test_a_windows_mask_counts_in_what_is_expected() -> None:
    """Lest all programs agree with a reference that ignores it."""
    arrays = TINY.arrays()
    outputs = [
        gpu_peers.expected(dataclasses.replace(TINY, mask=mask, window=window), arrays)
        for mask, window in ((cases.FULL, None), (cases.CAUSAL, None), (cases.WINDOW, 9))
    ]
    for i in range(3):
        assert np.abs(outputs[i] - outputs[i - 1]).max() > 0.1


class Clockwork:
    """A program that takes its time where it is waited for, as on a GPU."""

    def __init__(self, seconds: float) -> None:
        self.seconds, self.enqueued, self.waits = seconds, 0, 0

    def run(self) -> int:
        self.enqueued += 1
        return self.enqueued

    def wait(self, last: int) -> None:
        assert last == self.enqueued
        self.waits += 1
        time.sleep(self.seconds * 3 if self.waits == 1 else 0.004)


def test_calls_are_enqueued_together() -> None:
    in_flight, program = InFlight(), Clockwork(0.002)
    for _ in range(2):
        found = in_flight(program, 0.02)  # type: ignore[arg-type]
        assert 5 <= found.calls <= 10  # 20 ms of calls of 2 ms, or of a little more
        assert found.seconds >= 0.004
        assert found.busy < 0.5
    assert program.waits == 3
    quick = Clockwork(0)
    assert in_flight(quick, 10.0).calls == gpu_measurement.MOST_IN_FLIGHT  # type: ignore[arg-type]


def made(head_dim: int, mask: str, length: int, ours: float, cudnn: float) -> Measurement:
    """As if it had been measured: milliseconds."""
    case = Case(cases.LENGTHS, 32768 // length, length, 16, 16, head_dim, mask)
    seconds = {OURS: [ours * 1e-3] * 3, cases.JAX_CUDNN: [cudnn * 1e-3] * 3}
    host = {OURS: 0.25, cases.JAX_CUDNN: 0.1}
    absent = {cases.FLASH_2: "not installed: flash_attn", cases.JAX_XLA: "its logits would take 64 GiB"}
    return Measurement(case, seconds, host, [8e14] * 3, {OURS: 0, cases.JAX_CUDNN: 3 << 20}, absent)


@pytest.fixture
def found() -> gpu.Found:
    measurements = [made(128, mask, length, 2.0, 2.3) for mask in (cases.FULL, cases.CAUSAL) for length in (512, 4096)]
    measurements[0] = made(128, cases.FULL, 512, 2.0, 1.9)
    return gpu.Found("python benchmarks/gpu.py", {"GPU": "a card"}, measurements, ["d256: it went wrong"])


def test_figures(found: gpu.Found) -> None:
    one = found.measurements[1]
    flops = 4 * 4096**2 * 128 * 16 * 8
    assert one.flops_per_second() == pytest.approx(flops / 2e-3)
    assert one.share().median == pytest.approx(flops / 2e-3 / 8e14)
    ratio = one.ratio(cases.JAX_CUDNN)
    assert ratio and ratio.median == pytest.approx(1.15)
    assert one.ratio(cases.FLASH_2) is None


def test_the_page(found: gpu.Found) -> None:
    text = gpu.page(found, "picture.png")
    assert "* GPU: a card" in text
    assert "Written by `python benchmarks/gpu.py --write-docs`" in text
    assert "| D 128, 16 heads, full, 8 x 4096   | 2.000 |     550 | 69 % [69, 69] | 1.15 [1.15, 1.15] | 25 % |" in text
    assert "* flash-attn 2: not installed: flash_attn" in text
    assert "* jax.nn XLA: its logits would take 64 GiB" in text
    assert "* d256: it went wrong" in text
    outcomes = {line.split("|")[2].strip(): line.split("|")[1].strip() for line in text.splitlines() if "x |" in line}
    assert outcomes == {
        "head_dim 128, T >= 4096: times as fast as cuDNN": "REACHED",
        "the same: the goal": "REACHED",
        "head_dim 128, T 512 and 1024: times as fast as cuDNN": "MISSED",
    }


def test_the_picture(found: gpu.Found, tmp_path: Path) -> None:
    assert gpu_report.draw(found.measurements, "a card", tmp_path / "picture.png")
    assert (tmp_path / "picture.png").stat().st_size > 10000
    assert not gpu_report.draw([], "a card", tmp_path / "none.png")


@pytest.mark.slow
def test_a_trial_and_its_file(tmp_path: Path) -> None:
    """The whole program on the CPU, and the report of what it wrote."""
    file = tmp_path / "found.json"
    command = [sys.executable, str(BENCHMARKS / "gpu.py"), "--platform", "cpu"]
    trial = [*command, "--quick", "--cases", "lengths/d64-*-n128", "windows/*-n64", "--json", str(file)]
    ended = subprocess.run(trial, capture_output=True, text=True)
    assert ended.returncode == 0, ended.stderr
    assert "The rate of the card's matrix products: " in ended.stdout
    assert "D 128, 16 heads, window 32, 2 x 64" in ended.stdout
    rows = json.loads(file.read_text())["measurements"]
    assert len(rows) == 3
    assert all(len(row["seconds"][OURS]) >= 3 and row["peaks"] for row in rows)
    again = subprocess.run([*command, "--from-json", str(file)], capture_output=True, text=True)
    assert again.stdout.strip() == ended.stdout[ended.stdout.index("\n\n") : ended.stdout.index("\nThis took")].strip()
    refused = subprocess.run([*command, "--write-docs"], capture_output=True, text=True)
    assert refused.returncode == 1
    assert "a trial has none" in refused.stderr


def test_samples_of_the_card() -> None:
    lines = "345 MHz, 3201 MHz, 120.5 W, 31\n1980 MHz, 3201 MHz, 690.1 W, 55\n[N/A], 3201 MHz, 500 W, 40\n1755 MHz\n"
    assert card.ranges(lines) == {
        "SM clock": "345 / 1980 / 1980 MHz",
        "memory clock": "3201 / 3201 / 3201 MHz",
        "power": "120.5 / 500 / 690.1 W",
        "degrees C": "31 / 40 / 55",
    }
    assert card.ranges("") == {}
    assert "jax " in card.describe()["versions"]


def test_style_of_the_terminal(found: gpu.Found) -> None:
    assert "|" not in gpu_report.group(Style(False), "title", found.measurements)
    assert jnp.bfloat16 == jnp.dtype(found.measurements[0].case.dtype)
