// Control flow (PTX ISA, "Control Flow Instructions").
#include "isa/families.h"
#include "machine/warp.h"

namespace sim {
namespace {

Step branch(Warp&, const Inst&) { return Step::jump(); }
Step leave(Warp&, const Inst&) { return Step::exit(); }

const Row rows[] = {
    {"bra[.uni]   target", branch, Unit::control},
    {"ret[.uni]", leave, Unit::control},
    {"exit", leave, Unit::control},
};

}  // namespace

std::span<const Row> control_rows() { return rows; }

}  // namespace sim
