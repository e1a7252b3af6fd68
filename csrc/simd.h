// One vector of numbers and the few operations the kernels need, the same source for every instruction set and type.
//
// A file that includes this is compiled once per instruction set and type (real.h), with GATEWISE_ISA naming the
// namespace, in which all of it must be: a function compiled for AVX-512 must never be the one the linker keeps for all
// callers.
//
// Floats and Ints come from the compiler's vector extensions, so + - * / and comparisons work lane by lane, and
// `mask ? a : b` selects. fma() is one rounding on AVX2, AVX-512 and NEON, and two on the baseline.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <limits>

#include "real.h"

#if defined(__AVX2__) && defined(__FMA__)
#include <immintrin.h>
#elif defined(__ARM_NEON) && defined(GATEWISE_NEON)
#include <arm_neon.h>
#endif

// An instruction of the type that is compiled.
#if defined(GATEWISE_DOUBLE)
#define GATEWISE_OF(name) name##_pd
#else
#define GATEWISE_OF(name) name##_ps
#endif

namespace gatewise {
namespace GATEWISE_ISA {

// kWidth: lanes of a vector. kRegisters: vectors that the accumulators of a tile may fill.
#if defined(__AVX512F__) || defined(GATEWISE_WIDE)
constexpr std::size_t kWidth = 64 / sizeof(Real);
constexpr std::size_t kRegisters = 24;
#elif defined(__AVX2__)
constexpr std::size_t kWidth = 32 / sizeof(Real);
constexpr std::size_t kRegisters = 12;
#elif defined(__ARM_NEON)
constexpr std::size_t kWidth = 16 / sizeof(Real);
constexpr std::size_t kRegisters = 24;
#else
constexpr std::size_t kWidth = 16 / sizeof(Real);
constexpr std::size_t kRegisters = 12;
#endif

typedef Real Floats __attribute__((vector_size(kWidth * sizeof(Real))));
typedef Int Ints __attribute__((vector_size(kWidth * sizeof(Int))));

// All bits of a number but its sign.
constexpr Int kMagnitude = std::numeric_limits<Int>::max();

inline Floats load(const Real* from) {
  Floats v;
  std::memcpy(&v, from, sizeof v);
  return v;
}

inline void store(Real* to, Floats v) { std::memcpy(to, &v, sizeof v); }

// The first `lanes` elements, 0 to kWidth; nothing beyond them is touched, and the other lanes are zero.
#if defined(__AVX512F__)
inline Floats load_some(const Real* from, std::size_t lanes) {
  return GATEWISE_OF(_mm512_maskz_loadu)((1u << lanes) - 1, from);
}
inline void store_some(Real* to, Floats v, std::size_t lanes) {
  GATEWISE_OF(_mm512_mask_storeu)(to, (1u << lanes) - 1, v);
}
#elif defined(__AVX2__) && !defined(GATEWISE_WIDE)
inline __m256i first(std::size_t lanes) {
  Ints number;
  for (std::size_t i = 0; i < kWidth; ++i) number[i] = static_cast<Int>(i);
  return reinterpret_cast<__m256i>(number < static_cast<Int>(lanes));
}
inline Floats load_some(const Real* from, std::size_t lanes) {
  return GATEWISE_OF(_mm256_maskload)(from, first(lanes));
}
inline void store_some(Real* to, Floats v, std::size_t lanes) { GATEWISE_OF(_mm256_maskstore)(to, first(lanes), v); }
#else
inline Floats load_some(const Real* from, std::size_t lanes) {
  Floats v = {};
  std::memcpy(&v, from, lanes * sizeof(Real));
  return v;
}
inline void store_some(Real* to, Floats v, std::size_t lanes) { std::memcpy(to, &v, lanes * sizeof(Real)); }
#endif

// Subtracting zero keeps every value, -0 too, so the compiler drops the subtraction.
inline Floats broadcast(Real value) { return value - Floats{}; }

// a * b + c
inline Floats fma(Floats a, Floats b, Floats c) {
#if defined(__AVX512F__)
  return GATEWISE_OF(_mm512_fmadd)(a, b, c);
#elif defined(GATEWISE_WIDE)
  typedef Real Half __attribute__((vector_size(32)));
  Floats sum;
  for (std::size_t half = 0; half < 2; ++half) {
    Half part[3];
    const Floats* const from[3] = {&a, &b, &c};
    for (int i = 0; i < 3; ++i) std::memcpy(&part[i], reinterpret_cast<const char*>(from[i]) + 32 * half, 32);
    const Half result = GATEWISE_OF(_mm256_fmadd)(part[0], part[1], part[2]);
    std::memcpy(reinterpret_cast<char*>(&sum) + 32 * half, &result, 32);
  }
  return sum;
#elif defined(__AVX2__) && defined(__FMA__)
  return GATEWISE_OF(_mm256_fmadd)(a, b, c);
#elif defined(__ARM_NEON) && defined(GATEWISE_NEON) && defined(GATEWISE_DOUBLE)
  return vfmaq_f64(c, a, b);
#elif defined(__ARM_NEON) && defined(GATEWISE_NEON)
  return vfmaq_f32(c, a, b);
#else
  return a * b + c;
#endif
}

// The smaller one; NaN stays.
inline Floats at_most(Floats v, Real high) {
#if defined(__AVX512F__)
  return GATEWISE_OF(_mm512_min)(broadcast(high), v);
#elif defined(__AVX2__) && !defined(GATEWISE_WIDE)
  return GATEWISE_OF(_mm256_min)(broadcast(high), v);
#else
  return v > high ? broadcast(high) : v;
#endif
}

// The nearest number within the bounds; NaN stays.
inline Floats within(Floats v, Real low, Real high) {
  v = at_most(v, high);
#if defined(__AVX512F__)
  return GATEWISE_OF(_mm512_max)(broadcast(low), v);
#elif defined(__AVX2__) && !defined(GATEWISE_WIDE)
  return GATEWISE_OF(_mm256_max)(broadcast(low), v);
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
