// What exp, sigmoid and tanh of a float32 are made of: see math.h. Polynomials from the highest term down.
#pragma once

#include "simd.h"

namespace gatewise {
namespace GATEWISE_ISA {

constexpr Int kMantissa = 23, kBias = 127;
constexpr Real kMagic = 0x1.8p23f + kBias;
constexpr Int kMagicBits = __builtin_bit_cast(Int, kMagic);
constexpr Real kLog2e = 1.44269504f;
constexpr Real kLn2High = 0.693359375f, kLn2Low = -2.12194440e-4f;
constexpr Real kHalfLn2 = 0.34657359f, kHalfLn2Low = 0.0f;

constexpr Real kExpLow = -104.0f, kExpHigh = 89.0f;
constexpr Real kExpTerms[] = {1.9891180e-4f, 1.3933820e-3f, 8.3333105e-3f, 4.1666463e-2f, 0.16666666f, 0.5f};

constexpr Real kSigmoidLow = -88.0f, kSigmoidHigh = 87.0f;
constexpr Real kSigmoidTerms[] = {1.381453999e-3f, -8.368745116e-3f, 4.166839079e-2f, -0.1666652040f, 0.4999999343f};

// 2/3 one ULP low, which keeps the result under 2 ULP without FMA.
constexpr Real kTanhHigh = 10.0f;
constexpr Real kTanhTerms[] = {1.273035520e-2f, 4.458822400e-2f, 0.1333329680f, 0.3333317040f, 0x1.555554p-1f, 1.0f};

constexpr Real kArtanhTerms[] = {1.0f / 15, 1.0f / 13, 1.0f / 11, 1.0f / 9, 1.0f / 7, 1.0f / 5, 1.0f / 3, 1.0f};

}  // namespace GATEWISE_ISA
}  // namespace gatewise
