// Which instruction sets were built, which of them this CPU has, and which one is used.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "kernels.h"

namespace gatewise {

// The instruction sets this process can use, the best first.
const std::vector<const Kernels*>& available();

// The kernels of one instruction set. Throws std::invalid_argument, naming those available, if it is not one of them.
const Kernels& kernels_for(std::string_view isa);

// The kernels in use: the best available ones, or those the environment variable GATEWISE_ISA names when this is first
// called, or those chosen since. Throws as kernels_for does.
const Kernels& kernels_in_use();
void use_kernels(const Kernels& kernels);

}  // namespace gatewise
