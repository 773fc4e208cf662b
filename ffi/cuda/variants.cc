#include "variants.h"

#include <algorithm>
#include <charconv>
#include <mutex>

#include "error.h"
#include "features.h"
#include "rows.h"

namespace jax_fa4::cuda {
namespace {

std::mutex mutex;
std::shared_ptr<const Table> table = std::make_shared<const Table>();

std::shared_ptr<const Table> the_table() {
  const std::lock_guard lock(mutex);
  return table;
}

// "sm_100a" -> 100 and 'a'.
bool runs_on(const std::string& arch, const Device& device) {
  int number = 0;
  const char* last = arch.data() + arch.size();
  const auto [end, error] = std::from_chars(arch.data() + std::min<size_t>(3, arch.size()), last, number);
  if (error != std::errc()) return false;
  const int own = device.major * 10 + device.minor;
  if (end == last) return number <= own;
  if (*end == 'f') return number <= own && number / 10 == device.major;
  return number == own;
}

// Rows of an array under a tensor map are multiples of 16 bytes.
bool fits(std::int64_t asked, std::int64_t has) { return asked <= has && asked % 8 == 0; }

bool can_do(const Variant& variant, const Problem& p, unsigned features) {
  return variant.element == p.query.element && variant.output == p.output.element &&
         fits(p.head_dim, variant.head_dim) && fits(p.value_head_dim, variant.value_head_dim) &&
         (features & ~variant.features) == 0 && p.query_length * pack_of(p, variant) > variant.minimum_rows;
}

std::string text_of(const Problem& p, unsigned features) {
  std::string text = name_of(p.query.element) + ", head_dim " + std::to_string(p.head_dim);
  if (p.value_head_dim != p.head_dim) text += ", value head_dim " + std::to_string(p.value_head_dim);
  if (p.output.element != p.query.element) text += ", output " + name_of(p.output.element);
  return text + (features ? ", " : "") + names_of_features(features);
}

// Of the rows that the predicate picks, each word once.
template <class Picked>
std::string list(const Table& rows, std::string Variant::*what, const Picked& picked) {
  std::string text;
  for (const auto& row : rows)
    if (const std::string& word = (*row).*what;
        picked(*row) && (", " + text + ", ").find(", " + word + ", ") == std::string::npos)
      text += (text.empty() ? "" : ", ") + word;
  return text;
}

}  // namespace

void register_variants(const std::string& text) {
  auto read = std::make_shared<const Table>(read_rows(text));
  const std::lock_guard lock(mutex);
  table = std::move(read);
}

std::int64_t pack_of(const Problem& problem, const Variant& variant) {
  constexpr std::int64_t most_rows = std::int64_t{1} << 30;  // of a head; with a tile more they stay within 32 bits
  std::int64_t pack = 1;
  while (pack < variant.largest_pack && problem.group() % (2 * pack) == 0 &&
         problem.query_length * 2 * pack <= most_rows)
    pack *= 2;
  return pack;
}

std::shared_ptr<const Variant> select(const Problem& problem, const Device& device) {
  const std::shared_ptr<const Table> rows = the_table();
  if (rows->empty())
    fail(ErrorCode::kUnimplemented, "this build has no CUDA kernels: pass implementation=\"blockwise\"");
  const unsigned features = used_features(problem);
  for (const auto& row : *rows)
    if (can_do(*row, problem, features) && runs_on(row->arch, device)) return row;
  const std::string gpu = device.name + " (sm_" + std::to_string(device.major * 10 + device.minor) + ")";
  const std::string names = list(*rows, &Variant::name, [&](const Variant& row) { return runs_on(row.arch, device); });
  const std::string reason =
      names.empty() ? "no kernel runs on " + gpu + "; this build has kernels for " +
                          list(*rows, &Variant::arch, [](const Variant&) { return true; })
                    : "no kernel for " + text_of(problem, features) + " on " + gpu + "; this build has " + names;
  fail(ErrorCode::kUnimplemented, reason + ". Pass implementation=\"blockwise\"");
}

}  // namespace jax_fa4::cuda
