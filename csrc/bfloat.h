// A bfloat16 in memory, and how a float32 becomes one.
#pragma once

#include <cstdint>

namespace gatewise {

// The upper half of a float32.
struct Bfloat {
  std::uint16_t bits;
};

// Of the bits of a float32, or of a vector of them, the nearest bfloat16 in the upper half, ties to even; NaN stays
// one.
template <class Bits>
[[gnu::always_inline]] inline Bits nearest_upper(Bits i) {
  const Bits quiet = i | 0x00400000u, rounded = i + 0x7fffu + (i >> 16 & 1u);
  return (i & 0x7fffffffu) > 0x7f800000u ? quiet : rounded;
}

}  // namespace gatewise
