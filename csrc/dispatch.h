// Which instruction sets were built, which of them this CPU has, and which one is used.
#pragma once

#include <string>
#include <string_view>
#include <type_traits>
#include <vector>

#include "kernels.h"

namespace gatewise {

struct InstructionSet {
  const char* name;
  const Kernels<float>* singles;
  const Kernels<double>* doubles;
  const Kernels<float>* narrow;  // products of bfloat16, of forward only; null where the processor has none

  // Those with products of bfloat16 if they are `wanted` and there are any.
  template <class Real>
  const Kernels<Real>& kernels(bool wanted = false) const {
    if constexpr (std::is_same_v<Real, float>)
      return wanted && narrow ? *narrow : *singles;
    else
      return *doubles;
  }
};

// The instruction sets this process can use, the best first.
const std::vector<InstructionSet>& available();

// One of them. Throws std::invalid_argument, naming those available, if it is not one of them.
const InstructionSet& isa_named(std::string_view name);

// The one in use: the best available one, or that which the environment variable GATEWISE_ISA names when this is first
// called, or the one chosen since. Throws as isa_named does.
const InstructionSet& isa_in_use();
void use_isa(const InstructionSet& isa);

}  // namespace gatewise
