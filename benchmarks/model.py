"""The forward kernels' speed on paper: `python benchmarks/model.py [--shares] [NAME ...]`.

Compiles each variant, counts in its machine code what a block of scores costs, and says which unit of a multiprocessor
limits it, beside the same for FlashAttention-4. With --shares also: how many exponentials the FMA units should take.
"""

from __future__ import annotations

import argparse
import dataclasses
import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import published
import table
from compiled_plans import compiled
from machine_code import Program, disassemble
from units import TILE, Block, block_of, roles_of

from jax_fa4.kernels.variants import forward_plans

SHARES = (0, 2, 4, 6, 8)
# Counts that differ by less mean nothing: what they leave out is more.
ALIKE = 1.02

UNITS = """\
Clocks of one multiprocessor for a block of 128 queries x 128 keys, in steady state: nothing to rescale, every wait met,
no mask, no feature at work. Two query tiles are in flight on it, and their blocks take
turns at every unit: a pair takes twice as long.
  tensor  8192 operations a clock: (head_dim + value head_dim) * 4
  MUFU    16 lanes a clock                    FMA    128 lanes a clock; packed operations are two, as are IMADs
  ALU     64 lanes a clock: maxima, selections, conversions, shifts
  shared  128 bytes a clock: operands that the tensor core reads there, loads and stores of the kernel. Not the copies
          that bring keys and values, as in the published analysis: head_dim + value head_dim clocks if they counted.
  issue   instructions of the scheduler that has most, of four: its softmax warps, and what correction, MMA, load add
limit: the busiest unit. peak: the tensor core's share of its peak if that unit never waits. No kernel gets there: the
published one reaches 0.71 at head_dim 128.
exp2: operations of the special function unit. TMEM: KiB that tcgen05.ld and .st move; their rate is not documented.
instructions: of a softmax warp for 32 rows. per score: of a thread, which has a row. spills: to local memory, of those.
FlashAttention-4 described: arithmetic from its description, a row's own scalars and other roles left out. Counted:
its kernel's machine code, by the same program. See published.py.
"""

HEADER = ["", "tensor", "MUFU", "FMA", "ALU", "shared", "issue", "limit", "peak"]
DETAIL = ["exp2", "TMEM", "instructions", "per score", "spills"]


def main() -> None:
    """The command."""
    options = parse_arguments()
    plans = [plan for plan in forward_plans() if not options.names or plan.name in options.names]
    print(UNITS)
    print(render(variant_rows(plans, options), options.markdown))
    if options.shares:
        for plan in plans_for_shares(plans):
            blocks = share_blocks(plan, options.jobs)
            print(
                f"\n{plan.name}, columns of 16 whose exp2 is a polynomial of degree {plan.degree} on the FMA units:\n"
            )
            print(render([(str(share), block) for share, block in blocks.items()], options.markdown))
            print("\n" + verdict(blocks))


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    names = [plan.name for plan in forward_plans()]
    parser.add_argument("--shares", action="store_true", help="also compare shares of exp2 on the FMA units")
    parser.add_argument("--built", type=Path, metavar="DIR", help="cubins of kernels/build.py instead of compiling")
    parser.add_argument("--jobs", type=int, default=os.cpu_count(), help="variants compiled at the same time")
    parser.add_argument("--markdown", action="store_true", help="print tables in Markdown")
    parser.add_argument("names", nargs="*", metavar="NAME", help="variants; all when absent")
    options = parser.parse_args()
    if unknown := set(options.names) - set(names):
        parser.error(f"no variant {', '.join(sorted(unknown))}; there are {', '.join(names)}")
    return options


def variant_rows(plans: Sequence[Any], options: argparse.Namespace) -> Iterable[tuple[str, Block]]:
    """Our variants, then FlashAttention-4 for each pair of head_dims that they have."""
    files = [options.built / f"{plan.name}.cubin" for plan in plans] if options.built else compiled(plans, options.jobs)
    for plan, file in zip(plans, files, strict=True):
        yield plan.name, counted(plan, file)
    for dims in sorted({(plan.head_dim, plan.value_head_dim) for plan in plans}):
        label = f"FlashAttention-4 d{dims[0]}" + (f"_{dims[1]}" if dims[0] != dims[1] else "")
        if dims in published.EMULATED:
            yield f"{label}, described", published.described(*dims)
        if dims in published.COUNTED:
            yield f"{label}, counted", published.COUNTED[dims]


def counted(plan: Any, cubin: Path) -> Block:
    """What the plan's machine code costs."""
    return block_of(roles_of(Program(disassemble(cubin))), plan)


def plans_for_shares(plans: Sequence[Any]) -> list[Any]:
    """The first of the plans for each pair of head_dims: dtype and kind hardly change a whole block."""
    first: dict[tuple[int, int], Any] = {}
    for plan in plans:
        first.setdefault((plan.head_dim, plan.value_head_dim), plan)
    return list(first.values())


def share_blocks(plan: Any, jobs: int) -> dict[int, Block]:
    """Compiles the plan with each share."""
    plans = [dataclasses.replace(plan, polynomial=share) for share in SHARES]
    return {one.polynomial: counted(one, file) for one, file in zip(plans, compiled(plans, jobs), strict=True)}


def best_share(blocks: dict[int, Block]) -> int:
    """The share whose busiest unit is least busy, then whose busiest but the tensor core is, then the smallest."""

    def least(candidates: list[int], without: str) -> list[int]:
        busiest = {
            share: max(clocks for unit, clocks in blocks[share].busy.items() if unit != without) for share in candidates
        }
        return [share for share in candidates if busiest[share] <= ALIKE * min(busiest.values())]

    return min(least(least(list(blocks), ""), "tensor"))


def verdict(blocks: dict[int, Block]) -> str:
    """The best share, in words."""
    share = best_share(blocks)
    block = blocks[share]
    others = {unit: clocks for unit, clocks in block.busy.items() if unit != "tensor"}
    second = max(others, key=lambda unit: others[unit])
    own, clocks = block.tensor, block.busy[block.limit]
    if block.limit == "tensor":
        reason = f"the tensor core limits, and the next, {title(second)}, is busy {others[second] / own:.0%} as long"
    else:
        reason = f"{title(block.limit)} limits, at {clocks:.0f} clocks to the tensor core's {own:.0f}"
    return f"best: {share} of 16: {reason}."


def title(unit: str) -> str:
    """The unit's name in a table."""
    return unit.upper() if unit in ("mufu", "fma", "alu") else unit


def render(rows: Iterable[tuple[str, Block]], markdown: bool) -> str:
    cells = [
        [
            label,
            *(f"{clocks:.0f}" for clocks in block.busy.values()),
            title(block.limit),
            f"{block.share_of_peak:.2f}",
            str(block.exponentials),
            f"{block.tmem_bytes / 1024:.0f}",
            str(block.instructions),
            f"{block.instructions / TILE:.2f}",
            str(block.spills),
        ]
        for label, block in rows
    ]
    header = HEADER + DETAIL
    return table.render(header, cells, is_text=[name in ("", "limit") for name in header], markdown=markdown)


if __name__ == "__main__":
    main()
