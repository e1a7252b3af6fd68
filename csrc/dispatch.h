// Which instruction sets were built, which of them this CPU has, and which one is used.
#pragma once

#include <cstddef>
#include <string>
#include <string_view>
#include <vector>

#include "lstm_forward.h"

namespace gatewise {

// exp, sigmoid and tanh: `count` floats from `from` to `to`, which may be the same.
struct MathArrays {
  void (*exp)(const float* from, float* to, std::size_t count);
  void (*sigmoid)(const float* from, float* to, std::size_t count);
  void (*tanh)(const float* from, float* to, std::size_t count);
};

// Everything that is compiled per instruction set.
struct Kernels {
  const char* isa;
  const LstmForward* lstm_forward;
  const MathArrays* math;
};

// The instruction sets this process can use, the best first.
const std::vector<Kernels>& available();

// The kernels of one instruction set. Throws std::invalid_argument, naming those available, if it is not one of them.
const Kernels& kernels_for(std::string_view isa);

// The kernels in use: the best available ones, or those the environment variable GATEWISE_ISA names when this is first
// called. Throws as kernels_for does.
const Kernels& default_kernels();

}  // namespace gatewise
