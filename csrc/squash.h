// The squashing functions of the gates and their derivatives.
#pragma once

#include "math.h"

namespace gatewise {
namespace GATEWISE_ISA {

template <class V>
[[gnu::always_inline]] inline V squash(Squash function, V x) {
  switch (function) {
    case Squash::kSigmoid:
      return sigmoid(x);
    case Squash::kTanh:
      return tanh(x);
    case Squash::kRelu:
      return below(x, 0.0f, V{}, x);  // NaN stays
    case Squash::kIdentity:
      return x;
    case Squash::kWideSigmoid:
      return fma(sigmoid(x), 4.0f, -2.0f);
    case Squash::kCentredSigmoid:
      return fma(sigmoid(x), 2.0f, -1.0f);
    case Squash::kExp:
      return exp(x);
  }
  __builtin_unreachable();
}

// The derivative, from the value of the function.
[[gnu::always_inline]] inline Floats slope(Squash function, Floats value) {
  switch (function) {
    case Squash::kSigmoid:
      return fma(-value, value, value);
    case Squash::kTanh:
      return fma(-value, value, broadcast(1.0f));
    case Squash::kRelu:
      return value > 0.0f ? broadcast(1.0f) : broadcast(0.0f);
    case Squash::kIdentity:
      return broadcast(1.0f);
    case Squash::kWideSigmoid:  // 4 s (1 - s) with s = (value + 2) / 4
      return fma(value * -0.25f, value, broadcast(1.0f));
    case Squash::kCentredSigmoid:  // 2 s (1 - s) with s = (value + 1) / 2
      return fma(value * -0.5f, value, broadcast(0.5f));
    case Squash::kExp:
      return value;
  }
  __builtin_unreachable();
}

// min(0, x) - log(1 + e^-|x|), the logarithm by an artanh series: log(1 + u) = 2 artanh(u / (2 + u)) for 0 <= u <= 1.
inline Floats log_sigmoid(Floats x) {
  const Floats a = from_bits(bits(x) & kMagnitude);
  const Floats u = exp(-a);
  const Floats s = u / (u + 2.0f), q = s * s;
  const Floats p = polynomial(q, kArtanhTerms);
  return (x > 0.0f ? broadcast(0.0f) : x) - 2.0f * s * p;
}

inline Floats clamp(Floats x, Real bound) { return within(x, -bound, bound); }

// `gradient` where clamp() leaves x as it is, else 0.
inline Floats unclamped(Floats gradient, Floats x, Real bound) {
  gradient = x > bound ? broadcast(0.0f) : gradient;
  return x < -bound ? broadcast(0.0f) : gradient;
}

}  // namespace GATEWISE_ISA
}  // namespace gatewise
