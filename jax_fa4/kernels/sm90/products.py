"""The two products of attention, by the tensor core for a warpgroup: S = Q K^T, then O += P V with P in registers.

P in registers is operand A of the second product as it stands: S, rounded, in the same order.
"""

from dataclasses import dataclass
from typing import Any

import cutlass
import cutlass.cute as cute
from cutlass import Float32, Int32
from cutlass.cute.nvgpu import OperandMajorMode, warpgroup

from jax_fa4.kernels.cta import DTYPES, Cta
from jax_fa4.kernels.plan import SWIZZLE_ROW
from jax_fa4.kernels.sm90.fragments import ROWS, word_of_pair
from jax_fa4.kernels.sm90.plan import QUERY_ROWS

MMA_K = 16  # elements of the summed extent that one instruction takes


@dataclass(frozen=True)
class Products:
    """The operands of a warpgroup: fragments of Q, K and V in shared memory, and of S, O and P in registers."""

    cta: Cta
    i: Any
    q: Any
    k: Any
    v: Any
    scores: Any
    output: Any
    weights: Any

    def issue_scores(self, slot: Any) -> None:
        """S = Q K^T: a group of instructions, 16 columns of head_dim each."""
        mma = scores_mma(self.cta.plan)
        for step in range(self.cta.plan.head_dim // MMA_K):
            mma.set(warpgroup.Field.ACCUMULATE, step > 0)
            q, k = self.q[None, None, step, self.i], self.k[None, None, step, slot]
            cute.gemm(mma, self.scores, q, k, self.scores)
        warpgroup.commit_group()

    def issue_values(self, slot: Any) -> None:
        """O += P V: a group of instructions, 16 keys each."""
        mma = values_mma(self.cta.plan)
        mma.set(warpgroup.Field.ACCUMULATE, True)
        for step in range(self.cta.plan.block // MMA_K):
            cute.gemm(mma, self.output, self.weights[None, None, step], self.v[None, None, step, slot], self.output)
        warpgroup.commit_group()

    def row(self, values: Any, row: int) -> list[Any]:
        """Returns the numbers of this thread's first or second row, in the order of its columns."""
        return [values[j] for j in range(cute.size(values)) if j // 2 % ROWS == row]

    def scale_output(self, factors: tuple[Any, Any]) -> None:
        """Multiplies each row of O."""
        for j in range(cute.size(self.output)):
            self.output[j] = self.output[j] * factors[j // 2 % ROWS]

    def set_weights(self, rows: list[list[Any]]) -> None:
        """Rounds the weights of both rows: operand A of the next product."""
        words = cute.recast_tensor(self.weights, Int32)
        for n in range(cute.size(words)):
            row, first = n % ROWS, n // ROWS * 2
            words[n] = word_of_pair(rows[row][first], rows[row][first + 1], self.cta.plan.dtype)

    def clear_output(self) -> None:
        """O = 0."""
        for j in range(cute.size(self.output)):
            self.output[j] = Float32(0.0)


@cute.jit
def rescale(products: cutlass.Constexpr, first, second):
    """Multiplies both rows of O by their factors, where a row of the warp asks for it, once O is there.

    The branch, ahead of the wait that all come to, also keeps ptxas from moving exponentials behind that wait.
    """
    if cute.arch.vote_any_sync((first < 1.0) | (second < 1.0)):
        warpgroup.wait_group(0)
        products.scale_output((first, second))


def products_of(cta: Cta, i: Any) -> Products:
    """Returns the operands of warpgroup i."""
    plan, shared = cta.plan, cta.shared
    thread, _, _ = cute.arch.thread_idx()
    scores, values = scores_mma(plan).get_slice(thread % 128), values_mma(plan).get_slice(thread % 128)
    k_columns = plan.panels(plan.head_dim) * plan.panel
    q = operand(shared.q, plan, "K_SW128", (QUERY_ROWS, k_columns, plan.query_tiles))
    k = operand(shared.k, plan, "K_SW128", (plan.block, k_columns, plan.slots))
    kind = "MN_SW128" if plan.value_row == SWIZZLE_ROW else "MN_SW64"
    v = operand(shared.v, plan, kind, (plan.value_head_dim, plan.block, plan.slots))
    return Products(
        cta, i, scores_mma(plan).make_fragment_A(scores.partition_A(q)),
        scores_mma(plan).make_fragment_B(scores.partition_B(k)),
        values_mma(plan).make_fragment_B(values.partition_B(v)),
        cute.make_rmem_tensor(scores.partition_shape_C((QUERY_ROWS, plan.block)), Float32),
        cute.make_rmem_tensor(values.partition_shape_C((QUERY_ROWS, plan.value_head_dim)), Float32),
        values_mma(plan).make_fragment_A(values_mma(plan).partition_shape_A((QUERY_ROWS, plan.block))),
    )  # fmt: skip


def operand(array: Any, plan: Any, kind: str, shape: tuple[int, ...]) -> Any:
    """Returns a view of operand tiles, one after the other: panels of whole rows of the swizzle, as they are copied."""
    dtype = DTYPES[plan.dtype]
    atom = warpgroup.make_smem_layout_atom(warpgroup.SmemLayoutAtomKind[kind], dtype)
    layout = cute.tile_to_shape(atom, shape, (0, 1, 2) if kind.startswith("K") else (1, 0, 2))
    pointer = cute.make_ptr(dtype, array.data_ptr().llvm_ptr, assumed_align=1024, swizzle_=layout.inner)
    return cute.make_tensor(pointer, layout.outer)


def scores_mma(plan: Any) -> Any:
    """Returns the instructions for S: both operands in shared memory with the summed extent innermost."""
    return mma_of(plan, plan.block, warpgroup.OperandSource.SMEM, OperandMajorMode.K)


def values_mma(plan: Any) -> Any:
    """Returns the instructions for O: P in registers, V in shared memory with the summed extent, keys, outermost."""
    return mma_of(plan, plan.value_head_dim, warpgroup.OperandSource.RMEM, OperandMajorMode.MN)


def mma_of(plan: Any, n: int, a_source: Any, b_major: Any) -> Any:
    """64 rows x n in float32."""
    dtype = DTYPES[plan.dtype]
    shape = (QUERY_ROWS, n, MMA_K)
    op = warpgroup.MmaF16BF16Op(dtype, Float32, shape, a_source, OperandMajorMode.K, b_major)
    return cute.make_tiled_mma(op)
