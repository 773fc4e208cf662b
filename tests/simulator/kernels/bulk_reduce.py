"""Sum over CTAs by bulk reductions into global memory: out[i] += sum over r of src[r][i]."""

import cutlass
import cutlass.cute as cute
from cutlass import Float32
from toolkit import SHARED, Kernel, Pointer, ptx

COUNT = 128


@cute.kernel
def bulk_reduce_add(src: cute.Pointer, out: cute.Pointer):
    thread, _, _ = cute.arch.thread_idx()
    block, _, _ = cute.arch.block_idx()
    part = cutlass.Array(Float32, COUNT, space=SHARED, alignment=16)
    part[thread] = (src + block * COUNT + thread).load()
    ptx.fence_proxy("async_shared", space=ptx.SharedSpace.shared_cta)
    ptx.barrier_cta_sync_aligned(0)
    if thread == 0:
        ptx.cp_reduce_async_bulk_global_shared_cta(cutlass.Array(out, COUNT), part, COUNT * 4, op="add", type="f32")
        ptx.cp_async_bulk_commit_group()
        ptx.cp_async_bulk_wait_group(0)


def kernels(arch: str) -> list[Kernel]:
    about = "out[i] += sum over r of src[r][i], i < 128; grid = number of r"
    parameters = (Pointer("src", "float32"), Pointer("out", "float32"))
    return [Kernel("bulk_reduce_add", about, bulk_reduce_add, parameters, COUNT)]
