"""jax.jit(jax_fa4.attention) on the compiled kernels, executed by the simulator: right results, every call launched."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import built_forward
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tolerance
from cases import FORWARD_AND_BACKWARD, Case

import jax_fa4

pytest.importorskip("jax_fa4_simulator", reason="the simulator is not installed")
if not built_forward.available():
    pytest.skip("nvidia-cutlass-dsl, which compiles the kernels, is not installed", allow_module_level=True)

SCHEDULES: tuple[dict[str, Any], ...] = (
    {"schedule": "eager"}, {"schedule": "lazy"}, {"schedule": "random", "seed": 5}
)  # fmt: skip
PLAIN = Case(dtype="bfloat16", batch=1, query_length=200, key_length=150, head_dim=128, query_heads=2)


def for_gpu(case: Case) -> Case:
    """The case without what kernels refuse: dense bias and mask, wide floats, head_dims that are no multiple of 8."""
    sizes = [8 * -(-size // 8) for size in (case.head_dim, case.value_head_dim or case.head_dim)]
    dtype = "bfloat16" if case.dtype in ("float32", "float64") else case.dtype
    return dataclasses.replace(
        case, dtype=dtype, head_dim=sizes[0], value_head_dim=sizes[1], bias=None, mask=None, causal_alignment=(
            "top_left" if case.query_offset else case.causal_alignment
        ),
    )  # fmt: skip


FEATURES = {case.id: case for case in map(for_gpu, FORWARD_AND_BACKWARD) if case.query_length > 0}

EDGES = (1, 2, 63, 127, 128, 129, 255, 256, 257, 384, 511, 513, 640, 1023, 1100)
ONE = Case("bfloat16", batch=1, query_heads=1, key_value_heads=1, head_dim=64)
SIZES = [(EDGES[i], EDGES[(i * 4 + 3) % len(EDGES)]) for i in range(len(EDGES))]
SIZES += [(size, size) for size in (1, 128, 256, 300, 1100)] + [(1, 1100), (1100, 1)]
KINDS = {
    "dense": ONE,
    "causal": dataclasses.replace(ONE, is_causal=True, causal_alignment="bottom_right"),
    "window": dataclasses.replace(ONE, window=(100, 30), head_dim=96),
    "general": dataclasses.replace(
        ONE, is_causal=True, query_offset="scalar", sinks=True, segments="packed", lengths="both", nan_padding=True
    ),
}  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Gpu:
    """A simulated GPU, and what the names of its kernels begin with."""

    key: str
    kernels: str


GPUS = (Gpu("b200", "jax_fa4_forward_sm100_"), Gpu("h200", "jax_fa4_forward_sm90_"))


@pytest.fixture(scope="session")
def both_architectures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The kernels for all GPUs, as a wheel has them: the launcher takes those of the GPU it finds."""
    folder = tmp_path_factory.mktemp("kernels")
    for arch in built_forward.ARCHITECTURES:
        (folder / arch).symlink_to(built_forward.built(arch))
    return folder


@pytest.fixture(name="gpu", autouse=True, scope="module", params=GPUS, ids=lambda gpu: gpu.key)
def the_gpu(request: pytest.FixtureRequest) -> Iterator[Gpu]:
    """The GPU that the simulator is; for all tests together, so that each kernel is loaded once."""
    from jax_fa4_simulator import _simulator

    _simulator.driver.reset()
    _simulator.driver.set_device(request.param.key)
    yield request.param
    _simulator.driver.reset()


@pytest.fixture(autouse=True)
def compiled_kernels(monkeypatch: pytest.MonkeyPatch, both_architectures: Path) -> None:
    monkeypatch.setenv("JAX_FA4_KERNELS", str(both_architectures))


def simulated(*arrays: Any, **options: Any) -> Any:
    return jax_fa4.attention(*arrays, implementation="sim", return_residual=True, **options)


def check(case: Case, simulated_driver: Any, gpu: Gpu, kernel: str = "") -> None:
    """Runs the case; it was one launch, of this kernel, without a report, and its results are right."""
    arrays = case.arrays()
    output, log_sum_exp = jax.jit(lambda arrays: simulated(**arrays, **case.arguments()))(arrays)
    inputs = {name: np.asarray(array) for name, array in arrays.items()}
    tolerance.assert_forward(inputs, case.arguments(), np.asarray(output), np.asarray(log_sum_exp))
    (launch,) = simulated_driver.take_launches()
    assert launch["kernel"].startswith(gpu.kernels + kernel)
    assert not launch["outcome"].reports


def check_in_all_orders(case: Case, driver: Any, gpu: Gpu, kernel: str = "") -> None:
    """Likewise in every order of events, with the same bits in all: one compilation and one judgement for three."""
    arrays = case.arrays()
    run = jax.jit(lambda arrays: simulated(**arrays, **case.arguments()))
    results = []
    for options in SCHEDULES:
        driver.set_options(**options)
        results.append([np.asarray(result) for result in run(arrays)])
        (launch,) = driver.take_launches()
        assert launch["kernel"].startswith(gpu.kernels + kernel)
        assert not launch["outcome"].reports
    inputs = {name: np.asarray(array) for name, array in arrays.items()}
    tolerance.assert_forward(inputs, case.arguments(), *results[0])
    for other in results[1:]:
        assert [one.tobytes() for one in other] == [one.tobytes() for one in results[0]]


on_blackwell = pytest.mark.parametrize("gpu", GPUS[:1], ids=lambda gpu: gpu.key, indirect=True)
on_hopper = pytest.mark.parametrize("gpu", GPUS[1:], ids=lambda gpu: gpu.key, indirect=True)
each_schedule = pytest.mark.parametrize("options", SCHEDULES, ids=lambda options: options["schedule"])


@on_hopper
@pytest.mark.parametrize("case", FEATURES.values(), ids=FEATURES)
def test_features_on_hopper(case: Case, simulated_driver: Any, gpu: Gpu) -> None:
    check_in_all_orders(case, simulated_driver, gpu)


@on_blackwell
@each_schedule
@pytest.mark.parametrize("case", FEATURES.values(), ids=FEATURES)
def test_features(case: Case, options: dict[str, Any], simulated_driver: Any, gpu: Gpu) -> None:
    simulated_driver.set_options(**options)
    check(case, simulated_driver, gpu)


def check_sizes(kind: str, sizes: tuple[int, int], options: dict[str, Any], driver: Any, gpu: Gpu) -> None:
    """Sizes around the edges of tiles, queries and keys not alike."""
    driver.set_options(**options)
    check(dataclasses.replace(KINDS[kind], query_length=sizes[0], key_length=sizes[1]), driver, gpu)


@on_blackwell
@each_schedule
@pytest.mark.parametrize("sizes", SIZES, ids=lambda sizes: f"{sizes[0]}x{sizes[1]}")
@pytest.mark.parametrize("kind", KINDS)
def test_sizes(
    kind: str, sizes: tuple[int, int], options: dict[str, Any], simulated_driver: Any, gpu: Gpu
) -> None:  # fmt: skip
    check_sizes(kind, sizes, options, simulated_driver, gpu)


@on_hopper
@pytest.mark.parametrize("sizes", SIZES, ids=lambda sizes: f"{sizes[0]}x{sizes[1]}")
@pytest.mark.parametrize("kind", KINDS)
def test_sizes_on_hopper(kind: str, sizes: tuple[int, int], simulated_driver: Any, gpu: Gpu) -> None:
    """Each in one order of events, for time; the features are in all three."""
    options = SCHEDULES[(SIZES.index(sizes) + [*KINDS].index(kind)) % len(SCHEDULES)]
    check_sizes(kind, sizes, options, simulated_driver, gpu)


def check_groups(group: int, is_causal: bool, options: dict[str, Any], driver: Any, gpu: Gpu) -> None:
    """Heads that share keys share tiles, as many as a power of two of them."""
    driver.set_options(**options)
    case = dataclasses.replace(PLAIN, query_heads=2 * group, key_value_heads=2, batch=2, is_causal=is_causal)
    check(case, driver, gpu)


@on_blackwell
@each_schedule
@pytest.mark.parametrize("group", [1, 2, 3, 4, 6, 8])
@pytest.mark.parametrize("is_causal", [False, True])
def test_grouped_heads(
    group: int, is_causal: bool, options: dict[str, Any], simulated_driver: Any, gpu: Gpu
) -> None:  # fmt: skip
    check_groups(group, is_causal, options, simulated_driver, gpu)


@on_hopper
@pytest.mark.parametrize("group", [1, 2, 3, 4, 6, 8])
@pytest.mark.parametrize("is_causal", [False, True])
def test_grouped_heads_on_hopper(group: int, is_causal: bool, simulated_driver: Any, gpu: Gpu) -> None:
    check_groups(group, is_causal, SCHEDULES[(group + is_causal) % len(SCHEDULES)], simulated_driver, gpu)


@on_hopper
@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
@pytest.mark.parametrize(
    "heads", [(64, 64), (96, 96), (128, 128), (192, 128), (256, 256), (40, 72), (136, 8), (256, 200)], ids=str
)
@pytest.mark.parametrize("kind", ["dense", "general"])
def test_head_dims_on_hopper(
    kind: str, heads: tuple[int, int], dtype: str, simulated_driver: Any, gpu: Gpu
) -> None:  # fmt: skip
    case = dataclasses.replace(
        PLAIN, dtype=dtype, head_dim=heads[0], value_head_dim=heads[1], falling_logits=True, key_length=500,
        sinks=kind == "general",
    )  # fmt: skip
    check_in_all_orders(case, simulated_driver, gpu, f"{dtype}_d")


@on_blackwell
@each_schedule
@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
@pytest.mark.parametrize("heads", [(64, 64), (96, 96), (128, 128), (192, 128), (40, 72), (136, 8)], ids=str)
def test_head_dims(
    heads: tuple[int, int], dtype: str, options: dict[str, Any], simulated_driver: Any, gpu: Gpu
) -> None:
    simulated_driver.set_options(**options)
    case = dataclasses.replace(
        PLAIN, dtype=dtype, head_dim=heads[0], value_head_dim=heads[1], falling_logits=True, key_length=500
    )  # fmt: skip
    check(case, simulated_driver, gpu)


@on_blackwell
def test_what_only_another_gpu_has_says_so(simulated_driver: Any, gpu: Gpu) -> None:
    simulated_driver.must_launch = False
    with pytest.raises(jax.errors.JaxRuntimeError, match=r"no kernel for bfloat16, head_dim 256 on NVIDIA B200"):
        check(dataclasses.replace(PLAIN, head_dim=256), simulated_driver, gpu)


@pytest.mark.parametrize(("case", "kind"), [
    (PLAIN, "dense"),
    (dataclasses.replace(PLAIN, is_causal=True), "banded"),
    (dataclasses.replace(PLAIN, window=(5, None)), "banded"),
    (dataclasses.replace(PLAIN, is_causal=True, query_offset="batch", batch=2), "banded"),
    (dataclasses.replace(PLAIN, is_causal=True, causal_alignment="bottom_right"), "banded"),
    (dataclasses.replace(PLAIN, sinks=True), "general"),
])  # fmt: skip
def test_the_variant_with_fewest_features_is_taken(case: Case, kind: str, simulated_driver: Any, gpu: Gpu) -> None:
    check(case, simulated_driver, gpu, f"bfloat16_d128_{kind}")


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
