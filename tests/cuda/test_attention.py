"""jax.jit(jax_fa4.attention) on the compiled kernels, executed by the simulator: right results, every call launched."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import built_forward
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tolerance
from cases import Case
from forward_table import (
    FEATURES,
    GROUPS,
    HEADS,
    KINDS,
    PLAIN,
    SIZES,
    VARIANTS,
    WIDEST_HEADS,
    grouped,
    of_head_dims,
    of_size,
)
from hlo import collectives
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P
from running import kernel_calls

import jax_fa4

pytest.importorskip("jax_fa4_simulator", reason="the simulator is not installed")
if not built_forward.available():
    pytest.skip("nvidia-cutlass-dsl, which compiles the kernels, is not installed", allow_module_level=True)

SCHEDULES: tuple[dict[str, Any], ...] = (
    {"schedule": "eager"}, {"schedule": "lazy"}, {"schedule": "random", "seed": 5}
)  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Gpu:
    """A simulated GPU, and what the names of its kernels begin with."""

    key: str
    kernels: str


BLACKWELL = Gpu("b200", "jax_fa4_forward_sm100_")
# Its calls through jax.jit are left to the whole run: quick tests have its kernels.
HOPPER = pytest.param(Gpu("h200", "jax_fa4_forward_sm90_"), marks=pytest.mark.slow)


@pytest.fixture(scope="session")
def both_architectures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The kernels for all GPUs, as a wheel has them: the launcher takes those of the GPU it finds."""
    folder = tmp_path_factory.mktemp("kernels")
    for arch in built_forward.ARCHITECTURES:
        (folder / arch).symlink_to(built_forward.built(arch))
    return folder


@pytest.fixture(name="gpu", autouse=True, scope="module", params=(BLACKWELL, HOPPER), ids=lambda gpu: gpu.key)
def the_gpu(request: pytest.FixtureRequest) -> Iterator[Gpu]:
    """The GPU that the simulator is; for all tests together, so that each kernel is loaded once."""
    from jax_fa4_simulator import _simulator

    _simulator.driver.reset()
    _simulator.driver.set_device(request.param.key)
    yield request.param
    _simulator.driver.reset()


@pytest.fixture(autouse=True)
def compiled_kernels(monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> None:
    """Those of both architectures in the whole run; quick tests compile Blackwell's alone."""
    is_slow = request.node.get_closest_marker("slow") is not None
    folder = request.getfixturevalue("both_architectures") if is_slow else built_forward.built("sm_100a")
    monkeypatch.setenv("JAX_FA4_KERNELS", str(folder))


def simulated(*arrays: Any, **options: Any) -> Any:
    return jax_fa4.attention(*arrays, implementation="sim", return_residual=True, **options)


def check(case: Case, driver: Any, gpu: Gpu, kernel: str = "", orders: Sequence[Any] = SCHEDULES) -> None:
    """Runs the case in these orders of events: one launch each, of this kernel, without a report, with the same bits.

    One compilation and one judgement serve all orders.
    """
    arrays = case.arrays()
    run = jax.jit(lambda arrays: simulated(**arrays, **case.arguments()))
    results = []
    for options in orders:
        driver.set_options(**options)
        results.append([np.asarray(result) for result in run(arrays)])
        (launch,) = driver.take_launches()
        assert launch["kernel"].startswith(gpu.kernels + kernel)
        assert not launch["outcome"].reports
    inputs = {name: np.asarray(array) for name, array in arrays.items()}
    tolerance.assert_forward(inputs, case.arguments(), *results[0])
    for other in results[1:]:
        assert [one.tobytes() for one in other] == [one.tobytes() for one in results[0]]


on_blackwell = pytest.mark.parametrize("gpu", [BLACKWELL], ids=lambda gpu: gpu.key, indirect=True)
on_hopper = pytest.mark.parametrize("gpu", [HOPPER], ids=lambda gpu: gpu.key, indirect=True)


# Quick tests have every third.
ALL_FEATURES = [
    pytest.param(case, marks=() if i % 3 == 0 else pytest.mark.slow) for i, case in enumerate(FEATURES.values())
]


@pytest.mark.parametrize("case", ALL_FEATURES, ids=lambda case: case.id)
def test_features(case: Case, simulated_driver: Any, gpu: Gpu) -> None:
    check(case, simulated_driver, gpu)


each_kind = pytest.mark.parametrize("kind", KINDS)


@pytest.mark.slow
@on_blackwell
@pytest.mark.parametrize("sizes", SIZES, ids=lambda sizes: f"{sizes[0]}x{sizes[1]}")
@each_kind
def test_sizes(kind: str, sizes: tuple[int, int], simulated_driver: Any, gpu: Gpu) -> None:
    """Sizes around the edges of tiles, queries and keys not alike."""
    check(of_size(kind, sizes), simulated_driver, gpu)


@on_hopper
@pytest.mark.parametrize("sizes", SIZES[::2], ids=lambda sizes: f"{sizes[0]}x{sizes[1]}")
@each_kind
def test_sizes_on_hopper(kind: str, sizes: tuple[int, int], simulated_driver: Any, gpu: Gpu) -> None:
    """Every second one: a real GPU has them all."""
    check(of_size(kind, sizes), simulated_driver, gpu)


@pytest.mark.slow
@pytest.mark.parametrize("group", GROUPS)
@pytest.mark.parametrize("is_causal", [False, True])
def test_grouped_heads(group: int, is_causal: bool, simulated_driver: Any, gpu: Gpu) -> None:
    """Heads that share keys share tiles, as many as a power of two of them."""
    check(grouped(group, is_causal), simulated_driver, gpu)


@pytest.mark.slow
@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
@pytest.mark.parametrize("heads", HEADS, ids=str)
@pytest.mark.parametrize("kind", ["dense", "general"])
def test_head_dims(kind: str, heads: tuple[int, int], dtype: str, simulated_driver: Any, gpu: Gpu) -> None:
    check(dataclasses.replace(of_head_dims(dtype, heads), sinks=kind == "general"), simulated_driver, gpu, f"{dtype}_d")


@on_hopper
@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
@pytest.mark.parametrize("heads", WIDEST_HEADS, ids=str)
@pytest.mark.parametrize("kind", ["dense", "general"])
def test_widest_heads(kind: str, heads: tuple[int, int], dtype: str, simulated_driver: Any, gpu: Gpu) -> None:
    """Which Blackwell's kernels have not."""
    case = dataclasses.replace(of_head_dims(dtype, heads), sinks=kind == "general")
    check(case, simulated_driver, gpu, f"{dtype}_d256")


@pytest.mark.slow
@on_blackwell
def test_what_only_another_gpu_has_says_so(simulated_driver: Any, gpu: Gpu) -> None:
    simulated_driver.must_launch = False
    with pytest.raises(jax.errors.JaxRuntimeError, match=r"no kernel for bfloat16, head_dim 256 on NVIDIA B200"):
        check(dataclasses.replace(PLAIN, head_dim=256), simulated_driver, gpu, orders=SCHEDULES[:1])


@pytest.mark.parametrize(("case", "kind"), VARIANTS)
def test_the_variant_with_fewest_features_is_taken(case: Case, kind: str, simulated_driver: Any, gpu: Gpu) -> None:
    check(case, simulated_driver, gpu, f"bfloat16_d128_{kind}", SCHEDULES[:1])


@pytest.mark.parametrize("feature", ["none", "all"])
def test_vmap_over_queries_of_shared_keys(feature: str, simulated_driver: Any) -> None:
    """Nothing is copied: the second query of each entry is another launch on the same keys, sinks and lengths."""
    case = PLAIN if feature == "none" else dataclasses.replace(PLAIN, sinks=True, lengths="both", batch=3)
    arrays = case.arrays()
    query = arrays.pop("query")
    run = jax.vmap(lambda query, arrays: simulated(query, **arrays), (0, None))
    output, log_sum_exp = jax.jit(run)(jnp.stack([query, query * 2]), arrays)
    for i in range(2):
        inputs = {name: np.asarray(array) for name, array in (arrays | {"query": query * (i + 1)}).items()}
        tolerance.assert_forward(inputs, {}, np.asarray(output[i]), np.asarray(log_sum_exp[i]))
    assert 1 <= len(simulated_driver.take_launches()) <= 2 * case.batch


def test_a_shard_of_heads_on_each_device(simulated_driver: Any) -> None:
    """Batch and heads are cut, the one key head is whole: four devices, four launches, nothing is gathered."""
    case = dataclasses.replace(PLAIN, batch=2, query_heads=2, key_value_heads=1, is_causal=True, sinks=True)
    arrays = case.arrays()
    mesh = jax.make_mesh((2, 2), ("data", "model"), axis_types=(AxisType.Auto,) * 2)
    specs = {"query": P("data", None, "model"), "key": P("data"), "value": P("data"), "sinks": P("model")}
    placed = {name: jax.device_put(array, NamedSharding(mesh, specs[name])) for name, array in arrays.items()}
    compiled = jax.jit(lambda arrays: simulated(**arrays, **case.arguments())).lower(placed).compile()
    assert kernel_calls(compiled) == {"jax_fa4_sim_forward": 1} and not collectives(compiled)
    output, log_sum_exp = compiled(placed)
    inputs = {name: np.asarray(array) for name, array in arrays.items()}
    tolerance.assert_forward(inputs, case.arguments(), np.asarray(output), np.asarray(log_sum_exp))
    launches = simulated_driver.take_launches()
    assert len(launches) == 4 and not any(launch["outcome"].reports for launch in launches)


def test_gradients_through_blockwise(simulated_driver: Any) -> None:
    """The forward kernel, and a backward pass in plain JAX, which the caller has to name."""
    arrays = {name: jnp.asarray(array, jnp.bfloat16) for name, array in PLAIN.arrays().items()}

    def loss(implementation: Any, arrays: Any) -> Any:
        return jnp.sum(jax_fa4.attention(**arrays, implementation=implementation).astype(jnp.float32) ** 2)

    found = jax.block_until_ready(jax.jit(jax.grad(functools.partial(loss, ("sim", "blockwise"))))(arrays))
    assert len(simulated_driver.take_launches()) == 1
    wanted = jax.jit(jax.grad(functools.partial(loss, "blockwise")))(arrays)
    for name in arrays:
        np.testing.assert_allclose(
            np.asarray(found[name], np.float32), np.asarray(wanted[name], np.float32), atol=0.05, rtol=0.05
        )  # fmt: skip
