"""The simulator's Python face: launches on arrays, single instructions, reports, traces, mutation, coverage."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import jax_fa4_simulator as simulator
import ml_dtypes
import numpy as np
import pytest
from jax_fa4_simulator import mutate

HEAD = ".version 8.8\n.target sm_100a\n.address_size 64\n"

ADD = (
    HEAD
    + """
.visible .entry add(.param .u64 x, .param .u64 y, .param .u64 z, .param .u32 n, .param .f32 scale)
.reqntid 128, 1, 1
{
  .reg .pred %p; .reg .b32 %i, %n, %b, %x, %y, %s; .reg .b64 %at, %p0, %p1, %p2;
  ld.param.b64 %p0, [x];
  ld.param.b64 %p1, [y];
  ld.param.b64 %p2, [z];
  ld.param.b32 %n, [n];
  ld.param.b32 %s, [scale];
  mov.u32 %i, %tid.x;
  mov.u32 %b, %ctaid.x;
  shl.b32 %b, %b, 7;
  or.b32 %i, %i, %b;
  setp.ge.s32 %p, %i, %n;
  @%p bra done;
  mul.wide.s32 %at, %i, 4;
  add.s64 %p0, %p0, %at;
  add.s64 %p1, %p1, %at;
  add.s64 %p2, %p2, %at;
  ld.global.b32 %x, [%p0];
  ld.global.b32 %y, [%p1];
  fma.rn.f32 %x, %s, %y, %x;
  st.global.b32 [%p2], %x;
done:
  ret;
}
"""
)

# Warp 0 fills shared memory and arrives; warp 1 waits and passes it on.
HANDOVER = (
    HEAD
    + """
.extern .shared .align 128 .b8 room[];
.visible .entry handover(.param .u64 out)
.reqntid 64, 1, 1
{
  .reg .pred %p, %q; .reg .b32 %t, %room, %at, %v; .reg .b64 %o, %w;
  mov.u32 %t, %tid.x;
  mov.b32 %room, room;
  and.b32 %v, %t, 31;
  shl.b32 %at, %v, 2;
  add.s32 %at, %at, %room;
  setp.ne.s32 %p, %t, 0;
  @%p bra ready;
  mbarrier.init.shared.b64 [%room], 32;
ready:
  bar.sync 0;
  setp.ge.s32 %p, %t, 32;
  @%p bra reader;
  st.shared.b32 [%at+16], %v;
  mbarrier.arrive.shared.b64 _, [%room];
  bra done;
reader:
wait:
  mbarrier.try_wait.parity.shared.b64 %q, [%room], 0;
  @!%q bra wait;
  ld.shared.b32 %v, [%at+16];
  ld.param.b64 %o, [out];
  mul.wide.s32 %w, %t, 4;
  add.s64 %o, %o, %w;
  st.global.b32 [%o+-128], %v;
done:
  ret;
}
"""
)


def _handover(kernel=HANDOVER, **options):
    out = np.zeros(32, np.int32)
    return simulator.run(kernel, dynamic_shared=256, arguments=[out], **options), out


def _is_handed_over(out):
    np.testing.assert_array_equal(out, np.arange(32))


def test_kernel_on_arrays(simulate):
    x, y = np.arange(200, dtype=np.float32), np.ones(200, np.float32)
    z = np.zeros((4, 200), np.float32)
    result = simulate(ADD, grid=2, arguments=[x, y, z[2], 200, 0.5])
    np.testing.assert_array_equal(z, [[0] * 200, [0] * 200, x + 0.5, [0] * 200])
    assert result.counters["global_write_bytes"] == 800
    counts = {result.kernel.text[pc].split()[0]: int(n) for pc, n in enumerate(result.executed)}
    assert counts["st.global.b32"] == 7  # 8 warps, of which one is past the end
    assert sum(result.coverage.values()) == result.executed.sum() == result.counters["warp_instructions"]


@pytest.mark.parametrize("address", [16, 20, 256])
def test_views_keep_their_distance_from_their_owner(simulate, address):
    owner = np.zeros(1024, np.float32)
    x = owner[address // 4 :][:128]
    simulate(ADD, arguments=[np.arange(128, dtype=np.float32), np.ones(128, np.float32), x, 128, 1.0])
    np.testing.assert_array_equal(x, np.arange(128) + 1)
    assert owner.sum() == x.sum()


def test_memory_beyond_the_arrays_is_out_of_bounds(simulate):
    x = np.zeros(128, np.float32)
    with pytest.raises(simulator.SimulatorError, match="out_of_bounds") as raised:
        simulate(ADD, arguments=[x, x, np.zeros(256, np.float32)[:100], 128, 1.0])
    assert raised.value.result.reports[0].kind == "out_of_bounds"


def test_read_only_arrays_are_not_written(simulate):
    x = np.zeros(128, np.float32)
    x.flags.writeable = False
    with pytest.raises(simulator.SimulatorError):
        simulate(ADD, arguments=[x, x, x, 128, 1.0])


@pytest.mark.parametrize(
    ("arguments", "options", "words"),
    [
        (["x", "x", "x", 128], {}, "takes 5 arguments, 4 were given"),
        (["x", "x", "x", 1 << 32, 1.0], {}, "argument 3 of add: 4294967296 does not fit in 4 bytes"),
        (["x", "x", "x", np.int64(1), 1.0], {}, "argument 3 of add: the parameter has 4 bytes, a int64 of 8"),
        (["x", "x", 1.0j, 128, 1.0], {}, "argument 2 of add is a complex"),
        (["x", "x", "x", b"123", 1.0], {}, "argument 3 of add: the parameter has 4 bytes, a bytes of 3"),
        (["x", "x", "x", "x", 1.0], {}, "argument 3 of add: the parameter has 4 bytes, a ndarray of 8"),
        (["x", "x", "x", (1, 2), 1.0], {}, "a number in a struct must be a NumPy scalar"),
        (["x", "x", "x", 128, 1.0], {"grid": 0}, "grid is 0"),
        (["x", "x", "x", 128, 1.0], {"schedule": "keen"}, "must be eager, random or lazy"),
        (["x", "x", "x", 128, 1.0], {"sed": 1}, "sed"),
        (["x", "x", "x", 128, 1.0], {"device": "b300"}, 'there are "b200" and "h200"'),
        (["x", "x", "x", 128, 1.0], {"block": 64}, "(?i)reqntid"),
    ],
)
def test_wrong_launches_are_refused_in_words(simulate, arguments, options, words):
    x = np.zeros(128, np.float32)
    with pytest.raises((ValueError, TypeError), match=words):
        simulate(
            ADD, arguments=[x if a == "x" else a for a in arguments if not isinstance(a, str) or a == "x"], **options
        )


def test_text_that_is_not_ptx_is_refused_with_file_and_line(simulate, tmp_path):
    file = tmp_path / "add.ptx"
    file.write_text(ADD.replace("shl.b32", "shl.q32"))
    with pytest.raises(simulator.Error, match=r"add\.ptx:16: .*shl\.q32"):
        simulate(file, arguments=[])


def test_structs_are_laid_out_by_their_members():
    text = HEAD + ".visible .entry f(.param .align 8 .b8 s[24]) .reqntid 32, 1, 1 { ret; }"
    memory = simulator.Memory()
    x = simulator.empty(4)
    members = (np.int32(-1), x, np.float16(1), np.float32(2))
    block = simulator.launching.pack_arguments(simulator.bound(text), [members], memory)
    assert block == b"\xff" * 4 + bytes(4) + x.ctypes.data.to_bytes(8, "little") + b"\x00\x3c\0\0\0\0\0\x40"


def test_reports_raise_and_say_where():
    with pytest.raises(simulator.SimulatorError, match=r"error\[race\]") as raised:
        _handover(HANDOVER.replace("mbarrier.try_wait.parity.shared.b64 %q, [%room], 0;", "setp.eq.s32 %q, 0, 0;"))
    [race] = [report for report in raised.value.result.reports if report.kind == "race"]
    assert {race.first.text.split()[0], race.second.text.split()[0]} == {"st.shared.b32", "ld.shared.b32"}
    assert str(race) == race.text and race.second.who.startswith("warp 0")
    assert HANDOVER.split("\n")[race.first.line - 1].strip() == race.first.text + ";"


@pytest.mark.parametrize("options", [{}, {"schedule": "lazy"}, *({"schedule": "random", "seed": s} for s in range(4))])
def test_a_clean_kernel_has_no_reports(options):
    result, out = _handover(**options)
    _is_handed_over(out)
    assert result.reports == [] and not result.failed


def test_trace_of_a_warp_and_of_an_mbarrier():
    out = np.zeros(32, np.int32)
    of_warp = simulator.follow(HANDOVER, warp=1, dynamic_shared=256, arguments=[out])
    assert "ld.shared.b32" in of_warp and "mbarrier.arrive" not in of_warp
    of_barrier = simulator.follow(HANDOVER, mbarrier=simulator.SHARED_BASE, dynamic_shared=256, arguments=[out])
    assert of_barrier and "ld.shared" not in of_barrier
    with pytest.raises(ValueError, match="one of"):
        simulator.follow(HANDOVER, arguments=[out])


def test_every_mutant_of_the_handover_is_caught():
    case = mutate.Case(
        "handover",
        HANDOVER,
        lambda kernel, **options: _handover(kernel, raise_on_report=False, **options),
        _is_handed_over,
    )
    verdicts = mutate.mutate(case, seeds=2, jobs=1)
    assert [v.mutant.statement.split()[0] for v in verdicts] == [
        "bar.sync", "mbarrier.arrive.shared.b64", "mbarrier.try_wait.parity.shared.b64",
    ]  # fmt: skip
    assert mutate.survivors(case, verdicts) == [], mutate.report(case, verdicts)
    assert "3 of 3" in mutate.report(case, verdicts)


CASES = """
import numpy as np
from jax_fa4_simulator import mutate, run

def launch(kernel, **options):
    out = np.zeros(32, np.int32)
    return run(kernel, dynamic_shared=256, arguments=[out], raise_on_report=False, **options), out

def check(out):
    np.testing.assert_array_equal(out, np.arange(32))

CASES = [mutate.Case("handover", TEXT, launch, check, EXPLAINED)]
"""


@pytest.mark.parametrize(
    ("explained", "status", "words"),
    [({}, 1, "NOT EXPLAINED"), ({"bar.warp.sync -1": "it is the last statement"}, 0, "it is the last statement")],
)
def test_a_mutant_that_changes_nothing_must_be_explained(tmp_path, explained, status, words):
    text = HANDOVER.replace("done:", "done:\n  bar.warp.sync -1;")
    file = tmp_path / "cases.py"
    file.write_text(f"TEXT = {text!r}\nEXPLAINED = {explained!r}\n{CASES}")
    command = [sys.executable, "-m", "jax_fa4_simulator.mutate", str(file), "--seeds", "1"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == status, done.stdout + done.stderr
    assert words in done.stdout


def test_an_ordering_access_is_weakened_not_deleted():
    text = HEAD + (
        ".visible .entry f(.param .u64 x) .reqntid 32, 1, 1 {\n.reg .b64 %x; .reg .b32 %v;\nld.param.b64 %x, [x];\n"
        "ld.acquire.gpu.global.b32 %v, [%x];\nred.release.gpu.global.add.u32 [%x], 1;\nret;\n}"
    )
    weak = mutate.mutants(simulator.bound(text))
    assert [m.kernel.text[m.pc] for m in weak] == [
        "ld.relaxed.gpu.global.b32 %v, [%x]", "red.relaxed.gpu.global.add.u32 [%x], 1",
    ]  # fmt: skip


def test_instruction_takes_and_returns_lanes(run):
    lanes = np.arange(32)
    np.testing.assert_array_equal(run("add.s32 %d, %a, %b;", a=lanes.astype(np.int32), b=1)["d"], lanes + 1)
    out = run("add.f32 %d, %a, %b;", a=lanes.astype(np.float32), b=1.5, out={"d": np.float32}, active=0xF0)["d"]
    np.testing.assert_array_equal(out, np.where((lanes >= 4) & (lanes < 8), lanes + 1.5, 0))
    out = run("setp.lt.s32 %p, %a, 5;", a=lanes.astype(np.int32), out={"p": bool})["p"]
    np.testing.assert_array_equal(out, lanes < 5)
    packed = np.stack([lanes, -lanes], 1).astype(ml_dtypes.bfloat16)
    out = run("fma.rn.bf16x2 %d, %a, %a, %a;", a=packed, out={"d": (ml_dtypes.bfloat16, 2)})["d"]
    wide = packed.astype(np.float32)
    np.testing.assert_array_equal(out, (wide * wide + wide).astype(ml_dtypes.bfloat16))
    out = run(
        ".reg .b32 %u; add.s32 %u, %a, 1; add.s32 %a, %u, 1;",
        a=lanes.astype(np.int32),
        out={"a": np.int32},
        target="sm_90a",
    )
    np.testing.assert_array_equal(out["a"], lanes + 2)
    assert set(out) == {"a"}


def test_instruction_on_every_warp(run):
    out = run("mov.u32 %d, %tid.x; add.s32 %d, %d, %a;", warp=None, a=np.arange(128, dtype=np.int32))["d"]
    np.testing.assert_array_equal(out, 2 * np.arange(128))


def test_instruction_with_memory(run):
    x = np.zeros(32, np.float32)
    run("st.global.b32 [%x+4], %v;", v=2.0, memory={"x": x[8:]}, active=1)
    np.testing.assert_array_equal(x, np.eye(32, dtype=np.float32)[9] * 2)
    room = np.arange(6, dtype=np.uint16)
    out = run("ld.shared.b32 %d, [%shared+4]; st.shared.b32 [%shared], 7;", shared=room, active=1)
    assert out["d"][0] == 2 | 3 << 16
    np.testing.assert_array_equal(out["shared"], [7, 0, 2, 3, 4, 5])
    assert run("mov.b32 %d, %shared;", shared=b"123")["d"][0] == simulator.SHARED_BASE


@pytest.mark.parametrize("columns", [32, 512])
def test_instruction_with_tensor_memory(run, columns):
    tmem = np.arange(128 * columns, dtype=np.uint32).reshape(128, columns)
    out = run("tcgen05.ld.sync.aligned.16x128b.x1.b32 {%d0, %d1}, [%t];", tmem=tmem, t=32 << 16, warp=1)
    lane = np.arange(32)
    np.testing.assert_array_equal(out["d1"], tmem[32 + 8 + lane // 4, lane % 4])
    np.testing.assert_array_equal(out["tmem"], tmem)


def test_instruction_with_a_tensor_map(run):
    x = np.arange(64, dtype=np.float32).reshape(8, 8)
    copy = "cp.async.bulk.tensor.2d.shared::cta.global.tile.mbarrier::complete_tx::bytes"
    text = f"""
      mbarrier.init.shared.b64 [%scratch], 1;
      fence.mbarrier_init.release.cluster;
      mbarrier.arrive.expect_tx.shared.b64 _, [%scratch], 64;
      {copy} [%shared], [%map, {{4, 2}}], [%scratch];
    wait:
      mbarrier.try_wait.parity.shared.b64 %q, [%scratch], 0;
      @!%q bra wait;"""
    box = np.zeros((4, 4), np.float32)
    out = run(text, shared=box, scratch=8, memory={"map": simulator.TensorMap(x, (4, 4))}, active=1, out={"q": bool})
    np.testing.assert_array_equal(out["shared"], x[2:6, 4:8])


@pytest.mark.parametrize(
    ("registers", "words"),
    [
        ({"a": np.zeros(31, np.int32)}, r"%a has shape \(31,\)"),
        ({"a": np.zeros(32, np.int8)}, "%a would have 1 bytes"),
        ({"a": 1, "active": np.ones(4, bool)}, "active has shape"),
        ({"a": 1, "tmem": np.zeros((128, 33), np.uint32)}, "tmem is uint32"),
        ({"a": 1, "out": {"a": np.uint64}}, "%a is given as uint32 and wanted as uint64"),
    ],
)
def test_wrong_registers_are_refused(run, registers, words):
    with pytest.raises(ValueError, match=words):
        run("add.s32 %d, %a, %a;", **registers)


@pytest.mark.parametrize(
    ("given", "words"),
    [({"swizzle": "256B"}, "swizzle is '256B'"), ({"box": (257, 1)}, "box"), ({"dtype": "int8"}, "dtype is 'int8'")],
)
def test_wrong_tensor_maps_are_refused(given, words):
    tensor = simulator.empty((512, 512))
    with pytest.raises(ValueError, match=words):
        simulator.TensorMap(**{"tensor": tensor, "box": (4, 4), **given}).encode(simulator.Memory())


def test_rows_and_lines_of_a_session_are_merged(tmp_path):
    (tmp_path / "test_it.py").write_text(
        "import numpy as np, pytest\n"
        f"ADD = {ADD!r}\n"
        "@pytest.mark.parametrize('n', [0, 128])\n"
        "def test_add(simulate, n):\n"
        "    x = np.zeros(128, np.float32)\n"
        "    simulate(ADD, arguments=[x, x.copy(), x.copy(), n, 1.0])\n"
        "def test_one(run): run('popc.b32 %d, %a;', a=1)\n"
    )
    command = [sys.executable, "-m", "pytest", "-q", "-n", "2", "--simulator-rows", "--simulator-coverage=c.json", "-p"]
    done = subprocess.run([*command, "no:cacheprovider"], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 1, done.stdout + done.stderr
    assert "3 passed" in done.stdout
    never = {line.strip() for line in done.stdout.partition("never executed")[2].split("\n")}
    executed = [row for row in simulator.rows() if row not in never]
    assert all(any(opcode in row for row in executed) for opcode in ("popc", "fma", "bra", "ld.param", "st["))
    assert len(never) > len(executed)
    [(name, kernel)] = json.loads((tmp_path / "c.json").read_text()).items()
    assert name.startswith("add ")
    executed = {
        text.split()[0]: count for (_, text, _), count in zip(kernel["statements"], kernel["executed"], strict=True)
    }
    assert executed["mov.u32"] == 8 and executed["st.global.b32"] == 4


def test_the_stand_in_is_the_library_that_this_module_links():
    path = simulator.driver_path()
    assert path.name.startswith("libcuda_simulator") and str(path) in Path("/proc/self/maps").read_text()


def test_the_driver_is_put_in_its_place(simulated_driver):
    assert os.environ["JAX_FA4_CUDA_DRIVER"] == str(simulator.driver_path())
    simulated_driver.set_options(schedule="random", seed=3)
    assert simulator._simulator.driver.options()["seed"] == 3
    assert simulated_driver.take_launches() == []
    simulated_driver.must_launch = False
