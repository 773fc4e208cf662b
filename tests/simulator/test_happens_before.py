"""Races and uninitialised memory, in twins: with the ordering no report, without it this one."""

from __future__ import annotations

import pytest
from jax_fa4_simulator import _simulator

ALL = 0xFFFFFFFF
BASE = 1024
TWINS = pytest.mark.parametrize("ordered", [True, False])


class Cluster:
    """A history and its warps; accesses are made with what their actor knows."""

    def __init__(self, **options):
        self.checks = _simulator.HappensBefore([f"statement {i}" for i in range(8)], **options)
        self.warps = [_simulator.WarpView(self.checks.agent("warp", 0, index), ALL) for index in range(3)]

    def warp(self, index, access, *place, lanes=ALL, **options):
        view = self.warps[index]
        getattr(self.checks, access)(view.agent, view.now, view.known_to(lanes), *place, lanes=lanes, **options)

    def pipe(self, agent, time, issuer, access, *place, lanes=1, **options):
        getattr(self.checks, access)(agent, time, self.warps[issuer].known_to(lanes), *place, **options)

    def pass_on(self, source, target, lanes=ALL):
        self.warps[target].acquire(ALL, self.warps[source].release(lanes))


@pytest.fixture
def cluster():
    return Cluster()


def only(reports, kind="race"):
    assert [report["kind"] for report in reports] == [kind]
    return reports[0]


@TWINS
def test_a_read_after_a_write_of_another_warp(cluster, ordered):
    cluster.warp(0, "write_shared", BASE + 64, 16, pc=1)
    if ordered:
        cluster.pass_on(0, 1)
    cluster.warp(1, "read_shared", BASE + 64, 16, pc=2)
    reports = cluster.checks.reports()
    if ordered:
        assert reports == []
        return
    report = only(reports)
    assert report["title"] == "shared memory is read while a warp may still write it"
    assert report["where"] == "shared 0x440..0x44f, 16 bytes"
    assert report["first"] == ("write", "warp 0 lanes 0-31", 1)
    assert report["second"] == ("read", "warp 1 lanes 0-31", 2)
    assert report["why"] == "nothing that warp 1 lanes 0-31 waited for follows the write"


@TWINS
def test_a_write_after_a_read_of_another_warp(cluster, ordered):
    cluster.warp(0, "write_shared", BASE, 8)
    cluster.pass_on(0, 1)
    cluster.warp(1, "read_shared", BASE, 8, pc=3)
    if ordered:
        cluster.pass_on(1, 0)
    cluster.warp(0, "write_shared", BASE, 8, pc=4)
    reports = cluster.checks.reports()
    if ordered:
        assert reports == []
    else:
        assert only(reports)["title"] == "shared memory is overwritten while a warp may still read it"


@TWINS
def test_a_write_after_a_write_of_another_warp(cluster, ordered):
    cluster.warp(0, "write_shared", BASE, 4)
    if ordered:
        cluster.pass_on(0, 1)
    cluster.warp(1, "write_shared", BASE, 4)
    reports = cluster.checks.reports()
    if ordered:
        assert reports == []
    else:
        assert only(reports)["title"] == "shared memory is overwritten while a warp may still write it"


@pytest.mark.parametrize("forgotten", [None, 0, 1])
def test_a_write_must_follow_every_reader(cluster, forgotten):
    cluster.warp(2, "write_shared", BASE, 4)
    for reader in (0, 1):
        cluster.pass_on(2, reader)
        cluster.warp(reader, "read_shared", BASE, 4, pc=reader)
    for reader in (0, 1):
        if reader != forgotten:
            cluster.pass_on(reader, 2)
    cluster.warp(2, "write_shared", BASE, 4, pc=5)
    reports = cluster.checks.reports()
    if forgotten is None:
        assert reports == []
    else:
        assert only(reports)["first"] == ("read", f"warp {forgotten} lanes 0-31", forgotten)


@pytest.mark.parametrize("offset", [0, 2])
def test_bytes_of_a_cell_are_told_apart(cluster, offset):
    cluster.warp(0, "write_shared", BASE, 2)
    cluster.warp(1, "write_shared", BASE + 2, 2)
    assert cluster.checks.reports() == []
    cluster.pass_on(0 if offset == 0 else 1, 2)
    cluster.warp(2, "read_shared", BASE + offset, 2)
    assert cluster.checks.reports() == []
    cluster.warp(2, "read_shared", BASE + 2 - offset, 2)
    only(cluster.checks.reports())


def test_both_writers_of_a_cell_are_remembered(cluster):
    cluster.warp(0, "write_shared", BASE, 2, pc=1)
    cluster.warp(1, "write_shared", BASE + 2, 2, pc=2)
    cluster.pass_on(1, 2)
    cluster.warp(2, "write_shared", BASE, 4, pc=3)
    assert only(cluster.checks.reports())["first"] == ("write", "warp 0 lanes 0-31", 1)


@TWINS
def test_all_lanes_store_and_an_elected_lane_arrives(cluster, ordered):
    for lane in range(32):
        cluster.warp(0, "write_shared", BASE + 4 * lane, 4, lanes=1 << lane)
    if ordered:
        cluster.warps[0].meet(ALL)
    cluster.pass_on(0, 1, lanes=1)
    cluster.warp(1, "read_shared", BASE, 128)
    reports = cluster.checks.reports()
    if ordered:
        assert reports == []
        return
    report = only(reports)
    assert report["where"] == "shared 0x404..0x47f, 124 bytes"
    assert report["first"][1] == "warp 0 lanes 1-31"


def test_a_value_passed_on_by_one_of_several_lanes(cluster):
    cluster.warp(0, "write_shared", BASE, 4, lanes=3)
    cluster.pass_on(0, 1, lanes=1)
    cluster.warp(1, "read_shared", BASE, 4)
    why = only(cluster.checks.reports())["why"]
    assert why == (
        "of warp 0 lanes 0-1 the write of lane 0 alone was passed on: "
        "lane 1 did not meet the arriving ones (bar.warp.sync)"
    )


def test_an_earlier_time_is_named(cluster):
    cluster.pass_on(0, 1)
    cluster.warp(0, "write_shared", BASE, 4)
    cluster.warp(1, "read_shared", BASE, 4)
    why = only(cluster.checks.reports())["why"]
    assert why == (
        "what warp 1 lanes 0-31 last waited for follows an earlier access of warp 0 lanes 0-31, "
        "not this write (time 1, the write is at 2)"
    )


@pytest.mark.parametrize("fences", ["writer", "reader", None])
def test_what_a_warp_wrote_for_the_async_proxy_needs_a_fence(cluster, fences):
    tensor_core = cluster.checks.agent("tcgen05")
    cluster.warp(0, "write_shared", BASE, 16, pc=1)
    if fences == "writer":
        cluster.warps[0].fence_async(ALL)
    cluster.pass_on(0, 1)
    if fences == "reader":
        cluster.warps[1].fence_async(ALL)
    cluster.pipe(tensor_core, 1, 1, "read_shared", BASE, 16, async_proxy=True, pc=2)
    reports = cluster.checks.reports()
    if fences:
        assert reports == []
        return
    report = only(reports)
    assert report["title"] == (
        "shared memory that a warp wrote is read by tcgen05.mma without a proxy fence between (fence.proxy.async)"
    )
    assert report["second"] == ("read", "tcgen05.mma issued by warp 1 lane 0", 2)


@TWINS
def test_a_warps_own_writes_and_its_bulk_store(cluster, ordered):
    store = cluster.checks.agent("bulk_store", 0, 0)
    for lane in range(32):
        cluster.warp(0, "write_shared", BASE + 4 * lane, 4, lanes=1 << lane)
    if ordered:
        cluster.warps[0].fence_async(ALL)
    cluster.warps[0].meet(ALL)
    cluster.pipe(store, 1, 0, "read_shared", BASE, 128, async_proxy=True)
    reports = cluster.checks.reports()
    assert reports == [] if ordered else "proxy fence" in only(reports)["title"]


def test_lanes_that_fenced_must_still_meet_the_issuing_one(cluster):
    store = cluster.checks.agent("bulk_store", 0, 0)
    cluster.warp(0, "write_shared", BASE, 4, lanes=2)
    cluster.warps[0].fence_async(ALL)
    cluster.pipe(store, 1, 0, "read_shared", BASE, 4, async_proxy=True)
    report = only(cluster.checks.reports())
    assert report["why"] == "lane 1 of the warp did not meet the issuing lane 0 after the write (bar.warp.sync)"


def test_a_generic_read_before_an_asynchronous_write_needs_no_fence(cluster):
    copy = cluster.checks.agent("tensor_copy", 0, 0x80)
    cluster.pipe(copy, 1, 1, "write_shared", BASE, 16, async_proxy=True)
    cluster.warps[0].learn(copy, 1, ALL)
    cluster.warp(0, "read_shared", BASE, 16)
    cluster.pass_on(0, 1)
    cluster.pipe(copy, 2, 1, "write_shared", BASE, 16, async_proxy=True)
    assert cluster.checks.reports() == []


@TWINS
def test_a_copy_is_awaited_before_it_is_read(cluster, ordered):
    copy = cluster.checks.agent("tensor_copy", 0, 0x80)
    cluster.pipe(copy, 1, 1, "write_shared", BASE, 64, async_proxy=True, pc=1)
    if ordered:
        cluster.warps[0].learn(copy, 1, ALL)
    cluster.warp(0, "read_shared", BASE, 64, pc=2)
    reports = cluster.checks.reports()
    if ordered:
        assert reports == []
    else:
        assert only(reports)["title"] == "shared memory is read while a tensor copy may still write it"
        assert cluster.checks.reports() == []


@TWINS
def test_a_stage_is_released_before_it_is_overwritten(cluster, ordered):
    copy = cluster.checks.agent("tensor_copy", 0, 0x80)
    tensor_core = cluster.checks.agent("tcgen05")
    cluster.pipe(copy, 1, 1, "write_shared", BASE, 64, async_proxy=True, pc=1)
    cluster.warps[2].learn(copy, 1, ALL)
    cluster.pipe(tensor_core, 1, 2, "read_shared", BASE, 64, async_proxy=True, pc=2)
    if ordered:
        cluster.warps[1].learn(tensor_core, 1, ALL)
    cluster.pipe(copy, 2, 1, "write_shared", BASE, 64, async_proxy=True, pc=1)
    reports = cluster.checks.reports()
    if ordered:
        assert reports == []
    else:
        report = only(reports)
        assert report["title"] == "shared memory is overwritten while tcgen05.mma may still read it"
        assert report["first"][1] == "tcgen05.mma issued by warp 2 lane 0"
        assert report["why"] == "nothing that warp 1 lane 0 waited for follows the read"


@pytest.mark.parametrize("writes", [True, False])
def test_uninitialised_shared_memory(cluster, writes):
    if writes:
        cluster.warp(0, "write_shared", BASE, 16)
    else:
        cluster.warp(0, "write_shared", BASE, 6)
    cluster.warp(0, "read_shared", BASE, 16, pc=3)
    cluster.warp(0, "read_shared", BASE + 32, 4 if not writes else 0, pc=3)
    reports = cluster.checks.reports()
    if writes:
        assert reports == []
        return
    report = only(reports, "uninitialised")
    assert report["where"] == "shared 0x406..0x40f, 10 bytes"
    assert report["count"] == 2
    assert report["first"][2] is None and report["second"] == ("read", "warp 0 lanes 0-31", 3)


def test_a_reported_place_is_disarmed(cluster):
    cluster.warp(0, "write_shared", BASE, 4, pc=1)
    cluster.warp(1, "write_shared", BASE, 4, pc=2)
    cluster.warp(2, "read_shared", BASE, 4, pc=3)
    assert only(cluster.checks.reports())["second"][2] == 2


def test_one_report_for_a_pair_of_statements(cluster):
    for place in range(5):
        cluster.warp(0, "write_shared", BASE + 8 * place, 4, pc=1)
        cluster.warp(1, "write_shared", BASE + 8 * place, 4, pc=2)
    report = only(cluster.checks.reports())
    assert report["count"] == 5 and report["where"] == "shared 0x400..0x403, 4 bytes"


@pytest.mark.parametrize("atomic", [True, False])
def test_atomics_do_not_race_with_each_other(cluster, atomic):
    cluster.warp(0, "write_shared", BASE, 4, atomic=True, pc=1)
    cluster.warp(1, "write_shared", BASE, 4, atomic=atomic, pc=2)
    assert len(cluster.checks.reports()) == (not atomic)


def test_a_plain_read_must_follow_every_atomic(cluster):
    for warp in (0, 1):
        cluster.warp(warp, "write_shared", BASE, 4, atomic=True, pc=warp)
    cluster.pass_on(1, 2)
    cluster.warp(2, "read_shared", BASE, 4, pc=2)
    assert only(cluster.checks.reports())["first"] == ("atomic", "warp 0 lanes 0-31", 0)


@TWINS
def test_tensor_memory(cluster, ordered):
    tensor_core = cluster.checks.agent("tcgen05")
    load = cluster.checks.agent("tensor_load", 0, 0)
    cluster.pipe(tensor_core, 1, 2, "write_tensor", 1, 32, 64, pc=1)
    if ordered:
        cluster.warps[0].learn(tensor_core, 1, ALL)
    cluster.pipe(load, 1, 0, "read_tensor", 1, 32, 32, lanes=ALL, pc=2)
    reports = cluster.checks.reports()
    if ordered:
        assert reports == []
    else:
        report = only(reports)
        assert report["title"] == "tensor memory is read while tcgen05.mma may still write it"
        assert report["where"] == "tensor memory lanes 16-31, columns 32-63"


def test_tensor_memory_is_uninitialised_when_allocated_again(cluster):
    tensor_core = cluster.checks.agent("tcgen05")
    cluster.pipe(tensor_core, 1, 2, "write_tensor", 7, 500, 2)
    cluster.pipe(tensor_core, 1, 2, "read_tensor", 7, 500, 2)
    assert cluster.checks.reports() == []
    cluster.checks.forget_tensor(0, 501, 11)
    cluster.pipe(tensor_core, 2, 2, "read_tensor", 7, 500, 2)
    assert only(cluster.checks.reports(), "uninitialised")["where"] == "tensor memory lanes 112-127, column 501"


@TWINS
def test_global_memory(cluster, ordered):
    cluster.warp(0, "write_global", 0x7F0000001FF8, 16, pc=1)
    if ordered:
        cluster.pass_on(0, 1)
    cluster.warp(1, "read_global", 0x7F0000001FF0, 64, pc=2)
    reports = cluster.checks.reports()
    if ordered:
        assert reports == []
    else:
        report = only(reports)
        assert report["title"] == "global memory is read while a warp may still write it"
        assert report["where"] == "global 0x7f0000001ff8..0x7f0000002007, 16 bytes"


@TWINS
def test_global_memory_of_two_clusters(ordered):
    near = Cluster()
    far = Cluster(cluster=5, launch=near.checks)
    far.warp(1, "write_global", 4096, 16, pc=1)
    if ordered:
        passed = _simulator.Knowledge()
        passed.join_foreign(5, far.warps[1].release(ALL))
        near.warps[0].acquire(ALL, passed)
    near.warp(0, "read_global", 4100, 4, pc=2)
    reports = near.checks.reports()
    if ordered:
        assert reports == []
    else:
        report = only(reports)
        assert report["where"] == "global 0x1004..0x1007, 4 bytes"
        assert report["first"][1] == "warp 1 lanes 0-31 of CTA (0,5,0)"
        assert report["why"] == "nothing that warp 0 lanes 0-31 acquired comes from the other cluster"


@TWINS
def test_knowledge_of_the_own_cluster_by_way_of_another(ordered):
    near = Cluster()
    near.warp(0, "write_global", 4096, 4)
    passed = _simulator.Knowledge()
    if ordered:
        passed.join_foreign(0, near.warps[0].release(ALL))
    near.warps[1].acquire(ALL, passed)
    near.warp(1, "write_global", 4096, 4)
    assert len(near.checks.reports()) == (not ordered)


@TWINS
def test_global_memory_remembers_two_readers(cluster, ordered):
    for reader in (0, 1):
        cluster.warp(reader, "read_global", 4096, 16, pc=reader)
    cluster.pass_on(1, 2)
    if ordered:
        cluster.pass_on(0, 2)
    cluster.warp(2, "write_global", 4096, 16, pc=2)
    assert len(cluster.checks.reports()) == (not ordered)


@TWINS
def test_a_bulk_store_and_the_global_memory_a_warp_wrote(cluster, ordered):
    copy = cluster.checks.agent("tensor_copy", 0, 0x80)
    cluster.warp(0, "write_global", 4096, 4, lanes=1)
    if ordered:
        cluster.warps[0].fence_async(1)
    cluster.pipe(copy, 1, 0, "read_global", 4096, 16, async_proxy=True)
    reports = cluster.checks.reports()
    assert reports == [] if ordered else "proxy fence" in only(reports)["title"]


def test_the_limit_on_reports():
    cluster = Cluster(limit=2)
    for pc in range(4):
        cluster.warp(0, "write_shared", BASE + 4 * pc, 4, pc=pc)
        cluster.warp(1, "write_shared", BASE + 4 * pc, 4, pc=pc)
    assert len(cluster.checks.reports()) == 2


def test_the_text_of_a_report(cluster):
    copy = cluster.checks.agent("tensor_copy", 0, 0x80)
    tensor_core = cluster.checks.agent("tcgen05")
    for place in range(2):
        cluster.pipe(copy, 1, 1, "write_shared", BASE + 32 * place, 16, async_proxy=True, pc=1)
        cluster.pipe(tensor_core, 1, 2, "read_shared", BASE + 32 * place, 16, async_proxy=True, pc=4)
    assert only(cluster.checks.reports())["text"] == (
        "error[race]: shared memory is read while a tensor copy may still write it\n"
        "  kernel  kernel, kernel.ptx, CTA (0,0,0)\n"
        "  where   shared 0x400..0x40f, 16 bytes\n"
        "  write   tensor copy issued by warp 1 lane 0    ptx:101  statement 1    kernel.py:57\n"
        "  read    tcgen05.mma issued by warp 2 lane 0    ptx:104  statement 4\n"
        "  why     nothing that warp 2 lane 0 waited for follows the write\n"
        "  count   2 places for this pair of statements; first shown\n"
        "  repeat  schedule=eager\n"
    )
