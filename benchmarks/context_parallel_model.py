"""Context parallelism at scale, on paper: `python benchmarks/context_parallel_model.py [--nvlink 900] [--network 50]`.

Counts, for one layer's attention to one sequence under a causal mask in zigzag layout, forward and backward, the bytes
that a B200 sends and the operations of its kernels, and says what each strategy takes and which to choose.
"""

from __future__ import annotations

import argparse
import dataclasses
import math
from collections.abc import Sequence

import table

EXPLANATION = """\
Milliseconds for one layer's attention to one sequence, forward and backward, causal, zigzag, bfloat16:
{heads} query and {key_heads} key/value heads of {dim}. No run has confirmed this: it is arithmetic.
B200: {peak:.0f} TFLOP/s, of which kernels reach {forward:.0%} forward and {backward:.0%} backward; {sms} SMs,
each with a tile of 256 rows; {hbm} GB/s memory; a call or a message takes {latency:g} us at least. A GPU sends
{nvlink} GB/s to the others of its node ({node} GPUs), and {network} GB/s to other nodes, and has the links to itself.
  part   tokens of a device
  ideal  operations / rate: no call, no message, no tile half empty
  ring   one mesh axis: each step is as slow as the hop between two nodes. ring x ring: (node, gpu), two axes
  %      share of the messages' time that is hidden behind kernels
  -      one node has no second ring; ulysses needs heads for each device. GB: what does not fit into {spare:.0f} GB
"""
QUERY_TILE, KEY_TILE = 256, 128
BACKWARD_FLOPS = 2.5  # five products instead of two
HALF, SINGLE = 2, 4  # bytes
INFINITE = math.inf


@dataclasses.dataclass(frozen=True)
class Machine:
    """A GPU and its links; rates in operations and bytes a second, latency in seconds."""

    peak: float = 2.25e15
    forward: float = 0.70
    backward: float = 0.55
    multiprocessors: int = 148
    hbm: float = 8e12
    nvlink: float = 900e9
    network: float = 50e9
    node: int = 8
    latency: float = 10e-6
    spare: float = 60e9


@dataclasses.dataclass(frozen=True)
class Call:
    """One layer's attention, and how its length is cut."""

    tokens: int
    devices: int
    query_heads: int = 64
    key_heads: int = 8
    head_dim: int = 128

    @property
    def part(self) -> int:
        """Tokens of a device."""
        return self.tokens // self.devices

    @property
    def group(self) -> int:
        """Query heads that share keys."""
        return self.query_heads // self.key_heads

    def keys_bytes(self, tokens: int, element: int) -> int:
        """Keys and values, or their gradients, of so many tokens."""
        return 2 * tokens * self.key_heads * self.head_dim * element

    @property
    def flops(self) -> float:
        """Of a device, forward: two products, half of them masked."""
        return 2 * 2 * self.tokens / 2 * self.part * self.query_heads * self.head_dim


@dataclasses.dataclass(frozen=True)
class Cost:
    """Seconds of a pass: kernels alone, messages alone, both together; and bytes of memory while it runs."""

    kernels: float
    messages: float
    total: float
    memory: float

    def __add__(self, other: Cost) -> Cost:
        return Cost(
            self.kernels + other.kernels,
            self.messages + other.messages,
            self.total + other.total,
            max(self.memory, other.memory),
        )

    @property
    def hidden(self) -> float:
        """Share of the messages' time that costs nothing."""
        return max(0.0, (self.kernels + self.messages - self.total) / self.messages) if self.messages else 1.0


IMPOSSIBLE = Cost(INFINITE, INFINITE, INFINITE, INFINITE)


def kernel_seconds(machine: Machine, call: Call, rows: int, keys: float, heads: float, *, backward: bool) -> float:
    """A kernel on `rows` queries, each of which sees `keys` keys, of `heads` key/value heads and their queries.

    Tiles are dealt to multiprocessors in whole rounds; a tile pays for 256 rows and for whole blocks of keys.
    """
    tiles = heads * math.ceil(rows * call.group / QUERY_TILE)
    rounds = math.ceil(tiles / machine.multiprocessors)
    blocks = math.ceil(keys / KEY_TILE)
    flops = rounds * QUERY_TILE * blocks * KEY_TILE * 2 * 2 * call.head_dim * machine.multiprocessors
    if backward:
        return machine.latency + BACKWARD_FLOPS * flops / (machine.peak * machine.backward)
    return machine.latency + flops / (machine.peak * machine.forward)


def visit_seconds(machine: Machine, call: Call, *, backward: bool) -> float:
    """One step of a zigzag ring: two pairs of chunks that see each other, in a call each, and the partial sums."""
    chunk = max(1, call.part // 2)
    kernels = 2 * kernel_seconds(machine, call, chunk, chunk, call.key_heads, backward=backward)
    # A call writes its share in float32, which is read with the sum so far, and that is written. Three chunks of
    # queries are in the two calls; in the backward pass theirs are gradients of queries.
    rows = 3 * chunk * call.query_heads * call.head_dim
    return kernels + 4 * SINGLE * rows / machine.hbm


def hop_bytes(call: Call, *, backward: bool) -> int:
    """What leaves a device in one step: keys and values, in the backward pass with their gradients in float32."""
    return call.keys_bytes(call.part, HALF) + (call.keys_bytes(call.part, SINGLE) if backward else 0)


def turn(visit: float, hop: float, home: float, devices: int) -> tuple[float, float]:
    """(messages, total) of one turn of a ring: a hop hides behind a visit, the gradients' last one does not."""
    return (devices - 1) * hop + home, visit + (devices - 1) * max(visit, hop) + home


def ring(machine: Machine, call: Call, *, backward: bool) -> Cost:
    """One axis: as soon as it spans nodes, each step waits for the hop between two of them."""
    bandwidth = machine.nvlink if call.devices <= machine.node else machine.network
    visit = visit_seconds(machine, call, backward=backward)
    hop = machine.latency + hop_bytes(call, backward=backward) / bandwidth
    home = machine.latency + call.keys_bytes(call.part, SINGLE) / bandwidth if backward else 0.0
    messages, total = turn(visit, hop, home, call.devices)
    return Cost(call.devices * visit, messages, total, ring_memory(call, backward=backward, rings=1))


def double_ring(machine: Machine, call: Call, *, backward: bool) -> Cost:
    """Two axes: a block is on its way to the next node while the ring within the node turns fully."""
    nodes = call.devices // machine.node
    if nodes < 2:
        return IMPOSSIBLE
    visit = visit_seconds(machine, call, backward=backward)
    sent, gradients = hop_bytes(call, backward=backward), call.keys_bytes(call.part, SINGLE) if backward else 0
    home = machine.latency + gradients / machine.nvlink if backward else 0.0
    messages, inner = turn(visit, machine.latency + sent / machine.nvlink, home, machine.node)
    outer_home = machine.latency + gradients / machine.network if backward else 0.0
    outer_messages, total = turn(inner, machine.latency + sent / machine.network, outer_home, nodes)
    memory = ring_memory(call, backward=backward, rings=2)
    return Cost(call.devices * visit, nodes * messages + outer_messages, total, memory)


def ring_memory(call: Call, *, backward: bool, rings: int) -> float:
    """Blocks held and on their way in each ring, with gradients held, on their way and new; sums of the rows."""
    rows = call.part * call.query_heads * call.head_dim
    blocks = 2 * call.keys_bytes(call.part, HALF) + (3 * call.keys_bytes(call.part, SINGLE) if backward else 0)
    return rings * blocks + 2 * SINGLE * rows


def all_gather(machine: Machine, call: Call, *, backward: bool) -> Cost:
    """Every device gets all keys before its one call; gradients of all keys are summed and scattered after it."""
    size = hop_bytes(call, backward=backward)
    within = (call.devices - 1) * size / machine.nvlink
    # A node needs what lies outside of it once, and all its GPUs fetch it together.
    outside = max(0, call.devices - machine.node) * size / (min(machine.node, call.devices) * machine.network)
    count = 2 if backward else 1
    messages = count * machine.latency * math.ceil(math.log2(call.devices)) + max(within, outside)
    kernels = kernel_seconds(machine, call, call.part, call.tokens / 2, call.key_heads, backward=backward)
    # As they come and in the order of the sequence; gradients likewise.
    memory = 2 * call.keys_bytes(call.tokens, HALF) + (2 * call.keys_bytes(call.tokens, SINGLE) if backward else 0)
    return Cost(kernels, messages, kernels + messages, memory)


def ulysses(machine: Machine, call: Call, *, backward: bool) -> Cost:
    """All-to-alls of queries, keys, values and results, before and after one call; backward of their gradients."""
    if call.query_heads % call.devices:
        return IMPOSSIBLE
    key_heads = max(call.key_heads, call.devices)
    size = call.part * call.head_dim * HALF * 2 * (call.query_heads + key_heads)
    within = (min(machine.node, call.devices) - 1) / call.devices * size / machine.nvlink
    outside = max(0, call.devices - machine.node) / call.devices * size / machine.network
    messages = 4 * machine.latency + max(within, outside)
    heads = key_heads / call.devices
    rows = call.tokens * call.query_heads / (key_heads * call.group)  # a tile holds what heads share keys
    kernels = kernel_seconds(machine, call, math.ceil(rows), call.tokens / 2, heads, backward=backward)
    return Cost(kernels, messages, kernels + messages, 2.0 * size)


STRATEGIES = {"ring": ring, "ring x ring": double_ring, "all_gather": all_gather, "ulysses": ulysses}


def cost(machine: Machine, call: Call, strategy: str) -> Cost:
    """Forward and backward."""
    passes = [STRATEGIES[strategy](machine, call, backward=backward) for backward in (False, True)]
    return passes[0] + passes[1]


def ideal_seconds(machine: Machine, call: Call) -> float:
    """Operations of both passes at the kernels' rates."""
    return call.flops / machine.peak * (1 / machine.forward + BACKWARD_FLOPS / machine.backward)


def best(machine: Machine, costs: dict[str, Cost]) -> str:
    """The fastest strategy that fits, or "none"."""
    able = [name for name, one in costs.items() if one.memory <= machine.spare]
    return min(able, key=lambda name: costs[name].total, default="none")


def cells_of(machine: Machine, call: Call) -> list[str]:
    """A row of the table."""

    def cell(one: Cost) -> str:
        if one.memory > machine.spare:
            return "-" if one.memory == INFINITE else f"{one.memory / 1e9:.0f} GB"
        return f"{milliseconds(one.total)} {one.hidden:4.0%}"

    costs = {name: cost(machine, call, name) for name in STRATEGIES}
    sizes = [short(call.tokens), str(call.devices), short(call.part), milliseconds(ideal_seconds(machine, call))]
    return [*sizes, *map(cell, costs.values()), best(machine, costs)]


def milliseconds(seconds: float) -> str:
    return f"{seconds * 1e3:.3g}" if seconds < 1 else f"{seconds * 1e3:.0f}"


def short(tokens: int) -> str:
    """In Ki or Mi where that is a whole number."""
    for unit, name in ((2**20, "M"), (2**10, "k")):
        if tokens % unit == 0:
            return f"{tokens // unit}{name}"
    return str(tokens)


def parse_arguments(given: Sequence[str] | None = None) -> argparse.Namespace:
    machine, call = Machine(), Call(1, 1)
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--nvlink", type=float, default=machine.nvlink / 1e9, help="GB/s of a GPU, one way, within a node")
    add("--network", type=float, default=machine.network / 1e9, help="GB/s of a GPU, one way, between nodes")
    add("--node", type=int, default=machine.node, help="GPUs of a node; 72 for an NVL72 rack")
    add("--forward", type=float, default=machine.forward, help="share of the peak that forward kernels reach")
    add("--backward", type=float, default=machine.backward, help="the same of backward kernels")
    add("--spare", type=float, default=machine.spare / 1e9, help="GB of a GPU that attention may take for a while")
    add("--query-heads", type=int, default=call.query_heads)
    add("--key-heads", type=int, default=call.key_heads)
    add("--head-dim", type=int, default=call.head_dim)
    add("--tokens", type=int, nargs="+", default=[2**17, 2**20, 2**22, 2**24])
    add("--devices", type=int, nargs="+", default=[8, 64, 512, 4096])
    add("--markdown", action="store_true", help="print the table in Markdown")
    return parser.parse_args(given)


def main() -> None:
    """The command."""
    options = parse_arguments()
    machine = Machine(
        nvlink=options.nvlink * 1e9, network=options.network * 1e9, node=options.node, forward=options.forward,
        backward=options.backward, spare=options.spare * 1e9,
    )  # fmt: skip
    shape = (options.query_heads, options.key_heads, options.head_dim)
    calls = [Call(tokens, devices, *shape) for tokens in options.tokens for devices in options.devices]
    print(
        EXPLANATION.format(
            heads=shape[0], key_heads=shape[1], dim=shape[2], peak=machine.peak / 1e12, forward=machine.forward,
            backward=machine.backward, sms=machine.multiprocessors, hbm=int(machine.hbm / 1e9),
            latency=machine.latency * 1e6, nvlink=int(options.nvlink), network=int(options.network), node=machine.node,
            spare=options.spare,
        )
    )  # fmt: skip
    header = ["tokens", "devices", "part", "ideal", *STRATEGIES, "choose"]
    rows = [cells_of(machine, call) for call in calls]
    print(table.render(header, rows, is_text=[name == "choose" for name in header], markdown=options.markdown))


if __name__ == "__main__":
    main()
