"""Bad input is refused in words, at trace time too; good input becomes canonical without being expanded."""

from __future__ import annotations

import functools
import importlib
import math
import re
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import export

from jax_fa4.spec import Operands
from jax_fa4.validation import check_arrays, check_implementation, check_options

B, T, S, N, K, H, HV = 2, 6, 5, 4, 2, 8, 3
FLAGS = {"is_causal": False, "return_residual": False, "deterministic": False}
OPTIONS = {"scale": None, "local_window_size": None, "logits_soft_cap": None, "causal_alignment": "top_left"} | FLAGS
struct: Any = jax.ShapeDtypeStruct
ARGUMENTS = (*Operands._fields, *OPTIONS, "implementation")


def zeros(*shape: int, dtype: Any = jnp.float32) -> jax.Array:
    return jnp.asarray(np.zeros(shape, dtype))


ints = functools.partial(zeros, dtype=jnp.int32)
bools = functools.partial(zeros, dtype=jnp.bool_)

Shape = tuple[int, ...]
VALID = {"query": zeros(B, T, N, H), "key": zeros(B, S, K, H), "value": zeros(B, S, K, HV)}
UNBATCHED = {name: array[0] for name, array in VALID.items()}


def validate(**arguments: Any) -> tuple[Any, tuple[Any, ...], tuple[str, ...]]:
    """What the public call does with its arguments before it computes anything."""
    options = OPTIONS | {name: arguments.pop(name) for name in OPTIONS if name in arguments}
    names = check_implementation(arguments.pop("implementation", None))
    operands = check_arrays(Operands(**arguments))
    offset_given = operands.query_offset is not None
    return operands, check_options(head_dim=operands.query.shape[-1], query_offset_given=offset_given, **options), names


def call(**overrides: Any) -> Any:
    """A valid call with some arguments changed: of the public function where the package has it."""
    attention = getattr(importlib.import_module("jax_fa4"), "attention", None)
    arguments = VALID | overrides
    return attention(**arguments) if callable(attention) else validate(**arguments)


class Bad(NamedTuple):
    id: str
    error: type[Exception]
    words: str  # what the message must contain, in this order; "..." stands for anything
    overrides: dict[str, Any]


def bad(error: type[Exception], case_id: str, words: str, **overrides: Any) -> Bad:
    return Bad(case_id, error, words, overrides)


value_error = functools.partial(bad, ValueError)
type_error = functools.partial(bad, TypeError)


def with_shapes(query: Shape, key: Shape, value: Shape) -> dict[str, jax.Array]:
    return {"query": zeros(*query), "key": zeros(*key), "value": zeros(*value)}


def all_of(dtype: Any) -> dict[str, jax.Array]:
    return {name: array.astype(dtype) for name, array in VALID.items()}


def assert_words(message: str, words: str) -> None:
    assert re.search(".*".join(map(re.escape, words.split("..."))), message), f"{words!r} not in: {message}"


Q, KEY, V = (B, T, N, H), (B, S, K, H), (B, S, K, HV)
AXES = "must have 4 axes (batch, length, heads, head_dim) or 3 (length, heads, head_dim), got"
IDS = {"query_segment_ids": ints(B, T), "key_value_segment_ids": ints(B, S)}
LONG = ints(B, T)
RATIO = "query heads must be a multiple of key heads (query (2, 6, 4, 8), key (2, 5, 3, 8)"
ROWS = ", in a batched call it must be (B, T) = (2, 6) or (1, T) = (1, 6)"
ALONE, PAIR = "is given without", "...pass both...length 6...length 5"
SINGLE = ", in a call without a batch axis it must be () or (1,)"
FULL = "does not broadcast to (B, N, T, S) = (2, 4, 6, 5)...each must be 1 or of full extent"

SHAPES = [
    value_error("rank_2", f"query {AXES} 2 (query (4, 8), key", query=zeros(N, H)),
    value_error("rank_5", f"value {AXES} 5", value=zeros(1, *V)),
    value_error("mixed_rank", "query...batch axis...query (6, 4, 8), key (2, 5, 2, 8)", query=zeros(T, N, H)),
    value_error("key_batch", "key has batch size 3, query has 2...equal", **with_shapes(Q, (3, S, K, H), V)),
    value_error("shared_key", "key has batch size 1, query has 2", **with_shapes(Q, (1, S, K, H), V)),
    value_error("value_batch", "value has batch size 3, query has 2", **with_shapes(Q, KEY, (3, S, K, HV))),
    value_error("value_length", "value has length 6, key has 5", **with_shapes(Q, KEY, (B, S + 1, K, HV))),
    value_error("value_heads", "value has number of heads 1, key has 2", **with_shapes(Q, KEY, (B, S, 1, HV))),
    value_error("key_head_dim", "key has head_dim 9, query has 8", **with_shapes(Q, (B, S, K, H + 1), V)),
    value_error("head_ratio", f"key has 3 heads, query has 4: {RATIO}", **with_shapes(Q, (B, S, 3, H), (B, S, 3, HV))),
    value_error("more_key_heads", "key has 2 heads, query has 1...multiple", **with_shapes((B, T, 1, H), KEY, V)),
    value_error("no_query_heads", "query has number of heads 0: at least 1", **with_shapes((B, T, 0, H), KEY, V)),
    value_error("no_key_heads", "key has number of heads 0: at least 1", **with_shapes(Q, (B, S, 0, H), (B, S, 0, HV))),
    value_error("no_head_dim", "query has head_dim 0: at least 1", **with_shapes((B, T, N, 0), (B, S, K, 0), V)),
    value_error("no_value_head_dim", "value has head_dim 0: at least 1", **with_shapes(Q, KEY, (B, S, K, 0))),
    value_error("bias_lengths", f"bias of shape (5, 6) {FULL}", bias=zeros(S, T)),
    value_error("bias_key_heads", f"bias of shape (2, 2, 6, 5) {FULL}", bias=zeros(B, K, T, S)),
    value_error("bias_rank_5", f"bias of shape (1, 2, 4, 6, 5) {FULL}", bias=zeros(1, B, N, T, S)),
    value_error("mask_rank_3", f"mask of shape (2, 6, 5) {FULL}...mask[:, None]", mask=bools(B, T, S)),
    value_error("mask_batch", "mask of shape...(N, T, S) = (4, 6, 5)", **UNBATCHED, mask=bools(B, N, T, S)),
    value_error("sinks_key_heads", "sinks has shape (2,)...it must be (N) = (4,)", sinks=zeros(K)),
    value_error("slopes_batched", "alibi_slopes has shape (2, 4)...(N) = (4,)", alibi_slopes=zeros(B, N)),
    value_error("ids_rank", f"query_segment_ids has shape (6,){ROWS}", **IDS | {"query_segment_ids": ints(T)}),
    value_error("ids_length", "key_value_segment_ids has...(B, S) = (2, 5)", **IDS | {"key_value_segment_ids": LONG}),
    value_error("ids_queries", f"query_segment_ids {ALONE} key_value_segment_ids{PAIR}", query_segment_ids=ints(B, T)),
    value_error("ids_keys", f"key_value_segment_ids {ALONE} query_segment_ids{PAIR}", key_value_segment_ids=ints(B, S)),
    value_error("ids_self", f"{ALONE}...the same array twice", query=zeros(*KEY), query_segment_ids=ints(B, S)),
    value_error("lengths_batch", "query_seq_lengths has shape (3,)...(B) = (2,)", query_seq_lengths=ints(3)),
    value_error("lengths_scalar", "key_value_seq_lengths has shape ()...(2,)", key_value_seq_lengths=ints()),
    value_error("lengths", f"query_seq_lengths has shape (2,){SINGLE}", **UNBATCHED, query_seq_lengths=ints(2)),
    value_error("offset_batch", "query_offset has shape (3,)...() or (B) = (2,)", query_offset=ints(3)),
]

FLOATS = "allowed: float32, bfloat16, float16, float64; cast it with .astype"
INT32 = "allowed: int32; cast it with .astype(jnp.int32)"
MASK = "allowed: bool; compare it with != 0...as bias"
SHORT = zeros(B, T, dtype=jnp.int16)
DTYPES = [
    type_error("mixed", "query is float32, key is bfloat16...cast...astype", key=zeros(*KEY, dtype=jnp.bfloat16)),
    type_error("int_inputs", f"query has dtype int32...{FLOATS}", **all_of(jnp.int32)),
    type_error("complex_inputs", f"query has dtype complex64...{FLOATS}", **all_of(jnp.complex64)),
    type_error("fp8_inputs", f"query has dtype float8_e4m3fn...{FLOATS}", **all_of(jnp.float8_e4m3fn)),
    type_error("prng_key", f"query has dtype key<...{FLOATS}", query=jax.random.split(jax.random.key(0), Q)),
    type_error("int_bias", f"bias has dtype int32 (shape (6, 5)), {FLOATS}", bias=ints(T, S)),
    type_error("int_mask", f"mask has dtype int32...{MASK}", mask=ints(T, S)),
    type_error("float_mask", f"mask has dtype float32...{MASK}", mask=zeros(T, S)),
    type_error("int_sinks", f"sinks has dtype int32...{FLOATS}", sinks=ints(N)),
    type_error("int_slopes", f"alibi_slopes has dtype int32...{FLOATS}", alibi_slopes=ints(N)),
    type_error("ids", f"query_segment_ids has dtype int16...{INT32}", **IDS | {"query_segment_ids": SHORT}),
    type_error("uint", f"query_seq_lengths has dtype uint32...{INT32}", query_seq_lengths=zeros(B, dtype=jnp.uint32)),
    type_error("float", f"key_value_seq_lengths has dtype float32...{INT32}", key_value_seq_lengths=zeros(B)),
    type_error("float_offset", f"query_offset has dtype float32...{INT32}", query_offset=zeros()),
]

ANY = "must be a jax.Array or a numpy.ndarray, got"
NOT_ARRAYS = [
    type_error("list_query", f"query {ANY} list: convert it with jnp.asarray", query=[[[1.0]]]),
    type_error("none_key", f"key {ANY} NoneType", key=None),
    type_error("object_value", "value is not an array that JAX can hold...object", value=np.zeros(V, object)),
    type_error("shape_struct", f"query {ANY} ShapeDtypeStruct", query=struct(Q, jnp.float32)),
    type_error("bool_mask", f"mask {ANY} bool", mask=True),
    type_error("bool_offset", f"query_offset {ANY} bool", query_offset=True),
    value_error("big", "query_offset holds 2147483648...int32...[-2147483648, 2147483647]", query_offset=2**31),
    value_error("small", "query_offset holds -2147483649...int32", query_offset=-(2**31) - 1),
    value_error("wraps", "query_seq_lengths holds 1099511627776...int32", query_seq_lengths=np.array([1, 2**40])),
]

POSITIVE = "it must be finite and > 0"
NUMBER = "must be a Python number, known when the call is traced, got"
WINDOW = "local_window_size must be None, an int or a pair (left, right) of ints or None"
FLAG = "must be True or False, known when the call is traced, got"
ALIGNMENTS = 'allowed are "top_left", "bottom_right"; did you mean "bottom_right"?'
CONFLICT = {"causal_alignment": "bottom_right", "query_offset": 0}
OPTION_CASES = [
    value_error("scale_zero", f"scale is 0.0: {POSITIVE}", scale=0.0),
    value_error("scale_negative", f"scale is -1: {POSITIVE}", scale=-1),
    value_error("scale_nan", f"scale is nan: {POSITIVE}", scale=math.nan),
    value_error("scale_inf", f"scale is ...inf...{POSITIVE}", scale=np.float32("inf")),
    value_error("scale_overflow", f"scale is 1000...{POSITIVE}", scale=10**400),
    value_error("scale_tiny", "scale is 1e-60: it must be in float32's normal range", scale=1e-60),
    value_error("cap_huge", "logits_soft_cap is 1e+39: it must be in float32's normal range", logits_soft_cap=1e39),
    type_error("scale_bool", f"scale {NUMBER} bool", scale=True),
    type_error("scale_array", f"scale {NUMBER} an array float32(): ...float(scale)", scale=zeros()),
    type_error("scale_numpy", f"scale {NUMBER} an array float64(): ...float(scale)", scale=np.ones(())),
    value_error("cap_zero", f"logits_soft_cap is 0: {POSITIVE}", logits_soft_cap=0),
    type_error("cap_array", f"logits_soft_cap {NUMBER} an array...float(logits_soft_cap)", logits_soft_cap=zeros()),
    value_error("window", "local_window_size is -1...0 to 2147483647...no limit is None", local_window_size=-1),
    value_error("window_side", "local_window_size is (3, -1)...no limit is None", local_window_size=(3, -1)),
    value_error("window_huge", "local_window_size is 2147483648...no limit is None", local_window_size=2**31),
    type_error("window_float", f"{WINDOW}...got float", local_window_size=3.0),
    type_error("window_bool", f"{WINDOW}...got bool in a pair", local_window_size=(True, 0)),
    value_error("window_triple", "local_window_size...got 3 entries: (1, 2, 3)", local_window_size=(1, 2, 3)),
    type_error("window_array", f"{WINDOW}...got an array int32(2,)", local_window_size=ints(2)),
    type_error("causal_int", f"is_causal {FLAG} int", is_causal=1),
    type_error("causal_array", f"is_causal {FLAG} an array bool()", is_causal=jnp.array(True)),
    type_error("residual_none", f"return_residual {FLAG} NoneType", return_residual=None),
    type_error("deterministic_string", f"deterministic {FLAG} str", deterministic="yes"),
    value_error("alignment_typo", f'"botom_right" is unknown: {ALIGNMENTS}', causal_alignment="botom_right"),
    type_error("alignment_type", "causal_alignment must be a string...top_left...NoneType", causal_alignment=None),
    value_error("alignment_and_offset", "causal_alignment...query_offset contradict...leave one out", **CONFLICT),
]

NAMES = '"cpu", "cuda", "blockwise", "reference", "xla"'
UNKNOWN = f"is unknown: allowed are {NAMES}"
IMPLEMENTATION_CASES = [
    value_error("name", f'"blockwize" {UNKNOWN}; did you mean "blockwise"?', implementation="blockwize"),
    value_error("second_name", f'"CUDA" {UNKNOWN}; did you mean "cuda"?', implementation=("cpu", "CUDA")),
    value_error("no_name", f"implementation is an empty tuple...pass None...{NAMES}", implementation=()),
    value_error("empty_name", f'implementation "" {UNKNOWN}', implementation=""),
    type_error("number", f"implementation must be None, a name or a sequence...got int...{NAMES}", implementation=3),
    type_error("unordered", "implementation must be...sequence...got set", implementation={"cpu"}),
    type_error("none_name", "implementation must hold strings...NoneType", implementation=["cpu", None]),
]

BAD = [*SHAPES, *DTYPES, *NOT_ARRAYS, *OPTION_CASES, *IMPLEMENTATION_CASES]


@pytest.mark.parametrize("case", BAD, ids=lambda case: case.id)
def test_bad_input_is_refused_in_words(case: Bad) -> None:
    with pytest.raises(case.error) as caught:
        call(**case.overrides)
    assert_words(str(caught.value), case.words)


@pytest.mark.parametrize("case", [*SHAPES, *DTYPES], ids=lambda case: case.id)
def test_bad_arrays_are_refused_while_tracing(case: Bad) -> None:
    with pytest.raises(case.error) as caught:
        jax.eval_shape(jax.jit(lambda overrides: call(**overrides)), case.overrides)
    assert_words(str(caught.value), case.words)


@pytest.mark.parametrize("argument", ARGUMENTS)
def test_every_argument_has_a_bad_case(argument: str) -> None:
    assert any(argument in case.overrides and re.match(rf"{argument}\b", case.words) for case in BAD)


TRACED = {"scale": 0.5, "logits_soft_cap": 5.0, "local_window_size": (3, 0)} | FLAGS


@pytest.mark.parametrize("argument", TRACED)
def test_traced_options_are_refused(argument: str) -> None:
    with pytest.raises(TypeError) as caught:
        jax.jit(lambda x: call(**{argument: x}))(TRACED[argument])
    advice = "multiply the query by it" if argument == "scale" else "name it in static_argnames"
    assert_words(str(caught.value), f"{argument} must be...a traced array...{advice}")


@pytest.mark.parametrize("name", ["query", "key"])
def test_lengths_beyond_int32_are_refused(name: str) -> None:
    lengths = {"query": 1, "key": 1, "value": 1} | {name: 2**31} | ({"value": 2**31} if name == "key" else {})
    arrays = {name: struct((1, length, 1, 1), jnp.bfloat16) for name, length in lengths.items()}
    with pytest.raises(ValueError, match=f"{name} has length 2147483648.*at most 2147483647"):
        jax.eval_shape(lambda arrays: call(**arrays), arrays)


def test_int64_is_refused_and_weak_integers_follow_int32() -> None:
    with jax.enable_x64(True):
        with pytest.raises(TypeError, match=r"query_seq_lengths has dtype int64.*allowed: int32.*astype\(jnp.int32\)"):
            call(query_seq_lengths=np.array([1, 2]))
        # jit makes a weak int64 of the Python int.
        traced = jax.eval_shape(lambda offset: validate(**VALID, query_offset=offset)[0].query_offset, 3)
        assert (traced.shape, traced.dtype) == ((1,), jnp.int32)
        assert validate(**VALID, query_offset=np.int64(-3))[0].query_offset.tolist() == [-3]


def test_float64_needs_x64() -> None:
    arrays = {name: np.zeros(array.shape, np.float64) for name, array in VALID.items()}
    assert validate(**arrays)[0].query.dtype == jnp.float32
    with jax.enable_x64(True):
        operands = validate(**arrays)[0]
        assert [operands.query.dtype, operands.key.dtype, operands.value.dtype] == [jnp.float64] * 3


# Operand: its shape and its canonical shape in a batched call, the same in an unbatched call.
CANONICAL: dict[str, tuple[Shape, Shape, Shape, Shape]] = {
    "query": (Q, Q, Q[1:], (1, T, N, H)),
    "key": (KEY, KEY, KEY[1:], (1, S, K, H)),
    "value": (V, V, V[1:], (1, S, K, HV)),
    "bias": ((T, S), (1, 1, T, S), (1, 1, T, 1), (1, 1, T, 1)),
    "mask": ((B, 1, 1, S), (B, 1, 1, S), (S,), (1, 1, 1, S)),
    "sinks": ((N,), (1, N), (N,), (1, N)),
    "alibi_slopes": ((N,), (1, N), (N,), (1, N)),
    "query_segment_ids": ((1, T), (1, T), (T,), (1, T)),
    "key_value_segment_ids": ((B, S), (B, S), (1, S), (1, S)),
    "query_seq_lengths": ((B,), (B,), (), (1,)),
    "key_value_seq_lengths": ((B,), (B,), (1,), (1,)),
    "query_offset": ((), (1,), (), (1,)),
}


def dtype_of(name: str) -> Any:
    return jnp.bool_ if name == "mask" else jnp.int32 if re.search("ids|lengths|offset", name) else jnp.float32


@pytest.mark.parametrize("column", [0, 2], ids=["batched", "unbatched"])
def test_arrays_become_canonical_by_inserting_axes_only(column: int) -> None:
    given = {name: zeros(*row[column], dtype=dtype_of(name)) for name, row in CANONICAL.items()}
    out = validate(**given)[0]._asdict()
    assert {name: x.shape for name, x in out.items()} == {name: row[column + 1] for name, row in CANONICAL.items()}

    equations = jax.make_jaxpr(lambda arrays: tuple(validate(**arrays)[0]))(given).jaxpr.eqns
    assert {equation.primitive.name for equation in equations} <= {"broadcast_in_dim", "reshape"}
    for equation in equations:
        assert equation.invars[0].aval.size == equation.outvars[0].aval.size


@pytest.mark.parametrize("shape", [(), (1,), (S,), (T, 1), (N, 1, 1), (1, T, S), (B, 1, 1, S), (B, N, T, S)])
def test_bias_and_mask_broadcast_by_the_rule_of_numpy(shape: tuple[int, ...]) -> None:
    expected = (1,) * (4 - len(shape)) + shape
    bias = np.arange(math.prod(shape), dtype=np.float32).reshape(shape)
    operands = validate(**VALID, bias=bias, mask=bias != 0)[0]
    assert (operands.bias.shape, operands.mask.shape) == (expected, expected)
    np.testing.assert_array_equal(np.asarray(operands.bias), bias.reshape(expected))


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16, jnp.float16])
def test_arrays_of_full_rank_and_dtypes_are_kept(dtype: Any) -> None:
    given = all_of(dtype)
    other = jnp.float32 if dtype == jnp.float16 else jnp.float16
    operands = validate(**given, bias=zeros(S, dtype=other), sinks=zeros(N, dtype=other))[0]
    assert operands.query is given["query"] and operands.key is given["key"] and operands.value is given["value"]
    assert operands.bias.dtype == operands.sinks.dtype == other


def test_numpy_int64_that_fits_is_int32_without_x64() -> None:
    operands = validate(**VALID, query_seq_lengths=np.array([1, 2]), query_offset=np.array([-(2**31), 2**31 - 1]))[0]
    assert (operands.query_seq_lengths.dtype, operands.query_seq_lengths.tolist()) == (jnp.int32, [1, 2])
    assert operands.query_offset.tolist() == [-(2**31), 2**31 - 1]


def test_what_converts_itself_to_a_jax_array_is_taken() -> None:
    class Parameter:
        def __jax_array__(self) -> jax.Array:
            return jnp.arange(N, dtype=jnp.float32)

    assert validate(**VALID, sinks=Parameter())[0].sinks.tolist() == [[0.0, 1.0, 2.0, 3.0]]


@pytest.mark.parametrize(("t", "s"), [(0, S), (T, 0)])
def test_empty_lengths_are_taken(t: int, s: int) -> None:
    operands = validate(**with_shapes((B, t, N, H), (B, s, K, H), (B, s, K, HV)), bias=zeros(t, s))[0]
    assert (operands.query.shape[1], operands.key.shape[1], operands.bias.shape) == (t, s, (1, 1, t, s))


SYMBOLIC = {"query": "b, t, 4, 8", "key": "b, s, 2, 8", "value": "b, s, 2, 3"}


def symbolic(**shapes: str) -> dict[str, Any]:
    scope = export.SymbolicScope()
    shapes = SYMBOLIC | shapes
    return {name: struct(export.symbolic_shape(shape, scope=scope), dtype_of(name)) for name, shape in shapes.items()}


def test_batch_and_lengths_may_be_symbolic() -> None:
    ids = {"query_segment_ids": "b, t", "key_value_segment_ids": "1, s"}
    given = symbolic(bias="t, s", mask="b, 1, 1, s", query_seq_lengths="b,", query_offset="b,", **ids)
    exported = export.export(jax.jit(lambda arrays: validate(**arrays)[0]))(given)
    out = jax.tree.unflatten(exported.out_tree, exported.out_avals)
    (b, t, _, _), s = given["query"].shape, given["key"].shape[1]
    assert (out.query.shape, out.key.shape) == ((b, t, 4, 8), (b, s, 2, 8))
    assert (out.bias.shape, out.mask.shape) == ((1, 1, t, s), (b, 1, 1, s))
    assert (out.query_segment_ids.shape, out.key_value_segment_ids.shape) == ((b, t), (1, s))
    assert (out.query_seq_lengths.shape, out.query_offset.shape) == ((b,), (b,))


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"key": "c, s, 2, 8"}, "key has batch size c, query has b"),
        ({"value": "b, t, 2, 3"}, "value has length t, key has s"),
        ({"bias": "t, r"}, r"bias of shape \(t, r\) does not broadcast to \(B, N, T, S\) = \(b, 4, t, s\)"),
        ({"query": "b, t, n, 8"}, r"query has a symbolic number of heads \(n\): only batch and length may be symbolic"),
        ({"value": "b, s, 2, v"}, r"value has a symbolic head_dim \(v\): only batch and length"),
    ],
)
def test_symbolic_shapes_that_do_not_fit_are_refused(changes: dict[str, str], match: str) -> None:
    with pytest.raises(ValueError, match=match):
        export.export(jax.jit(lambda arrays: call(**arrays)))(symbolic(**changes))


WINDOWS: list[tuple[Any, Any, Any]] = [
    (False, None, (None, None)),
    (False, np.int32(3), (3, 3)),
    (False, [None, np.int64(2)], (None, 2)),
    (True, None, (None, 0)),
    (np.True_, 3, (3, 0)),
    (True, (3, None), (3, 0)),
]


@pytest.mark.parametrize(("is_causal", "window", "expected"), WINDOWS)
def test_windows_have_two_sides_and_causal_closes_the_right_one(is_causal: Any, window: Any, expected: Any) -> None:
    sides = validate(**VALID, is_causal=is_causal, local_window_size=window)[1][1]
    assert sides == expected
    assert all(side is None or type(side) is int for side in sides)


def test_numbers_become_floats() -> None:
    assert validate(**VALID)[1] == (1 / math.sqrt(H), (None, None), None)
    scale, _, soft_cap = validate(**VALID, scale=np.float32(0.5), logits_soft_cap=np.int64(30))[1]
    assert (scale, soft_cap, type(scale), type(soft_cap)) == (0.5, 30.0, float, float)


def test_implementations_are_named_in_order() -> None:
    assert check_implementation(None) == ()
    assert check_implementation("xla") == ("reference",)
    assert check_implementation(["cuda", "blockwise"]) == ("cuda", "blockwise")
    assert check_implementation(("xla", "cpu", "reference")) == ("reference", "cpu")
