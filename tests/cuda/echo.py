"""A kernel in place of attention that shows what it was launched with, and the folder that a build would have written.

output = query, by tensor copies; log_sum_exp[b, n, t] = scale_log2 + group + key[b, 0, n // group, 0].
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
  .param .u64 {entry}_log_sum_exp, .param .u32 {entry}_queries, .param .u32 {entry}_heads, .param .u32 {entry}_group,
  .param .f32 {entry}_scale_log2)
.reqntid 64, 1, 1
{{
  .reg .pred %p<4>;
  .reg .b16 %h<2>;
  .reg .b32 %r<24>;
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
  ld.param.f32 %f1, [{entry}_scale_log2];

  // Tile ctaid.x of blocks x heads x batch, the first being innermost.
  mov.u32 %r4, %ctaid.x;
  add.s32 %r5, %r1, 63;
  shr.u32 %r5, %r5, 6;
  rem.u32 %r6, %r4, %r5;
  shl.b32 %r6, %r6, 6;
  div.u32 %r7, %r4, %r5;
  rem.u32 %r8, %r7, %r2;
  div.u32 %r9, %r7, %r2;
  div.u32 %r10, %r8, %r3;
  mov.u32 %r11, 0;

  mov.u32 %r12, %tid.x;
  setp.eq.u32 %p1, %r12, 0;
  mov.b32 %r13, dynamic;
  add.s32 %r14, %r13, {tile_bytes};
  mov.b32 %r15, full;
  @!%p1 bra loaded;
  mbarrier.init.shared.b64 [%r15], 1;
  fence.mbarrier_init.release.cluster;
  mbarrier.arrive.expect_tx.shared.b64 _, [%r15], {both_bytes};
  cp.async.bulk.tensor.4d.shared::cta.global.tile.mbarrier::complete_tx::bytes
    [%r13], [%rd1, {{%r11, %r8, %r6, %r9}}], [%r15];
  cp.async.bulk.tensor.4d.shared::cta.global.tile.mbarrier::complete_tx::bytes
    [%r14], [%rd2, {{%r11, %r10, %r11, %r9}}], [%r15];
loaded:
  bar.sync 0;
again:
  mbarrier.try_wait.parity.shared.b64 %p2, [%r15], 0;
  @!%p2 bra again;

  @!%p1 bra stored;
  cp.async.bulk.tensor.4d.global.shared::cta.tile.bulk_group [%rd3, {{%r11, %r8, %r6, %r9}}], [%r13];
  cp.async.bulk.commit_group;
  cp.async.bulk.wait_group 0;
stored:
  add.s32 %r16, %r6, %r12;
  setp.ge.u32 %p3, %r16, %r1;
  @%p3 bra done;
  ld.shared.b16 %h1, [%r14];
  mov.b32 %r17, {{0, %h1}};
  mov.b32 %f2, %r17;
  cvt.rn.f32.u32 %f3, %r3;
  add.f32 %f4, %f1, %f2;
  add.f32 %f4, %f4, %f3;
  mad.lo.u32 %r18, %r9, %r2, %r8;
  mad.lo.u32 %r18, %r18, %r1, %r16;
  mul.wide.u32 %rd5, %r18, 4;
  add.s64 %rd6, %rd4, %rd5;
  st.global.f32 [%rd6], %f4;
done:
  ret;
}}
"""

# Writes where nothing is.
BROKEN = "  mov.u64 %rd4, 64;\n  st.global.f32 [%rd4], %f1;\n"


def _map(name: str) -> dict[str, Any]:
    return {"kind": "tensor_map", "name": name, "dtype": "bfloat16", "rank": 4, "box": [COLUMNS, 1, ROWS, 1],
            "swizzle": "128B"}  # fmt: skip


def row(name: str = "echo") -> dict[str, Any]:
    """Of the manifest, as jax_fa4/kernels/build.py writes it."""
    parameters = [_map("query"), _map("key"), _map("output"), {"kind": "pointer", "name": "log_sum_exp"}]
    parameters += [{"kind": "i32", "name": number} for number in ("queries", "heads", "group")]
    parameters.append({"kind": "f32", "name": "scale_log2"})
    return {
        "name": name, "entry": f"{name}_0", "dtype": "bfloat16", "head_dim": COLUMNS, "banded": False,
        "parameters": parameters, "threads": THREADS, "shared_bytes": 2 * TILE_BYTES, "cluster": [1, 1, 1],
        "tile_rows": ROWS, "persistent": False,
    }  # fmt: skip


def write(folder: Path, *, arch: str = "sm_100a", broken: bool = False, **changes: Any) -> Path:
    """Writes the kernel's text and a manifest into the folder; `changes` are of its row or of the manifest itself."""
    entry = row() | {name: value for name, value in changes.items() if name in row()}
    manifest = {"architecture": arch, "variants": [entry]}
    manifest |= {name: value for name, value in changes.items() if name not in entry}
    text = TEXT.format(arch=arch, entry=row()["entry"], tile_bytes=TILE_BYTES, both_bytes=2 * TILE_BYTES)
    if broken:
        text = text.replace("  st.global.f32", BROKEN + "  st.global.f32")
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{entry['name']}.ptx").write_text(text)
    (folder / "manifest.json").write_text(json.dumps(manifest))
    return folder
