"""cp.async.bulk and cp.reduce.async.bulk (PTX ISA, "Data Movement: Non-tensor copy instructions")."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from kernel_text import SCHEDULES, kernel, schedule_name

schedules = pytest.mark.parametrize("options", SCHEDULES, ids=schedule_name)

# One thread initialises the mbarrier at %r1; %l0 and %l1 are parameters; %r2 is the thread, %p0 thread 0, %r3 the rank.
HEAD = """
ld.param.b64 %l0, [to]; ld.param.b64 %l1, [from];
mov.b32 %r1, dynamic; mov.u32 %r2, %tid.x; mov.u32 %r3, %cluster_ctarank; setp.eq.u32 %p0, %r2, 0;
@%p0 mbarrier.init.shared.b64 [%r1], 1;
@%p0 fence.mbarrier_init.release.cluster;
barrier.cluster.arrive; barrier.cluster.wait;
"""
WAIT = """
wait: mbarrier.try_wait.parity.shared.b64 %p2, [%r1], 0;
@!%p2 bra wait;
"""
# What arrived at %r1 + 1024, four bytes a thread, goes to `to`, after the CTA's rank x 512 bytes.
SAVE = """
shl.b32 %r4, %r2, 2; add.u32 %r5, %r1, %r4; ld.shared.b32 %r6, [%r5+1024];
shl.b32 %r7, %r3, 9; add.u32 %r7, %r7, %r4; cvt.u64.u32 %l2, %r7; add.u64 %l2, %l0, %l2; st.global.b32 [%l2], %r6;
"""
PARAMETERS = ".param .u64 to, .param .u64 from"


def _data() -> np.ndarray:
    return np.random.default_rng(3).integers(0, 1 << 32, 128, dtype=np.uint32)


FORMS = [
    "cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [%r8], [%l1], 512, [%r1];",
    "cp.async.bulk.shared::cta.global.mbarrier::complete_tx::bytes [%r8], [%l1], 512, [%r1];",
    "cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes.L2::cache_hint [%r8], [%l1], 512, [%r1], %l9;",
]


@schedules
@pytest.mark.parametrize("form", FORMS)
def test_from_global_memory(simulate: Callable[..., Any], form: str, options: dict[str, Any]) -> None:
    body = HEAD + "add.u32 %r8, %r1, 1024; mov.b64 %l9, 0;\n@!%p0 bra issued;\n"
    body += f"mbarrier.arrive.expect_tx.shared.b64 _, [%r1], 512;\n{form}\nissued:" + WAIT + SAVE
    to, source = np.zeros(128, np.uint32), _data()
    result = simulate(kernel(body, PARAMETERS), dynamic_shared=1536, arguments=[to, source], **options)
    np.testing.assert_array_equal(to, source)
    assert result.counters["copy_bytes"] == 512


@schedules
@pytest.mark.parametrize("mask", [0b1111, 0b0101, 0b1000])
@pytest.mark.parametrize("hint", [False, True])
def test_multicast(simulate: Callable[..., Any], hint: bool, mask: int, options: dict[str, Any]) -> None:
    form = f"""
shr.u32 %r9, {mask}, %r3; and.b32 %r9, %r9, 1; setp.eq.u32 %p3, %r9, 1;
@!%p3 bra done;
@%p0 mbarrier.arrive.expect_tx.shared.b64 _, [%r1], 512;
done:
setp.eq.u32 %p4, %r3, 1; and.pred %p4, %p4, %p0; mov.b16 %h0, {mask}; add.u32 %r8, %r1, 1024; mov.b64 %l9, 0;
@%p4 cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes.multicast::cluster{".L2::cache_hint" * hint}
 [%r8], [%l1], 512, [%r1], %h0{", %l9" * hint};
@!%p3 bra end;"""
    text = kernel(HEAD + form + WAIT + SAVE + "end:\nbarrier.cluster.arrive; barrier.cluster.wait;", PARAMETERS)
    to, source = np.zeros((4, 128), np.uint32), _data()
    simulate(text, grid=4, cluster=4, dynamic_shared=1536, arguments=[to, source], **options)
    np.testing.assert_array_equal(to, np.where([[mask >> rank & 1] for rank in range(4)], source, 0))


@pytest.mark.parametrize("mask", [0, 0b100])
def test_multicast_to_ctas_that_are_not_there(simulate: Callable[..., Any], mask: int) -> None:
    form = f"""
mov.b16 %h0, {mask};
@%p0 cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes.multicast::cluster
 [%r1+16], [%l1], 16, [%r1], %h0;"""
    text = kernel(HEAD + form, PARAMETERS)
    arguments = [np.zeros(4), np.zeros(4)]
    (report,) = simulate(text, grid=2, cluster=2, dynamic_shared=64, arguments=arguments, raise_on_report=False).reports
    assert report.title == "multicast to CTAs that the cluster does not have"


EXCHANGE = """
@%p0 mbarrier.arrive.expect_tx.shared.b64 _, [%r1], 512;
shl.b32 %r4, %r2, 2; add.u32 %r5, %r1, %r4; mad.lo.u32 %r6, %r3, 1000, %r2; st.shared.b32 [%r5+512], %r6;
fence.proxy.async.shared::cta;
bar.sync 0;
xor.b32 %r7, %r3, 1; mapa.shared::cluster.u32 %r8, %r1, %r7;
@%p0 cp.async.bulk.shared::cluster.shared::cta.mbarrier::complete_tx::bytes [%r8+1024], [%r1+512], 512, [%r8];
"""


@schedules
def test_to_the_other_cta(simulate: Callable[..., Any], options: dict[str, Any]) -> None:
    text = kernel(HEAD + EXCHANGE + WAIT + SAVE + "barrier.cluster.arrive; barrier.cluster.wait;", PARAMETERS)
    to = np.zeros((2, 128), np.uint32)
    simulate(text, grid=2, cluster=2, dynamic_shared=1536, arguments=[to, to], **options)
    np.testing.assert_array_equal(to, np.array([[1000], [0]]) + np.arange(128))


STORE = """
ld.param.b64 %l0, [to]; mov.b32 %r1, dynamic; mov.u32 %r2, %tid.x; setp.eq.u32 %p0, %r2, 0; mov.b64 %l9, 0;
shl.b32 %r4, %r2, 2; add.u32 %r5, %r1, %r4; cvt.rn.f32.u32 %r6, %r2; st.shared.b32 [%r5], %r6;
fence.proxy.async.shared::cta;
bar.sync 0;
@!%p0 bra end;
{form}
cp.async.bulk.commit_group;
cp.async.bulk.wait_group{read} 0;
end:
"""


@schedules
@pytest.mark.parametrize("read", ["", ".read"])
@pytest.mark.parametrize("hint", [False, True])
@pytest.mark.parametrize("adds", [False, True])
def test_to_global_memory(
    simulate: Callable[..., Any], adds: bool, hint: bool, read: str, options: dict[str, Any]
) -> None:
    opcode = "cp.reduce.async.bulk" if adds else "cp.async.bulk"
    opcode += ".global.shared::cta.bulk_group" + ".L2::cache_hint" * hint + ".add.f32" * adds
    form = f"{opcode} [%l0], [%r1], 512{', %l9' * hint};"
    to = np.full(128, 7, np.float32)
    text = kernel(STORE.format(form=form, read=read), ".param .u64 to")
    simulate(text, grid=3 if adds else 1, dynamic_shared=512, arguments=[to], **options)
    np.testing.assert_array_equal(to, np.arange(128) * 3 + 7 if adds else np.arange(128))


GROUPS = """
ld.param.b64 %l0, [to]; mov.b32 %r1, dynamic;
mov.b32 %r2, 0; st.shared.v4.b32 [%r1], {{%r2, %r2, %r2, %r2}};
mov.b32 %r2, 1; st.shared.v4.b32 [%r1+16], {{%r2, %r2, %r2, %r2}};
fence.proxy.async.shared::cta;
cp.async.bulk.global.shared::cta.bulk_group [%l0], [%r1], 16;
cp.async.bulk.commit_group;
cp.async.bulk.global.shared::cta.bulk_group [%l0+16], [%r1+16], 16;
cp.async.bulk.commit_group;
cp.async.bulk.wait_group.read {allowed};
mov.b32 %r2, 2; st.shared.v4.b32 [%r1+{place}], {{%r2, %r2, %r2, %r2}};
cp.async.bulk.wait_group.read 0;
"""


@schedules
@pytest.mark.parametrize(("allowed", "place", "waited"), [(0, 0, True), (0, 16, True), (1, 0, True), (1, 16, False)])
def test_a_wait_leaves_the_newest_groups(
    simulate: Callable[..., Any], allowed: int, place: int, waited: bool, options: dict[str, Any]
) -> None:
    to = np.zeros(8, np.uint32)
    text = kernel(GROUPS.format(allowed=allowed, place=place), ".param .u64 to", 1)
    reports = simulate(text, dynamic_shared=32, arguments=[to], raise_on_report=False, **options).reports
    assert [report.kind for report in reports] == ["race"] * (not waited)
    if waited:
        np.testing.assert_array_equal(to, [0] * 4 + [1] * 4)


def test_reading_what_was_stored_needs_the_whole_wait(simulate: Callable[..., Any]) -> None:
    for read in ("", ".read"):
        body = STORE.format(form="cp.async.bulk.global.shared::cta.bulk_group [%l0], [%r1], 512;", read=read)
        text = kernel(body.replace("end:", "ld.global.b32 %r7, [%l0];\nend:"), ".param .u64 to")
        to = np.zeros(128, np.float32)
        reports = simulate(text, dynamic_shared=512, arguments=[to], raise_on_report=False).reports
        assert [report.kind for report in reports] == ["race"] * (read == ".read")


def test_a_store_of_no_bytes(simulate: Callable[..., Any]) -> None:
    form = "cp.async.bulk.global.shared::cta.bulk_group [%l0], [%r1], 0;"
    to = np.full(128, 7, np.float32)
    simulate(kernel(STORE.format(form=form, read=""), ".param .u64 to"), dynamic_shared=512, arguments=[to])
    np.testing.assert_array_equal(to, np.full(128, 7))


LOAD = "cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [%r1+{}], [%l1+{}], {}, [%r1+{}];"
BULK_STORE = "cp.async.bulk.global.shared::cta.bulk_group [%l0+{}], [%r1+{}], {};"


@pytest.mark.parametrize(
    ("form", "kind", "words"),
    [
        (LOAD.format(16, 0, 8, 0), "misaligned", "a bulk copy's size must be a multiple of 16 bytes"),
        (LOAD.format(20, 0, 16, 0), "misaligned", "a bulk copy's destination must be a multiple of 16 bytes"),
        (LOAD.format(16, 4, 16, 0), "misaligned", "a bulk copy's source must be a multiple of 16 bytes"),
        (LOAD.format(16, 512, 16, 0), "out_of_bounds", "access outside the launch's global memory"),
        (LOAD.format(16, 0, 496, 0), "out_of_bounds", "access outside the CTA's shared memory"),
        (LOAD.format(16, 0, 0xFFFFFFF0, 0), "out_of_bounds", "access outside the launch's global memory"),
        (LOAD.format(16, 0, 16, 8), "uninitialised", "mbarrier is used before mbarrier.init"),
        (LOAD.format(0, 0, 16, 0), "barrier", "store to the place of an mbarrier"),
        (BULK_STORE.format(512, 16, 16), "out_of_bounds", "access outside the launch's global memory"),
        (BULK_STORE.format(0, 16, 0xFFFFFFF0), "out_of_bounds", "access outside the CTA's shared memory"),
        (BULK_STORE.format(0, 24, 16), "misaligned", "a bulk copy's source must be a multiple of 16 bytes"),
    ],
)
def test_faults(simulate: Callable[..., Any], form: str, kind: str, words: str) -> None:
    text = kernel(HEAD + f"@!%p0 bra end;\n{form}\nend:", PARAMETERS)
    arguments = [np.zeros(128, np.uint32), np.zeros(128, np.uint32)]
    options = {"dynamic_shared": 128, "arguments": arguments, "raise_on_report": False, "checks": False}
    (report,) = simulate(text, **options).reports
    assert (report.kind, report.title) == (kind, words)
    assert report.second.text == form.rstrip(";")
