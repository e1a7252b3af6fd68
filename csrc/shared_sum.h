// Sums over processes that share memory: gatewise._native.SharedSum.
#pragma once

#include <nanobind/nanobind.h>

namespace gatewise {

void bind_shared_sum(nanobind::module_& m);

}  // namespace gatewise
