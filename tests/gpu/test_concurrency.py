"""Several streams, threads and shapes at the same time, and the same bits whenever a call is repeated."""

from __future__ import annotations

import dataclasses
import threading
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import raw
import tolerance
from cases import Case
from devices import Device
from forward_table import KINDS, PLAIN

# Of every kind, at sizes that no other test has compiled.
CASES = (
    dataclasses.replace(PLAIN, query_length=97, key_length=161),
    dataclasses.replace(PLAIN, is_causal=True, query_heads=4, head_dim=64),
    dataclasses.replace(KINDS["window"], query_length=333, key_length=140),
    dataclasses.replace(KINDS["general"], batch=2, query_length=130, key_length=75),
    dataclasses.replace(PLAIN, dtype="float16", head_dim=96, query_length=1, key_length=257),
)


def in_threads(work: Callable[[int], None], count: int) -> None:
    """Runs work(0) ... at the same time; the first error is raised."""
    errors: list[Exception] = []
    start = threading.Barrier(count)

    def guarded(i: int) -> None:
        start.wait()
        try:
            work(i)
        except Exception as error:
            errors.append(error)

    threads = [threading.Thread(target=guarded, args=(i,)) for i in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if errors:
        raise errors[0]


def assert_right(case: Case, results: Any) -> None:
    tolerance.assert_forward(case.arrays(), case.arguments(), *map(np.asarray, results))


def assert_same_bits(found: Any, wanted: Any) -> None:
    for ours, theirs in zip(found, wanted, strict=True):
        assert np.ascontiguousarray(ours).tobytes() == np.ascontiguousarray(theirs).tobytes()


def test_a_stream_for_each_thread(device: Device) -> None:
    """Each thread has a stream and arrays of its own and makes all calls again and again."""
    driver = raw.Driver(device.driver)
    wanted: dict[tuple[int, int], Any] = {}
    threads, rounds = (8, 50) if device.is_gpu else (2, 1)

    def work(thread: int) -> None:
        stream = driver.stream()
        prepared = [raw.prepare(driver, case) for case in CASES]
        for i, call in enumerate(prepared):
            wanted[thread, i] = call.run(stream)
        for _ in range(rounds):
            for call in prepared:
                call.make(raw.EXECUTE, stream)
        driver.synchronize(stream)
        for i, call in enumerate(prepared):
            assert_same_bits(call.results(), wanted[thread, i])

    in_threads(work, threads)
    assert len(device.watch.launches()) >= threads * len(CASES) * (rounds + 1)
    for i, case in enumerate(CASES):
        assert_right(case, wanted[0, i])
        for thread in range(1, threads):
            assert_same_bits(wanted[thread, i], wanted[0, i])


def test_many_shapes_in_flight(device: Device) -> None:
    """Nothing is waited for before everything has been called, by several threads."""
    programs = [jax.jit(lambda arrays, case=case: device.attention(**arrays, **case.arguments())) for case in CASES]
    arrays = [device.put(case.arrays()) for case in CASES]
    wanted = [program(given) for program, given in zip(programs, arrays, strict=True)]
    for case, results in zip(CASES, wanted, strict=True):
        assert_right(case, results)
    threads, rounds = (8, 20) if device.is_gpu else (2, 1)
    found: dict[int, list[Any]] = {}

    def work(thread: int) -> None:
        order = np.random.default_rng(thread).permutation(np.tile(np.arange(len(CASES)), rounds))
        found[thread] = [(i, programs[i](arrays[i])) for i in order]

    in_threads(work, threads)
    for results in found.values():
        assert len(results) == rounds * len(CASES)
        for i, result in results:
            assert_same_bits(result, wanted[i])


def repeatable(device: Device) -> tuple[Case, ...]:
    """Large enough on a GPU to fill it more than once, so that the order in which CTAs run differs."""
    if not device.is_gpu:
        return CASES[1], CASES[3]
    large = dataclasses.replace(PLAIN, batch=4, query_length=1111, key_length=1111, query_heads=16, key_value_heads=4)
    return (
        large,
        dataclasses.replace(large, is_causal=True, head_dim=64),
        dataclasses.replace(large, sinks=True, alibi=True, segments="packed", lengths="both", batch=7),
    )


@pytest.mark.parametrize("which", range(3))
def test_a_thousand_repetitions_are_bitwise_equal(which: int, device: Device) -> None:
    """Compared where they are made, with other work in between that disturbs the clock and the caches."""
    cases = repeatable(device)
    if which >= len(cases):
        pytest.skip("the simulator has two of the three cases")
    case = cases[which]
    arrays = device.put(case.arrays())
    program = jax.jit(lambda arrays: device.attention(**arrays, **case.arguments()))
    first = program(arrays)

    @jax.jit
    def same(left: Any, right: Any) -> Any:
        return jnp.all(jnp.stack([jnp.array_equal(bits(a), bits(b)) for a, b in zip(left, right, strict=True)]))

    noise = device.put(np.ones((2048, 2048) if device.is_gpu else (8, 8), np.float32))
    count = 1000 if device.is_gpu else 3
    different = device.put(np.zeros((), np.int32))
    for i in range(count):
        if i % 3 == 0:
            noise = noise @ noise * 1e-4
        different = different + ~same(program(arrays), first)
    assert int(different) == 0
    assert len(device.watch.launches()) == count + 1
    if not device.is_gpu:
        assert_right(case, first)


def bits(array: Any) -> Any:
    """As integers, of which NaN equals itself and zeros differ by their signs."""
    return jax.lax.bitcast_convert_type(array, jnp.uint16 if array.dtype.itemsize == 2 else jnp.uint32)
