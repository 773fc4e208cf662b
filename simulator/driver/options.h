// Options of a launch as text: "schedule=random,seed=7,threads=2".
#pragma once

#include <string_view>

#include "machine/grid.h"

namespace sim::driver {

// Names are Options' members (checks: 0 or 1; skip: pcs separated by ':'). Throws Error for an unknown name or value.
void set_option(Options& options, std::string_view name, std::string_view value);
Options parse_options(std::string_view text);

}  // namespace sim::driver
