"""Trains the example language model on many devices of many processes: batch over "data", heads over "model".

    python examples/distributed_train.py --processes 2              # 2 processes on this machine, 4 CPU devices each
    srun python examples/distributed_train.py                       # SLURM: who and where is found in its variables
    python examples/distributed_train.py --coordinator HOST:PORT --process-count N --process-id I    # anywhere else

Each process runs the same program and holds its share of every array. JAX's partitioner cuts the step, attention
included, by where parameters and tokens lie; the model knows nothing of it. Needs flax and optax. See
docs/distributed.md.
"""

from __future__ import annotations

import argparse
import dataclasses
import functools
import json
import os
import pathlib
import time
from collections.abc import Sequence
from typing import Any

import char_lm_data as data
import jax
import local_processes
import numpy as np
import optax
from char_lm_model import CharLM, Config
from flax import nnx
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

import jax_fa4

# Our kernel where there is one for the platform, else memory-linear plain JAX: gradients have no GPU kernel yet.
attention = functools.partial(jax_fa4.attention, implementation=("cpu", "cuda", "blockwise"))

# Heads and the MLP's hidden units over "model": columns of what makes them, rows of what takes them.
COLUMNS, ROWS = ("query", "key", "value", "up"), ("out", "down")


@dataclasses.dataclass(frozen=True)
class Plan:
    """What is trained."""

    steps: int = 200
    batch: int = 32  # of all devices together
    length: int = 256
    learning_rate: float = 3e-3
    config: Config = dataclasses.field(default_factory=lambda: Config(data.VOCABULARY))


QUICK = Plan(
    steps=8,
    batch=8,
    length=32,
    config=Config(data.VOCABULARY, width=32, layers=2, query_heads=4, head_dim=8, hidden=64, window=16),
)


def make_mesh(devices: Sequence[jax.Device], model_axis: int) -> Mesh:
    """A (data, model) mesh; neighbouring devices, which share a machine, share a batch and hold different heads."""
    if len(devices) % model_axis:
        raise ValueError(f"{len(devices)} devices cannot be cut into rows of {model_axis} (--model-axis)")
    grid = np.asarray(devices).reshape(-1, model_axis)
    return Mesh(grid, ("data", "model"), axis_types=(AxisType.Auto,) * 2)


def placement(path: tuple[Any, ...], mesh: Mesh) -> NamedSharding:
    """Where a parameter lies, by the name of the linear layer that it is the kernel of."""
    names = [str(getattr(key, "key", "")) for key in path]
    layer = names[names.index("kernel") - 1] if "kernel" in names else None
    spec = (None, "model") if layer in COLUMNS else ("model", None) if layer in ROWS else ()
    return NamedSharding(mesh, PartitionSpec(*spec))


def train(plan: Plan, mesh: Mesh, seed: int = 0) -> list[float]:
    """The loss of every step, the same on every process."""
    optimizer = optax.chain(optax.clip_by_global_norm(1.0), optax.adamw(plan.learning_rate, b2=0.95, weight_decay=0.1))
    graphdef, shapes = nnx.split(nnx.eval_shape(lambda: CharLM(plan.config, attention, nnx.Rngs(seed))))
    placements = jax.tree_util.tree_map_with_path(lambda path, _: placement(path, mesh), shapes)

    def initialize() -> Any:
        return nnx.split(CharLM(plan.config, attention, nnx.Rngs(seed)))[1]

    def loss_of(parameters: Any, tokens: jax.Array) -> jax.Array:
        logits = nnx.merge(graphdef, parameters)(tokens[:, :-1])
        return optax.softmax_cross_entropy_with_integer_labels(logits, tokens[:, 1:]).mean()

    def step(parameters: Any, state: Any, tokens: jax.Array) -> tuple[Any, Any, jax.Array]:
        loss, gradients = jax.value_and_grad(loss_of)(parameters, tokens)
        updates, state = optimizer.update(gradients, state, parameters)
        return optax.apply_updates(parameters, updates), state, loss

    # No process holds a whole parameter that is cut: each device makes its own part.
    parameters = jax.jit(initialize, out_shardings=placements)()
    whole = NamedSharding(mesh, PartitionSpec())
    moments = optax.tree_map_params(
        optimizer,
        lambda _, place: place,
        jax.eval_shape(optimizer.init, parameters),
        placements,
        transform_non_params=lambda _: whole,
    )
    state = jax.jit(optimizer.init, out_shardings=moments)(parameters)
    update = jax.jit(step, donate_argnums=(0, 1), out_shardings=(placements, moments, whole))
    corpus, rng = data.load_corpus().train, np.random.default_rng(seed)
    rows = NamedSharding(mesh, PartitionSpec("data"))
    losses = []
    for index in range(plan.steps):
        # Every process draws the same batch and puts on its devices the rows that are theirs.
        batch = data.draw_batch(corpus, rng, plan.batch, plan.length)
        tokens = jax.make_array_from_callback(batch.shape, rows, batch.__getitem__)
        start = time.perf_counter()
        parameters, state, loss = update(parameters, state, tokens)
        losses.append(float(loss))
        if jax.process_index() == 0:
            rate = plan.batch * plan.length / (time.perf_counter() - start)
            print(f"step {index + 1:4}   loss {losses[-1]:.4f}   {rate:9,.0f} tokens/s", flush=True)
    return losses


def join(arguments: argparse.Namespace) -> None:
    """Joins the other processes, if this is one of several; before anything asks for devices."""
    if arguments.coordinator is not None:
        jax.distributed.initialize(arguments.coordinator, arguments.process_count, arguments.process_id)
    elif "SLURM_STEP_NODELIST" in os.environ:
        jax.distributed.initialize()


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--processes", type=int, help="start this many on this machine, on the CPU, and wait for them")
    parser.add_argument("--devices", type=int, default=4, help="CPU devices of each of --processes (default: 4)")
    parser.add_argument("--time-limit", type=float, default=3600.0, help="of --processes in seconds (default: an hour)")
    parser.add_argument("--coordinator", metavar="HOST:PORT", help="of process 0; with --process-count, --process-id")
    parser.add_argument("--process-count", type=int, help="how many processes there are")
    parser.add_argument("--process-id", type=int, help="which of them this is, from 0")
    parser.add_argument("--model-axis", type=int, default=2, help="devices that share a batch's heads (default: 2)")
    parser.add_argument("--steps", type=int, help="training steps (default: 200, or 8 with --quick)")
    parser.add_argument("--seed", type=int, default=0, help="of parameters and batches")
    parser.add_argument("--out", type=pathlib.Path, help="where process 0 writes losses as JSON")
    parser.add_argument("--quick", action="store_true", help="a tiny model and few steps, to see that all runs")
    arguments = parser.parse_args()
    given = [name for name in ("coordinator", "process_count", "process_id") if getattr(arguments, name) is not None]
    if len(given) not in (0, 3):
        parser.error("--coordinator, --process-count and --process-id go together")
    return arguments


def main() -> None:
    arguments = parse_arguments()
    if arguments.processes is not None:
        own = [str(pathlib.Path(__file__).resolve()), "--model-axis", str(arguments.model_axis)]
        own += ["--seed", str(arguments.seed)] + ["--quick"] * arguments.quick
        own += [] if arguments.steps is None else ["--steps", str(arguments.steps)]
        own += [] if arguments.out is None else ["--out", str(arguments.out)]
        raise SystemExit(local_processes.run(own, arguments.processes, arguments.devices, arguments.time_limit))
    join(arguments)
    plan = QUICK if arguments.quick else Plan()
    plan = dataclasses.replace(plan, steps=arguments.steps or plan.steps)
    mesh = make_mesh(jax.devices(), arguments.model_axis)
    if jax.process_index() == 0:
        print(f"{jax.process_count()} processes, {dict(mesh.shape)} of {jax.devices()[0].platform} devices", flush=True)
    losses = train(plan, mesh, arguments.seed)
    if arguments.out is not None and jax.process_index() == 0:
        arguments.out.write_text(json.dumps({"processes": jax.process_count(), "losses": losses}))


if __name__ == "__main__":
    main()
