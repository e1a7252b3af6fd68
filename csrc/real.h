// The type that a source of kernels is compiled for, and plain data of that type by its plain names.
#pragma once

#include "kernels.h"
#include "scratch.h"

namespace gatewise {
namespace GATEWISE_ISA {

#if defined(GATEWISE_DOUBLE)
using Real = double;
using Int = std::int64_t;
#else
using Real = float;
using Int = std::int32_t;
#if !defined(GATEWISE_NARROW)
#define GATEWISE_HALVES  // steps with weights that are kept as bfloat16 (halved.h)
#endif
#endif

using BackwardJob = gatewise::BackwardJob<Real>;
using Job = gatewise::Job<Real>;
using Kernels = gatewise::Kernels<Real>;
using ReduceJob = gatewise::ReduceJob<Real>;
using Saved = gatewise::Saved<Real>;
using Scratch = gatewise::Scratch<Real>;
using Sequence = gatewise::Sequence<Real>;
using Weights = gatewise::Weights<Real>;

}  // namespace GATEWISE_ISA
}  // namespace gatewise
