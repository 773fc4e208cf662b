"""tcgen05.mma and tcgen05.commit (PTX ISA, "TensorCore 5th Generation Family": operands, layouts, descriptors)."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from jax_fa4_simulator import empty
from kernel_text import SCHEDULES, kernel, schedule_name

schedules = pytest.mark.parametrize("options", SCHEDULES, ids=schedule_name)
ELEMENTS = {"f16": np.float16, "bf16": ml_dtypes.bfloat16}
A, B, BYTES = 1024, 1024 + 32768, 1024 + 2 * 32768  # offsets in dynamic shared memory, behind the barriers
K = 16
DYNAMIC = 1024  # shared address of dynamic shared memory: what the system keeps ends there

# Bytes of a swizzled line (16: none), and whether K is contiguous; line -> bits 61 to 63 of the descriptor.
SWIZZLES = {16: 0, 32: 6, 64: 4, 128: 2}
LAYOUTS = [(line, k_major) for line in SWIZZLES for k_major in (True, False)]


def _offset(row: Any, k: Any, line: int, k_major: bool) -> Any:
    """Bytes from the operand's start to an element, at the strides that `_descriptor` gives: the canonical layouts."""
    if line == 16:  # core matrices of 8 x 16 bytes, of which two follow each other along K
        inner, outer = (row, k) if k_major else (k, row)
        return inner % 8 * 16 + outer % 8 * 2 + row // 8 * 256 + k // 8 * 128
    if k_major:  # eight rows of a line each; the first 32 bytes of a line are used
        place = row // 8 * 8 * line + row % 8 * line + k * 2
    else:  # atoms of eight k and line / 2 rows
        place = row // (line // 2) * 16 * line + k // 8 * 8 * line + k % 8 * line + row % (line // 2) * 2
    return place ^ (place >> 7 & line // 16 - 1) << 4


def _descriptor(start: int, line: int, k_major: bool) -> int:
    if line == 16:
        leading, stride = 128, 256  # in both, once along K and once along rows
    else:
        leading, stride = (0, 8 * line) if k_major else (16 * line, 8 * line)
    return start >> 4 | leading >> 4 << 16 | stride >> 4 << 32 | 1 << 46 | SWIZZLES[line] << 61


@dataclass(frozen=True)
class Product:
    """D (+)= A B^T of m x n x 16, by one CTA or a pair."""

    m: int = 128
    n: int = 64
    pair: bool = False
    element_a: str = "bf16"
    element_b: str = "bf16"
    layout_a: tuple[int, bool] = (128, True)
    layout_b: tuple[int, bool] = (128, True)
    negate_a: bool = False
    negate_b: bool = False
    a_in_tensor_memory: bool = False
    accumulates: bool = True
    disabled: tuple[int, ...] = ()
    collector: str = ""
    times: int = 1

    @property
    def ctas(self) -> int:
        return 2 if self.pair else 1

    @property
    def a(self) -> np.ndarray:
        return np.random.default_rng(self.m).integers(-3, 4, (self.m, K)).astype(ELEMENTS[self.element_a])

    @property
    def b(self) -> np.ndarray:
        return np.random.default_rng(self.n).integers(-3, 4, (self.n, K)).astype(ELEMENTS[self.element_b])

    @property
    def before(self) -> np.ndarray:
        """Tensor memory of each CTA; A, if there, from column 256 on."""
        before = np.random.default_rng(9).integers(-9, 10, (self.ctas, 128, 512)).astype(np.float32)
        if self.a_in_tensor_memory:
            rows = self.m // self.ctas
            for cta in range(self.ctas):
                part = self.a[cta * rows : (cta + 1) * rows].view(np.uint32).view(np.float32)
                row = np.arange(rows)
                before[cta, row if rows == 128 else row % 16 + row // 16 * 32, 256 : 256 + K // 2] = part
        return before

    def place(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """CTA, lane and column of each element of D: the manual's layouts A, B, D, E (and F)."""
        row, column = np.indices((self.m, self.n))
        if self.pair and self.m == 256:
            return row // 128, row % 128, column
        if self.pair:
            return row // 64, row % 64 + 64 * (column // (self.n // 2)), column % (self.n // 2)
        return row * 0, row if self.m == 128 else row % 16 + 32 * (row // 16), column

    def instruction_descriptor(self) -> int:
        return (
            1 << 4
            | (self.element_a == "bf16") << 7
            | (self.element_b == "bf16") << 10
            | self.negate_a << 13
            | self.negate_b << 14
            | (not self.layout_a[1]) << 15
            | (not self.layout_b[1]) << 16
            | self.n // 8 << 17
            | self.m // 16 << 24
        )

    def shared(self) -> np.ndarray:
        """Operands as each CTA has them: its half of the rows of A, and of B."""
        image = empty((self.ctas, (BYTES - A) // 2), np.uint16)
        image[:] = 0x7FC0  # not a number
        for cta in range(self.ctas):
            for matrix, layout, start in ((self.a, self.layout_a, 0), (self.b, self.layout_b, B - A)):
                part = np.array_split(matrix, self.ctas)[cta].view(np.uint16)
                image[cta, (start + _offset(*np.indices(part.shape), *layout)) // 2] = part
        return image

    def expected(self) -> np.ndarray:
        a, b = self.a.astype(np.float32), self.b.astype(np.float32)
        product = (a * (-1 if self.negate_a else 1)) @ (b * (-1 if self.negate_b else 1)).T
        expected = self.before
        cta, lane, column = self.place()
        kept = np.zeros((self.ctas, 128), bool)
        for word, bits in enumerate(self.disabled):
            kept[word // 4, word % 4 * 32 : word % 4 * 32 + 32] = (bits >> np.arange(32)) & 1
        for _ in range(self.times):
            value = product + expected[cta, lane, column] * (self.accumulates or _ > 0)
            expected[cta, lane, column] = np.where(kept[cta, lane], expected[cta, lane, column], value)
        return expected

    def statement(self) -> str:
        a = "[%r11]" if self.a_in_tensor_memory else "%l11"
        disabled = ", {" + ", ".join(str(bits) for bits in self.disabled) + "}" if self.disabled else ""
        opcode = f"tcgen05.mma.cta_group::{self.ctas}.kind::f16{self.collector}"
        return f"{opcode} [%r10], {a}, %l12, {self.instruction_descriptor()}{disabled}, %p5;"

    def run(self, simulate: Callable[..., Any], **options: Any) -> tuple[Any, np.ndarray]:
        tmem = empty((self.ctas, 128, 512), np.float32)
        tmem[:] = self.before
        again = "setp.eq.u32 %p5, 0, 0;"
        statements = "\n".join([self.statement(), *[again + self.statement()] * (self.times - 1)])
        body = BODY.format(
            group=self.ctas,
            bytes=BYTES - A,
            statements=statements,
            accumulates=int(self.accumulates),
            a=_descriptor(DYNAMIC + A, *self.layout_a),
            b=_descriptor(DYNAMIC + B, *self.layout_b),
            commit=f"tcgen05.commit.cta_group::{self.ctas}.mbarrier::arrive::one.shared::cluster"
            + (".multicast::cluster.b64 [%r1], %h0;" if self.pair else ".b64 [%r1];"),
        )
        text = kernel(body, ".param .u64 operands, .param .u64 tmem")
        arguments = (self.shared(), tmem)
        result = simulate(text, grid=self.ctas, cluster=self.ctas, dynamic_shared=BYTES, arguments=arguments, **options)
        return result, tmem

    def check(self, simulate: Callable[..., Any], **options: Any) -> Any:
        result, tmem = self.run(simulate, **options)
        expected = self.expected()
        if self.a_in_tensor_memory:  # bit patterns that are no float32
            np.testing.assert_array_equal(tmem.view(np.uint32), expected.view(np.uint32))
        else:
            np.testing.assert_array_equal(tmem, expected)
        return result


# Fills shared and tensor memory from global memory, multiplies (one thread of the even CTA), takes tensor memory back.
_FOUR = ", ".join(f"%f{j}" for j in range(4))
BODY = """
ld.param.b64 %l0, [operands]; ld.param.b64 %l1, [tmem];
mov.b32 %r1, dynamic; mov.u32 %r2, %tid.x; mov.u32 %r3, %cluster_ctarank; setp.eq.u32 %p0, %r2, 0;
mul.wide.u32 %l2, %r3, {bytes}; add.u64 %l0, %l0, %l2; shl.b32 %r4, %r2, 4; cvt.u64.u32 %l3, %r4; add.u64 %l0, %l0, %l3;
add.u32 %r5, %r1, %r4; mov.b32 %r6, 0;
fill:
ld.global.v4.b32 {{%f0, %f1, %f2, %f3}}, [%l0]; st.shared.v4.b32 [%r5+1024], {{%f0, %f1, %f2, %f3}};
add.u64 %l0, %l0, 2048; add.u32 %r5, %r5, 2048; add.u32 %r6, %r6, 2048; setp.lt.u32 %p1, %r6, {bytes}; @%p1 bra fill;
@%p0 mbarrier.init.shared.b64 [%r1], 1;
@%p0 fence.mbarrier_init.release.cluster;
fence.proxy.async.shared::cta;
barrier.cluster.arrive; barrier.cluster.wait;
shr.u32 %r7, %r2, 5; setp.ne.u32 %p2, %r7, 0; @%p2 bra allocated;
tcgen05.alloc.cta_group::{group}.sync.aligned.shared::cta.b32 [%r1+16], 512;
allocated:
bar.sync 0;
ld.shared.b32 %r8, [%r1+16];
shl.b32 %r9, %r3, 18; cvt.u64.u32 %l4, %r9; add.u64 %l1, %l1, %l4; shl.b32 %r9, %r2, 11; cvt.u64.u32 %l4, %r9;
add.u64 %l1, %l1, %l4;
and.b32 %r9, %r2, 96; shl.b32 %r9, %r9, 16; add.u32 %r9, %r9, %r8; mov.b64 %l5, %l1; mov.b32 %r6, 0; mov.b32 %r5, %r9;
tfill:
ld.global.v4.b32 {{%f0, %f1, %f2, %f3}}, [%l5];
tcgen05.st.sync.aligned.32x32b.x4.b32 [%r5], {{%f0, %f1, %f2, %f3}};
add.u64 %l5, %l5, 16; add.u32 %r5, %r5, 4; add.u32 %r6, %r6, 4; setp.lt.u32 %p1, %r6, 512; @%p1 bra tfill;
tcgen05.wait::st.sync.aligned;
tcgen05.fence::before_thread_sync;
barrier.cluster.arrive; barrier.cluster.wait;
tcgen05.fence::after_thread_sync;
mov.b32 %r10, %r8; add.u32 %r11, %r8, 256; mov.b64 %l11, {a}; mov.b64 %l12, {b}; mov.b16 %h0, 3;
setp.ne.u32 %p5, {accumulates}, 0;
setp.eq.u32 %p3, %r3, 0; and.pred %p3, %p3, %p0; @!%p3 bra issued;
{statements}
{commit}
issued:
wait: mbarrier.try_wait.parity.shared.b64 %p4, [%r1], 0;
@!%p4 bra wait;
tcgen05.fence::after_thread_sync;
mov.b64 %l5, %l1; mov.b32 %r6, 0; mov.b32 %r5, %r9;
take:
tcgen05.ld.sync.aligned.32x32b.x4.b32 {{%f0, %f1, %f2, %f3}}, [%r5];
st.global.v4.b32 [%l5], {{%f0, %f1, %f2, %f3}};
add.u64 %l5, %l5, 16; add.u32 %r5, %r5, 4; add.u32 %r6, %r6, 4; setp.lt.u32 %p1, %r6, 512; @%p1 bra take;
tcgen05.fence::before_thread_sync;
barrier.cluster.arrive; barrier.cluster.wait;
@%p2 bra end;
tcgen05.dealloc.cta_group::{group}.sync.aligned.b32 %r8, 512;
end:
"""
SIZES = [(64, 8, False), (64, 256, False), (128, 16, False), (128, 256, False), (128, 32, True), (256, 256, True)]


@pytest.mark.parametrize("element", ELEMENTS)
@pytest.mark.parametrize(("m", "n", "pair"), SIZES)
def test_sizes(simulate: Callable[..., Any], m: int, n: int, pair: bool, element: str) -> None:
    for accumulates in (True, False):
        product = Product(m, n, pair, element, element, accumulates=accumulates)
        counters = product.check(simulate).counters
        assert counters["tensor_macs"] == m * n * 16 and counters["tensor_instructions"] == 1
        assert counters["tensor_cycles"] == m * n * 16 // product.ctas // 4096


@schedules
@pytest.mark.parametrize("pair", [False, True])
def test_products_are_performed_in_order(simulate: Callable[..., Any], pair: bool, options: dict[str, Any]) -> None:
    Product(128, 64, pair, times=3, accumulates=False).check(simulate, **options)


@pytest.mark.parametrize(("m", "n", "pair"), [(64, 64, False), (128, 128, False), (128, 128, True), (256, 128, True)])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_layouts(simulate: Callable[..., Any], layout: tuple[int, bool], m: int, n: int, pair: bool) -> None:
    product = Product(m, n, pair)
    replace(product, layout_a=layout).check(simulate)
    replace(product, layout_b=layout).check(simulate)


@pytest.mark.parametrize(("m", "n", "pair"), [(64, 32, False), (128, 32, False), (256, 64, True)])
def test_a_in_tensor_memory(simulate: Callable[..., Any], m: int, n: int, pair: bool) -> None:
    for element in ELEMENTS:
        Product(m, n, pair, element, element, a_in_tensor_memory=True).check(simulate)


@pytest.mark.parametrize("mixed", [("f16", "bf16"), ("bf16", "f16")])
def test_mixed_types(simulate: Callable[..., Any], mixed: tuple[str, str]) -> None:
    Product(element_a=mixed[0], element_b=mixed[1]).check(simulate)


@pytest.mark.parametrize("a_in_tensor_memory", [False, True])
@pytest.mark.parametrize(("negate_a", "negate_b"), [(True, False), (False, True), (True, True)])
def test_negated_operands(
    simulate: Callable[..., Any], negate_a: bool, negate_b: bool, a_in_tensor_memory: bool
) -> None:
    Product(negate_a=negate_a, negate_b=negate_b, a_in_tensor_memory=a_in_tensor_memory).check(simulate)


@pytest.mark.parametrize(("m", "pair"), [(64, False), (128, False), (128, True), (256, True)])
def test_lanes_of_d_that_are_disabled(simulate: Callable[..., Any], m: int, pair: bool) -> None:
    words = np.random.default_rng(m).integers(0, 1 << 32, 8 if pair else 4)
    Product(m, 32, pair, disabled=tuple(int(word) for word in words)).check(simulate)


@pytest.mark.parametrize("hint", ["fill", "use", "lastuse", "discard"])
def test_collector_hints(simulate: Callable[..., Any], hint: str) -> None:
    Product(collector=f".collector::a::{hint}").check(simulate)


@pytest.mark.parametrize("count", [1, 3, 5, 8])
def test_disabled_lanes_need_a_word_for_each_32(simulate: Callable[..., Any], count: int) -> None:
    with pytest.raises(ValueError, match=f"disable-output-lane has {count} registers"):
        Product(disabled=(0,) * count).run(simulate)


def _b(descriptor: int) -> tuple[str, str]:
    return "mov.b64 %l12, ", f"mov.b64 %l12, {descriptor}; mov.b64 %l13, "


def _report(simulate: Callable[..., Any], product: Product, change: tuple[str, str]) -> Any:
    """The only report of a kernel of which one piece of text was changed."""

    def changed(text: str, **options: Any) -> Any:
        assert change[0] in text
        return simulate(text.replace(*change), raise_on_report=False, checks=False, **options)

    (report,) = product.run(changed)[0].reports
    assert report.fatal and report.second.text == product.statement().rstrip(";")
    return report


@pytest.mark.parametrize(
    ("product", "change", "kind", "words"),
    [
        (Product(), ("%r10, %r8;", "%r10, %r8; add.u32 %r10, %r10, 480;"), "tensor_memory", "columns .* not allocated"),
        (Product(), ("%r10, %r8;", "%r10, %r8; add.u32 %r10, %r10, 0x200000;"), "undefined", "must begin at lane 0"),
        (Product(), ("%r10, %r8;", "%r10, %r8; add.u32 %r10, %r10, 0x100000;"), "undefined", "must begin at lane 0"),
        (
            Product(a_in_tensor_memory=True),
            ("%r11, %r8, 256;", "%r11, %r8, 0x7FFF0000;"),
            "undefined",
            "A in tensor memory must begin at lane 0",
        ),
        (Product(a_in_tensor_memory=True), ("%r11, %r8, 256;", "%r11, %r8, 508;"), "tensor_memory", "not allocated"),
        (
            Product(128, 32, True, a_in_tensor_memory=True),
            ("%h0, 3;", "%h0, 3; "),
            "undefined",
            "A in tensor memory with cta_group::2 and M = 128 is not modelled",
        ),
        (
            Product(),
            _b(-16384),
            "undefined",
            "tcgen05 shared memory descriptor .*: reserved",
        ),
        (
            Product(),
            _b(0x4000404000000000),
            "out_of_bounds",
            "outside the CTA's shared memory",
        ),
        (
            Product(),
            _b(0x4000404000003FFF),
            "out_of_bounds",
            "outside the CTA's shared memory",
        ),
        (Product(m=192), ("%h0, 3;", "%h0, 3; "), "undefined", "M is 192: it must be 64 or 128"),
        (Product(256, 24, True), ("%h0, 3;", "%h0, 3; "), "undefined", "N is 24: it must be a multiple of 16"),
    ],
)
def test_faults(simulate: Callable[..., Any], product: Product, change: tuple[str, str], kind: str, words: str) -> None:
    report = _report(simulate, product, change)
    assert report.kind == kind and re.search(words, report.title)


# Commit: an arrival behind all earlier products of the thread's pipe, in each CTA of a mask.
COMMIT = """
mov.b32 %r1, dynamic; mov.u32 %r2, %tid.x; mov.u32 %r3, %cluster_ctarank; setp.eq.u32 %p0, %r2, 0; mov.b16 %h0, {mask};
@%p0 mbarrier.init.shared.b64 [%r1], 1;
@%p0 fence.mbarrier_init.release.cluster;
barrier.cluster.arrive; barrier.cluster.wait;
setp.eq.u32 %p1, %r3, 0; and.pred %p1, %p1, %p0;
@%p1 tcgen05.commit.cta_group::1.mbarrier::arrive::one{form};
shr.u32 %r4, {mask}, %r3; and.b32 %r4, %r4, 1; setp.eq.u32 %p2, %r4, 0; @%p2 bra end;
wait: mbarrier.try_wait.parity.shared.b64 %p3, [%r1], 0;
@!%p3 bra wait;
end: barrier.cluster.arrive; barrier.cluster.wait;
"""


@schedules
@pytest.mark.parametrize(
    ("form", "mask"),
    [
        (".b64 [%r1]", 1),
        (".shared::cluster.b64 [%r1]", 1),
        (".shared::cluster.multicast::cluster.b64 [%r1], %h0", 0b1011),
        (".multicast::cluster.b64 [%r1], %h0", 0b0100),
    ],
)
def test_commit(simulate: Callable[..., Any], form: str, mask: int, options: dict[str, Any]) -> None:
    text = kernel(COMMIT.format(form=form, mask=mask), threads=32)
    simulate(text, grid=4, cluster=4, dynamic_shared=16, **options)


def test_commit_to_ctas_that_are_not_there(simulate: Callable[..., Any]) -> None:
    text = kernel(COMMIT.format(form=".multicast::cluster.b64 [%r1], %h0", mask=0b10000), threads=32)
    (report,) = simulate(text, grid=4, cluster=4, dynamic_shared=16, raise_on_report=False).reports
    assert report.title == "multicast to CTAs that the cluster does not have"
