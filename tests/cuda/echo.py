"""A kernel in place of attention that shows what it was launched with, and the folder that a build would have written.

output = query, by tensor copies; log_sum_exp[b, n, t] = scale_log2 + group + key[b, 0, n // (N / K), 0], where a key
that is not there counts 0.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

ROWS, COLUMNS, THREADS = 64, 64, 64
TILE_BYTES = ROWS * COLUMNS * 2

TEXT = """
.version 8.8
.target {arch}
.address_size 64

.extern .shared .align 1024 .b8 dynamic[];
.visible .entry {entry}(
  .param .align 64 .b8 {entry}_query[128], .param .align 64 .b8 {entry}_key[128],
  .param .align 64 .b8 {entry}_output[128],
  .param .u64 {entry}_log_sum_exp, .param .u32 {entry}_queries, .param .u32 {entry}_keys, .param .u32 {entry}_heads,
  .param .u32 {entry}_group, .param .u32 {entry}_pack_shift, .param .f32 {entry}_scale_log2)
.reqntid 64, 1, 1
{{
  .reg .pred %p<5>;
  .reg .b16 %h<2>;
  .reg .b32 %r<32>;
  .reg .f32 %f<6>;
  .reg .b64 %rd<12>;
  .shared .align 8 .b8 full[8];

  mov.b64 %rd1, {entry}_query;
  cvta.param.u64 %rd1, %rd1;
  mov.b64 %rd2, {entry}_key;
  cvta.param.u64 %rd2, %rd2;
  mov.b64 %rd3, {entry}_output;
  cvta.param.u64 %rd3, %rd3;
  ld.param.u64 %rd4, [{entry}_log_sum_exp];
  ld.param.u32 %r1, [{entry}_queries];
  ld.param.u32 %r2, [{entry}_heads];
  ld.param.u32 %r3, [{entry}_group];
  ld.param.u32 %r19, [{entry}_pack_shift];
  ld.param.u32 %r20, [{entry}_keys];
  ld.param.f32 %f1, [{entry}_scale_log2];

  // Tile ctaid.x of blocks x heads x batch, the first being innermost: %r6 its first row, %r21 that row's position,
  // %r8 its head (of packs), %r9 its batch entry, %r10 its key head.
  mov.u32 %r4, %ctaid.x;
  shl.b32 %r5, %r1, %r19;
  add.s32 %r5, %r5, 63;
  shr.u32 %r5, %r5, 6;
  rem.u32 %r6, %r4, %r5;
  shl.b32 %r6, %r6, 6;
  shr.u32 %r21, %r6, %r19;
  div.u32 %r7, %r4, %r5;
  rem.u32 %r8, %r7, %r2;
  div.u32 %r9, %r7, %r2;
  div.u32 %r10, %r8, %r3;
  mov.u32 %r11, 0;

  mov.u32 %r12, %tid.x;
  setp.eq.u32 %p1, %r12, 0;
  setp.eq.u32 %p4, %r20, 0;
  mov.b32 %r13, dynamic;
  add.s32 %r14, %r13, {tile_bytes};
  mov.b32 %r15, full;
  @!%p1 bra loaded;
  mbarrier.init.shared.b64 [%r15], 1;
  fence.mbarrier_init.release.cluster;
  selp.b32 %r22, {tile_bytes}, {both_bytes}, %p4;
  mbarrier.arrive.expect_tx.shared.b64 _, [%r15], %r22;
  cp.async.bulk.tensor.5d.shared::cta.global.tile.mbarrier::complete_tx::bytes
    [%r13], [%rd1, {{%r11, %r11, %r21, %r8, %r9}}], [%r15];
  @%p4 bra loaded;
  cp.async.bulk.tensor.4d.shared::cta.global.tile.mbarrier::complete_tx::bytes
    [%r14], [%rd2, {{%r11, %r10, %r11, %r9}}], [%r15];
loaded:
  bar.sync 0;
again:
  mbarrier.try_wait.parity.shared.b64 %p2, [%r15], 0;
  @!%p2 bra again;

  @!%p1 bra stored;
  cp.async.bulk.tensor.5d.global.shared::cta.tile.bulk_group [%rd3, {{%r11, %r11, %r21, %r8, %r9}}], [%r13];
  cp.async.bulk.commit_group;
  cp.async.bulk.wait_group 0;
stored:
  // Row %r16 is position %r23 of head %r26 of all.
  add.s32 %r16, %r6, %r12;
  shr.u32 %r23, %r16, %r19;
  setp.ge.u32 %p3, %r23, %r1;
  @%p3 bra done;
  shl.b32 %r24, %r23, %r19;
  sub.s32 %r24, %r16, %r24;
  shl.b32 %r26, %r8, %r19;
  add.s32 %r26, %r26, %r24;
  shl.b32 %r25, %r2, %r19;
  mov.f32 %f2, 0f00000000;
  @%p4 bra summed;
  ld.shared.b16 %h1, [%r14];
  mov.b32 %r17, {{0, %h1}};
  mov.b32 %f2, %r17;
summed:
  cvt.rn.f32.u32 %f3, %r3;
  add.f32 %f4, %f1, %f2;
  add.f32 %f4, %f4, %f3;
  mad.lo.u32 %r18, %r9, %r25, %r26;
  mad.lo.u32 %r18, %r18, %r1, %r23;
  mul.wide.u32 %rd5, %r18, 4;
  add.s64 %rd6, %rd4, %rd5;
  st.global.f32 [%rd6], %f4;
done:
  ret;
}}
"""

# Writes where nothing is.
BROKEN = "  mov.u64 %rd4, 64;\n  st.global.f32 [%rd4], %f1;\n"

PACKED = ("head_dim", "pack", "length", "heads", "batch")
SHARED = ("head_dim", "heads", "length", "batch")


def tensor_map(name: str, axes: tuple[str, ...], columns: int = COLUMNS, rows: int = ROWS) -> dict[str, Any]:
    """A parameter of the manifest."""
    box = {"head_dim": columns, "length": rows}
    return {"kind": "tensor_map", "name": name, "dtype": "bfloat16", "axes": axes,
            "box": [box.get(axis, 1) for axis in axes], "swizzle": "128B"}  # fmt: skip


def row(name: str = "echo") -> dict[str, Any]:
    """Of the manifest, as jax_fa4/kernels/build.py writes it."""
    parameters = [tensor_map("query", PACKED), tensor_map("key", SHARED), tensor_map("output", PACKED)]
    parameters.append({"kind": "pointer", "name": "log_sum_exp"})
    parameters += [{"kind": "i32", "name": number} for number in ("queries", "keys", "heads", "group", "pack_shift")]
    parameters.append({"kind": "f32", "name": "scale_log2"})
    return {
        "name": name, "entry": f"{name}_0", "kind": "dense", "dtype": "bfloat16", "output": "bfloat16",
        "head_dim": COLUMNS, "value_head_dim": COLUMNS, "parameters": parameters, "threads": THREADS,
        "shared_bytes": 2 * TILE_BYTES, "cluster": [1, 1, 1], "tile_rows": ROWS, "minimum_rows": 0,
        "persistent": False, "dependent": False,
    }  # fmt: skip


def manifest(*rows: dict[str, Any], arch: str = "sm_100a", minimum_driver: int = 12080) -> dict[str, Any]:
    """With these rows."""
    return {"architecture": arch, "minimum_driver": minimum_driver, "variants": rows}


def write(
    folder: Path, *, arch: str = "sm_100a", broken: bool = False, minimum_driver: int = 0, **changes: Any
) -> Path:
    """Writes the kernel's text and a manifest into the folder; `changes` are of its row."""
    entry = row() | changes
    text = TEXT.format(arch=arch, entry=row()["entry"], tile_bytes=TILE_BYTES, both_bytes=2 * TILE_BYTES)
    if broken:
        text = text.replace("  st.global.f32", BROKEN + "  st.global.f32")
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{entry['name']}.ptx").write_text(text)
    written = manifest(entry, arch=arch, minimum_driver=minimum_driver)
    (folder / "manifest.json").write_text(json.dumps(written))
    return folder
