"""Calls in CUDA graphs: captured by XLA (command buffers), and by a host of our own."""

from __future__ import annotations

import ctypes
import json
import os
import subprocess
import sys
from ctypes import byref, c_void_p
from pathlib import Path

import gpu_call
import pytest
import raw
import stub
import tolerance
from devices import Device
from forward_table import KINDS, PLAIN
from stub_calls import call
from test_concurrency import assert_right, assert_same_bits
from watching import Watch

from jax_fa4 import manifest

PROGRAM = Path(__file__).with_name("captured_program.py")
# XLA captures custom calls by default, but only where a graph would have several nodes.
FORCED = "--xla_gpu_graph_min_graph_size=1"
THREAD_LOCAL = 1  # CU_STREAM_CAPTURE_MODE_THREAD_LOCAL


@pytest.mark.gpu
@pytest.mark.parametrize("captures", [True, False], ids=["command_buffers", "none"])
def test_command_buffers_of_xla(gpu: Device, captures: bool) -> None:
    """In a process of its own, as XLA reads its flags once: the handler is called while a stream is captured, and the
    graph is launched more often than the handler is called."""
    flags = FORCED if captures else "--xla_gpu_enable_command_buffer="
    environment = {**os.environ, "XLA_FLAGS": f"{os.environ.get('XLA_FLAGS', '')} {flags}"}
    ended = subprocess.run([sys.executable, PROGRAM], env=environment, capture_output=True, text=True)
    assert ended.returncode == 0, ended.stderr
    found = json.loads(ended.stdout.splitlines()[-1])
    if captures:
        assert found["captured"] >= 1
        assert found["launches"] < found["runs"], "XLA has launched no graph twice"
    else:
        assert (found["captured"], found["launches"]) == (0, found["runs"])


@pytest.mark.gpu
@pytest.mark.parametrize("kind", ["dense", "general"])
def test_a_graph_of_our_own(kind: str, gpu: Device) -> None:
    """Captured once, launched on inputs that have changed since."""
    case = PLAIN if kind == "dense" else KINDS["general"]
    driver = raw.Driver(gpu.driver)
    stream, prepared = driver.stream(), raw.prepare(driver, case)
    prepared.make(raw.INITIALIZE, stream)
    with driver:
        driver.ok("cuStreamBeginCapture_v2", stream, THREAD_LOCAL)
        prepared.make(raw.EXECUTE, stream)
        graph, executable = c_void_p(), c_void_p()
        driver.ok("cuStreamEndCapture", stream, byref(graph))
        driver.ok("cuGraphInstantiateWithFlags", byref(executable), graph, ctypes.c_ulonglong(0))
    launches = gpu.watch.launches()
    assert launches
    assert all(launch.captured for launch in launches)
    query = case.arrays()["query"]
    for _ in range(3):
        query = query[:, ::-1] * 2
        driver.write(prepared.call.arrays["query"].data, query)
        with driver:
            driver.ok("cuGraphLaunch", executable, stream)
        driver.synchronize(stream)
        found = prepared.results()
        prepared.make(raw.EXECUTE, stream)
        driver.synchronize(stream)
        assert_same_bits(found, prepared.results())
        if kind == "dense":
            inputs = case.arrays() | {"query": query}
            tolerance.assert_forward(inputs, case.arguments(), *found)


# --- The means of these tests, where there is no GPU ---


@pytest.mark.skipif(gpu_call.NO_COMPILER, reason="needs a C++ compiler")
def test_launches_into_a_capture_are_told_apart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("JAX_FA4_KERNELS", str(stub.write(tmp_path, stub.row("dense", head_dim=64, value_head_dim=64))))
    manifest.variants()
    driver = stub.StubDriver()
    watch = Watch(driver.path)
    monkeypatch.setenv("JAX_FA4_CUDA_DRIVER", str(watch.path))
    driver.reset()
    watch.reset()
    stream = driver.stream()
    for on in (0, 1, 1, 0):
        driver.library.stub_capture(on)
        assert call().make(raw.EXECUTE, stream) == (0, "")
    assert [launch.captured for launch in watch.launches()] == [False, True, True, False]
    assert {launch.kernel for launch in watch.launches()} == {"dense_bfloat16_bfloat16_64_64_0_0"}


def test_the_captured_program_without_a_graph(simulator: Device) -> None:
    """The program that XLA captures on a GPU, on the simulator."""
    ended = subprocess.run([sys.executable, PROGRAM, "simulator"], env=os.environ, capture_output=True, text=True)
    assert ended.returncode == 0, ended.stderr
    found = json.loads(ended.stdout.splitlines()[-1])
    assert found == {"captured": 0, "launches": found["runs"], "runs": found["runs"]}


def test_a_raw_call_is_right(simulator: Device) -> None:
    driver = raw.Driver(simulator.driver)
    for case in (PLAIN, KINDS["general"]):
        assert_right(case, raw.prepare(driver, case).run(driver.stream()))
