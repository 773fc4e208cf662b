"""Moves, byte permutation and address conversion (PTX ISA, "Data Movement and Conversion Instructions")."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from jax_fa4_simulator import SimulatorError
from lane_cases import BITS, INTEGERS, Run, assert_same_bits, sweep

TYPES: dict[str, Any] = {**BITS, **INTEGERS, "f32": np.float32, "f64": np.float64}
RANDOM = np.random.default_rng(0)
MASK = np.arange(32) % 3 != 1


@pytest.mark.parametrize("kind", TYPES)
def test_mov_keeps_the_bits(run: Run, kind: str) -> None:
    size = np.dtype(TYPES[kind]).itemsize
    a, old = RANDOM.integers(0, 256, (2, 32, size), dtype=np.uint8).view(f"u{size}")[..., 0]
    found = run(f"mov.{kind} %d, %a;", a=a, d=old, out={"d": a.dtype}, active=MASK)["d"]
    np.testing.assert_array_equal(found, np.where(MASK, a, old))
    np.testing.assert_array_equal(run(f"mov.{kind} %d, %a;", a=a, out={"d": a.dtype})["d"], a)


def test_mov_of_128_bits(run: Run) -> None:
    a = RANDOM.integers(0, 1 << 63, (32, 2), dtype=np.uint64)
    np.testing.assert_array_equal(run("mov.b128 %d, %a;", a=a, out={"d": (np.uint64, 2)})["d"], a)


def test_mov_of_immediates_and_special_registers(run: Run) -> None:
    assert (run("mov.b32 %d, 0fBF800000;", out={"d": np.float32})["d"] == -1).all()
    assert (run("mov.b64 %d, -2;", out={"d": np.int64})["d"] == -2).all()
    assert (run("mov.b16 %d, 0xFFFE;", out={"d": np.int16})["d"] == -2).all()
    np.testing.assert_array_equal(run("mov.u32 %d, %laneid;")["d"], np.arange(32))


@pytest.mark.parametrize("active", [np.ones(32, bool), MASK])
@pytest.mark.parametrize(
    ("whole", "part", "count"), [(32, 16, 2), (64, 32, 2), (64, 16, 4), (128, 64, 2), (128, 32, 4)]
)
def test_vectors_in_and_out_of_one_register(run: Run, whole: int, part: int, count: int, active: Any) -> None:
    dtype = np.dtype(f"u{part // 8}")
    values, old = RANDOM.integers(0, 256, (2, 32, whole // 8), dtype=np.uint8).view(dtype)
    parts = {f"e{i}": values[:, i].copy() for i in range(count)}
    names = ", ".join(f"%{name}" for name in parts)
    kept = np.where(active[:, None], values, old)
    packed = run(f"mov.b{whole} %d, {{{names}}};", **parts, d=old, out={"d": (dtype, count)}, active=active)["d"]
    np.testing.assert_array_equal(packed, kept)
    before = {f"e{i}": old[:, i].copy() for i in range(count)}
    found = run(f"mov.b{whole} {{{names}}}, %a;", a=values, **before, out=dict.fromkeys(parts, dtype), active=active)
    np.testing.assert_array_equal(np.stack([found[name] for name in parts], 1), kept)


def test_parts_may_be_thrown_away_or_immediate(run: Run) -> None:
    a = RANDOM.integers(0, 1 << 63, 32, dtype=np.uint64)
    np.testing.assert_array_equal(run("mov.b64 {_, %d}, %a;", a=a)["d"], a >> 32)
    np.testing.assert_array_equal(run("mov.b64 {%d, _}, %a;", a=a)["d"], a & 0xFFFFFFFF)
    found = run("mov.b64 %d, {%a, 0x40004040};", a=np.arange(32, dtype=np.uint32), out={"d": np.uint64})["d"]
    np.testing.assert_array_equal(found, np.arange(32, dtype=np.uint64) | np.uint64(0x40004040 << 32))


@pytest.mark.parametrize(
    "text",
    [
        "mov.b64 %d, {%a, %b, %c};",
        "mov.b64 {%a, %b}, {%b, %c};",
        "mov.u64 %d, {%a, %b};",
        "mov.b64 %d, {%a, %d};",
        "mov.b32 %d, {%a, %b};",
    ],
)
def test_vectors_that_do_not_fit_are_refused(run: Run, text: str) -> None:
    registers = dict.fromkeys("abc", np.zeros(32, np.uint32))
    with pytest.raises((ValueError, RuntimeError, SimulatorError), match="mov"):
        run(text, **registers, out={"d": np.uint64})


def test_mov_of_predicates(run: Run) -> None:
    a = np.arange(32) % 5 == 0
    np.testing.assert_array_equal(run("mov.pred %d, %a;", a=a, out={"d": np.bool_})["d"], a)
    assert run("mov.pred %d, -1;", out={"d": np.bool_})["d"].all()
    assert not run("mov.pred %d, 0;", d=a, out={"d": np.bool_})["d"].any()
    found = run("mov.pred %d, %a;", a=a, d=~a, out={"d": np.bool_}, active=MASK)["d"]
    np.testing.assert_array_equal(found, np.where(MASK, a, ~a))


# Which bytes of b:a each special mode picks for c = 0..3, most significant first (the manual's table).
MODES = {
    "f4e": ["3210", "4321", "5432", "6543"],
    "b4e": ["5670", "6701", "7012", "0123"],
    "rc8": ["0000", "1111", "2222", "3333"],
    "ecl": ["3210", "3211", "3222", "3333"],
    "ecr": ["0000", "1110", "2210", "3210"],
    "rc16": ["1010", "3232", "1010", "3232"],
}


@pytest.mark.parametrize("mode", MODES)
def test_prmt_modes(run: Run, mode: str) -> None:
    a, b, c = RANDOM.integers(0, 1 << 32, (3, 32), dtype=np.uint32)
    together = [int(high) << 32 | int(low) for low, high in zip(a, b, strict=True)]
    picked = [[ord(byte) - 48 for byte in MODES[mode][int(x) & 3]] for x in c]
    values = [
        int.from_bytes(bytes(whole >> 8 * byte & 0xFF for byte in order), "big")
        for whole, order in zip(together, picked, strict=True)
    ]
    assert_same_bits(
        sweep(run, f"prmt.b32.{mode} %d, %a, %b, %c;", np.uint32, a=a, b=b, c=c), np.array(values, np.uint32)
    )


def test_prmt_picks_bytes_or_their_signs(run: Run) -> None:
    a, b, c = RANDOM.integers(0, 1 << 32, (3, 320), dtype=np.uint32)
    values = []
    for low, high, selectors in zip(a, b, c, strict=True):
        whole = (int(high) << 32 | int(low)).to_bytes(8, "little")
        result = 0
        for i in range(4):
            selector = int(selectors) >> 4 * i & 15
            byte = whole[selector & 7]
            result |= (0xFF * (byte >> 7) if selector & 8 else byte) << 8 * i
        values.append(result)
    found = sweep(run, "prmt.b32 %d, %a, %b, %c;", np.uint32, a=a, b=b, c=c)
    assert_same_bits(found, np.array(values, np.uint32), a, b, c)


@pytest.mark.parametrize("space", ["shared", "shared::cta", "shared::cluster", "param"])
def test_generic_addresses_return_to_their_space(run: Run, space: str) -> None:
    a = np.arange(32, dtype=np.uint64) * 0x800421
    generic = run(f"cvta.{space}.u64 %d, %a;", a=a, out={"d": np.uint64})["d"]
    assert (generic != a).all()
    np.testing.assert_array_equal(run(f"cvta.to.{space}.u64 %d, %a;", a=generic, out={"d": np.uint64})["d"], a)


@pytest.mark.parametrize("name", ["cvta", "cvta.to"])
def test_global_addresses_are_generic_addresses(run: Run, name: str) -> None:
    a = RANDOM.integers(0, 1 << 47, 32, dtype=np.uint64)
    np.testing.assert_array_equal(run(f"{name}.global.u64 %d, %a;", a=a, out={"d": np.uint64})["d"], a)


def test_mapa_puts_the_rank_into_the_address(run: Run) -> None:
    a, rank = RANDOM.integers(0, 1 << 28, 32, dtype=np.uint32), np.arange(32, dtype=np.uint32) % 16
    expected = a % (1 << 24) + rank * (1 << 24)
    np.testing.assert_array_equal(run("mapa.shared::cluster.u32 %d, %a, %b;", a=a, b=rank)["d"], expected)
    np.testing.assert_array_equal(run("mapa.shared::cluster.u32 %d, %a, 3;", a=a)["d"], a % (1 << 24) + (3 << 24))
    wide = run("mapa.shared::cluster.u64 %d, %a, %b;", a=a.astype(np.uint64), b=rank, out={"d": np.uint64})["d"]
    np.testing.assert_array_equal(wide, expected)
    text = "cvta.shared.u64 %d, %a; mapa.u64 %d, %d, %b; cvta.to.shared.u64 %d, %d;"
    through_generic = run(text, a=a.astype(np.uint64), b=rank, out={"d": np.uint64})["d"]
    np.testing.assert_array_equal(through_generic, expected)
