// A bound kernel: what ptx/bind makes of a text and the machine executes.
#pragma once

#include <string>
#include <vector>

#include "base.h"

namespace sim {

class Warp;
struct Inst;

// What an instruction tells the loop that executes it. `wait` leaves the pc where it is: the instruction is executed
// again when the object that Warp::waiting names has changed.
struct Step {
  enum Kind : u8 { kNext, kJump, kWait, kExit };
  Kind kind = kNext;
  static Step next() { return {kNext}; }
  static Step jump() { return {kJump}; }  // lanes of Warp::jump_lanes go to Warp::jump_target, the others on
  static Step wait() { return {kWait}; }
  static Step exit() { return {kExit}; }
};

using Execute = Step (*)(Warp&, const Inst&);

// A place in the warp's register file, 32 lanes of `bytes` each (a predicate: one Mask). Immediates are registers of
// the program's constant pool, filled in all lanes, so that a body never asks which of the two it reads.
struct Operand {
  static constexpr u32 in_constants = 0x80000000;
  u32 slot = 0;         // byte offset, a multiple of 64; top bit: in Program::constants
  u8 bytes = 0;         // width of one lane: 0 for a predicate, 1 (never), 2, 4, 8, 16
  bool negate = false;  // !p
  bool sink = false;    // the bit bucket "_": reading is an error at bind time, writing goes nowhere that matters
  i64 offset = 0;       // of an address operand [a+4]; of a label: the pc it stands for
};

struct Inst {
  static constexpr u32 no_guard = 0xFFFFFFFF;
  Execute execute = nullptr;
  const Operand* op = nullptr;  // flattened in the order of the row's pattern: {a,b} and [a, {x,y}] give one entry each
  u16 ops = 0;
  u16 row = 0;                  // index in isa/table, for coverage
  u32 guard = no_guard;         // slot of @p
  bool guard_negate = false;
  u32 field[4] = {};            // what the row's binder read from the modifiers
  u32 line = 0;                 // in the PTX text, from 1
  u32 source = 0;               // index in Program::sources; 0 is "none"
  u32 awaits = 0;  // index in Program::awaited: asynchronous instructions whose results this one touches; 0 is none
};

// Where in the DSL's Python an instruction comes from (.loc).
struct Source {
  std::string file;
  u32 line = 0;
};

struct Parameter {
  std::string name;
  u32 offset = 0, bytes = 0, align = 1;
};

enum class Special : u8 {
  tid_x, tid_y, tid_z, ntid_x, ntid_y, ntid_z, ctaid_x, ctaid_y, ctaid_z, nctaid_x, nctaid_y, nctaid_z, laneid, warpid,
  nwarpid, clusterid_x, clusterid_y, clusterid_z, nclusterid_x, nclusterid_y, nclusterid_z, cluster_ctaid_x,
  cluster_ctaid_y, cluster_ctaid_z, cluster_nctaid_x, cluster_nctaid_y, cluster_nctaid_z, cluster_ctarank,
  cluster_nctarank, lanemask_eq, lanemask_lt, lanemask_le, lanemask_gt, lanemask_ge, smid, nsmid,
  dynamic_shared,  // the CTA's own shared::cluster address of the dynamic shared memory's first byte
  static_shared,   // of the static shared memory's first byte (+ Filled::addend)
};

// A register the warp's start fills: a special register, or the address of a shared variable (it carries the CTA's
// rank).
struct Filled {
  Special what;
  u32 slot = 0;
  u8 bytes = 4;
  u32 addend = 0;
};

struct Program {
  std::string name;         // entry
  std::string file;         // for reports: "forward.ptx"
  std::string target;       // "sm_100a"
  std::vector<Inst> code;
  std::vector<Operand> operands;
  std::vector<u8> constants;  // 64-byte aligned offsets
  u32 register_bytes = 0;
  std::vector<Filled> filled;
  std::vector<Parameter> parameters;
  u32 parameter_bytes = 0;
  u32 static_shared_bytes = 0;
  u32 dynamic_shared_align = 16;
  Dim3 required_threads{0, 0, 0};  // .reqntid, or 0
  u32 max_threads = 0;             // .maxntid's volume, or 0
  std::vector<Source> sources{{}};
  std::vector<std::vector<u32>> awaited{{}};  // pcs of rows with writes_later, by the registers they write
  std::vector<std::string> text;   // the statement of each pc, for reports and traces
  bool pairs_ctas = false;  // uses cta_group::2 or shared::cluster signals of a pair: needs a cluster of an even size
};

}  // namespace sim
