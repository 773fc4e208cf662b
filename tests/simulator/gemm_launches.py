"""How the GEMMs among the test kernels are launched: five K tiles go round a ring of two twice and a half."""

from __future__ import annotations

import re

import ml_dtypes
import numpy as np
from jax_fa4_simulator import TensorMap
from launches import Array, Launch, Problem, filled, integers

K = 5 * 64

ORDERED_BY_BARRIERS = (
    "beside it stands a wait or an arrival on an mbarrier, from which the simulator takes the order: shipped kernels "
    "leave this fence out"
)
FENCES = {f"tcgen05.fence::{side}_thread_sync": ORDERED_BY_BARRIERS for side in ("before", "after")}
WAIT = {
    "tcgen05.wait::ld.sync.aligned": "every register of the load is stored to global memory before the barrier that "
    "stands before dealloc, and a use of its registers completes a load: ptxas makes sure of that"
}


def operand(values: Array, major: str, box_rows: int) -> TensorMap:
    """Rows by K in memory, or K by rows when MN-major; boxes are of 64 innermost elements."""
    if major == "k":
        return TensorMap(values, (64, box_rows), swizzle="128B")
    return TensorMap(np.ascontiguousarray(values.T), (64, 64), swizzle="128B")


def gemm(name: str, architecture: str, a_major: str, b_major: str, ctas: int = 1, pair: bool = False) -> Launch:
    """The launch of a kernel whose tile is in its name; `ctas` of a cluster load B in parts."""
    found = re.search(r"_m(\d+)_n(\d+)", name)
    assert found
    m, n = int(found[1]), int(found[2])
    rows = m // 2 if pair else m  # of one CTA
    shape_m, shape_n = 2 * ctas * rows, 2 * n
    a, b = (integers(i, extent, K, dtype=ml_dtypes.bfloat16) for i, extent in enumerate((shape_m, shape_n)))
    ldo = shape_n + 4
    wanted = np.full((shape_m, ldo), -1, np.float32)
    wanted[:, :shape_n] = a.astype(np.float32) @ b.astype(np.float32).T

    def problem() -> Problem:
        out = filled(wanted.shape, -1)
        first = [operand(a, a_major, rows)] if a_major else [a, np.int32(K)]
        arguments = [*first, operand(b, b_major, n // ctas), out, np.int32(ldo), np.int32(K // 64)]
        return Problem((shape_m // rows, 2), arguments, [(out, wanted)])

    return Launch(name, problem, (architecture,), explained(name, architecture))


def explained(name: str, architecture: str) -> dict[str, str]:
    """Nothing of a wgmma GEMM. Threads store into tensor memory, and have a fence before they arrive, only with TS."""
    if architecture == "sm_90a":
        return {}
    after = {text: why for text, why in FENCES.items() if "after" in text}
    return WAIT | (FENCES if "_ts" in name else after)


GEMMS = [
    gemm("gemm_m64_n64", "sm_100a", "k", "k"),
    gemm("gemm_m64_n256_mn", "sm_100a", "mn", "mn"),
    gemm("gemm_m128_n64", "sm_100a", "k", "k"),
    gemm("gemm_m128_n128_mn_k", "sm_100a", "mn", "k"),
    gemm("gemm_m128_n256_k_mn", "sm_100a", "k", "mn"),
    gemm("gemm_m128_n128_multicast", "sm_100a", "k", "k", ctas=2),
    gemm("gemm_m128_n128_multicast_mn", "sm_100a", "mn", "mn", ctas=2),
    gemm("gemm_m128_n128_ts", "sm_100a", "", "k"),
    gemm("gemm_m128_n64_ts_mn", "sm_100a", "", "mn"),
    gemm("gemm_pair_m128_n128", "sm_100a", "k", "k", ctas=2, pair=True),
    gemm("gemm_pair_m256_n64", "sm_100a", "k", "k", ctas=2, pair=True),
    gemm("gemm_pair_m256_n256_mn", "sm_100a", "mn", "mn", ctas=2, pair=True),
    gemm("wgmma_m64_n64", "sm_90a", "k", "k"),
    gemm("wgmma_m64_n128_mn", "sm_90a", "mn", "mn"),
    gemm("wgmma_m128_n128_k_mn", "sm_90a", "k", "mn"),
    gemm("wgmma_m128_n256_mn_k", "sm_90a", "mn", "k"),
    gemm("wgmma_m64_n128_rs", "sm_90a", "", "k"),
    gemm("wgmma_m128_n64_rs_mn", "sm_90a", "", "mn"),
]
