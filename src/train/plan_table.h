// What plans say, for people.
#pragma once
#include "core/json.h"

#include <string>

namespace sffn {

std::string plan_table(const Json& plan);     // of plan_run
std::string scaling_table(const Json& plan);  // of plan_scaling; the fastest layout that fits is marked

}  // namespace sffn
