"""A persistent kernel: a CTA done with its tile cancels the launch of one that has not started, and does its tile."""

import cutlass
import cutlass.cute as cute
from cutlass import Int32, Int64
from toolkit import SHARED, Kernel, Pointer, ptx, wait

COUNT = 128


@cute.kernel
def steal_tiles(src: cute.Pointer, out: cute.Pointer, owner: cute.Pointer):
    thread, _, _ = cute.arch.thread_idx()
    block, _, _ = cute.arch.block_idx()
    response = cutlass.Array(Int32, 4, space=SHARED, alignment=16)
    answered = cutlass.Array(Int64, 1, space=SHARED, alignment=8)
    if thread == 0:
        ptx.mbarrier_init(answered, 1)
        ptx.fence_mbarrier_init()
    ptx.barrier_cta_sync_aligned(0)

    tile = block
    parity = Int32(0)
    running = cutlass.Boolean(True)
    while running:
        if thread == 0:
            ptx.mbarrier_arrive_expect_tx(answered, 16)
            ptx.clusterlaunchcontrol_try_cancel(response, answered)
            (owner + tile).store(block)
        i = tile * COUNT + thread
        (out + i).store((out + i).load() + (src + i).load())
        wait(answered, parity)
        word = ptx.load_ext(response, dtype=cutlass.Int128)
        running = ptx.clusterlaunchcontrol_query_cancel("is_canceled", word)
        if running:
            tile = ptx.clusterlaunchcontrol_query_cancel("get_first_cta_id_x", word)
        parity = parity ^ 1
        # Every thread has read the response before the next request overwrites it through the async proxy.
        ptx.fence_proxy("async_shared", space=ptx.SharedSpace.shared_cta)
        ptx.barrier_cta_sync_aligned(0)


def kernels(arch: str) -> list[Kernel]:
    if arch != "sm_100a":
        return []
    about = "out[t][i] += src[t][i] once for each tile t < grid, i < 128; owner[t] = the CTA that did it"
    parameters = (Pointer("src", "float32"), Pointer("out", "float32"), Pointer("owner", "int32"))
    return [Kernel("steal_tiles", about, steal_tiles, parameters, COUNT)]
