// A place in PTX text that moves on word by word (PTX ISA, "Source Format", "Identifiers").
#pragma once

#include <string>
#include <string_view>

#include "base.h"

namespace sim::ptx {

class Cursor {
 public:
  // Both are the caller's to keep.
  Cursor(std::string_view text, const std::string& file) : text_(text), file_(file) { skip(); }

  u32 line() const { return line_; }
  std::size_t position() const { return at_; }
  std::string_view since(std::size_t begin) const;  // from there to the last character taken, without trailing blanks
  bool at_end() const { return at_ == text_.size(); }
  bool sees(std::string_view word) const { return text_.substr(at_).starts_with(word); }
  char next() const { return at_end() ? '\0' : text_[at_]; }
  bool sees_name() const;
  bool sees_digit() const { return next() >= '0' && next() <= '9'; }

  bool take(std::string_view mark);        // punctuation
  void expect(std::string_view mark, std::string_view allowed);
  std::string_view directive();            // ".reg", or "" if none stands here
  std::string_view name();                 // an identifier, or "": [%$_a-zA-Z][$_a-zA-Z0-9]*
  std::string_view dotted();               // an opcode or special register: "bra.uni", "%tid.x"
  std::string_view number();               // letters and digits of a literal, or a decimal fraction
  std::string_view string();               // between quotes
  void block();                            // over { ... }, unread

  // "forward.ptx:73: found "x"; allowed here: y"
  [[noreturn]] void fail(std::string_view allowed) const;
  // "forward.ptx:73: why", of the last word taken or of a line
  [[noreturn]] void refuse(const std::string& why) const { refuse(last_line_, why); }
  [[noreturn]] void refuse(u32 line, const std::string& why) const;

 private:
  void skip();  // blanks and comments
  std::string_view advance(std::size_t length);

  std::string_view text_;
  const std::string& file_;
  std::size_t at_ = 0;
  std::size_t end_ = 0;  // of the last word
  u32 line_ = 1;
  u32 last_line_ = 1;    // of the last word
};

}  // namespace sim::ptx
