"""What a block of scores costs in FlashAttention-4: by arithmetic from its description, and counted in its kernel."""

from __future__ import annotations

from units import LANES, OPERAND_BYTES, SHARED_BYTES, TENSOR_FLOPS, TILE, WARP, Block

# Of the 128 scores of a row those that are emulated, by head_dims, from its tuning table for sm_100: 4 of every 16
# pairs, but neither in the last fragment of 32 nor in the first; at 192/128 the first has them too.
EMULATED = {(64, 64): 16, (96, 96): 16, (128, 128): 16, (192, 128): 24}
DEGREE = 3

# Counted by units.py as our variants are: flash_fwd_sm100.py of commit 0251105a, bfloat16, dense, one CTA, compiled by
# nvidia-cutlass-dsl 4.8.1 to PTX and by ptxas 13.0 to machine code.
COUNTED = {
    (64, 64): Block(
        tensor=512, mufu=904, fma=411.5, alu=326, shared=392, issue=614,
        exponentials=14464, tmem_bytes=98304, instructions=514, spills=0,
    ),
    (128, 128): Block(
        tensor=1024, mufu=904, fma=410.75, alu=328, shared=776, issue=637.5,
        exponentials=14464, tmem_bytes=98304, instructions=515, spills=0,
    ),
}  # fmt: skip


def described(head_dim: int, value_head_dim: int) -> Block:
    """What a row does with its 128 scores in the published algorithm; not the row's own scalars, loops and barriers.

    tensor, mufu, shared: the published analysis, (4 M N D) / 8192, M N / 16, operand bytes / 128. Pairs of scores are
    scaled by one packed FMA and summed by one packed addition, and converted by one instruction; maxima take two scores
    each. An emulated score is clamped, and its whole part added to the exponent; a pair of them takes three packed
    additions (to round, to undo that, to get the fraction) and as many packed FMAs as the polynomial has degrees.
    """
    emulated = EMULATED[head_dim, value_head_dim]
    pairs = TILE // 2
    packed = 2 * pairs + emulated // 2 * (3 + DEGREE)
    single = 2 * pairs + 2 * emulated
    exponentials = TILE - emulated + 1  # and the factor by which the row is rescaled
    moves = 2 * (TILE // WARP)  # loads and stores of tensor memory
    return Block(
        tensor=2 * TILE * TILE * (head_dim + value_head_dim) / TENSOR_FLOPS,
        mufu=TILE * exponentials / LANES["MUFU"],
        fma=TILE * 2 * packed / LANES["FMA"],
        alu=TILE * single / LANES["ALU"],
        shared=TILE * (2 * head_dim + value_head_dim) * OPERAND_BYTES / SHARED_BYTES,
        issue=packed + single + exponentials + moves,
        exponentials=TILE * exponentials,
        tmem_bytes=TILE * TILE * (4 + OPERAND_BYTES),
        instructions=packed + single + exponentials + moves,
        spills=0,
    )
