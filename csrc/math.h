// exp, sigmoid and tanh of a vector of float32.
//
// Contract, on every instruction set: wherever the true result is a normal float the error is at most 2 ULP; the limits
// at +-inf are exact; NaN stays NaN; nothing overflows to NaN on the way, and tanh loses nothing near 0.
// tests/native/test_native_math.py repeats these numbers.
#pragma once

#include "simd.h"

namespace gatewise {
namespace GATEWISE_ISA {

// x = n ln2 + r with |r| <= ln2 / 2, and e^r = 1 + p.
struct Reduced {
  Floats shifted;  // n + kMagic
  Floats p;
};

// Adding this rounds to an integer and leaves that integer in the low bits, with no conversion instruction.
constexpr float kMagic = 12582912.0f;
constexpr std::int32_t kMagicBits = 0x4b400000;

// Needs |x| < 2^21. NaN gives an arbitrary n and p = NaN.
inline Reduced reduce(Floats x) {
  const Floats shifted = fma(x, broadcast(1.44269504f), broadcast(kMagic));
  const Floats n = shifted - kMagic;
  // ln2 in two parts; n times the first is exact.
  Floats r = fma(n, broadcast(-0.693359375f), x);
  r = fma(n, broadcast(2.12194440e-4f), r);
  // (e^r - 1 - r) / r^2, Chebyshev; 1/6 one ULP lower than its nearest float, which keeps tanh under 2 ULP without FMA.
  Floats q = broadcast(1.9891180e-4f);
  q = fma(q, r, broadcast(1.3933820e-3f));
  q = fma(q, r, broadcast(8.3333105e-3f));
  q = fma(q, r, broadcast(4.1666463e-2f));
  q = fma(q, r, broadcast(0x1.555554p-3f));
  q = fma(q, r, broadcast(0.5f));
  return {shifted, fma(r * r, q, r)};
}

// 2^n, for -126 <= n <= 127.
inline Floats power_of_two(Floats shifted) { return from_bits((bits(shifted) + (127 - kMagicBits)) << 23); }

inline Floats exp(Floats x) {
  // Past these ends the result is inf or 0 anyway.
  const Reduced e = reduce(within(x, -104.0f, 89.0f));
  // Two factors, because 2^n itself may be out of range though the result is not.
  const Ints n = bits(e.shifted) - kMagicBits, half = n >> 1;
  return (e.p + 1.0f) * from_bits((half + 127) << 23) * from_bits((n - half + 127) << 23);
}

// 1 / (1 + e^-x) with 1 + e^-x = (2^n + 1) + 2^n p, which rounds once less than adding 1 to exp(-x).
inline Floats sigmoid(Floats x) {
  const Reduced e = reduce(-within(x, -88.0f, 87.0f));
  const Floats scale = power_of_two(e.shifted);
  const Floats sum = scale + 1.0f;
  const Floats lost = 1.0f - (sum - scale);
  const Floats t = 1.0f / (sum + fma(scale, e.p, lost));
  // The true result is subnormal there.
  return x < -88.0f ? broadcast(0.0f) : t;
}

// tanh|x| = m / (m + 2) with m = e^2|x| - 1 = 2^n p + (2^n - 1), so that small x keep all their digits.
inline Floats tanh(Floats x) {
  const Floats sign = from_bits(bits(x) & ~0x7fffffff);
  const Floats a = within(from_bits(bits(x) & 0x7fffffff), 0.0f, 10.0f);
  const Reduced e = reduce(a + a);
  const Floats scale = power_of_two(e.shifted);
  const Floats half = fma(scale, e.p, scale - 1.0f) * 0.5f;
  Floats t = half / (half + 1.0f);
  // t = half - half t as well: where half is small this forgets the rounding of the quotient.
  t = half < 0.6f ? fma(-half, t, half) : t;
  return from_bits(bits(t) | bits(sign));
}

}  // namespace GATEWISE_ISA
}  // namespace gatewise
