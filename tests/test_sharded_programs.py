"""Sharded programs that outlive their process: jax.export, the persistent compilation cache."""

from __future__ import annotations

import functools
import json
import pathlib
import subprocess
import sys
import textwrap

import jax
import jax.export
import pytest
from hlo import collective_bytes
from jax.sharding import AxisType, NamedSharding, PartitionSpec
from running import kernel_calls
from test_regimes import CASES, KERNELS, arrays, assert_close, loss_and_gradients, one_device, placed

import jax_fa4
from jax_fa4.rules.sharding import partitioner

P = PartitionSpec


def test_sharded_export_round_trip() -> None:
    """A loaded program holds the same calls and sums: the rule travels in it, importing us brings the partitioner."""
    case = CASES["one_key_head"]
    mesh = jax.make_mesh(case.mesh, ("data", "model"), axis_types=(AxisType.Auto,) * 2)
    given = placed(arrays(case.key_heads, case.bias), mesh, case.specs())
    function = jax.jit(functools.partial(loss_and_gradients, jax_fa4.attention))
    exported = jax.export.export(function, disabled_checks=jax_fa4.EXPORT_SAFETY_CHECKS)(given)
    loaded = jax.export.deserialize(exported.serialize())
    assert loaded.nr_devices == 8
    compiled = jax.jit(loaded.call).lower(given).compile()
    assert kernel_calls(compiled) == KERNELS
    assert collective_bytes(compiled) == case.expected
    assert_close(compiled(given), one_device(case.key_heads, case.bias))


def test_symbolic_shapes_on_several_devices() -> None:
    """Refused, as a sharding rule holds numbers and XLA would gather; what the words advise is not."""
    mesh = jax.make_mesh((8,), ("data",), axis_types=(AxisType.Auto,))
    (batch,) = jax.export.symbolic_shape("b", constraints=["mod(b, 8) == 0"])
    shape = jax.ShapeDtypeStruct((batch, 6, 1, 8), "float32", sharding=NamedSharding(mesh, P("data")))
    export = functools.partial(jax.export.export, disabled_checks=jax_fa4.EXPORT_SAFETY_CHECKS)
    with pytest.raises(NotImplementedError, match=r"several devices whose shapes are symbolic.*reference"):
        export(jax.jit(jax_fa4.attention))(shape, shape, shape)
    loaded = export(jax.jit(functools.partial(jax_fa4.attention, implementation="reference")))(shape, shape, shape)
    array = jax.random.normal(jax.random.key(0), (16, 6, 1, 8))
    given = jax.device_put(array, NamedSharding(mesh, P("data")))
    assert_close(jax.jit(loaded.call)(given, given, given), jax_fa4.attention(array, array, array))


PROGRAM = """
    import json, sys
    import jax
    from jax.sharding import NamedSharding, PartitionSpec
    import jax_fa4
    from jax_fa4.rules.sharding import partitioner

    jax.config.update("jax_compilation_cache_dir", sys.argv[1])
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)
    jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)
    events, asked = [], []
    layout = partitioner._layout
    partitioner._layout = lambda *arguments: (asked.append(1), layout(*arguments))[1]

    mesh = jax.make_mesh((4, 2), ("data", "model"), axis_types=(jax.sharding.AxisType.Auto,) * 2)
    array = jax.random.normal(jax.random.key(0), (4, 8, 2, 8))
    array = jax.device_put(array, NamedSharding(mesh, PartitionSpec("data", None, "model")))
    jax.monitoring.register_event_listener(lambda event, **_: events.append(event.rsplit("/", 1)[-1]))
    loss, gradient = jax.jit(jax.value_and_grad(lambda a: (jax_fa4.attention(a, a, a) ** 2).sum()))(array)
    found = {name: events.count(name) for name in ("cache_hits", "cache_misses")}
    print(json.dumps({**found, "asked": len(asked), "loss": float(loss)}))
"""


@pytest.mark.slow
def test_persistent_cache_is_hit_by_a_second_process(tmp_path: pathlib.Path) -> None:
    """Nothing of a process, such as an address, is in the program: it has one entry, and nobody partitions twice."""
    # -P: the current folder would be imported, the source without its extension.
    command = [sys.executable, "-P", "-c", textwrap.dedent(PROGRAM), str(tmp_path)]
    runs = [subprocess.run(command, capture_output=True, text=True, check=True, timeout=120) for _ in range(2)]
    first, second = (json.loads(run.stdout) for run in runs)
    assert (first["cache_hits"], first["cache_misses"]) == (0, 1) and first["asked"] == 2
    assert (second["cache_hits"], second["cache_misses"]) == (1, 0) and second["asked"] == 0
    assert first["loss"] == second["loss"]


def test_older_propagation_of_shardings() -> None:
    """GSPMD, behind a flag of JAX: it asks us where results lie, and a refusal must not end the process."""
    mesh = jax.make_mesh((4, 2), ("data", "model"), axis_types=(AxisType.Auto,) * 2)
    given = {name: arrays()[name] for name in ("query", "key", "value")}
    heads, lengths = (dict.fromkeys(given, P("data", *rest)) for rest in ((None, "model"), ("model",)))
    assert partitioner.AVAILABLE
    jax.config.update("jax_use_shardy_partitioner", False)
    try:
        call = jax.jit(jax_fa4.attention)
        compiled = call.lower(**placed(given, mesh, heads)).compile()
        assert not collective_bytes(compiled)
        result = compiled(**placed(given, mesh, heads))
        assert result.sharding.is_equivalent_to(NamedSharding(mesh, P("data", None, "model")), 4)
        with pytest.raises(jax.errors.JaxRuntimeError, match="context_parallel"):
            call.lower(**placed(given, mesh, lengths)).compile()
    finally:
        jax.config.update("jax_use_shardy_partitioner", True)
    assert_close(result, jax_fa4.attention(**given))
