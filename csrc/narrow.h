// What a product adds to its sums: in most builds one number times one weight; in narrow builds, which have the
// processor's bfloat16 product in forward, two of each. There rows and packed weights are pairs of bfloat16, and a pair
// takes the place of a Real.
#pragma once

#include "bfloat.h"
#include "simd.h"

namespace gatewise {
namespace GATEWISE_ISA {

#if defined(GATEWISE_NARROW)
constexpr bool kNarrow = true;
#else
constexpr bool kNarrow = false;
#endif

// How many terms of a sum a Real holds, and how many Reals `count` of them take.
constexpr std::size_t kPerWord = kNarrow ? 2 : 1;
constexpr std::size_t words(std::size_t count) { return (count + kPerWord - 1) / kPerWord; }

#if defined(GATEWISE_NARROW)

// Of kWidth numbers the kWidth / 2 pairs, the first of each in the lower half.
typedef std::uint32_t Words __attribute__((vector_size(sizeof(Floats))));
typedef std::uint64_t Twos __attribute__((vector_size(sizeof(Floats))));
typedef std::uint32_t Pairs __attribute__((vector_size(sizeof(Floats) / 2)));
inline Pairs pairs_of(Floats v) {
  Words i;
  std::memcpy(&i, &v, sizeof i);
  i = nearest_upper(i);
  Twos twos;
  std::memcpy(&twos, &i, sizeof twos);
  return __builtin_convertvector((twos >> 16 & 0xffffu) | (twos >> 32 & 0xffff0000u), Pairs);
}

// Words k to k + kWidth of a row of numbers.
inline Floats words_at(const Real* row, std::size_t k) {
  const Pairs both[] = {pairs_of(load(row + 2 * k)), pairs_of(load(row + 2 * k + kWidth))};
  Floats v;
  std::memcpy(&v, both, sizeof v);
  return v;
}

// Word k of a row of `count` numbers; an odd last one has a zero beside it.
inline Real word_at(const Real* row, std::size_t k, std::size_t count) {
  std::uint32_t both[2] = {};
  std::memcpy(both, row + 2 * k, (2 * k + 1 < count ? 2 : 1) * sizeof(Real));
  const std::uint32_t word = nearest_upper(both[0]) >> 16 | (nearest_upper(both[1]) & 0xffff0000u);
  Real v;
  std::memcpy(&v, &word, sizeof v);
  return v;
}

// A row of numbers as products take it, in `to`.
inline const Real* factors(const Real* row, std::size_t count, Real* to) {
  std::size_t k = 0;
  for (; 2 * (k + kWidth) <= count; k += kWidth) store(to + k, words_at(row, k));
  for (; k < words(count); ++k) to[k] = word_at(row, k, count);
  return to;
}

// By integers: as a float a pair may be a number that arithmetic would change.
inline Floats broadcast_word(const Real* at) {
  Int word;
  std::memcpy(&word, at, sizeof word);
  return from_bits(word - Ints{});
}

// Adds the products of two pairs. Where a processor has an instruction for it, its rounding is its own; elsewhere, for
// tests alone, it is that of x86 but for subnormal numbers, which the instruction takes for zeros.
inline Floats product(Floats weights, Floats values, Floats sum) {
#if defined(__AVX512BF16__)
  return _mm512_dpbf16_ps(sum, (__m512bh)weights, (__m512bh)values);
#elif defined(__ARM_FEATURE_BF16_VECTOR_ARITHMETIC)
  return vbfdotq_f32(sum, vreinterpretq_bf16_f32(weights), vreinterpretq_bf16_f32(values));
#else
  const Ints upper = Ints{} - 0x10000;
  sum = fma(from_bits(bits(weights) & upper), from_bits(bits(values) & upper), sum);
  return fma(from_bits(bits(weights) << 16), from_bits(bits(values) << 16), sum);
#endif
}

#else

inline Floats words_at(const Real* row, std::size_t k) { return load(row + k); }
inline Real word_at(const Real* row, std::size_t k, std::size_t) { return row[k]; }
inline const Real* factors(const Real* row, std::size_t, Real*) { return row; }
inline Floats broadcast_word(const Real* at) { return broadcast(*at); }
inline Floats product(Floats weights, Floats values, Floats sum) { return fma(weights, values, sum); }

#endif

}  // namespace GATEWISE_ISA
}  // namespace gatewise
