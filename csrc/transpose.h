// A square of kWidth x kWidth floats in registers, turned.
#pragma once

#include <utility>

#include "simd.h"

namespace gatewise {
namespace GATEWISE_ISA {

// One step of a transposition: a keeps its lanes without the bit `kBit` and takes b's from the left, b likewise.
template <int kBit, int... kLane>
inline void exchange(Floats& a, Floats& b, std::integer_sequence<int, kLane...>) {
  const int width = kWidth;
  const Floats first = __builtin_shufflevector(a, b, ((kLane & kBit) ? width + kLane - kBit : kLane)...);
  b = __builtin_shufflevector(a, b, ((kLane & kBit) ? width + kLane : kLane + kBit)...);
  a = first;
}

template <int kBit>
inline void transpose_from(Floats (&v)[kWidth]) {
  if constexpr (kBit < static_cast<int>(kWidth)) {
#pragma GCC unroll 16
    for (std::size_t i = 0; i < kWidth; ++i)
      if (!(i & kBit)) exchange<kBit>(v[i], v[i + kBit], std::make_integer_sequence<int, kWidth>{});
    transpose_from<2 * kBit>(v);
  }
}

}  // namespace GATEWISE_ISA
}  // namespace gatewise
