// Recursive descent over PTX text: one function per rule of the grammar (PTX ISA, "Syntax").
#pragma once

#include <span>

#include "ptx/cursor.h"
#include "ptx/ptx.h"

namespace sim::ptx {

class Parser {
 public:
  explicit Parser(Module& module) : module_(module), at_(module.text, module.file) {}
  void module();

 private:
  // parser.cc: what stands outside of bodies
  void version();
  void target();
  void address_size();
  void file_name();
  void section();
  void linked(std::string_view linking);
  Variable shared_variable(bool is_extern);
  void entry();
  Parameter parameter();
  void performance(std::string_view directive);
  Dim3 dimensions();

  // statement.cc: bodies
  void block(u32 parent);
  void body_directive(std::string_view directive, u32 scope);
  void registers(u32 scope);
  void location();
  void labelled_or_statement(u32 scope);
  void statement(Statement statement, std::size_t begin);
  Argument argument();
  Argument scalar(bool offset_allowed);
  Argument vector();
  Argument address();
  Argument literal();

  u32 unsigned_integer(std::string_view what, u32 most);
  u64 extents(u32 element_bytes, u64 most, bool* open);
  std::string_view expect_name(std::string_view what);

  Module& module_;
  Cursor at_;
  Kernel* kernel_ = nullptr;
  u32 depth_ = 0;   // of blocks
  u32 source_ = 0;  // of the statements that follow, in Kernel::sources
  std::vector<std::string> files_;  // by .file's number
};

}  // namespace sim::ptx
