// The instruction table as data: a row's syntax line -> spellings and operand pattern.
#include "ptx/syntax.h"

#include <algorithm>
#include <cctype>

namespace sim::ptx {
namespace {

constexpr std::size_t most_spellings = 1u << 16;  // of one row

std::string_view trimmed(std::string_view text) {
  while (!text.empty() && text.front() == ' ') text.remove_prefix(1);
  while (!text.empty() && text.back() == ' ') text.remove_suffix(1);
  return text;
}

[[noreturn]] void refuse(const Row& row, const std::string& why) {
  throw Error("instruction table, row \"" + std::string(row.syntax) + "\": " + why);
}

// Where the bracket that opens at text[0] closes, or text.size().
std::size_t closing(std::string_view text) {
  int depth = 0;
  for (std::size_t i = 0; i < text.size(); ++i) {
    if (text[i] == '{' || text[i] == '[') ++depth;
    if ((text[i] == '}' || text[i] == ']') && --depth == 0) return i;
  }
  return text.size();
}

// The pieces between those `mark`s that stand in no bracket.
std::vector<std::string_view> pieces(std::string_view text, char mark) {
  std::vector<std::string_view> out;
  int depth = 0;
  std::size_t begin = 0;
  for (std::size_t i = 0; i <= text.size(); ++i) {
    if (i < text.size() && (text[i] == '{' || text[i] == '[')) ++depth;
    if (i < text.size() && (text[i] == '}' || text[i] == ']')) --depth;
    if (i == text.size() || (text[i] == mark && depth == 0)) {
      out.push_back(trimmed(text.substr(begin, i - begin)));
      begin = i + 1;
    }
  }
  return out;
}

// One syntax line's operands, read from left to right.
class PatternReader {
 public:
  explicit PatternReader(const Row& row) : row_(row) {
    std::size_t blank = row.syntax.find(' ');
    if (blank != std::string_view::npos) rest_ = trimmed(row.syntax.substr(blank));
  }

  Pattern read() {
    Pattern pattern;
    pattern.text = rest_;
    for (bool first = true; !rest_.empty(); first = false) pattern.places.push_back(next(first));
    return pattern;
  }

 private:
  // next = operand | "[, " operand "]" | "[" modifier "," operand "]"; a comma before a plain one but the first
  Place next(bool first) {
    Place place;
    std::size_t comma = rest_.find(',');
    bool optional = rest_.starts_with("[,");
    bool conditional = !optional && rest_[0] == '[' && comma != std::string_view::npos && comma < closing(rest_) &&
                       !trimmed(rest_.substr(comma + 1)).starts_with('{');
    if (optional || conditional) {
      std::size_t close = closing(rest_);
      if (close == rest_.size()) refuse(row_, "a bracket is not closed");
      std::string_view inside = rest_.substr(1, close - 1);
      place.optional = optional;
      place.modifier = trimmed(inside.substr(0, comma - 1));
      read_forms(place, trimmed(inside.substr(comma)));
      rest_ = trimmed(rest_.substr(close + 1));
      return place;
    }
    if (!first) {
      if (rest_[0] != ',') refuse(row_, "a comma is missing before \"" + std::string(rest_) + "\"");
      rest_ = trimmed(rest_.substr(1));
    }
    std::size_t end = 0;
    while (end < rest_.size() && rest_[end] != ',' && !rest_.substr(end).starts_with("[,") && !condition(end)) {
      std::size_t close = rest_[end] == '[' || rest_[end] == '{' ? closing(rest_.substr(end)) : 0;
      end += close + 1;
    }
    if (end > rest_.size()) refuse(row_, "a bracket is not closed");
    read_forms(place, trimmed(rest_.substr(0, end)));
    rest_ = trimmed(rest_.substr(end));
    return place;
  }

  // Whether "[M::x, m]" begins here, behind an operand.
  bool condition(std::size_t at) const {
    if (at == 0 || rest_[at] != '[' || rest_[at - 1] == '|') return false;
    std::size_t close = closing(rest_.substr(at));
    return rest_.substr(at, close).find(',') != std::string_view::npos;
  }

  // forms = form | form "|" form | form "|" second result | form "[|" second result "]"
  void read_forms(Place& place, std::string_view text) {
    std::size_t maybe = text.find("[|");
    std::string_view second;
    if (maybe != std::string_view::npos) {
      second = text.substr(maybe + 2, text.size() - maybe - 3);
      text = text.substr(0, maybe);
      place.second_optional = true;
    }
    std::vector<std::string_view> forms = pieces(text, '|');
    place.forms.push_back(form(forms[0]));
    for (std::string_view other : std::span(forms).subspan(1)) {
      Form alternative = form(other);
      bool another_shape = true;
      for (const Form& known : place.forms) another_shape = another_shape && known.shape != alternative.shape;
      if (another_shape) place.forms.push_back(alternative);
      else second = other;
    }
    if (second.empty()) return;
    place.second = form(second);
    place.second->written = true;
    if (place.forms.size() != 1 || place.forms[0].shape != Form::value || place.second->shape != Form::value)
      refuse(row_, "a pair is of two results");
  }

  // form = target | #n | {inner} | [inner] | [inner, {inner}] | inner
  Form form(std::string_view text) {
    if (text == "target") return {.shape = Form::label};
    if (text.starts_with('#')) {
      Form constant = inner(text.substr(1), Form::constant);
      if (constant.width == Form::own) {
        constant.width = Form::typed;
        constant.type = "u32";
      }
      return constant;
    }
    bool braces = text.starts_with('{') && text.ends_with('}');
    if (braces) return inner(text.substr(1, text.size() - 2), Form::vector);
    if (!text.starts_with('[') || !text.ends_with(']')) return inner(text, Form::value);
    std::vector<std::string_view> parts = pieces(text.substr(1, text.size() - 2), ',');
    Form address = inner(parts[0], Form::address);
    if (address.width == Form::own) address.width = Form::any;
    address.coordinates = parts.size() > 1;
    if (address.coordinates && (parts.size() != 2 || parts[1] != "{c}")) refuse(row_, "coordinates are written {c}");
    return address;
  }

  // inner = name ["!"] [":" type] ["+"]
  Form inner(std::string_view text, Form::Shape shape) {
    Form form{.shape = shape};
    if (text.ends_with('+')) {
      form.wider = true;
      text.remove_suffix(1);
    }
    std::size_t colon = text.find(':');
    std::string_view name = text.substr(0, colon);
    if (colon != std::string_view::npos) read_width(form, text.substr(colon + 1));
    if (name.ends_with('!')) {
      form.negatable = true;
      name.remove_suffix(1);
    }
    bool letters = !name.empty();
    for (char c : name) letters = letters && std::isalnum(static_cast<unsigned char>(c));
    if (!letters) refuse(row_, "\"" + std::string(text) + "\" is no operand");
    bool is_d = name[0] == 'd' && name.find_first_not_of("0123456789", 1) == std::string_view::npos;
    form.written = is_d && (shape == Form::value || shape == Form::vector);
    return form;
  }

  void read_width(Form& form, std::string_view type) {
    if (type == "any") form.width = Form::any;
    else if (type == "wide") form.width = Form::wide;
    else if (type == "before") form.width = Form::before;
    else if (type == "part") form.width = Form::part;
    else if (type_bytes(type)) form.width = Form::typed;
    else refuse(row_, "\"" + std::string(type) + "\" is no type");
    form.type = form.width == Form::typed ? type : std::string_view{};
  }

  const Row& row_;
  std::string_view rest_;
};

// Appends to each of `heads` all that `text` may stand for.
std::vector<std::string> expand(const Row& row, std::vector<std::string> heads, std::string_view text) {
  while (!text.empty()) {
    std::size_t plain = std::min(text.find_first_of("{["), text.size());
    for (std::string& head : heads) head += text.substr(0, plain);
    text.remove_prefix(plain);
    if (text.empty()) break;
    std::size_t close = closing(text);
    if (close == text.size()) refuse(row, "a bracket is not closed");
    std::string_view inside = text.substr(1, close - 1);
    std::vector<std::string> grown;
    if (text[0] == '[') grown = heads;
    for (std::string_view choice : text[0] == '{' ? pieces(inside, ',') : std::vector{inside})
      for (std::string& spelling : expand(row, heads, choice)) grown.push_back(std::move(spelling));
    if (grown.size() > most_spellings) refuse(row, "it has more than 65536 spellings");
    heads = std::move(grown);
    text.remove_prefix(close + 1);
  }
  return heads;
}

}  // namespace

Pattern pattern(const Row& row) { return PatternReader(row).read(); }

std::vector<std::string> spellings(const Row& row) {
  std::string_view opcode = row.syntax.substr(0, row.syntax.find(' '));
  if (opcode.empty()) refuse(row, "it has no opcode");
  return expand(row, {""}, opcode);
}

Spelling split(std::string_view opcode) {
  Spelling spelling{opcode, {}};
  for (std::size_t begin = 0; begin <= opcode.size();) {
    std::size_t dot = std::min(opcode.find('.', begin), opcode.size());
    spelling.parts.push_back(opcode.substr(begin, dot - begin));
    begin = dot + 1;
  }
  return spelling;
}

}  // namespace sim::ptx
