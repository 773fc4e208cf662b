"""What a call becomes on each device, for XLA's partitioner: the same call on shards, and sums of gradients.

Registered under the calls' own names, so that a program holds plain custom calls: it can be exported and cached.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from jax.extend.mlir import ir
from jax.interpreters import mlir

from jax_fa4.rules.sharding import axes, layout
from jax_fa4.rules.sharding.axes import Letters
from jax_fa4.rules.sharding.layout import Cut, Devices, Layout, Tiling

try:
    from jax._src import xla_bridge
    from jax._src.lib import xla_client  # type: ignore[attr-defined]  # its stubs do not export it

    HloSharding, OpSharding = xla_client.HloSharding, xla_client.OpSharding
    _register = xla_client.register_custom_call_partitioner
    AVAILABLE = True
except (ImportError, AttributeError):
    AVAILABLE = False

_ELEMENTS = {
    "float32": "f32", "float64": "f64", "bfloat16": "bf16", "float16": "f16", "int32": "i32", "bool": "i1",
}  # fmt: skip


def register(targets: Iterable[tuple[str, str]]) -> None:
    """Registers the partitioner for each (direction, target); nothing where this JAX has no such thing."""
    if not AVAILABLE:
        return
    for direction, target in targets:
        callbacks = {
            "name": target,
            "prop_user_sharding": lambda sharding, shape, config: sharding,
            "partition": functools.partial(_partition, direction, target),
            "infer_sharding_from_operands": functools.partial(_infer, direction),
            "can_side_effecting_have_replicated_sharding": True,
        }
        _register(**callbacks)
        # GPU plugins bring an XLA of their own, with partitioners of its own.
        xla_bridge.register_plugin_callbacks(functools.partial(_register, **callbacks))


def _partition(
    direction: str,
    target: str,
    operand_shapes: Sequence[Any],
    operand_shardings: Sequence[Any],
    result_shape: Any,
    result_sharding: Any,
    config: bytes,
) -> tuple[bytes, list[Any], Any]:
    """The call on one device's shards as an MLIR module, and the shardings that it wants and gives."""
    result_shapes, result_shardings = result_shape.tuple_shapes(), result_sharding.tuple_elements()
    count = len(axes.OPERANDS[direction])
    call = axes.of_call(
        direction, *([s.dimensions() for s in shapes] for shapes in (operand_shapes[:count], result_shapes))
    )
    shapes, shardings = (*operand_shapes, *result_shapes), (*operand_shardings, *result_shardings)
    letters: list[Letters] = [*call.operands, *((None,) for _ in operand_shapes[count:]), *call.results]
    sums: list[Devices | None] = [None] * len(call.results)
    if not any(sharding.is_manual() for sharding in shardings):
        found = _layout(call, operand_shardings[:count], result_shardings)
        if found is not None:
            sums = [found.summands(own) for own in call.results]
            if operand_shapes[count:]:
                place = _tiling(operand_shardings[count], len(operand_shapes[count].dimensions()))
                sums = _global_ids(sums, place, config)
            shardings = tuple(_sharding(found, own) for own in letters)
            if operand_shapes[count:]:
                shardings = (*shardings[:count], operand_shardings[count], *shardings[count + 1 :])
    local = [_tensor(sharding.tile(shape)) for sharding, shape in zip(shardings, shapes, strict=True)]
    total = len(operand_shapes)
    module = _module(target, config, local[:count], local[count:total], local[total:], sums)
    return module, list(shardings[:total]), HloSharding.tuple_sharding(result_shape, shardings[total:])


def _infer(direction: str, operand_shapes: Any, operand_shardings: Any, result_shape: Any, config: bytes) -> Any:
    """The results' sharding from the operands', for XLA's older way of propagating them (GSPMD).

    XLA ends the process if this raises: of what is refused it says nothing, and the partitioner says why.
    """
    count = len(axes.OPERANDS[direction])
    shapes = result_shape.tuple_shapes()
    call = axes.of_call(direction, *([s.dimensions() for s in some] for some in (operand_shapes[:count], shapes)))
    whole = HloSharding.replicate()
    known = [sharding or whole for sharding in operand_shardings[:count]]
    try:
        found = _layout(call, known, [whole] * len(shapes))
    except ValueError:
        return None
    own = [whole if found is None else _sharding(found, letters) for letters in call.results]
    return HloSharding.tuple_sharding(result_shape, own)


def _layout(call: axes.Call, operands: Sequence[Any], results: Sequence[Any]) -> Layout | None:
    """None where nothing is cut."""
    tiled = [sharding for sharding in (*operands, *results) if sharding.is_tiled()]
    if not tiled:
        return None
    return layout.of_call(
        call,
        tiled[0].num_devices(),
        [_tiling(sharding, len(letters)) for sharding, letters in zip(operands, call.operands, strict=True)],
        [_tiling(sharding, len(letters)) for sharding, letters in zip(results, call.results, strict=True)],
    )


def _tiling(sharding: Any, rank: int) -> Tiling:
    if not sharding.is_tiled():
        return [None] * rank
    extents = sharding.tile_assignment_dimensions()
    devices = np.asarray(sharding.tile_assignment_devices())
    cuts: list[Cut | None] = []
    for dimension in range(rank):
        held = np.empty(devices.size, np.int64)
        shape = [-1 if d == dimension else 1 for d in range(len(extents))]
        held[devices] = np.broadcast_to(np.arange(extents[dimension]).reshape(shape), extents).reshape(-1)
        cuts.append(Cut(extents[dimension], held) if extents[dimension] > 1 else None)
    return cuts


def _sharding(found: Layout, letters: Letters) -> Any:
    devices = found.assignment(letters)
    *shards, replicas = devices.shape
    if math.prod(shards) == 1:
        return HloSharding.replicate()
    proto = OpSharding()
    proto.type = OpSharding.Type.OTHER
    proto.tile_assignment_dimensions = [*shards, replicas] if replicas > 1 else shards
    proto.tile_assignment_devices = devices.reshape(-1).tolist()
    proto.replicate_on_last_tile_dim = replicas > 1
    return HloSharding.from_proto(proto)


def _global_ids(sums: Sequence[Devices | None], place: Tiling, config: bytes) -> list[Devices | None]:
    """Device numbers of the whole mesh instead of those that XLA uses in a partially manual region.

    `place` says where in the region each of the latter is: its place along each axis that is not manual.
    """
    with mlir.make_ir_context():
        extents: Any = ir.DenseIntElementsAttr(_attributes(config)[axes.MESH])
        signed = np.asarray([extents[i] for i in range(len(extents))])
    ids = np.arange(math.prod(np.abs(signed))).reshape(np.abs(signed))
    manual = [axis for axis, extent in enumerate(signed) if extent < 0]
    # (copy of the region, device of the region in the mesh's order)
    copies = np.moveaxis(ids, manual, range(len(manual))).reshape(math.prod(np.abs(signed[manual])), -1)
    held = np.zeros(copies.shape[1], np.int64)
    for cut in place:
        held = held if cut is None else held * cut.shards + cut.held
    return [None if groups is None else np.concatenate([copy[held[groups]] for copy in copies]) for groups in sums]


def _tensor(shape: Any) -> tuple[tuple[int, ...], str]:
    return tuple(shape.dimensions()), _ELEMENTS[shape.numpy_dtype().name]


def _module(
    target: str,
    config: bytes,
    operands: Sequence[Any],
    unused: Sequence[Any],
    results: Sequence[Any],
    sums: Sequence[Devices | None],
) -> bytes:
    """The call, and sums of its results over devices; partial sums are float32, whatever the gradient's dtype."""

    def type_of(tensor: Any) -> str:
        return "tensor<" + "x".join([*map(str, tensor[0]), tensor[1]]) + ">"

    def layouts(tensors: Sequence[Any]) -> str:
        ranks = [len(extents) for extents, _ in tensors]
        return ", ".join(f"dense<{list(reversed(range(rank)))}> : tensor<{rank}xindex>" for rank in ranks)

    wide = [
        tensor if groups is None else (tensor[0], "f64" if tensor[1] == "f64" else "f32")
        for tensor, groups in zip(results, sums, strict=True)
    ]
    names = [f"%a{i}" for i in range(len(operands))]
    arguments = [f"{name}: {type_of(tensor)}" for name, tensor in zip(names, operands, strict=True)]
    arguments += [f"%unused{i}: {type_of(tensor)}" for i, tensor in enumerate(unused)]
    types = ", ".join(map(type_of, results))
    lines = [
        f"%r:{len(wide)} = stablehlo.custom_call @{target}({', '.join(names)}) {{",
        f"  backend_config = {_without_mesh(config)}, api_version = 4 : i32,",
        f"  operand_layouts = [{layouts(operands)}],",
        f"  result_layouts = [{layouts(wide)}]",
        f"}} : ({', '.join(map(type_of, operands))}) -> ({', '.join(map(type_of, wide))})",
    ]
    returned = []
    for i, (groups, own, partial) in enumerate(zip(sums, results, wide, strict=True)):
        returned.append(f"%r#{i}")
        if groups is not None:
            lines += _all_reduce(f"%r#{i}", f"%sum{i}", type_of(partial), partial[1], groups)
            returned[-1] = f"%sum{i}"
        if own != partial:
            lines.append(f"%own{i} = stablehlo.convert %sum{i} : ({type_of(partial)}) -> {type_of(own)}")
            returned[-1] = f"%own{i}"
    body = "\n    ".join([*lines, f"return {', '.join(returned)} : {types}"])
    text = f"module @jax_fa4 {{\n  func.func public @main({', '.join(arguments)}) -> ({types}) {{\n    {body}\n  }}\n}}"
    with mlir.make_ir_context():
        return bytes(mlir.module_to_bytecode(ir.Module.parse(text)))


def _without_mesh(config: bytes) -> str:
    with mlir.make_ir_context():
        kept = {name: value for name, value in _attributes(config).items() if name != axes.MESH}
        return str(ir.DictAttr.get(kept))


def _attributes(config: bytes) -> dict[str, Any]:
    """Attributes of the call, in the context of MLIR that is entered."""
    entries: Any = ir.DictAttr(ir.Attribute.parse(config.decode()))
    return {entry.name: entry.attr for entry in (entries[i] for i in range(len(entries)))}


def _all_reduce(operand: str, result: str, tensor: str, element: str, groups: Devices) -> list[str]:
    rows, members = groups.shape
    return [
        f'{result} = "stablehlo.all_reduce"({operand}) <{{',
        "  channel_handle = #stablehlo.channel_handle<handle = 1, type = 1>,",
        f"  replica_groups = dense<{groups.tolist()}> : tensor<{rows}x{members}xi64>, use_global_device_ids}}> ({{",
        f"  ^bb0(%x: tensor<{element}>, %y: tensor<{element}>):",
        f"    %z = stablehlo.add %x, %y : tensor<{element}>",
        f"    stablehlo.return %z : tensor<{element}>",
        f"}}) : ({tensor}) -> {tensor}",
    ]
