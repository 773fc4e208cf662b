"""The arithmetic of benchmarks/context_parallel_model.py. What it counts of bytes is compared with compiled programs in
test_context_sharding.py.
"""

from __future__ import annotations

import dataclasses
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))
import context_parallel_model as model

MACHINE = model.Machine()
FREE = dataclasses.replace(MACHINE, nvlink=1e30, network=1e30, hbm=1e30, latency=0.0, multiprocessors=1)
SLOW = dataclasses.replace(MACHINE, nvlink=1.0, network=1.0)
CALL = model.Call(2**20, 64)


def test_flops_of_all_devices_are_those_of_the_sequence() -> None:
    """Two products of T x T x head_dim for each head, of which the causal mask leaves half."""
    whole = 2 * 2 * CALL.tokens**2 * CALL.query_heads * CALL.head_dim / 2
    assert CALL.devices * CALL.flops == whole


@pytest.mark.parametrize("strategy", model.STRATEGIES)
def test_without_messages_kernels_are_all(strategy: str) -> None:
    """One multiprocessor has no idle round, and the tiles are full: what remains is operations / rate."""
    found = model.cost(FREE, CALL, strategy)
    assert found.total == pytest.approx(model.ideal_seconds(FREE, CALL), rel=1e-3)
    assert found.messages == pytest.approx(0, abs=1e-9)


@pytest.mark.parametrize("strategy", model.STRATEGIES)
def test_without_bandwidth_messages_are_all(strategy: str) -> None:
    found = model.cost(SLOW, CALL, strategy)
    assert found.hidden < 0.5
    assert found.total == pytest.approx(found.messages, rel=0.5 if strategy == "ring x ring" else 1e-3)


def test_messages_of_a_ring() -> None:
    """Keys and values in bfloat16; backward with gradients in float32, which go one hop further."""
    size = 2 * CALL.part * CALL.key_heads * CALL.head_dim
    forward = model.ring(MACHINE, CALL, backward=False)
    backward = model.ring(MACHINE, CALL, backward=True)
    hops = CALL.devices - 1
    assert forward.messages == pytest.approx(hops * (2 * size / MACHINE.network + MACHINE.latency))
    assert backward.messages == pytest.approx(
        hops * ((2 + 4) * size / MACHINE.network + MACHINE.latency) + 4 * size / MACHINE.network + MACHINE.latency
    )


@pytest.mark.parametrize(("visit", "hop", "total"), [(5.0, 2.0, 5 * 4 + 1), (2.0, 5.0, 2 + 3 * 5 + 1)])
def test_turn_hides_the_shorter(visit: float, hop: float, total: float) -> None:
    assert model.turn(visit, hop, 1.0, 4) == (3 * hop + 1, total)


def test_what_cannot_run() -> None:
    assert model.cost(MACHINE, model.Call(2**20, 8), "ring x ring") == model.IMPOSSIBLE + model.IMPOSSIBLE
    assert model.cost(MACHINE, model.Call(2**20, 128), "ulysses").total == model.INFINITE
    crowded = {name: model.cost(MACHINE, model.Call(2**24, 8), name) for name in model.STRATEGIES}
    assert model.best(MACHINE, crowded) == "none"
    assert model.best(dataclasses.replace(MACHINE, spare=300e9), crowded) == "ulysses"


def test_two_rings_win_where_the_network_limits_one() -> None:
    call = model.Call(2**24, 4096)
    assert model.cost(MACHINE, call, "ring x ring").total < model.cost(MACHINE, call, "ring").total
    fast = dataclasses.replace(MACHINE, network=MACHINE.nvlink)
    assert model.cost(fast, call, "ring").total < 1.01 * model.cost(fast, call, "ring x ring").total


def test_table_has_a_choice_for_each_call() -> None:
    cells = model.cells_of(MACHINE, model.Call(2**22, 64))
    assert cells[:3] == ["4M", "64", "64k"]
    assert cells[-1] == "ulysses"
    assert "103 GB" in cells
