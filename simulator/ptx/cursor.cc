// A place in PTX text that moves on word by word.
#include "ptx/cursor.h"

namespace sim::ptx {
namespace {

bool is_digit(char c) { return c >= '0' && c <= '9'; }
bool is_letter(char c) { return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z'); }
bool begins_name(char c) { return is_letter(c) || c == '_' || c == '$' || c == '%'; }
bool continues_name(char c) { return is_letter(c) || is_digit(c) || c == '_' || c == '$'; }

std::size_t name_length(std::string_view text) {
  if (text.empty() || !begins_name(text[0])) return 0;
  std::size_t length = 1;
  while (length < text.size() && continues_name(text[length])) ++length;
  return length;
}

}  // namespace

std::string_view Cursor::advance(std::size_t length) {
  std::string_view word = text_.substr(at_, length);
  at_ += length;
  end_ = at_;
  last_line_ = line_;
  skip();
  return word;
}

void Cursor::skip() {
  while (!at_end()) {
    char c = text_[at_];
    if (c == '\n') ++line_;
    if (c == ' ' || c == '\t' || c == '\n' || c == '\r') {
      ++at_;
    } else if (sees("//")) {
      while (!at_end() && text_[at_] != '\n') ++at_;
    } else if (sees("/*")) {
      u32 begin = line_;
      std::size_t close = text_.find("*/", at_ + 2);
      if (close == std::string_view::npos) refuse(begin, "this comment /* is never closed");
      for (; at_ < close + 2; ++at_)
        if (text_[at_] == '\n') ++line_;
    } else {
      break;
    }
  }
}

std::string_view Cursor::since(std::size_t begin) const { return text_.substr(begin, end_ - begin); }

bool Cursor::sees_name() const { return begins_name(next()); }

bool Cursor::take(std::string_view mark) {
  if (!sees(mark)) return false;
  advance(mark.size());
  return true;
}

void Cursor::expect(std::string_view mark, std::string_view allowed) {
  if (!take(mark)) fail(allowed);
}

std::string_view Cursor::directive() {
  if (next() != '.') return {};
  std::size_t length = name_length(text_.substr(at_ + 1));
  return length ? advance(length + 1) : std::string_view{};
}

std::string_view Cursor::name() {
  std::size_t length = name_length(text_.substr(at_));
  return length ? advance(length) : std::string_view{};
}

std::string_view Cursor::dotted() {
  std::size_t length = name_length(text_.substr(at_));
  if (!length) return {};
  while (at_ + length < text_.size()) {
    std::string_view rest = text_.substr(at_ + length);
    std::size_t mark = rest[0] == '.' ? 1 : rest.starts_with("::") ? 2 : 0;
    std::size_t more = mark;
    while (more < rest.size() && continues_name(rest[more])) ++more;
    if (mark == 0 || more == mark) break;
    length += more;
  }
  return advance(length);
}

std::string_view Cursor::number() {
  std::size_t end = at_;
  auto run = [&] {
    while (end < text_.size() && continues_name(text_[end])) ++end;
  };
  if (!sees_digit()) return {};
  run();
  if (end + 1 < text_.size() && text_[end] == '.' && is_digit(text_[end + 1])) {
    ++end;
    run();
    bool exponent = end < text_.size() && (text_[end] == '-' || text_[end] == '+') && (text_[end - 1] | 0x20) == 'e';
    if (exponent) {
      ++end;
      run();
    }
  }
  return advance(end - at_);
}

std::string_view Cursor::string() {
  if (next() != '"') return {};
  std::size_t close = text_.find('"', at_ + 1);
  std::size_t line_end = text_.find('\n', at_);
  if (close == std::string_view::npos || close > line_end) refuse(line_, "this string is never closed");
  std::string_view quoted = advance(close + 1 - at_);
  return quoted.substr(1, quoted.size() - 2);
}

void Cursor::block() {
  u32 begin = line_;
  expect("{", "\"{\"");
  for (u32 depth = 1; depth > 0;) {
    if (at_end()) refuse(begin, "this \"{\" is never closed");
    if (next() == '"') string();
    else if (take("{")) ++depth;
    else if (take("}")) --depth;
    else advance(1);
  }
}

void Cursor::fail(std::string_view allowed) const {
  std::string found;
  if (at_end()) {
    found = "the end of the text";
  } else {
    std::string_view rest = text_.substr(at_, 60);
    std::size_t length = next() == '.' ? 1 + name_length(rest.substr(1)) : 1;
    if (begins_name(next()) || sees_digit())
      while (length < rest.size() && continues_name(rest[length])) ++length;
    for (char c : rest.substr(0, length)) {
      static const char* const hex = "0123456789abcdef";
      if (c >= ' ' && c <= '~') found += c;
      else found += std::string("\\x") + hex[(c >> 4) & 15] + hex[c & 15];
    }
    found = "\"" + found + "\"";
  }
  refuse(line_, "found " + found + "; allowed here: " + std::string(allowed));
}

void Cursor::refuse(u32 line, const std::string& why) const {
  throw Error(file_ + ":" + std::to_string(line) + ": " + why);
}

}  // namespace sim::ptx
