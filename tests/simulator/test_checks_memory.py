"""Places that may not be touched, or not yet: uninitialised, out of bounds, misaligned."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from kernel_text import kernel
from twins import Twin, every_schedule

START = "mov.b32 %r0, dynamic; mov.u32 %r1, %tid.x; shl.b32 %r2, %r1, 2; add.u32 %r2, %r2, %r0; mov.b32 %r3, 7;"
SHARED = {"launch": {"dynamic_shared": 256}}


def _one_line(
    name: str, kind: str, title: str, right: str, wrong: str, before: str = "", after: str = "", **more: Any
) -> Twin:
    """A statement that is right in one twin and reported in the other."""
    body = f"{START}\n{before}\n{right}  // missing, second\n{after}"
    more = {**SHARED, **more}
    text = kernel(body, more.pop("parameters", ""), more.pop("threads", 32))
    twin = Twin(name, text, kind, title, instead=f"{wrong}  // second", **more)
    return twin


TENSOR = """
setp.lt.u32 %p1, %r1, 32; @!%p1 bra end;
tcgen05.alloc.cta_group::1.sync.aligned.shared::cta.b32 [%r0], 32;
ld.shared.b32 %r4, [%r0];
"""
FREE = """tcgen05.wait::ld.sync.aligned; tcgen05.wait::st.sync.aligned;
tcgen05.dealloc.cta_group::1.sync.aligned.b32 %r4, 32;
end:"""
OUTSIDE = "access outside the CTA's shared memory"
GLOBAL = {"parameters": ".param .u64 data", "arguments": lambda: [np.zeros(32, np.uint32)]}
POINTER = "ld.param.b64 %l0, [data];"

TWINS = [
    Twin(
        "uninitialised",
        kernel(
            f"""{START}
st.shared.b32 [%r2], %r1;  // missing
ld.shared.b32 %r3, [%r2];  // second
""",
            threads=32,
        ),
        "uninitialised",
        "shared memory is read before anything was written to it",
        golden=True,
        **SHARED,
    ),
    _one_line(
        "uninitialised_bytes",
        "uninitialised",
        "shared memory is read before anything was written to it",
        "ld.shared.u8 %r4, [%r2+2];",
        "ld.shared.u8 %r4, [%r2+3];",
        "st.shared.u8 [%r2+2], %r1;",
    ),
    Twin(
        "uninitialised_tensor_memory",
        kernel(
            f"""{START}{TENSOR}
tcgen05.st.sync.aligned.32x32b.x1.b32 [%r4], {{%r3}}; tcgen05.wait::st.sync.aligned;  // missing
tcgen05.ld.sync.aligned.32x32b.x1.b32 {{%r5}}, [%r4];  // second
{FREE}""",
            threads=32,
        ),
        "uninitialised",
        "tensor memory is read before anything was written to it",
        golden=True,
        **SHARED,
    ),
    Twin(
        "given_again",
        kernel(
            f"""{START}{TENSOR}
tcgen05.st.sync.aligned.32x32b.x1.b32 [%r4], {{%r3}}; tcgen05.wait::st.sync.aligned;
mov.b32 %r6, 1;  // missing
tcgen05.ld.sync.aligned.32x32b.x1.b32 {{%r5}}, [%r4];  // second
{FREE}""",
            threads=32,
        ),
        "uninitialised",
        "tensor memory is read before anything was written to it",
        instead="tcgen05.dealloc.cta_group::1.sync.aligned.b32 %r4, 32; "
        "tcgen05.alloc.cta_group::1.sync.aligned.shared::cta.b32 [%r0], 32;",
        **SHARED,
    ),
    Twin(
        "uninitialised_mbarrier",
        kernel(
            f"""{START}
setp.eq.u32 %p0, %r1, 0;
@%p0 mbarrier.init.shared.b64 [%r0], 1;  // missing
@%p0 mbarrier.arrive.shared.b64 _, [%r0];  // second
""",
            threads=32,
        ),
        "uninitialised",
        "mbarrier is used before mbarrier.init",
        **SHARED,
    ),
    _one_line(
        "out_of_bounds",
        "out_of_bounds",
        OUTSIDE,
        "st.shared.b32 [%r0+252], %r3;",
        "st.shared.b32 [%r0+256], %r3;",
        golden=True,
    ),
    _one_line(
        "below_shared_memory", "out_of_bounds", OUTSIDE, "st.shared.b32 [%r0], %r3;", "st.shared.b32 [%r0+-4], %r3;"
    ),
    _one_line(
        "rank_too_high",
        "out_of_bounds",
        "shared address of CTA 2 in a cluster of 2",
        "mapa.shared::cluster.u32 %r4, %r0, 1; st.shared::cluster.b32 [%r4], %r3;",
        "mapa.shared::cluster.u32 %r4, %r0, 2; st.shared::cluster.b32 [%r4], %r3;",
        "mov.u32 %r5, %cluster_ctarank; setp.ne.u32 %p0, %r5, 0; @%p0 bra end;",
        "end: barrier.cluster.arrive; barrier.cluster.wait;",
        threads=1,
        launch={"grid": 2, "cluster": 2, "dynamic_shared": 256},
    ),
    _one_line(
        "below_global_memory",
        "out_of_bounds",
        "access outside the launch's global memory",
        "ld.global.b32 %r4, [%l0];",
        "ld.global.b32 %r4, [%l0+-4];",
        POINTER,
        **GLOBAL,
    ),
    _one_line(
        "above_global_memory",
        "out_of_bounds",
        "access outside the launch's global memory",
        "ld.global.v4.b32 {%r4, %r5, %r6, %r7}, [%l0+112];",
        "ld.global.v4.b32 {%r4, %r5, %r6, %r7}, [%l0+128];",
        POINTER,
        **GLOBAL,
    ),
    _one_line(
        "null",
        "out_of_bounds",
        "access outside the launch's global memory",
        "ld.global.b32 %r4, [%l0];",
        "ld.global.b32 %r4, [0];",
        POINTER,
        golden=True,
        **GLOBAL,
    ),
    _one_line(
        "beyond_the_parameters",
        "out_of_bounds",
        "ld.param beyond the kernel's parameters",
        "ld.param.b64 %l1, [data];",
        "ld.param.b64 %l1, [data+4];",
        golden=True,
        **GLOBAL,
    ),
    _one_line(
        "columns_not_allocated",
        "tensor_memory",
        "access to columns of tensor memory that are not allocated",
        "tcgen05.st.sync.aligned.32x32b.x1.b32 [%r4+31], {%r3};",
        "tcgen05.st.sync.aligned.32x32b.x1.b32 [%r4+32], {%r3};",
        TENSOR,
        FREE,
        golden=True,
    ),
    _one_line(
        "lanes_of_another_warp",
        "out_of_bounds",
        "a warp may touch only its own 32 lanes of tensor memory",
        "tcgen05.st.sync.aligned.32x32b.x1.b32 [%r4], {%r3};",
        "tcgen05.st.sync.aligned.32x32b.x1.b32 [%r4+0x200000], {%r3};",
        TENSOR,
        FREE,
        golden=True,
    ),
    _one_line(
        "misaligned",
        "misaligned",
        "shared access must be aligned to 8 bytes",
        "st.shared.v2.b32 [%r0+8], {%r3, %r3};",
        "st.shared.v2.b32 [%r0+4], {%r3, %r3};",
        golden=True,
    ),
    _one_line(
        "misaligned_global",
        "misaligned",
        "global access must be aligned to 4 bytes",
        "ld.global.b32 %r4, [%l0+4];",
        "ld.global.b32 %r4, [%l0+6];",
        POINTER,
        **GLOBAL,
    ),
]


@every_schedule(TWINS)
def test_memory(simulate: Callable[..., Any], twin: Twin, options: dict[str, Any]) -> None:
    twin.check(simulate, options)
