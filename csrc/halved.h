// Vectors of float32 from packed weights that are kept as bfloat16.
#pragma once

#include "simd.h"

namespace gatewise {
namespace GATEWISE_ISA {

inline Floats load(const Bfloat* from) {
#if defined(__AVX512F__)
  return _mm512_castsi512_ps(
      _mm512_slli_epi32(_mm512_cvtepu16_epi32(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(from))), 16));
#elif defined(__AVX2__) && !defined(GATEWISE_WIDE)
  return _mm256_castsi256_ps(
      _mm256_slli_epi32(_mm256_cvtepu16_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(from))), 16));
#else
  std::uint32_t wide[kWidth];
  for (std::size_t i = 0; i < kWidth; ++i) wide[i] = std::uint32_t{from[i].bits} << 16;
  Floats v;
  std::memcpy(&v, wide, sizeof v);
  return v;
#endif
}

// Two vectors whose elements lie in turn.
struct Two {
  Floats first, second;
};
inline Two load_two(const Bfloat* from) {
  Ints both;
  std::memcpy(&both, from, sizeof both);
  const Ints low = both << 16, high = both & static_cast<std::int32_t>(0xffff0000u);
  Two two;
  std::memcpy(&two.first, &low, sizeof low);
  std::memcpy(&two.second, &high, sizeof high);
  return two;
}

// The vectors of a line of packed weights. An even number lies pair by pair: see halve.cc.
template <std::size_t kVectors>
[[gnu::always_inline]] inline void load_line(const Bfloat* from, Floats (&to)[kVectors]) {
  if constexpr (kVectors % 2 == 0) {
#pragma GCC unroll 2
    for (std::size_t v = 0; v < kVectors; v += 2) {
      const Two two = load_two(from + v * kWidth);
      to[v] = two.first;
      to[v + 1] = two.second;
    }
  } else {
#pragma GCC unroll 4
    for (std::size_t v = 0; v < kVectors; ++v) to[v] = load(from + v * kWidth);
  }
}

}  // namespace GATEWISE_ISA
}  // namespace gatewise
