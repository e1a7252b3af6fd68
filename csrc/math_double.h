// What exp, sigmoid and tanh of a float64 are made of: see math.h. Polynomials from the highest term down.
#pragma once

#include "simd.h"

namespace gatewise {
namespace GATEWISE_ISA {

constexpr Int kMantissa = 52, kBias = 1023;
constexpr Real kMagic = 0x1.8p52 + kBias;
constexpr Int kMagicBits = __builtin_bit_cast(Int, kMagic);
constexpr Real kLog2e = 1.4426950408889634;
constexpr Real kLn2High = 0x1.62e42feep-1, kLn2Low = 0x1.a39ef35793c76p-33;
constexpr Real kHalfLn2 = 0.34657359027997264, kHalfLn2Low = 1.1595234069231498e-17;

constexpr Real kExpLow = -746.0, kExpHigh = 710.0;
constexpr Real kExpTerms[] = {
    2.5000067321957548e-08, 2.763023366422882e-07, 2.7557586281944997e-06, 2.480149313700458e-05, 0.0001984126950676485,
    0.0013888888943596833,  0.008333333333494336,  0.041666666666530267,   0.16666666666666413,   0.5000000000000011};

constexpr Real kSigmoidLow = -709.0, kSigmoidHigh = 708.0;
constexpr Real kSigmoidTerms[] = {-2.5117843362238444e-08, 2.763126614269123e-07,   -2.7557216360099614e-06,
                                  2.4801489979361804e-05,  -0.00019841269917313583, 0.0013888888946982899,
                                  -0.008333333333307238,   0.041666666666515535,    -0.166666666666667,
                                  0.5000000000000012};

constexpr Real kTanhHigh = 20.0;
constexpr Real kTanhTerms[] = {4.275266699760117e-06,
                               2.571158299749995e-05,
                               0.0001410939014502567,
                               0.000705465456728052,
                               0.0031746031580918467,
                               0.012698412727001413,
                               0.04444444444467944,
                               0.1333333333331472,
                               0.3333333333333321,
                               0.6666666666666671,
                               1.0};

constexpr Real kArtanhTerms[] = {0.08530031967207631,
                                 0.04157841746718093,
                                 0.06056124585557776,
                                 0.06650051242778969,
                                 0.07693317728184051,
                                 0.09090869893808841,
                                 0.11111112055888007,
                                 0.14285714272462557,
                                 0.2000000000009516,
                                 0.33333333333333065,
                                 1.0};

}  // namespace GATEWISE_ISA
}  // namespace gatewise
