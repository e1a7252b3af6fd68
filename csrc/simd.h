// One vector of float32 lanes and the few operations the kernels need, the same source for every instruction set.
//
// A file that includes this is compiled once per instruction set, with GATEWISE_ISA naming the namespace, in which all
// of it must be: a function compiled for AVX-512 must never be the one the linker keeps for all callers.
//
// Floats and Ints come from the compiler's vector extensions, so + - * / and comparisons work lane by lane, and
// `mask ? a : b` selects. fma() is one rounding on AVX2, AVX-512 and NEON, and two on the baseline.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>

#include "layer.h"

#if defined(__AVX2__) && defined(__FMA__)
#include <immintrin.h>
#elif defined(__ARM_NEON) && defined(GATEWISE_NEON)
#include <arm_neon.h>
#endif

namespace gatewise {
namespace GATEWISE_ISA {

// kWidth: lanes of a vector. kRegisters: vectors that the accumulators of a tile may fill.
#if defined(__AVX512F__) || defined(GATEWISE_WIDE)
constexpr std::size_t kWidth = 16;
constexpr std::size_t kRegisters = 24;
#elif defined(__AVX2__)
constexpr std::size_t kWidth = 8;
constexpr std::size_t kRegisters = 12;
#elif defined(__ARM_NEON)
constexpr std::size_t kWidth = 4;
constexpr std::size_t kRegisters = 24;
#else
constexpr std::size_t kWidth = 4;
constexpr std::size_t kRegisters = 12;
#endif

typedef float Floats __attribute__((vector_size(kWidth * sizeof(float))));
typedef std::int32_t Ints __attribute__((vector_size(kWidth * sizeof(std::int32_t))));

inline Floats load(const float* from) {
  Floats v;
  std::memcpy(&v, from, sizeof v);
  return v;
}

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

inline void store(float* to, Floats v) { std::memcpy(to, &v, sizeof v); }

// The first `lanes` elements, 0 to kWidth; nothing beyond them is touched, and the other lanes are zero.
#if defined(__AVX512F__)
inline Floats load_some(const float* from, std::size_t lanes) {
  return _mm512_maskz_loadu_ps(static_cast<__mmask16>((1u << lanes) - 1), from);
}
inline void store_some(float* to, Floats v, std::size_t lanes) {
  _mm512_mask_storeu_ps(to, static_cast<__mmask16>((1u << lanes) - 1), v);
}
#elif defined(__AVX2__) && !defined(GATEWISE_WIDE)
inline __m256i first(std::size_t lanes) {
  const __m256i number = _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7);
  return _mm256_cmpgt_epi32(_mm256_set1_epi32(static_cast<int>(lanes)), number);
}
inline Floats load_some(const float* from, std::size_t lanes) { return _mm256_maskload_ps(from, first(lanes)); }
inline void store_some(float* to, Floats v, std::size_t lanes) { _mm256_maskstore_ps(to, first(lanes), v); }
#else
inline Floats load_some(const float* from, std::size_t lanes) {
  Floats v = {};
  std::memcpy(&v, from, lanes * sizeof(float));
  return v;
}
inline void store_some(float* to, Floats v, std::size_t lanes) { std::memcpy(to, &v, lanes * sizeof(float)); }
#endif

// Subtracting zero keeps every value, -0 too, so the compiler drops the subtraction.
inline Floats broadcast(float value) { return value - Floats{}; }

// a * b + c
inline Floats fma(Floats a, Floats b, Floats c) {
#if defined(__AVX512F__)
  return _mm512_fmadd_ps(a, b, c);
#elif defined(GATEWISE_WIDE)
  Floats sum;
  for (std::size_t half = 0; half < 2; ++half) {
    __m256 part[3];
    const Floats* const from[3] = {&a, &b, &c};
    for (int i = 0; i < 3; ++i) std::memcpy(&part[i], reinterpret_cast<const char*>(from[i]) + 32 * half, 32);
    const __m256 result = _mm256_fmadd_ps(part[0], part[1], part[2]);
    std::memcpy(reinterpret_cast<char*>(&sum) + 32 * half, &result, 32);
  }
  return sum;
#elif defined(__AVX2__) && defined(__FMA__)
  return _mm256_fmadd_ps(a, b, c);
#elif defined(__ARM_NEON) && defined(GATEWISE_NEON)
  return vfmaq_f32(c, a, b);
#else
  return a * b + c;
#endif
}

// The smaller one; NaN stays.
inline Floats at_most(Floats v, float high) {
#if defined(__AVX512F__)
  return _mm512_min_ps(broadcast(high), v);
#elif defined(__AVX2__) && !defined(GATEWISE_WIDE)
  return _mm256_min_ps(broadcast(high), v);
#else
  return v > high ? broadcast(high) : v;
#endif
}

// The nearest number within the bounds; NaN stays.
inline Floats within(Floats v, float low, float high) {
  v = at_most(v, high);
#if defined(__AVX512F__)
  return _mm512_max_ps(broadcast(low), v);
#elif defined(__AVX2__) && !defined(GATEWISE_WIDE)
  return _mm256_max_ps(broadcast(low), v);
#else
  return v < low ? broadcast(low) : v;
#endif
}

inline Ints bits(Floats v) {
  Ints i;
  std::memcpy(&i, &v, sizeof i);
  return i;
}

inline Floats from_bits(Ints i) {
  Floats v;
  std::memcpy(&v, &i, sizeof v);
  return v;
}

}  // namespace GATEWISE_ISA
}  // namespace gatewise
