// exp, sigmoid and tanh of a vector of float32.
//
// Contract, on every instruction set: wherever the true result is a normal float the error is at most 2 ULP; the limits
// at +-inf are exact; NaN stays NaN; nothing overflows to NaN on the way, and tanh loses nothing near 0.
// tests/native/test_native_math.py repeats these numbers.
#pragma once

#include "twice.h"

namespace gatewise {
namespace GATEWISE_ISA {

// All of this is for one vector (Floats) or several side by side (Twice).

// x = n ln2 + r with |r| <= ln2 / 2, and e^r = 1 + p.
template <class V>
struct Reduced {
  V shifted;  // n + kMagic
  V p;
};

// Adding this rounds to an integer and leaves that integer in the low bits, with no conversion instruction.
constexpr float kMagic = 12582912.0f;
constexpr std::int32_t kMagicBits = 0x4b400000;

// Needs |x| < 2^21. NaN gives an arbitrary n and p = NaN.
template <class V>
[[gnu::always_inline]] inline Reduced<V> reduce(V x) {
  const V shifted = fma(x, 1.44269504f, kMagic);
  const V n = shifted - kMagic;
  // ln2 in two parts; n times the first is exact.
  V r = fma(n, -0.693359375f, x);
  r = fma(n, 2.12194440e-4f, r);
  // (e^r - 1 - r) / r^2, Chebyshev; 1/6 one ULP lower than its nearest float, which keeps tanh under 2 ULP without FMA.
  V q = fma(r, 1.9891180e-4f, 1.3933820e-3f);
  q = fma(q, r, 8.3333105e-3f);
  q = fma(q, r, 4.1666463e-2f);
  q = fma(q, r, 0x1.555554p-3f);
  q = fma(q, r, 0.5f);
  return {shifted, fma(r * r, q, r)};
}

// 2^n, for -126 <= n <= 127.
template <class V>
[[gnu::always_inline]] inline V power_of_two(V shifted) {
  return from_bits((bits(shifted) + (127 - kMagicBits)) << 23);
}

template <class V>
[[gnu::always_inline]] inline V exp(V x) {
  // Past these ends the result is inf or 0 anyway.
  const Reduced<V> e = reduce(within(x, -104.0f, 89.0f));
  // Two factors, because 2^n itself may be out of range though the result is not.
  const auto n = bits(e.shifted) - kMagicBits, half = n >> 1;
  return (e.p + 1.0f) * from_bits((half + 127) << 23) * from_bits((n - half + 127) << 23);
}

// 1 / (1 + e^-x) with 1 + e^-x = (2^n + 1) + 2^n p, which rounds once less than adding 1 to exp(-x).
template <class V>
[[gnu::always_inline]] inline V sigmoid(V x) {
  const Reduced<V> e = reduce(-within(x, -88.0f, 87.0f));
  const V scale = power_of_two(e.shifted);
  const V sum = scale + 1.0f;
  const V lost = 1.0f - (sum - scale);
  const V t = 1.0f / (sum + fma(scale, e.p, lost));
  // The true result is subnormal there.
  return below(x, -88.0f, V{}, t);
}

// tanh|x| = m / (m + 2) with m = e^2|x| - 1 = 2^n p + (2^n - 1), so that small x keep all their digits.
template <class V>
[[gnu::always_inline]] inline V tanh(V x) {
  const V a = within(from_bits(bits(x) & 0x7fffffff), 0.0f, 10.0f);
  const Reduced<V> e = reduce(a + a);
  const V scale = power_of_two(e.shifted);
  const V half = fma(scale, e.p, scale - 1.0f) * 0.5f;
  const V t = half / (half + 1.0f);
  // t = half - half t as well: where half is small this forgets the rounding of the quotient.
  const V size = below(half, 0.6f, fma(-half, t, half), t);
  return from_bits(bits(size) | (bits(x) & ~0x7fffffff));
}

}  // namespace GATEWISE_ISA
}  // namespace gatewise
