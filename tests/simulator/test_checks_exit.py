"""What must be done before a CTA ends, and tensor memory's rules; operations that one lane must issue."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from kernel_text import kernel
from twins import Twin, every_schedule

START = (
    "mov.b32 %r0, dynamic; mov.u32 %r1, %tid.x; setp.eq.u32 %p0, %r1, 0; shl.b32 %r2, %r1, 2; add.u32 %r2, %r2, %r0;"
)
SHARED = {"launch": {"dynamic_shared": 1024}}
ALLOC = "tcgen05.alloc.cta_group::1.sync.aligned.shared::cta.b32 [%r0], 64;"
DEALLOC = "tcgen05.dealloc.cta_group::1.sync.aligned.b32 %r4, 64;"
RELINQUISH = "tcgen05.relinquish_alloc_permit.cta_group::1.sync.aligned;"
GET = "ld.shared.b32 %r4, [%r0];"
COMMIT = "@%p0 cp.async.bulk.commit_group;"
STORE = "cp.async.bulk.global.shared::cta.bulk_group [%l0], [%r0], 128;"
COPY = "cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [%r0+128], [%l0], 128, [%r0];"


def _data() -> list[Any]:
    return [np.zeros(32, np.uint32)]


def _stored(body: str) -> str:
    text = f"""{START} ld.param.b64 %l0, [data];
st.shared.b32 [%r2], %r1;
fence.proxy.async.shared::cta;
bar.warp.sync -1;
{body}"""
    return kernel(text, ".param .u64 data", 32)


TWINS = [
    Twin(
        "tensor_memory",
        kernel(f"{START}\n{ALLOC}  // second\n{GET}\n{DEALLOC}  // missing", threads=32),
        "tensor_memory",
        "tensor memory is not freed before the CTA exits",
        golden=True,
        **SHARED,
    ),
    Twin(
        "freed_twice",
        kernel(f"{START}\n{ALLOC}\n{GET}\n{DEALLOC}\nmov.b32 %r5, 0;  // missing, second", threads=32),
        "tensor_memory",
        "tcgen05.dealloc of columns that were not allocated so",
        instead=f"{DEALLOC}  // second",
        golden=True,
        **SHARED,
    ),
    Twin(
        "alloc_after_relinquish",
        kernel(f"{START}\nmov.b32 %r5, 0;  // missing\n{ALLOC}  // second\n{GET}\n{RELINQUISH}\n{DEALLOC}", threads=32),
        "tensor_memory",
        "tcgen05.alloc after relinquish_alloc_permit",
        instead=RELINQUISH,
        **SHARED,
    ),
    Twin(
        "not_awaited",
        _stored(f"@%p0 {STORE}  // second\n{COMMIT}\n@%p0 cp.async.bulk.wait_group.read 0;  // missing"),
        "not_awaited",
        "a bulk operation is not awaited before its warp exits",
        arguments=_data,
        golden=True,
        **SHARED,
    ),
    Twin(
        "not_committed",
        _stored(
            f"@%p0 {STORE}  // second\n@%p0 cp.async.bulk.commit_group;  // missing\n@%p0 cp.async.bulk.wait_group 0;"
        ),
        "not_awaited",
        "a bulk operation is not awaited before its warp exits",
        arguments=_data,
        **SHARED,
    ),
    Twin(
        "copy_not_awaited",
        kernel(
            f"""{START} ld.param.b64 %l0, [data];
@%p0 mbarrier.init.shared.b64 [%r0], 1;
@%p0 fence.mbarrier_init.release.cluster;
bar.warp.sync -1;
@%p0 mbarrier.arrive.expect_tx.shared.b64 _, [%r0], 128;
@%p0 {COPY}  // second
wait: mbarrier.try_wait.parity.shared.b64 %p1, [%r0], 0; @!%p1 bra wait;  // missing
""",
            ".param .u64 data",
            32,
        ),
        "not_awaited",
        "a copy into shared memory is not awaited before the CTA exits",
        arguments=_data,
        golden=True,
        **SHARED,
    ),
    Twin(
        "exited_peer",
        kernel(
            f"""{START}
mov.u32 %r3, %cluster_ctarank; setp.ne.u32 %p1, %r3, 0; mapa.shared::cluster.u32 %r4, %r0, 1;
barrier.cluster.arrive; barrier.cluster.wait;
@%p1 bra end;
st.shared::cluster.b32 [%r4], %r1;  // second
end:
barrier.cluster.arrive; barrier.cluster.wait;  // missing
""",
            threads=1,
        ),
        "out_of_bounds",
        "access to the shared memory of a CTA that has exited",
        golden=True,
        order_matters=True,
        launch={"grid": 2, "cluster": 2, "dynamic_shared": 16},
    ),
    Twin(
        "unelected",
        _stored(f"""
elect.sync _|%p1, -1;  // missing
@%p1 {STORE}  // second
cp.async.bulk.commit_group;
cp.async.bulk.wait_group.read 0;
"""),
        "unelected",
        "a bulk store is issued by more than one lane",
        instead="setp.ge.u32 %p1, %r1, 0;",
        arguments=_data,
        golden=True,
        **SHARED,
    ),
    Twin(
        "undefined",
        kernel(
            f"""{START}
mov.b32 %r5, -1;  // missing
@%p0 bra one;
bra end;
one:
activemask.b32 %r5;
end:
bar.warp.sync -1;
vote.sync.any.pred %p1, %p0, %r5;  // second
""".replace("activemask.b32 %r5;\n", ""),
            threads=32,
        ),
        "undefined",
        "the member mask lacks lanes that execute",
        instead="mov.b32 %r5, 1;",
        golden=True,
        **SHARED,
    ),
]


@every_schedule(TWINS)
def test_exit(simulate: Callable[..., Any], twin: Twin, options: dict[str, Any]) -> None:
    twin.check(simulate, options)
