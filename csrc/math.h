// exp, sigmoid and tanh of a vector of float32 or float64.
//
// Contract, on every instruction set: wherever the true result is a normal number the error is at most 2 ULP; the
// limits at +-inf are exact; NaN stays NaN, and nothing else becomes one; tanh loses nothing near 0.
// tests/native/test_native_math.py repeats these numbers.
#pragma once

#include "twice.h"
#if defined(GATEWISE_DOUBLE)
#include "math_double.h"
#else
#include "math_float.h"
#endif

namespace gatewise {
namespace GATEWISE_ISA {

// All of this is for one vector (Floats) or several side by side (Twice). Of the constants of a type:
//
// Adding kMagic rounds to an integer, ties to an odd one, and leaves it plus kBias in the low bits, with no conversion
// instruction. kLn2High + kLn2Low is ln2; a small integer times the first is exact.

template <class V, std::size_t kCount>
[[gnu::always_inline]] inline V polynomial(V x, const Real (&terms)[kCount]) {
  V sum = fma(x, terms[0], terms[1]);
#pragma GCC unroll 16
  for (std::size_t i = 2; i < kCount; ++i) sum = fma(sum, x, terms[i]);
  return sum;
}

// 2^n, for 1 - kBias <= n <= kBias. `shifted` is n + kMagic.
template <class V>
[[gnu::always_inline]] inline V power_of_two(V shifted) {
  return from_bits(bits(shifted) << kMantissa);
}

template <class V>
[[gnu::always_inline]] inline V exp(V x) {
  // Past these ends the result is inf or 0 anyway.
  x = within(x, kExpLow, kExpHigh);
  // x = n ln2 + r with |r| <= ln2 / 2
  const V shifted = fma(x, kLog2e, kMagic), whole = shifted - kMagic;
  const V r = fma(whole, -kLn2Low, fma(whole, -kLn2High, x));
  // (e^r - 1 - r) / r^2, minimax
  const V q = polynomial(r, kExpTerms), p = fma(r * r, q, r);
  // Two factors, because 2^n itself may be out of range though the result is not.
  const auto n = bits(shifted) - kMagicBits, half = n >> 1;
  return (p + Real{1}) * from_bits((half + kBias) << kMantissa) * from_bits((n - half + kBias) << kMantissa);
}

// 1 / (1 + e^-x) with -x = n ln2 - r and e^-r = 1 + p: the sum is (2^n + 1) + 2^n p, with what 2^n + 1 loses added.
template <class V>
[[gnu::always_inline]] inline V sigmoid(V x) {
  const V a = at_most(x, kSigmoidHigh);
  const V shifted = fma(a, -kLog2e, kMagic), whole = shifted - kMagic;
  const V r = fma(whole, kLn2Low, fma(whole, kLn2High, a));
  // (e^-r - 1 + r) / r^2, minimax for the absolute error
  const V q = polynomial(r, kSigmoidTerms);
  const V p = fma(r * r, q, -r), scale = power_of_two(shifted);
  const V sum = scale + Real{1}, lost = Real{1} - (sum - scale);
  // Below kSigmoidLow the true result is subnormal, and scale whatever its bits happen to be.
  return below(x, kSigmoidLow, V{}, Real{1} / (sum + fma(scale, p, lost)));
}

// tanh|x| = m / (m + 1) with m = (e^2|x| - 1) / 2 = 2^n p + (2^n - 1) / 2, so that small x keep all their digits.
template <class V>
[[gnu::always_inline]] inline V tanh(V x) {
  const V a = at_most(from_bits(bits(x) & kMagnitude), kTanhHigh);
  // a = n ln2 / 2 + r. Where n is large tanh hardly changes: one part of ln2 will do.
  const V shifted = fma(a, 2 * kLog2e, kMagic), whole = shifted - kMagic;
  const V r = fma(whole, -kHalfLn2, a);
  // p = (e^2r - 1) / 2 = r + q r^2, minimax
  const V q = polynomial(r, kTanhTerms);
  const V p = fma(r * r, q, r), scale = power_of_two(shifted);
  const V half = fma(scale, Real{0.5}, Real{-0.5}), m = fma(scale, p, half);
  const V t = m / (m + Real{1});
  // t = m - m t as well: where m is small this forgets the rounding of the quotient.
  V small;
  if constexpr (kHalfLn2Low == 0) {
    small = fma(-m, t, m);
  } else {
    // There n is 0 or 1. What m and kHalfLn2 lack counts about half, the slope of m / (m + 1).
    const V lost = fma(whole, -2 * kHalfLn2Low, fma(scale, p, half - m));
    small = m + fma(-m, t, lost * Real{0.5});
  }
  const V size = below(m, static_cast<Real>(0.6), small, t);
  return from_bits(bits(size) | (bits(x) & ~kMagnitude));
}

}  // namespace GATEWISE_ISA
}  // namespace gatewise
