"""Trains a small language model on the standard library's source, once with jax_fa4 and once with jax.nn.

    python examples/train_char_lm.py [--steps N] [--seed N] [--out FOLDER] [--quick]

The model takes its attention function as an argument; nothing else differs between the two runs, which advance in
turns on the same batches. Needs flax, optax and matplotlib. Writes loss_curves.png and results.json.
"""

from __future__ import annotations

import argparse
import dataclasses
import importlib.util
import json
import pathlib
import statistics
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import char_lm_data as data
import char_lm_report as report
import jax
import jax.numpy as jnp
import numpy as np
import optax
from char_lm_model import Attention, CharLM, Config, generate
from flax import nnx

import jax_fa4

OURS, THEIRS = "jax_fa4", "jax.nn"
RECENT = 10  # steps whose mean loss the progress bar shows: the loss of one small batch jumps
ATTENTION: dict[str, Attention] = {OURS: jax_fa4.attention, THEIRS: jax.nn.dot_product_attention}


@dataclasses.dataclass(frozen=True)
class Plan:
    """How much is trained and measured."""

    steps: int = 200
    batch: int = 2
    length: int = 256
    validations: int = 5
    measured_lengths: tuple[int, ...] = (256, 2048)
    measured_tokens: int = 2048  # of each measured step: shorter sequences come in larger batches
    measured_steps: int = 3
    peak_learning_rate: float = 4e-3
    temperature: float = 0.8
    config: Config = dataclasses.field(default_factory=lambda: Config(data.VOCABULARY))


QUICK = Plan(
    steps=16,
    batch=8,
    length=32,
    validations=2,
    measured_lengths=(32, 128),
    measured_tokens=256,
    peak_learning_rate=1e-2,
    config=Config(data.VOCABULARY, width=32, layers=2, query_heads=4, head_dim=8, hidden=64, window=16),
)


class Trainee:
    """A model with one attention function, its optimizer state, and its compiled steps by batch shape."""

    def __init__(self, attention: Attention, plan: Plan, seed: int):
        schedule = optax.warmup_cosine_decay_schedule(
            0.0, plan.peak_learning_rate, max(1, plan.steps // 10), plan.steps, plan.peak_learning_rate / 20
        )
        optimizer = optax.chain(optax.clip_by_global_norm(1.0), optax.adamw(schedule, b2=0.95, weight_decay=0.1))
        self.graphdef, parameters = nnx.split(CharLM(plan.config, attention, nnx.Rngs(seed)))
        self.state = (parameters, optimizer.init(parameters))
        self.compiled: dict[tuple[int, ...], Any] = {}
        graphdef = self.graphdef

        def loss_of(parameters: Any, tokens: jax.Array) -> jax.Array:
            logits = nnx.merge(graphdef, parameters)(tokens[:, :-1])
            return optax.softmax_cross_entropy_with_integer_labels(logits, tokens[:, 1:]).mean()

        def train_step(state: tuple[Any, Any], tokens: jax.Array) -> tuple[tuple[Any, Any], jax.Array]:
            parameters, optimizer_state = state
            loss, gradients = jax.value_and_grad(loss_of)(parameters, tokens)
            updates, optimizer_state = optimizer.update(gradients, optimizer_state, parameters)
            return (optax.apply_updates(parameters, updates), optimizer_state), loss

        self._train_step = jax.jit(train_step, donate_argnums=0)
        self._loss = jax.jit(loss_of)

    @property
    def parameters(self) -> Any:
        """The model's parameters as they are now."""
        return self.state[0]

    def parameter_count(self) -> int:
        """How many numbers the parameters are."""
        return sum(leaf.size for leaf in jax.tree.leaves(self.parameters))

    def compile(self, tokens: np.ndarray) -> None:
        """Compiles the training step for batches like `tokens`, unless that has been done."""
        if tokens.shape not in self.compiled:
            self.compiled[tokens.shape] = self._train_step.lower(self.state, tokens).compile()

    def step(self, tokens: np.ndarray) -> tuple[float, float]:
        """One training step: its loss and its seconds."""
        start = time.perf_counter()
        self.state, loss = self.compiled[tokens.shape](self.state, tokens)
        return float(loss), time.perf_counter() - start

    def validate(self, tokens: np.ndarray) -> float:
        """The loss of a batch that is not trained on."""
        return float(self._loss(self.parameters, tokens))

    def temporary_bytes(self, tokens: np.ndarray) -> int:
        """Peak memory of the step's intermediate values as XLA planned it."""
        return self.compiled[tokens.shape].memory_analysis().temp_size_in_bytes


@dataclasses.dataclass
class History:
    """Losses of one trainee: of every step's batch, and of the held-out batch after some steps."""

    losses: list[float] = dataclasses.field(default_factory=list)
    validation: list[tuple[int, float]] = dataclasses.field(default_factory=list)


class Cost(NamedTuple):
    """What a training step costs with one attention function."""

    length: int
    attention: str
    step_seconds: float
    temporary_bytes: int


def take_turns(trainees: dict[str, Trainee], tokens: np.ndarray, turn: int) -> dict[str, tuple[float, float]]:
    """One step of each on the same batch; who goes first alternates, so that neither profits from a quieter machine."""
    order = list(trainees) if turn % 2 == 0 else list(reversed(trainees))
    return {name: trainees[name].step(tokens) for name in order}


def train(trainees: dict[str, Trainee], corpus: data.Corpus, plan: Plan, seed: int) -> dict[str, History]:
    """Trains all of them side by side."""
    histories = {name: History() for name in trainees}
    rng = np.random.default_rng(seed)
    held_out = data.draw_batch(corpus.validation, np.random.default_rng(seed + 1), 8 * plan.batch, plan.length)
    every = max(1, plan.steps // plan.validations)
    draws = [data.draw_batch(corpus.train, rng, plan.batch, plan.length) for _ in range(plan.steps)]
    for trainee in trainees.values():
        trainee.compile(draws[0])
    progress = report.Progress(plan.steps)
    for step, tokens in enumerate(draws, start=1):
        taken = take_turns(trainees, tokens, step)
        for name, (loss, _) in taken.items():
            histories[name].losses.append(loss)
        if step == 1 or step % every == 0 or step == plan.steps:
            for name, trainee in trainees.items():
                histories[name].validation.append((step, trainee.validate(held_out)))
        recent = statistics.fmean(histories[OURS].losses[-RECENT:])
        rates = ", ".join(f"{name} {plan.batch * plan.length / taken[name][1]:5,.0f}" for name in trainees)
        progress.update(step, f"loss {recent:.3f}   tokens/s: {rates}")
    return histories


def measure(trainees: dict[str, Trainee], corpus: data.Corpus, plan: Plan, seed: int) -> list[Cost]:
    """Step time and memory at each length: steps in turns, after one of each that is not counted."""
    rng = np.random.default_rng(seed)
    costs = []
    for length in plan.measured_lengths:
        tokens = data.draw_batch(corpus.train, rng, plan.measured_tokens // length, length)
        for trainee in trainees.values():
            trainee.compile(tokens)
        take_turns(trainees, tokens, 0)
        rounds = [take_turns(trainees, tokens, turn) for turn in range(plan.measured_steps)]
        for name, trainee in trainees.items():
            seconds = statistics.median(one[name][1] for one in rounds)
            costs.append(Cost(length, name, seconds, trainee.temporary_bytes(tokens)))
    return costs


def sample(trainee: Trainee, corpus: data.Corpus, plan: Plan, seed: int) -> tuple[str, str]:
    """A prompt and what the model writes after it, within the length it was trained on."""
    prompt = b"\n    def read(self, " if plan.length >= 64 else b"def "
    tokens = jnp.asarray(np.frombuffer(prompt, np.uint8).astype(np.int32))
    continue_text: Callable[..., jax.Array] = jax.jit(
        generate, static_argnums=0, static_argnames=("new_tokens", "temperature")
    )
    new = continue_text(
        trainee.graphdef,
        trainee.parameters,
        tokens,
        jax.random.key(seed),
        new_tokens=plan.length - len(prompt),
        temperature=plan.temperature,
    )
    return prompt.decode(), data.to_text(np.asarray(new))


def show_losses(histories: dict[str, History]) -> float:
    """Prints the losses at the validated steps and how far the curves are apart; returns that."""
    ours, theirs = histories[OURS], histories[THEIRS]
    difference = np.abs(np.subtract(ours.losses, theirs.losses))
    report.heading("Loss (nats per byte)")
    report.table(
        ("step", f"train {OURS}", f"train {THEIRS}", f"validation {OURS}", f"validation {THEIRS}"),
        [
            (str(step), *(f"{loss:.5f}" for loss in (ours.losses[step - 1], theirs.losses[step - 1], mine, other)))
            for (step, mine), (_, other) in zip(ours.validation, theirs.validation, strict=True)
        ],
    )
    largest, where = float(difference.max()), int(difference.argmax()) + 1
    print(f"  The two training curves differ by at most {largest:.1e} (step {where} of {len(difference)}).")
    return largest


def show_costs(costs: list[Cost], plan: Plan) -> None:
    """Prints what a step costs with each attention function."""
    report.heading("Cost of a training step, measured in this run")
    report.table(
        ("length x batch", "attention", "step time", "tokens/s", "temporary memory"),
        [
            (
                f"{cost.length:>6} x {plan.measured_tokens // cost.length}",
                cost.attention,
                f"{1e3 * cost.step_seconds:,.0f} ms",
                f"{plan.measured_tokens / cost.step_seconds:,.0f}",
                report.megabytes(cost.temporary_bytes),
            )
            for cost in costs
        ],
    )
    print(f"  Time is the median of {plan.measured_steps} steps, taken in turns. Memory is what XLA planned for the")
    print("  intermediate values. Blocks are recomputed in the backward pass in both cases.")


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--steps", type=int, help="training steps (default: 200, or 16 with --quick)")
    parser.add_argument("--seed", type=int, default=0, help="of the parameters, the batches and the sample")
    parser.add_argument("--out", type=pathlib.Path, default=pathlib.Path("build/char_lm"), help="where results go")
    parser.add_argument("--quick", action="store_true", help="a tiny model and few steps, to see that all runs")
    arguments = parser.parse_args()
    if arguments.steps is not None and arguments.steps < 2:
        parser.error(f"--steps {arguments.steps}: a loss curve needs at least 2")
    if importlib.util.find_spec("matplotlib") is None:
        parser.error("matplotlib, which draws the plot, is not installed: pip install matplotlib")
    return arguments


def main() -> None:
    arguments = parse_arguments()
    start = time.perf_counter()
    plan = QUICK if arguments.quick else Plan()
    plan = dataclasses.replace(plan, steps=arguments.steps or plan.steps)
    arguments.out.mkdir(parents=True, exist_ok=True)
    corpus = data.load_corpus()
    trainees = {name: Trainee(attention, plan, arguments.seed) for name, attention in ATTENTION.items()}

    report.heading("Training twice, in turns")
    print(
        f"  text    {corpus.files} files of the standard library, {len(corpus.train) / 1e6:.1f} MB to train on, "
        f"{len(corpus.validation) / 1e6:.2f} MB held out"
    )
    print(
        f"  model   {trainees[OURS].parameter_count() / 1e6:.2f} M parameters, {plan.config.layers} layers, "
        f"{plan.config.query_heads} query heads over {plan.config.key_value_heads} key/value heads, "
        f"window {plan.config.window} in every other layer"
    )
    print(f"  device  {jax.devices()[0].platform}, JAX {jax.__version__}", flush=True)
    histories = train(trainees, corpus, plan, arguments.seed)
    largest_difference = show_losses(histories)

    prompt, continuation = sample(trainees[OURS], corpus, plan, arguments.seed)
    report.heading(f"A sample at temperature {plan.temperature}, written with a key-value cache")
    print("\n".join("  | " + line for line in (prompt + continuation).strip("\n").split("\n")), flush=True)

    costs = measure(trainees, corpus, plan, arguments.seed)
    show_costs(costs, plan)

    plot, results = arguments.out / "loss_curves.png", arguments.out / "results.json"
    report.plot_losses(
        plot,
        {name: history.losses for name, history in histories.items()},
        {name: history.validation for name, history in histories.items()},
    )
    results.write_text(
        json.dumps(
            {
                "histories": {name: dataclasses.asdict(history) for name, history in histories.items()},
                "largest_loss_difference": largest_difference,
                "sample": prompt + continuation,
                "costs": [cost._asdict() for cost in costs],
            },
            indent=1,
        )
    )
    report.heading("Written")
    print(f"  {plot}\n  {results}\n  in {time.perf_counter() - start:.0f} s in all")


if __name__ == "__main__":
    main()
