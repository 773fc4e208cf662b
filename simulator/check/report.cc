// Collects findings and renders one as text.
#include "check/report.h"

#include <algorithm>
#include <utility>

namespace sim::check {

const char* name(Kind kind) {
  switch (kind) {
    case Kind::race: return "race";
    case Kind::deadlock: return "deadlock";
    case Kind::livelock: return "livelock";
    case Kind::uninitialised: return "uninitialised";
    case Kind::out_of_bounds: return "out_of_bounds";
    case Kind::misaligned: return "misaligned";
    case Kind::barrier: return "barrier";
    case Kind::tensor_memory: return "tensor_memory";
    case Kind::not_awaited: return "not_awaited";
    case Kind::registers: return "registers";
    case Kind::unelected: return "unelected";
    case Kind::undefined: return "undefined";
  }
  return "";
}

Reports::Reports(const Program& program, std::string repeat, u32 limit)
    : program_(program), repeat_(std::move(repeat)), limit_(limit) {}

bool Reports::add(Report report) {
  if (report.fatal) stop();
  const std::lock_guard lock(mutex_);
  const Pair pair{report.kind, report.first.pc, report.second.pc};
  if (const auto found = index_.find(pair); found != index_.end()) {
    reports_[found->second].count += report.count;
    return false;
  }
  if (reports_.size() >= limit_ && !report.fatal) return false;
  index_.emplace(pair, reports_.size());
  reports_.push_back(std::move(report));
  return true;
}

bool Reports::seen(Kind kind, u32 first_pc, u32 second_pc) {
  const std::lock_guard lock(mutex_);
  const auto found = index_.find({kind, first_pc, second_pc});
  if (found == index_.end()) return false;
  ++reports_[found->second].count;
  return true;
}

bool Reports::stopped() const { return stopped_.load(std::memory_order_relaxed); }

void Reports::stop() { stopped_.store(true, std::memory_order_relaxed); }

std::vector<Report> Reports::take() {
  const std::lock_guard lock(mutex_);
  index_.clear();
  return std::exchange(reports_, {});
}

namespace {

constexpr std::size_t statement_width = 48;

std::string with_commas(u64 number) {
  std::string digits = std::to_string(number);
  for (std::size_t at = digits.size(); at > 3;) digits.insert(at -= 3, 1, ',');
  return digits;
}

std::string padded(std::string text, std::size_t width) {
  text.resize(std::max(text.size(), width), ' ');
  return text;
}

// The columns of a line that names an access: who, ptx line and statement, line of the DSL's source.
struct SiteText {
  std::string label, who, statement, source;
};

SiteText site_text(const Program& program, const std::string& label, const Site& site) {
  SiteText text{label, site.who, "", ""};
  if (site.pc >= program.code.size()) return text;
  const Inst& inst = program.code[site.pc];
  text.statement = "ptx:" + std::to_string(inst.line);
  if (site.pc < program.text.size()) {
    std::string statement = program.text[site.pc];
    if (statement.size() > statement_width) statement = statement.substr(0, statement_width - 3) + "...";
    text.statement += "  " + statement;
  }
  if (inst.source != 0 && inst.source < program.sources.size()) {
    const Source& source = program.sources[inst.source];
    text.source = source.file.substr(source.file.find_last_of('/') + 1) + ":" + std::to_string(source.line);
  }
  return text;
}

void add_line(std::string& out, const std::string& label, const std::string& text) {
  if (text.empty()) return;
  std::string line = "  " + padded(label, 6) + "  " + text;
  line.erase(line.find_last_not_of(' ') + 1);
  out += line + "\n";
}

void add_sites(std::string& out, const std::vector<SiteText>& sites) {
  std::size_t who = 0, statement = 0;
  for (const SiteText& site : sites) {
    who = std::max(who, site.who.size());
    statement = std::max(statement, site.statement.size());
  }
  for (const SiteText& site : sites)
    add_line(out, site.label,
             (who ? padded(site.who, who) + "    " : "") + padded(site.statement, statement) + "    " + site.source);
}

}  // namespace

std::string Reports::render(const Report& report) const {
  std::string out = std::string("error[") + name(report.kind) + "]: " + report.title + "\n";
  std::string kernel = program_.name;
  if (!program_.file.empty()) kernel += ", " + program_.file;
  add_line(out, "kernel", kernel + ", CTA (" + std::to_string(report.cta.x) + "," + std::to_string(report.cta.y) + "," +
                              std::to_string(report.cta.z) + ")");
  add_line(out, "where", report.where);
  std::vector<SiteText> sites;
  if (!report.first.who.empty() || report.first.pc != Site::no_pc)
    sites.push_back(site_text(program_, report.first_role, report.first));
  if (!report.second.who.empty() || report.second.pc != Site::no_pc)
    sites.push_back(site_text(program_, report.second_role, report.second));
  add_sites(out, sites);
  for (const std::string& line : report.lines) out += "  " + line + "\n";
  add_line(out, "why", report.why);
  if (report.count > 1)
    add_line(out, "count",
             with_commas(report.count) + " places for this " +
                 (sites.size() == 2 ? "pair of statements" : "statement") + "; first shown");
  add_line(out, "repeat", repeat_);
  return out;
}

}  // namespace sim::check
