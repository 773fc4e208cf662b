"""Elementwise: out[i] = a[i] + b[i] * scale."""

import cutlass.cute as cute
from cutlass import Float32, Int32
from toolkit import Kernel, Pointer, Scalar

THREADS = 128


@cute.kernel
def add_scaled(a: cute.Pointer, b: cute.Pointer, out: cute.Pointer, n: Int32, scale: Float32):
    thread, _, _ = cute.arch.thread_idx()
    block, _, _ = cute.arch.block_idx()
    i = block * THREADS + thread
    if i < n:
        (out + i).store((a + i).load() + (b + i).load() * scale)


def kernels(arch: str) -> list[Kernel]:
    arrays = tuple(Pointer(name, "float32") for name in ("a", "b", "out"))
    parameters = (*arrays, Scalar("n"), Scalar("scale", "f32"))
    about = "out[i] = a[i] + b[i] * scale for i < n; grid = ceil(n / 128)"
    return [Kernel("add_scaled", about, add_scaled, parameters, THREADS)]
