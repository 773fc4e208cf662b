"""Races within a CTA, in shared and tensor memory: each way to order two accesses, and what is said without it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from jax_fa4_simulator import TensorMap
from kernel_text import kernel
from twins import Twin, every_schedule

# Shared memory from %r0 on, four bytes a thread from %r3 on; %p0: thread 0, %p1: warp 0, %p2: thread 32. Behind a
# barrier the eager schedule goes on with the last warp.
START = """
mov.b32 %r0, dynamic; mov.u32 %r1, %tid.x; setp.eq.u32 %p0, %r1, 0; mov.u32 %r2, %warpid; setp.eq.u32 %p1, %r2, 0;
setp.eq.u32 %p2, %r1, 32; shl.b32 %r3, %r1, 2; add.u32 %r3, %r3, %r0;
"""


def _wait(label: str, place: str = "%r0", parity: int = 0) -> str:
    return f"{label}: mbarrier.try_wait.parity.shared.b64 %p9, [{place}], {parity}; @!%p9 bra {label};"


SHARED = {"launch": {"dynamic_shared": 8192}}

WARPS = Twin(
    "race",
    kernel(
        f"""{START}
@!%p1 bra other;
st.shared.b32 [%r3], %r1;  // first
other:
bar.sync 0;  // missing
@%p1 bra end;
ld.shared.b32 %r5, [%r3+-128];  // second
end:
""",
        threads=64,
    ),
    "race",
    "shared memory is read while a warp may still write it",
    golden=True,
    **SHARED,
)

OVERWRITTEN = Twin(
    "read_then_overwritten",
    kernel(
        f"""{START}
st.shared.b32 [%r3], %r1;
bar.sync 0;
@%p1 bra other;
ld.shared.b32 %r5, [%r3+-128];  // first
other:
bar.sync 0;  // missing
@!%p1 bra end;
st.shared.b32 [%r3], %r1;  // second
end:
""",
        threads=64,
    ),
    "race",
    "shared memory is overwritten while a warp may still read it",
    **SHARED,
)

# NVIDIA/cudnn-frontend#426: all lanes store, one arrives.
ELECTED_ARRIVAL = Twin(
    "race_elected_arrival",
    kernel(
        f"""{START}
@%p0 mbarrier.init.shared.b64 [%r0], 1;
bar.sync 0;
@%p1 bra consumer;
st.shared.b32 [%r3+16], %r1;  // first
bar.warp.sync -1;  // missing
elect.sync _|%p3, -1;
@%p3 mbarrier.arrive.shared.b64 _, [%r0];
bra end;
consumer:
{_wait("wait")}
ld.shared.b32 %r5, [%r3+144];  // second
end:
""",
        threads=64,
    ),
    "race",
    "shared memory is read while a warp may still write it",
    golden=True,
    **SHARED,
)


def _elected_wait() -> Twin:
    """What an elected lane has waited for, the others know once they have met."""
    text = kernel(
        f"""{START}
@%p0 mbarrier.init.shared.b64 [%r0], 32;
bar.sync 0;
@%p1 bra consumer;
st.shared.b32 [%r3+16], %r1;  // first
mbarrier.arrive.shared.b64 _, [%r0];
bra end;
consumer:
@!%p0 bra met;
{_wait("wait")}
met:
bar.warp.sync -1;  // missing
ld.shared.b32 %r5, [%r3+144];  // second
end:
""",
        threads=64,
    )
    return Twin(
        "elected_wait",
        text,
        "race",
        "shared memory is read while a warp may still write it",
        order_matters=True,
        **SHARED,
    )


# A tile of shared memory goes to global memory: by the generic proxy written, by the asynchronous one read.
STORE = """
ld.param.b64 %l0, [out];
@!%p1 bra other;
st.shared.b32 [%r3], %r1;  // first
{fence}
other:
{barrier}
@%p2 cp.async.bulk.global.shared::cta.bulk_group [%l0], [%r0], 128;  // second
@%p2 cp.async.bulk.commit_group;
@%p2 cp.async.bulk.wait_group 0;
"""


def _out() -> list[Any]:
    return [np.zeros(64, np.uint32)]


PROXY = Twin(
    "race_proxy",
    kernel(
        START + STORE.format(fence="fence.proxy.async.shared::cta;  // missing", barrier="bar.sync 0;"),
        ".param .u64 out",
        64,
    ),
    "race",
    "shared memory that a warp wrote is read by a bulk store without a proxy fence between (fence.proxy.async)",
    arguments=_out,
    golden=True,
    **SHARED,
)
PROXY_BARRIER = Twin(
    "race_proxy_barrier",
    kernel(
        START + STORE.format(fence="fence.proxy.async.shared::cta;", barrier="bar.sync 0;  // missing"),
        ".param .u64 out",
        64,
    ),
    "race",
    "shared memory is read while a warp may still write it",
    arguments=_out,
    order_matters=True,
    **SHARED,
)

STORED_AGAIN = Twin(
    "bulk_store_still_reads",
    kernel(
        f"""{START} ld.param.b64 %l0, [out];
st.shared.b32 [%r3], %r1;
fence.proxy.async.shared::cta;
bar.sync 0;
@%p0 cp.async.bulk.global.shared::cta.bulk_group [%l0], [%r0], 256;  // first
@%p0 cp.async.bulk.commit_group;
@%p0 cp.async.bulk.wait_group.read 0;  // missing
bar.sync 0;
st.shared.b32 [%r3], %r1;  // second
@%p0 cp.async.bulk.wait_group 0;
""",
        ".param .u64 out",
        64,
    ),
    "race",
    "shared memory is overwritten while a bulk store may still read it",
    arguments=_out,
    **SHARED,
)

# A tensor copy into shared memory; one warp waits for it, the other should.
LOAD = """
mov.b64 %l0, map; cvta.param.u64 %l0, %l0; mov.b32 %r9, 0;
@%p0 mbarrier.init.shared.b64 [%r0], 1;
@%p0 fence.mbarrier_init.release.cluster;
bar.sync 0;
@%p1 bra reader;
@%p2 mbarrier.arrive.expect_tx.shared.b64 _, [%r0], 1024;
@%p2 cp.async.bulk.tensor.1d.shared::cta.global.mbarrier::complete_tx::bytes [%r0+1024], [%l0, {%r9}], [%r0];  // first
"""


def _map() -> list[Any]:
    return [TensorMap(np.arange(1024, dtype=np.float32), (256,))]


UNAWAITED_LOAD = Twin(
    "race_tensor_copy",
    kernel(
        START
        + LOAD
        + f"""
{_wait("wait")}
bra end;
reader:
{_wait("other")}  // missing
ld.shared.b32 %r5, [%r3+1024];  // second
end:
""",
        ".param .align 64 .b8 map[128]",
        64,
    ),
    "race",
    "shared memory is read while a tensor copy may still write it",
    arguments=_map,
    golden=True,
    **SHARED,
)

TENSOR_COPY = (
    "@%p0 cp.async.bulk.tensor.1d.shared::cta.global.mbarrier::complete_tx::bytes [%r0+1024], [%l0, {%r9}], [%r0];"
)
LOADED_TOO_EARLY = Twin(
    "tensor_copy_overwrites",
    kernel(
        f"""{START}
mov.b64 %l0, map; cvta.param.u64 %l0, %l0; mov.b32 %r9, 0;
@%p0 mbarrier.init.shared.b64 [%r0], 1;
@%p0 mbarrier.init.shared.b64 [%r0+8], 32;
@%p0 fence.mbarrier_init.release.cluster;
st.shared.b32 [%r3+1024], %r1;
fence.proxy.async.shared::cta;
bar.sync 0;
@%p1 bra producer;
ld.shared.b32 %r5, [%r3+1024];  // first
mbarrier.arrive.shared.b64 _, [%r0+8];
bra end;
producer:
{_wait("empty", "%r0+8")}  // missing
@%p0 mbarrier.arrive.expect_tx.shared.b64 _, [%r0], 1024;
{TENSOR_COPY}  // second
{_wait("full")}
end:
""",
        ".param .align 64 .b8 map[128]",
        64,
    ),
    "race",
    "shared memory is overwritten while a warp may still read it",
    arguments=_map,
    order_matters=True,
    **SHARED,
)

MBARRIER_FENCE = Twin(
    "race_mbarrier_init_fence",
    kernel(
        START
        + LOAD.replace("init.release.cluster;", "init.release.cluster;  // missing").replace("// first", "// second")
        + f"reader:\n{_wait('wait')}",
        ".param .align 64 .b8 map[128]",
        64,
    ),
    "race",
    "mbarrier.init is not made visible to the async proxy and the cluster",
    arguments=_map,
    golden=True,
    **SHARED,
)
MBARRIER_BARRIER = Twin(
    "race_mbarrier_init_barrier",
    kernel(
        f"""{START}
@%p0 mbarrier.init.shared.b64 [%r0], 32;
bar.sync 0;  // missing
@%p1 bra waiter;
mbarrier.arrive.shared.b64 _, [%r0];  // second
bra end;
waiter:
{_wait("wait")}
end:
""",
        threads=64,
    ),
    "race",
    "mbarrier is used by a thread that mbarrier.init is not ordered before",
    **SHARED,
)


# The lines of a kernel with tensor memory: a product of zeros, by one thread, and what surrounds it.
def _tensor(before: str, issue: str, after: str, accumulates: int = 0) -> str:
    return kernel(f"""{START}
@%p0 mbarrier.init.shared.b64 [%r0], 1;
@%p0 fence.mbarrier_init.release.cluster;
mov.b32 %r9, 0; mad.lo.u32 %r6, %r1, 16, %r0;
st.shared.v4.b32 [%r6+1024], {{%r9, %r9, %r9, %r9}};
st.shared.v4.b32 [%r6+3072], {{%r9, %r9, %r9, %r9}};
st.shared.v4.b32 [%r6+5120], {{%r9, %r9, %r9, %r9}};
fence.proxy.async.shared::cta;
@!%p1 bra allocated;
tcgen05.alloc.cta_group::1.sync.aligned.shared::cta.b32 [%r0+16], 64;
tcgen05.relinquish_alloc_permit.cta_group::1.sync.aligned;
allocated:
tcgen05.fence::before_thread_sync; bar.sync 0; tcgen05.fence::after_thread_sync;
ld.shared.b32 %r8, [%r0+16]; shl.b32 %r7, %r2, 21; add.u32 %r7, %r7, %r8;
mov.b64 %l1, {1 << 46 | 16 << 32 | 8 << 16 | 2048 >> 4}; mov.b64 %l2, {1 << 46 | 16 << 32 | 8 << 16 | 6144 >> 4};
setp.ne.u32 %p5, {accumulates}, 0;
{before}
@!%p0 bra issued;
{issue}
tcgen05.commit.cta_group::1.mbarrier::arrive::one.shared::cluster.b64 [%r0];
issued:
{after}
{_wait("last")}
tcgen05.fence::before_thread_sync; bar.sync 0;
@!%p1 bra freed;
tcgen05.dealloc.cta_group::1.sync.aligned.b32 %r8, 64;
freed:
""")


INSTRUCTION = 1 << 4 | 1 << 7 | 1 << 10 | 8 << 17 | 8 << 24  # bf16, 128 x 64
MMA = f"tcgen05.mma.cta_group::1.kind::f16 [%r8], %l1, %l2, {INSTRUCTION}, %p5;"
MMA_TS = (
    f"tcgen05.mma.cta_group::1.kind::f16 [%r8], [%r8+32], %l2, {1 << 4 | 1 << 7 | 1 << 10 | 4 << 17 | 8 << 24}, %p5;"
)
CLEAR = "".join(
    f"tcgen05.st.sync.aligned.32x32b.x4.b32 [%r7+{column}], {{%r9, %r9, %r9, %r9}};\n" for column in range(0, 64, 4)
)
WAIT_ST, WAIT_LD = "tcgen05.wait::st.sync.aligned;", "tcgen05.wait::ld.sync.aligned;"
BARRIER = "tcgen05.fence::before_thread_sync; bar.sync 0; tcgen05.fence::after_thread_sync;"
LD = "tcgen05.ld.sync.aligned.32x32b.x1.b32 {%r10}, [%r7];"

OPERAND_OVERWRITTEN = Twin(
    "race_mma_operand",
    _tensor(
        "", MMA + "  // first", f"bar.sync 0;\n{_wait('wait')}  // missing\nst.shared.b32 [%r3+1024], %r9;  // second"
    ),
    "race",
    "shared memory is overwritten while tcgen05.mma may still read it",
    golden=True,
    **SHARED,
)
RESULT_READ = Twin(
    "mma_result",
    _tensor("", MMA + "  // first", f"bar.sync 0;\n{_wait('wait')}  // missing\n{LD}  // second\n{WAIT_LD}"),
    "race",
    "tensor memory is read while tcgen05.mma may still write it",
    order_matters=True,
    **SHARED,
)
OPERAND_FENCE = Twin(
    "mma_operand_fence",
    _tensor(
        "st.shared.b32 [%r6+1024], %r9;  // first\nfence.proxy.async;  // missing\nbar.sync 0;", MMA + "  // second", ""
    ),
    "race",
    "shared memory that a warp wrote is read by tcgen05.mma without a proxy fence between (fence.proxy.async)",
    **SHARED,
)
STORE_UNAWAITED = Twin(
    "race_tensor_store",
    _tensor(
        f"{CLEAR}{WAIT_ST}\n{BARRIER}\ntcgen05.st.sync.aligned.32x32b.x1.b32 [%r7], {{%r9}};  // first\n"
        f"{WAIT_ST}  // missing\n{BARRIER}",
        MMA + "  // second",
        "",
        accumulates=1,
    ),
    "race",
    "tensor memory is read while tcgen05.st may still write it",
    golden=True,
    **SHARED,
)
A_UNAWAITED = Twin(
    "tensor_store_of_a",
    _tensor(
        f"{CLEAR}{WAIT_ST}\ntcgen05.st.sync.aligned.32x32b.x1.b32 [%r7+32], {{%r9}};  // first\n"
        f"{WAIT_ST}  // missing\n{BARRIER}",
        MMA_TS + "  // second",
        "",
    ),
    "race",
    "tensor memory is read while tcgen05.st may still write it",
    **SHARED,
)
LOAD_UNAWAITED = Twin(
    "race_tensor_load",
    _tensor(f"{CLEAR}{WAIT_ST}\n{LD}  // first\n{WAIT_LD}  // missing\n{BARRIER}", MMA + "  // second", ""),
    "race",
    "tensor memory is overwritten while tcgen05.ld may still read it",
    golden=True,
    **SHARED,
)
LOAD_UNUSED = Twin(
    "tensor_load_unused",
    _tensor(
        f"{CLEAR}{WAIT_ST}\n{LD}  // first\nadd.u32 %r11, %r10, 1;  // missing\n{BARRIER}", MMA + "  // second", ""
    ),
    "race",
    "tensor memory is overwritten while tcgen05.ld may still read it",
    **SHARED,
)
FREED_TOO_EARLY = Twin(
    "freed_while_used",
    _tensor("", MMA + "  // first", "")
    .replace("bra last;", "bra last;  // missing")
    .replace(
        "tcgen05.dealloc.cta_group::1.sync.aligned.b32 %r8, 64;",
        "tcgen05.dealloc.cta_group::1.sync.aligned.b32 %r8, 64;  // second",
    ),
    "race",
    "tensor memory is overwritten while tcgen05.mma may still write it",
    order_matters=True,
    **SHARED,
)

TWINS = [
    WARPS,
    OVERWRITTEN,
    ELECTED_ARRIVAL,
    _elected_wait(),
    PROXY,
    PROXY_BARRIER,
    STORED_AGAIN,
    UNAWAITED_LOAD,
    LOADED_TOO_EARLY,
    MBARRIER_FENCE,
    MBARRIER_BARRIER,
    OPERAND_OVERWRITTEN,
    RESULT_READ,
    OPERAND_FENCE,
    STORE_UNAWAITED,
    A_UNAWAITED,
    LOAD_UNAWAITED,
    LOAD_UNUSED,
    FREED_TOO_EARLY,
]


@every_schedule(TWINS)
def test_races(simulate: Callable[..., Any], twin: Twin, options: dict[str, Any]) -> None:
    twin.check(simulate, options)


def test_a_pair_of_statements_is_reported_once(simulate: Callable[..., Any]) -> None:
    (report,) = WARPS.reports(simulate, WARPS.wrong, {"schedule": "eager"})
    assert report.count > 1 and f"count   {report.count} places for this pair of statements" in report.text


def test_checks_can_be_off(simulate: Callable[..., Any]) -> None:
    for twin in (WARPS, PROXY, UNAWAITED_LOAD, OPERAND_OVERWRITTEN):
        assert twin.reports(simulate, twin.wrong, {"checks": False}) == []


def test_the_report_repeats_the_run(simulate: Callable[..., Any]) -> None:
    report = WARPS.reports(simulate, WARPS.wrong, {"schedule": "random", "seed": 7})[0]
    assert report.text.endswith("  repeat  schedule=random,seed=7\n")
