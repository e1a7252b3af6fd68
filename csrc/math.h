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

// Adding this rounds to an integer and leaves that integer in the low bits, with no conversion instruction.
constexpr float kMagic = 12582912.0f;
constexpr std::int32_t kMagicBits = 0x4b400000;
constexpr float kLog2e = 1.44269504f;
// ln2 in two parts; a small integer times the first is exact.
constexpr float kLn2High = 0.693359375f, kLn2Low = -2.12194440e-4f;

// 2^n, for -126 <= n <= 127. `shifted` is n + kMagic.
template <class V>
[[gnu::always_inline]] inline V power_of_two(V shifted) {
  return from_bits((bits(shifted) + (127 - kMagicBits)) << 23);
}

template <class V>
[[gnu::always_inline]] inline V exp(V x) {
  // Past these ends the result is inf or 0 anyway.
  x = within(x, -104.0f, 89.0f);
  // x = n ln2 + r with |r| <= ln2 / 2
  const V shifted = fma(x, kLog2e, kMagic), whole = shifted - kMagic;
  const V r = fma(whole, -kLn2Low, fma(whole, -kLn2High, x));
  // (e^r - 1 - r) / r^2, minimax
  V q = fma(r, 1.9891180e-4f, 1.3933820e-3f);
  q = fma(q, r, 8.3333105e-3f);
  q = fma(q, r, 4.1666463e-2f);
  q = fma(q, r, 0.16666666f);
  q = fma(q, r, 0.5f);
  const V p = fma(r * r, q, r);
  // Two factors, because 2^n itself may be out of range though the result is not.
  const auto n = bits(shifted) - kMagicBits, half = n >> 1;
  return (p + 1.0f) * from_bits((half + 127) << 23) * from_bits((n - half + 127) << 23);
}

// 1 / (1 + e^-x) with -x = n ln2 - r and e^-r = 1 + p: the sum is (2^n + 1) + 2^n p, with what 2^n + 1 loses added.
template <class V>
[[gnu::always_inline]] inline V sigmoid(V x) {
  const V a = within(x, -88.0f, 87.0f);
  const V shifted = fma(a, -kLog2e, kMagic), whole = shifted - kMagic;
  const V r = fma(whole, kLn2Low, fma(whole, kLn2High, a));
  // (e^-r - 1 + r) / r^2, minimax for the absolute error
  V q = fma(r, 1.381453999e-3f, -8.368745116e-3f);
  q = fma(q, r, 4.166839079e-2f);
  q = fma(q, r, -0.1666652040f);
  q = fma(q, r, 0.4999999343f);
  const V p = fma(r * r, q, -r), scale = power_of_two(shifted);
  const V sum = scale + 1.0f, lost = 1.0f - (sum - scale);
  // Below -88 the true result is subnormal.
  return below(x, -88.0f, V{}, 1.0f / (sum + fma(scale, p, lost)));
}

// tanh|x| = m / (m + 1) with m = (e^2|x| - 1) / 2 = 2^n p + (2^n - 1) / 2, so that small x keep all their digits.
template <class V>
[[gnu::always_inline]] inline V tanh(V x) {
  const V a = at_most(from_bits(bits(x) & 0x7fffffff), 10.0f);
  // a = n ln2 / 2 + r. One part of ln2 will do: where n is large tanh hardly changes.
  const V shifted = fma(a, 2 * kLog2e, kMagic), whole = shifted - kMagic;
  const V r = fma(whole, -0.34657359f, a);
  // p = (e^2r - 1) / 2 = r + q r^2, minimax; 2/3 one ULP low, which keeps the result under 2 ULP without FMA.
  V q = fma(r, 1.273035520e-2f, 4.458822400e-2f);
  q = fma(q, r, 0.1333329680f);
  q = fma(q, r, 0.3333317040f);
  q = fma(q, r, 0x1.555554p-1f);
  q = fma(q, r, 1.0f);
  const V p = fma(r * r, q, r), scale = power_of_two(shifted);
  const V m = fma(scale, p, fma(scale, 0.5f, -0.5f));
  const V t = m / (m + 1.0f);
  // t = m - m t as well: where m is small this forgets the rounding of the quotient.
  const V size = below(m, 0.6f, fma(-m, t, m), t);
  return from_bits(bits(size) | (bits(x) & ~0x7fffffff));
}

}  // namespace GATEWISE_ISA
}  // namespace gatewise
