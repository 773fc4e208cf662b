"""A reduction across CTAs whose order a semaphore in global memory fixes, the last CTA first.

out[i] = 2 out[i] + src[r][i] does not commute, so a CTA out of turn changes the result. All CTAs must be resident.
"""

import cutlass.cute as cute
from cutlass import Int32
from toolkit import Kernel, Pointer, ptx

COUNT = 128


@cute.kernel
def ordered_reduce(src: cute.Pointer, out: cute.Pointer, semaphore: cute.Pointer):
    thread, _, _ = cute.arch.thread_idx()
    block, _, _ = cute.arch.block_idx()
    blocks, _, _ = cute.arch.grid_dim()
    turn = blocks - 1 - block
    part = (src + block * COUNT + thread).load()
    if thread == 0:
        while ptx.load_ext(semaphore, dtype=Int32, order="acquire", scope="gpu") != turn:
            pass
    ptx.barrier_cta_sync_aligned(0)
    total = out + thread
    total.store(total.load() * 2 + part)
    ptx.barrier_cta_sync_aligned(0)
    if thread == 0:
        ptx.red("add", "s32", semaphore, Int32(1), mem_order="release", mem_scope="gpu")


def kernels(arch: str) -> list[Kernel]:
    about = "for r = grid - 1 .. 0: out[i] = 2 out[i] + src[r][i], i < 128; semaphore starts at 0, ends at grid"
    parameters = (Pointer("src", "float32"), Pointer("out", "float32"), Pointer("semaphore", "int32"))
    return [Kernel("ordered_reduce", about, ordered_reduce, parameters, COUNT)]
