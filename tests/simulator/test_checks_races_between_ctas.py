"""Races between CTAs, in global and distributed shared memory: each way to order two accesses, and its absence."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from kernel_text import kernel
from twins import Twin, every_schedule

# Global memory between CTAs.
MESSAGE = """
ld.param.b64 %l0, [data]; ld.param.b64 %l1, [flag]; mov.u32 %r1, %ctaid.x; setp.ne.u32 %p0, %r1, 0; @%p0 bra reader;
st.global.b32 [%l0], 42;  // first
{before}
{write}
bra end;
reader:
wait: {read}
setp.eq.u32 %p1, %r2, 0; @%p1 bra wait;
{after}
ld.global.b32 %r3, [%l0];  // second
end:
"""
RELEASE, ACQUIRE = "st.release.gpu.global.b32 [%l1], 1;", "ld.acquire.gpu.global.b32 %r2, [%l1];"
RELAXED_WRITE, RELAXED_READ = RELEASE.replace("release", "relaxed"), ACQUIRE.replace("acquire", "relaxed")
FENCE = "fence.acq_rel.gpu;"


def _message(name: str, instead: str = "", **parts: str) -> Twin:
    parts = {"before": "", "write": RELEASE, "read": ACQUIRE, "after": "", **parts}
    return Twin(
        name,
        kernel(MESSAGE.format(**parts), ".param .u64 data, .param .u64 flag", 1),
        "race",
        "global memory is read while a warp may still write it",
        instead=instead,
        launch={"grid": 2, "block": 1},
        arguments=lambda: [np.zeros(1, np.uint32), np.zeros(1, np.uint32)],
    )


FENCED = {"before": FENCE, "write": RELAXED_WRITE, "read": RELAXED_READ, "after": FENCE}
MESSAGES = [
    _message("release", write=RELEASE + "  // missing", instead=RELAXED_WRITE),
    _message("acquire", read=ACQUIRE + "  // missing", instead="wait: " + RELAXED_READ),
    _message(
        "red_release",
        write="red.release.gpu.global.add.u32 [%l1], 1;  // missing",
        instead="red.relaxed.gpu.global.add.u32 [%l1], 1;",
    ),
    _message(
        "atom_acquire",
        read="atom.acquire.gpu.global.or.b32 %r2, [%l1], 0;  // missing",
        instead="wait: atom.relaxed.gpu.global.or.b32 %r2, [%l1], 0;",
    ),
    _message("fence_before", **{**FENCED, "before": FENCE + "  // missing"}),
    _message("fence_after", **{**FENCED, "after": "membar.gl;  // missing"}),
]

TWO_WRITERS = Twin(
    "two_writers",
    kernel(
        """
ld.param.b64 %l0, [data]; mov.u32 %r1, %ctaid.x; mul.wide.u32 %l1, %r1, 4;
add.u64 %l0, %l0, %l1;  // missing
st.global.b32 [%l0], %r1;  // first and second
""",
        ".param .u64 data",
        1,
    ),
    "race",
    "global memory is overwritten while a warp may still write it",
    launch={"grid": 2, "block": 1},
    arguments=lambda: [np.zeros(2, np.uint32)],
)

# Distributed shared memory.
NEIGHBOUR = Twin(
    "neighbour",
    kernel(
        """
mov.b32 %r0, dynamic; mov.u32 %r1, %cluster_ctarank; xor.b32 %r2, %r1, 1; mapa.shared::cluster.u32 %r3, %r0, %r2;
barrier.cluster.arrive.relaxed.aligned; barrier.cluster.wait.aligned;
st.shared::cluster.b32 [%r3], %r1;  // first
barrier.cluster.arrive.aligned;  // missing
barrier.cluster.wait.aligned;
ld.shared.b32 %r4, [%r0];  // second
barrier.cluster.arrive.aligned; barrier.cluster.wait.aligned;
""",
        threads=1,
    ),
    "race",
    "shared memory is read while a warp may still write it",
    instead="barrier.cluster.arrive.relaxed.aligned;",
    launch={"grid": 2, "cluster": 2, "dynamic_shared": 16},
)

TWINS = [*MESSAGES, TWO_WRITERS, NEIGHBOUR]


@every_schedule(TWINS)
def test_races(simulate: Callable[..., Any], twin: Twin, options: dict[str, Any]) -> None:
    twin.check(simulate, options)


@pytest.mark.parametrize("twin", MESSAGES, ids=lambda twin: twin.name)
def test_clusters_on_two_threads(simulate: Callable[..., Any], twin: Twin) -> None:
    for seed in range(20):
        options = {"threads": 2, "schedule": "random", "seed": seed}
        assert twin.reports(simulate, twin.text, options) == []
        assert {report.kind for report in twin.reports(simulate, twin.wrong, options)} == {"race"}


def test_checks_can_be_off(simulate: Callable[..., Any]) -> None:
    for twin in TWINS:
        assert twin.reports(simulate, twin.wrong, {"checks": False}) == []
