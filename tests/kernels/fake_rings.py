"""A dry run of the forward kernel: its own source as ordinary Python, with a stub in place of the compiler.

What a warp waits for and arrives at depends on the launch alone, never on what other warps compute. So each warp's
program runs through without blocking and leaves a trace, and the traces are played together afterwards. Waits are
monotone: one interleaving tells of all whether they end, and vector clocks tell whether an order holds in all.
"""

from __future__ import annotations

import functools
import importlib
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from importlib.machinery import ModuleSpec
from math import prod
from types import ModuleType, SimpleNamespace
from typing import Any
from unittest import mock

import jax_fa4.kernels

UNBOUNDED = 1 << 30
WARP = 32
KERNELS = "jax_fa4.kernels"
# Left out of a dry run: these compute on values in registers and tensor memory, and touch no ring.
VALUES = tuple(
    f"{KERNELS}.{name}" for name in ("exp2", "logits", "mask", "pairs", "row_softmax", "sm100.tmem", "sm90.products")
)
# Where an architecture opens its rings, and what they are then.
RINGS = {"sm100": ("sm100.rings", "PairedRing"), "sm90": ("rings", "OpenRing")}
# Uses that the consumer leaves behind: no query tile comes to where the last output was.
LEFT = {"room": 1}
SUBMODULES = ("cutlass.cute", "cutlass.experimental.primitives")

# What a warp does at a barrier, named by its place in the table: "wait" for a phase, "arrive", "expect" so many bytes
# and arrive, have a "copy" of so many bytes made.
Event = tuple[str, int, int]
Traces = dict[int, list[Event]]
Finding = tuple[str, str]  # a ring, and which rule of it is broken


class Unknown:
    """Values that a dry run does not compute, one or a list: what is done with them gives others."""

    def same(self, *_: Any, **__: Any) -> Unknown:
        return self

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return vars(self).setdefault(name, self)

    def __iter__(self) -> Iterator[Unknown]:
        return iter((self, self))  # a pair, such as the state of a row's softmax

    def __len__(self) -> int:
        return 0  # loops over lists of values have nothing to do

    def __bool__(self) -> bool:
        return True

    __call__ = __getitem__ = __setitem__ = __neg__ = __invert__ = same
    __add__ = __sub__ = __mul__ = __truediv__ = __floordiv__ = __mod__ = __and__ = __or__ = __lshift__ = __rshift__ = (
        same
    )
    __radd__ = __rsub__ = __rmul__ = __rtruediv__ = __rfloordiv__ = __rmod__ = __rand__ = __ror__ = __rlshift__ = same
    __lt__ = __le__ = __gt__ = __ge__ = __eq__ = __ne__ = lambda self, other: Condition()  # type: ignore
    __hash__ = object.__hash__


class Condition(Unknown):
    """The result of comparing unknown values: no branch may depend on it."""

    def __bool__(self) -> bool:
        raise TypeError("a branch depends on a value that the dry run does not compute: give the stub an answer")


UNKNOWN = Unknown()


class Stub(ModuleType):
    """A module of the compiler: the members it is given, and unknown values for all others but barriers'."""

    def __init__(self, name: str, members: dict[str, Any]) -> None:
        super().__init__(name)
        vars(self).update(members)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__") or f"{self.__name__}.{name}" in SUBMODULES:  # those an import statement finds
            raise AttributeError(name)
        if name.startswith(("mbarrier", "tcgen05_commit")):
            raise NotImplementedError(f"{self.__name__}.{name}: the dry run must know what it does to a barrier")
        return vars(self).setdefault(name, UNKNOWN)


@dataclass
class Place(Unknown):
    """A place in memory. Only optional arrays, such as lengths, have values; a pointer to none is null."""

    offset: int = 0
    values: Sequence[int] = ()

    def subview(self, offset: int) -> Place:
        return Place(self.offset + offset, self.values)

    __add__ = subview

    def toint(self) -> int:
        return len(self.values)

    def __getitem__(self, index: Any) -> Any:
        return self.values[self.offset + index] if self.values else UNKNOWN


@dataclass
class Recorder:
    """The warp whose program runs, and what has been done at barriers; also the importer of stubs that tell it so."""

    cta: int = 0
    ctas: int = 1
    warp: int = 0
    vote: bool = True
    phase: int | None = None
    events: list[Event] = field(default_factory=list)
    counts: dict[int, int] = field(default_factory=dict)
    wrong_parities: set[tuple[int, int]] = field(default_factory=set)

    def wait(self, barrier: Place, parity: int) -> bool:
        if self.phase is None:
            raise NotImplementedError("a wait beside OpenRing.wait_full and wait_empty: for which phase?")
        self.events.append(("wait", barrier.offset, self.phase))
        if self.phase & 1 != parity:
            self.wrong_parities.add((barrier.offset, self.phase))
        return True

    def with_phase(self, wait: Callable[..., None], back: int) -> Callable[..., None]:
        """Returns a ring's wait that says for which phase it is: that of the use's lap, or `back` before."""

        def noted(ring: Any, use: int) -> None:
            self.phase = use // ring.row.slots - back
            wait(ring, use)
            self.phase = None

        return noted

    def members(self) -> dict[str, dict[str, Any]]:
        def same(value: Any, *_: Any, **__: Any) -> Any:
            return value

        def note(kind: str) -> Callable[..., None]:
            return lambda barrier, value=1: self.events.append((kind, barrier.offset, value))

        integer = type("Integer", (int,), {"width": 32})
        arch = {
            "warp_idx": lambda: self.warp, "lane_idx": lambda: 0, "make_warp_uniform": same,
            "thread_idx": lambda: (WARP * self.warp, 0, 0),
            "vote_any_sync": lambda _: self.vote, "vote_all_sync": lambda _: self.vote, "shuffle_sync": same,
            "block_idx": lambda: (self.cta, 0, 0), "grid_dim": lambda: (self.ctas, 1, 1),
        }  # fmt: skip
        return {
            "cutlass": {
                "range": lambda *bounds, **_: range(*bounds), "range_constexpr": range, "const_expr": same,
                "Array": lambda *_, **__: Place(), "Int32": integer, "Int64": integer,
            },
            "cutlass.cute": {
                "jit": same, "kernel": same, "arch": Stub("cute.arch", arch), "recast_ptr": same, "make_tensor": same,
            },
            "cutlass.experimental.primitives": {
                "elect_sync": lambda: True,
                "mbarrier_try_wait_parity": self.wait, "mbarrier_arrive": note("arrive"),
                "mbarrier_init": lambda barrier, count: self.counts.update({barrier.offset: count}),
                "mbarrier_arrive_expect_tx": note("expect"), "tcgen05_commit": note("arrive"),
                "cp_async_bulk_tensor_shared_cta_global": lambda to, size, at, barrier: note("copy")(barrier, size),
            },
        }  # fmt: skip

    def find_spec(self, name: str, path: Any, target: Any = None) -> ModuleSpec | None:
        compiler = name.split(".")[0] == "cutlass"
        return ModuleSpec(name, self, is_package=compiler) if compiler or name in VALUES else None  # type: ignore[arg-type]

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        return Stub(spec.name, self.members().get(spec.name, {}))

    def exec_module(self, module: ModuleType) -> None:
        pass


@dataclass(frozen=True)
class Launch:
    """The numbers of a launch, by the names of the kernel's parameters, and on how many CTAs it runs."""

    queries: int
    keys: int
    ctas: int = 1
    heads: int = 1
    batch: int = 1
    section: int = 1
    group: int = 1
    pack_shift: int = 0
    low: int = -UNBOUNDED
    high: int = UNBOUNDED
    query_seq_lengths: tuple[int, ...] = ()
    key_value_seq_lengths: tuple[int, ...] = ()

    def argument(self, parameter: Any) -> Any:
        if parameter.kind == "pointer":
            return Place(values=vars(self).get(parameter.name, ()))
        if parameter.name.endswith("_stride"):
            return 1  # one number for each batch entry
        return UNKNOWN if parameter.kind == "f32" else vars(self).get(parameter.name, 0)


class DryKernel:
    """The forward kernel of an architecture, to be run without compiler and GPU."""

    def __init__(self, architecture: str = "sm100") -> None:
        self.recorder = Recorder()
        outside = {name: module for name, module in sys.modules.items() if not name.startswith(("cutlass", KERNELS))}
        with (
            mock.patch.dict(sys.modules, outside, clear=True),
            mock.patch.object(sys, "meta_path", [self.recorder, *sys.meta_path]),
            mock.patch.object(jax_fa4, "kernels", jax_fa4.kernels),  # an import of the package would replace it
        ):
            self.forward, self.rings, self.variants = (
                importlib.import_module(f"{KERNELS}.{name}")
                for name in (f"{architecture}.forward", RINGS[architecture][0], "variants")
            )
            self.modules = {name: sys.modules[name] for name in sys.modules if name not in outside}
        opened = self.ring = getattr(self.rings, RINGS[architecture][1])
        opened.wait_full = self.recorder.with_phase(opened.wait_full, 0)
        opened.wait_empty = self.recorder.with_phase(opened.wait_empty, 1)

    def trace(self, plan: Any, launch: Launch, cta: int, twins: bool = True, vote: bool = True) -> Traces:
        """Runs the kernel from its entry on, for each warp of a CTA; of four twins, which differ in rows, for one."""
        if prod(plan.manifest()["cluster"]) > 1:
            raise NotImplementedError(f"{plan.name}: a dry run has the barriers of one CTA, not of a cluster's")
        maps, others = [], []
        for parameter in self.variants.forward_parameters(plan):
            if hasattr(parameter, "box"):
                # Packing heads gives rows of the box to another axis, and no more of them.
                box_bytes = prod(parameter.box) * (4 if parameter.dtype == "float32" else 2)
                maps.append(SimpleNamespace(get_ptr=lambda box_bytes=box_bytes: box_bytes))
            else:
                others.append(launch.argument(parameter))
        recorder, traces = self.recorder, Traces()
        recorder.cta, recorder.ctas, recorder.vote = cta, launch.ctas, vote
        with mock.patch.dict(sys.modules, self.modules):  # for imports in functions
            for role in plan.roles:
                for recorder.warp in range(role.first_warp, role.first_warp + role.warps):
                    if twins and (recorder.warp - role.first_warp) % 4:
                        traces[recorder.warp] = recorder.events
                    else:
                        recorder.events = traces[recorder.warp] = []
                        self.forward.forward(*maps, tuple(others), plan)
        return traces


@dataclass(frozen=True)
class Barrier:
    """One mbarrier of a plan: the full or the empty one of a slot, and the warps on each side of its ring."""

    ring: Any
    tile: int
    slot: int
    is_full: bool
    producers: tuple[int, ...]
    consumers: tuple[int, ...]

    @property
    def arrivals(self) -> Any:
        return self.ring.full if self.is_full else self.ring.empty

    @property
    def arrivers(self) -> tuple[int, ...]:
        return self.producers if self.is_full else self.consumers

    def finding(self, text: str) -> Finding:
        return self.ring.name, f"{self.ring.name}, copy {self.tile}, slot {self.slot}: {text}"


@functools.cache
def barriers_of(plan: Any) -> tuple[Barrier, ...]:
    """Returns a plan's mbarriers, in the order of the table."""

    def warps(side: str, ring: Any, tile: int) -> tuple[int, ...]:
        roles = [plan.role(name) for name in side.split("+")]
        all_warps = [(role.name, role.first_warp + n) for role in roles for n in range(role.warps)]
        # A query tile has a warpgroup that does its softmax.
        of_tiles = ("softmax", "attend")
        return tuple(warp for name, warp in all_warps if name not in of_tiles or ring.copies == 1 or warp // 4 == tile)

    return tuple(
        Barrier(ring, tile, slot, is_full, warps(ring.producer, ring, tile), warps(ring.consumer, ring, tile))
        for ring in plan.rings
        for is_full in ((True, False) if ring.empty else (True,))
        for tile in range(ring.copies)
        for slot in range(ring.slots)
    )
