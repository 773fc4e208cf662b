"""cp.async.bulk.tensor in tile mode (PTX ISA, "Data Movement: Tensor copy instructions", "Swizzling Modes")."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from jax_fa4_simulator import TensorMap
from kernel_text import SCHEDULES, kernel, schedule_name

schedules = pytest.mark.parametrize("options", SCHEDULES, ids=schedule_name)
SIGNAL = ".mbarrier::complete_tx::bytes"
# Rank of the copy's shared memory, spelling before and after the dimension, operands behind the mbarrier.
LOADS = [
    ("shared::cta.global", SIGNAL, ""),
    ("shared::cluster.global", SIGNAL, ""),
    ("shared::cluster.global.tile", SIGNAL, ""),
    ("shared::cta.global.tile", SIGNAL + ".L2::cache_hint", ", %l9"),
    ("shared::cluster.global", SIGNAL + ".L2::cache_hint", ", %l9"),
    ("shared::cluster.global", SIGNAL + ".cta_group::1", ""),
    ("shared::cluster.global", SIGNAL + ".cta_group::1.L2::cache_hint", ", %l9"),
    ("shared::cluster.global", SIGNAL + ".L2::cache_hint.cta_group::1", ", %l9"),
    ("shared::cluster.global", SIGNAL + ".multicast::cluster", ", %h0"),
    ("shared::cluster.global", SIGNAL + ".multicast::cluster.L2::cache_hint", ", %h0, %l9"),
]
PARAMETERS = ".param .align 64 .b8 map[128], .param .u64 out, " + ", ".join(f".param .b32 c{i}" for i in range(5))

HEAD = """
ld.param.b64 %l0, [out]; mov.b64 %l1, map; cvta.param.u64 %l1, %l1; mov.b64 %l9, 0; mov.b16 %h0, 1;
mov.b32 %r1, dynamic; mov.u32 %r2, %tid.x; setp.eq.u32 %p0, %r2, 0;
""" + "\n".join(f"ld.param.b32 %r{10 + i}, [c{i}];" for i in range(5))
BARRIER = """
@%p0 mbarrier.init.shared.b64 [%r1], 1;
@%p0 fence.mbarrier_init.release.cluster;
bar.sync 0;
"""
WAIT = """
wait: mbarrier.try_wait.parity.shared.b64 %p2, [%r1], 0;
@!%p2 bra wait;
"""
# All bytes from %r1 + 1024 on, as they lie in shared memory.
SAVE = """
shl.b32 %r4, %r2, 2; add.u32 %r5, %r1, %r4; cvt.u64.u32 %l2, %r4; add.u64 %l2, %l0, %l2;
save: ld.shared.b32 %r6, [%r5+1024]; st.global.b32 [%l2], %r6;
add.u32 %r5, %r5, 512; add.u64 %l2, %l2, 512; add.u32 %r4, %r4, 512; setp.lt.u32 %p1, %r4, {bytes}; @%p1 bra save;
"""


def _coordinates(rank: int) -> str:
    return "{" + ", ".join(f"%r{10 + i}" for i in range(rank)) + "}"


def _swizzled(offset: np.ndarray, swizzle: str) -> np.ndarray:
    """The manual: 16-byte chunks change places within their line by the number of the line."""
    bits = {"none": 0, "32B": 1, "64B": 3, "128B": 7}[swizzle]
    return offset ^ (offset >> 7 & bits) << 4


def _box(array: np.ndarray, start: list[int], box: tuple[int, ...]) -> np.ndarray:
    """Innermost first; zeros out of bounds."""
    indices = np.meshgrid(*[np.arange(b) + s for b, s in zip(box[::-1], start[::-1], strict=True)], indexing="ij")
    inside = np.ones(box[::-1], bool)
    for index, extent in zip(indices, array.shape, strict=True):
        inside &= (index >= 0) & (index < extent)
    clipped = [np.clip(index, 0, extent - 1) for index, extent in zip(indices, array.shape, strict=True)]
    return np.where(inside, array[tuple(clipped)], array.dtype.type(0))


def _image(box: np.ndarray, swizzle: str) -> np.ndarray:
    """The box as it lies in shared memory at a multiple of 1024."""
    plain = np.ascontiguousarray(box).view(np.uint8).reshape(-1)
    image = np.zeros_like(plain)
    image[_swizzled(np.arange(plain.size), swizzle)] = plain
    return image


def _load(
    simulate: Callable[..., Any],
    array: np.ndarray,
    box: tuple[int, ...],
    start: list[int],
    swizzle: str = "none",
    form: tuple[str, str, str] = LOADS[1],
    **options: Any,
) -> np.ndarray:
    rank, bytes_ = array.ndim, int(np.prod(box)) * array.itemsize
    space, after, operands = form
    copy = f"cp.async.bulk.tensor.{rank}d.{space}{after} [%r3], [%l1, {_coordinates(rank)}], [%r1]{operands};"
    body = (
        HEAD
        + BARRIER
        + f"""add.u32 %r3, %r1, 1024;
@!%p0 bra issued;
mbarrier.arrive.expect_tx.shared.b64 _, [%r1], {bytes_};
{copy}
issued:"""
        + WAIT
        + SAVE.format(bytes=bytes_)
    )
    out = np.zeros(bytes_, np.uint8)
    result = simulate(
        kernel(body, PARAMETERS, min(128, bytes_ // 4)),
        dynamic_shared=1024 + bytes_,
        arguments=[TensorMap(array, box, swizzle=swizzle), out, *start, *[0] * (5 - rank)],
        **options,
    )
    assert result.counters["copy_bytes"] == bytes_
    return out


def _array(shape: tuple[int, ...], dtype: Any = np.float16) -> np.ndarray:
    return (np.arange(np.prod(shape)) % 1021 + 1).astype(dtype).reshape(shape)


@schedules
@pytest.mark.parametrize("form", LOADS)
def test_forms(simulate: Callable[..., Any], form: tuple[str, str, str], options: dict[str, Any]) -> None:
    array = _array((32, 128))
    found = _load(simulate, array, (64, 16), [64, 8], "128B", form, **options)
    np.testing.assert_array_equal(found, _image(array[8:24, 64:], "128B"))


BOXES = [
    ((40,), (16,)),
    ((8, 40), (16, 4)),
    ((3, 8, 40), (8, 4, 3)),
    ((2, 3, 8, 24), (16, 4, 2, 2)),
    ((3, 2, 3, 5, 16), (8, 4, 2, 2, 2)),
]


@pytest.mark.parametrize(("shape", "box"), BOXES)
def test_ranks_and_bounds(simulate: Callable[..., Any], shape: tuple[int, ...], box: tuple[int, ...]) -> None:
    array = _array(shape)
    extents = shape[::-1]
    inside = [(extent - size) // 2 for extent, size in zip(extents, box, strict=True)]
    over = [extent - size + 1 for extent, size in zip(extents, box, strict=True)]
    far = [extent + 5 for extent in extents]
    for start in (inside, over, [-1] * len(box), far, [-(1 << 31)] * len(box)):
        found = _load(simulate, array, box, start)
        np.testing.assert_array_equal(found, _image(_box(array, start, box), "none"))


@pytest.mark.parametrize("dtype", [np.uint8, np.int32, np.float16, ml_dtypes.bfloat16, np.float32, np.int64])
@pytest.mark.parametrize("swizzle", ["32B", "64B", "128B"])
def test_swizzles(simulate: Callable[..., Any], swizzle: str, dtype: Any) -> None:
    line = int(swizzle[:-1]) // np.dtype(dtype).itemsize
    array = _array((24, 2 * line), np.uint8).astype(dtype)
    start = [line // 2, 12]
    found = _load(simulate, array, (line, 16), start, swizzle)
    np.testing.assert_array_equal(found, _image(_box(array, start, (line, 16)), swizzle))


STORES = ["", ".tile", ".L2::cache_hint", ".tile/.L2::cache_hint"]


@schedules
@pytest.mark.parametrize("form", STORES)
@pytest.mark.parametrize("swizzle", ["none", "128B"])
def test_stores(simulate: Callable[..., Any], swizzle: str, form: str, options: dict[str, Any]) -> None:
    tile, _, hint = (
        form.partition("/") if "/" in form else (form if form == ".tile" else "", "", form.replace(".tile", ""))
    )
    operand = ", %l9" if hint else ""
    body = (
        HEAD
        + f"""
cvta.param.u64 %l1, map;
add.u32 %r3, %r1, 0; shl.b32 %r4, %r2, 2; add.u32 %r5, %r3, %r4; cvt.u64.u32 %l2, %r4; add.u64 %l2, %l0, %l2;
fill: ld.global.b32 %r6, [%l2]; st.shared.b32 [%r5], %r6;
add.u32 %r5, %r5, 512; add.u64 %l2, %l2, 512; add.u32 %r4, %r4, 512; setp.lt.u32 %p1, %r4, 2048; @%p1 bra fill;
fence.proxy.async.shared::cta;
bar.sync 0;
@!%p0 bra end;
cp.async.bulk.tensor.2d.global.shared::cta{tile}.bulk_group{hint} [%l1, {_coordinates(2)}], [%r3]{operand};
cp.async.bulk.commit_group;
cp.async.bulk.wait_group 0;
end:"""
    )
    box = _array((16, 64))
    for start in ([32, 4], [100, -3], [-5, 30]):
        array = np.zeros((32, 128), np.float16)
        image = _image(box, swizzle)
        arguments = [TensorMap(array, (64, 16), swizzle=swizzle), image, *start, 0, 0, 0]
        simulate(kernel(body, PARAMETERS), dynamic_shared=2048, arguments=arguments, **options)
        expected = np.zeros((32 + 64, 128 + 128), np.float16)
        expected[start[1] + 32 : start[1] + 48, start[0] + 64 : start[0] + 128] = box
        np.testing.assert_array_equal(array, expected[32:64, 64:192])


# Multicast: each CTA loads its part of the rows into all CTAs of the mask, at the same offset.
MULTICAST = """
mov.u32 %r3, %cluster_ctarank; mov.b16 %h0, {mask}; shl.b32 %r12, %r3, 3; add.u32 %r11, %r11, %r12;
@%p0 mbarrier.init.shared.b64 [%r1], 1;
@%p0 fence.mbarrier_init.release.cluster;
barrier.cluster.arrive; barrier.cluster.wait;
shl.b32 %r4, %r3, 10; add.u32 %r5, %r1, %r4;
@!%p0 bra issued;
{announce}
cp.async.bulk.tensor.2d.shared::cluster.global.mbarrier::complete_tx::bytes.multicast::cluster{group}
 [%r5+1024], [%l1, {{%r10, %r11}}], [{barrier}], %h0;
issued:
{wait}
shl.b32 %r4, %r2, 2; add.u32 %r5, %r1, %r4;
mad.lo.u32 %r6, %r3, {bytes}, %r4; cvt.u64.u32 %l2, %r6; add.u64 %l2, %l0, %l2;
save: ld.shared.b32 %r6, [%r5+1024]; st.global.b32 [%l2], %r6;
add.u32 %r5, %r5, 512; add.u64 %l2, %l2, 512; add.u32 %r4, %r4, 512; setp.lt.u32 %p1, %r4, {bytes}; @%p1 bra save;
barrier.cluster.arrive; barrier.cluster.wait;
"""


@schedules
@pytest.mark.parametrize("ctas", [2, 4])
def test_multicast(simulate: Callable[..., Any], ctas: int, options: dict[str, Any]) -> None:
    array, bytes_ = _array((8 * ctas + 8, 64)), 1024 * ctas
    body = MULTICAST.format(
        mask=(1 << ctas) - 1,
        group="",
        bytes=bytes_,
        barrier="%r1",
        wait=WAIT,
        announce=f"mbarrier.arrive.expect_tx.shared.b64 _, [%r1], {bytes_};",
    )
    out = np.zeros((ctas, bytes_), np.uint8)
    arguments = [TensorMap(array, (64, 8), swizzle="128B"), out, 0, 4, 0, 0, 0]
    options = {"grid": ctas, "cluster": ctas, "dynamic_shared": 1024 + bytes_, **options}
    simulate(kernel(HEAD + body, PARAMETERS), arguments=arguments, **options)
    expected = _image(array[4 : 4 + 8 * ctas], "128B")
    np.testing.assert_array_equal(out, [expected] * ctas)


@schedules
@pytest.mark.parametrize("multicast", [False, True])
def test_a_pair_signals_its_even_cta(simulate: Callable[..., Any], multicast: bool, options: dict[str, Any]) -> None:
    """With cta_group::2 the mbarrier may lie in the peer: both CTAs' copies complete on that of the even one."""
    array, bytes_ = _array((16, 64)), 2048 if multicast else 1024
    announced = bytes_ * 2
    body = MULTICAST.format(
        mask=3,
        group=".cta_group::2",
        bytes=bytes_,
        barrier="%r7",
        announce=f"""and.b32 %r7, %r1, 0xFEFFFFFF; setp.eq.u32 %p3, %r3, 0;
@%p3 mbarrier.arrive.expect_tx.shared.b64 _, [%r1], {announced};""",
        wait="setp.eq.u32 %p3, %r3, 0; @!%p3 bra passed;"
        + WAIT
        + "passed: barrier.cluster.arrive; barrier.cluster.wait;",
    )
    if not multicast:
        body = (
            body.replace(".multicast::cluster", "")
            .replace(", %h0;", ";")
            .replace("[%r5+1024], [%l1", "[%r1+1024], [%l1")
        )
    out = np.zeros((2, bytes_), np.uint8)
    arguments = [TensorMap(array, (64, 8)), out, 0, 0, 0, 0, 0]
    options = {"grid": 2, "cluster": 2, "dynamic_shared": 1024 + bytes_, **options}
    simulate(kernel(HEAD + body, PARAMETERS), arguments=arguments, **options)
    halves = array.view(np.uint8).reshape(2, 1024)
    np.testing.assert_array_equal(out, [halves.reshape(-1)] * 2 if multicast else halves)


COPY = "cp.async.bulk.tensor.2d.shared::cluster.global.mbarrier::complete_tx::bytes"


@pytest.mark.parametrize(
    ("copy", "kind", "words"),
    [
        (f"{COPY} [%r1+144], [%l1, {{0, 0}}], [%r1];", "misaligned", "aligned to 128 bytes"),
        (f"{COPY} [%r1+2048], [%l1, {{0, 0}}], [%r1];", "out_of_bounds", "outside the CTA's shared memory"),
        (f"{COPY} [%r1], [%l1, {{0, 0}}], [%r1];", "barrier", "store to the place of an mbarrier"),
        (f"{COPY} [%r1+1024], [%l1, {{0, 0}}], [%r1+8];", "uninitialised", "before mbarrier.init"),
        (f"{COPY} [%r1+1024], [%l0, {{0, 0}}], [%r1];", "undefined", "not a tensor map"),
        (f"{COPY} [%r1+1024], [%l1+16, {{0, 0}}], [%r1];", "undefined", "not a tensor map"),
        (
            f"{COPY} [%r1+1024], [%l1+1024, {{0, 0}}], [%r1];",
            "out_of_bounds",
            "tensor map beyond the kernel's parameters",
        ),
        (
            f"{COPY.replace('2d', '3d')} [%r1+1024], [%l1, {{0, 0, 0}}], [%r1];",
            "undefined",
            "2 dimensions in a copy of 3",
        ),
        (
            f"{COPY}.multicast::cluster [%r1+1024], [%l1, {{0, 0}}], [%r1], %h1;",
            "undefined",
            "multicast to CTAs that the cluster does not have",
        ),
    ],
)
def test_faults(simulate: Callable[..., Any], copy: str, kind: str, words: str) -> None:
    text = kernel(HEAD + BARRIER + f"mov.b16 %h1, 4;\n@!%p0 bra end;\n{copy}\nend:", PARAMETERS)
    arguments = [TensorMap(_array((32, 128)), (64, 8), swizzle="128B"), np.zeros(128, np.uint8), 0, 0, 0, 0, 0]
    (report,) = simulate(text, dynamic_shared=2048, arguments=arguments, checks=False, raise_on_report=False).reports
    assert report.kind == kind and words in report.title
    assert report.second.text == copy.rstrip(";")


def test_a_map_that_is_freed_memory(simulate: Callable[..., Any]) -> None:
    array = _array((32, 128))
    spare = array[:, :64]
    text = kernel(HEAD + BARRIER + f"@%p0 {COPY} [%r1+1024], [%l1, {{0, 0}}], [%r1];", PARAMETERS)
    map_ = TensorMap(array.ctypes.data + (1 << 40), (64, 8), "float16", (128, 32), (256,))
    arguments = [map_, spare, 0, 0, 0, 0, 0]
    (report,) = simulate(text, dynamic_shared=2048, arguments=arguments, checks=False, raise_on_report=False).reports
    assert (report.kind, report.title) == ("out_of_bounds", "access outside the launch's global memory")


@pytest.mark.parametrize("coordinates", ["{0}", "{0, 0, 0}"])
def test_coordinates_fit_the_rank(simulate: Callable[..., Any], coordinates: str) -> None:
    text = kernel(HEAD + f"{COPY} [%r1+1024], [%l1, {coordinates}], [%r1];", PARAMETERS)
    with pytest.raises(ValueError, match=r"kernel.ptx:\d+: .* coordinates for a copy of 2 dimensions"):
        simulate(text)
