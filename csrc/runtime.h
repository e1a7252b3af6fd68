// The executor's bindings: gatewise._native.Model, Stream and Pool.
#pragma once

#include <nanobind/nanobind.h>

namespace gatewise {

void bind_runtime(nanobind::module_& m);

// Stream and Pool, which bind_runtime binds too.
void bind_streams(nanobind::module_& m);

}  // namespace gatewise
