"""The two CTAs of a cluster swap 128 numbers through each other's shared memory: out[r] = 2 src[r ^ 1] + src[r]."""

import cutlass
import cutlass.cute as cute
from cutlass import Float32, Int64
from toolkit import SHARED, Kernel, Pointer, cluster_sync, ptx, wait

COUNT = 128


@cute.kernel
def swap_by_bulk_copy(src: cute.Pointer, out: cute.Pointer):
    """A bulk copy into the peer's shared memory that completes on the peer's mbarrier."""
    thread, _, _ = cute.arch.thread_idx()
    block, _, _ = cute.arch.block_idx()
    peer = ptx.cluster_ctarank() ^ 1
    mine = cutlass.Array(Float32, COUNT, space=SHARED, alignment=16)
    theirs = cutlass.Array(Float32, COUNT, space=SHARED, alignment=16)
    arrived = cutlass.Array(Int64, 1, space=SHARED, alignment=8)

    if thread == 0:
        ptx.mbarrier_init(arrived, 1)
        ptx.mbarrier_arrive_expect_tx(arrived, COUNT * 4)
    value = (src + block * COUNT + thread).load()
    mine[thread] = value
    # For what the copies use: `mine`, and the mbarrier, so that it needs no fence of its own.
    ptx.fence_proxy("async_shared", space=ptx.SharedSpace.shared_cta)
    cluster_sync()
    if thread == 0:
        ptx.cp_async_bulk_shared_cluster_shared_cta(ptx.mapa(theirs, peer), mine, ptx.mapa(arrived, peer), COUNT * 4)
    wait(arrived, 0, "cluster")
    (out + block * COUNT + thread).store(theirs[thread] * 2 + value)
    # The peer's wait is what tells that the copy has read `mine`, which goes when this CTA exits.
    cluster_sync()


@cute.kernel
def swap_by_remote_arrive(src: cute.Pointer, out: cute.Pointer):
    """Plain stores into the peer's shared memory, then one arrival of every thread on the peer's mbarrier."""
    thread, _, _ = cute.arch.thread_idx()
    block, _, _ = cute.arch.block_idx()
    peer = ptx.cluster_ctarank() ^ 1
    theirs = cutlass.Array(Float32, COUNT, space=SHARED, alignment=16)
    arrived = cutlass.Array(Int64, 1, space=SHARED, alignment=8)

    if thread == 0:
        ptx.mbarrier_init(arrived, COUNT)
        ptx.fence_mbarrier_init()
    cluster_sync()
    value = (src + block * COUNT + thread).load()
    remote = ptx.mapa(theirs, peer)
    remote[thread] = value
    ptx.mbarrier_arrive(ptx.mapa(arrived, peer), scope="cluster")
    # A CTA leaves only after everything sent to it has arrived, so no barrier is needed at the end.
    wait(arrived, 0, "cluster")
    (out + block * COUNT + thread).store(theirs[thread] * 2 + value)


def kernels(arch: str) -> list[Kernel]:
    about = "out[r][i] = 2 src[r ^ 1][i] + src[r][i], r = CTA, i < 128; grid a multiple of 2"
    parameters = (Pointer("src", "float32"), Pointer("out", "float32"))
    return [
        Kernel("swap_by_bulk_copy", about, swap_by_bulk_copy, parameters, COUNT, cluster=2),
        Kernel("swap_by_remote_arrive", about, swap_by_remote_arrive, parameters, COUNT, cluster=2),
    ]
