// Layer normalisation of rows that lie in blocks, forward and backward.
//
// Sums over a row are formed in kLanes lanes whatever the width of a vector, so that every instruction set with fma
// gives the same bits. Rows with values beyond kLarge are scaled down first, as in gatewise.reference: their variance
// would overflow.
#pragma once

#include <type_traits>

#include "layout.h"

namespace gatewise {
namespace GATEWISE_ISA {

constexpr Real kLarge = static_cast<Real>(1e12);
constexpr Real kNormEps = static_cast<Real>(1e-5);
constexpr std::size_t kLanes = 64 / sizeof(Real);
constexpr std::size_t kParts = kLanes / kWidth;

// A row: vector v of block b at data + b * block + v * kWidth; `width` units, kVectors vectors in a block.
template <std::size_t kVectors>
struct NormRow {
  Real* data;
  std::size_t block, width;
  Real count() const { return static_cast<Real>(width * kVectors); }
  Real* at(std::size_t b, std::size_t v) const { return data + b * block + v * kWidth; }
};

// kLanes sums for each vector of a block, so that no addition waits for the one before.
template <std::size_t kVectors>
struct LaneSums {
  Floats part[kVectors][kParts] = {};
  [[gnu::always_inline]] void add(std::size_t v, std::size_t b, Floats value) {
    part[v][b % kParts] = part[v][b % kParts] + value;
  }
  Real total() const {
    Real lane[kLanes];
    for (std::size_t i = 0; i < kParts; ++i) {
      Floats sum = part[0][i];
      for (std::size_t v = 1; v < kVectors; ++v) sum = sum + part[v][i];
      store(lane + i * kWidth, sum);
    }
    for (std::size_t half = kLanes / 2; half; half /= 2)
      for (std::size_t i = 0; i < half; ++i) lane[i] = lane[i] + lane[i + half];
    return lane[0];
  }
};

// Padding counts for nothing.
[[gnu::always_inline]] inline Floats only(Floats v, std::size_t lanes) {
  if (lanes == kWidth) return v;
  Real kept[kWidth];
  store(kept, v);
  return load_some(kept, lanes);
}

// Calls use(b, v, lanes) for all vectors. What depends on b % kParts, and on whether a block is full, is settled when
// it is compiled.
template <std::size_t kVectors, class Use>
[[gnu::always_inline]] inline void each_vector(std::size_t width, Use use) {
  const std::size_t full = width / kWidth;
  std::size_t b = 0;
  for (; b + kParts <= full; b += kParts)
    for (std::size_t part = 0; part < kParts; ++part)
      for (std::size_t v = 0; v < kVectors; ++v) use(b + part, v, kWidth);
  for (; b < vectors(width); ++b)
    for (std::size_t v = 0; v < kVectors; ++v) use(b, v, lanes_of(b, width));
}

inline float root(float v) { return __builtin_sqrtf(v); }
inline double root(double v) { return __builtin_sqrt(v); }

struct Moments {
  Real scale, mean, rstd;  // normalised = (v * scale - mean) * rstd
};

[[gnu::always_inline]] inline Floats magnitude(Floats v) { return from_bits(bits(v) & kMagnitude); }

// The largest of all lanes; NaN does not count.
template <std::size_t kVectors>
[[gnu::always_inline]] inline Real largest_of(const Floats (&largest)[kVectors]) {
  Floats most = largest[0];
  for (std::size_t v = 1; v < kVectors; ++v) most = largest[v] > most ? largest[v] : most;
  Real lane[kWidth];
  store(lane, most);
  for (std::size_t half = kWidth / 2; half; half /= 2)
    for (std::size_t i = 0; i < half; ++i) lane[i] = lane[i] > lane[i + half] ? lane[i] : lane[i + half];
  return lane[0];
}

// A function of its own: inlined for every number of gates it would take minutes to compile.
template <std::size_t kVectors>
[[gnu::noinline]] Moments moments(const NormRow<kVectors>& row, Real eps = kNormEps) {
  LaneSums<kVectors> sum, square;
  Floats largest[kVectors] = {};
  each_vector<kVectors>(row.width, [&](std::size_t b, std::size_t v, std::size_t lanes) __attribute__((always_inline)) {
    const Floats value = load(row.at(b, v)), size = magnitude(value);
    largest[v] = size > largest[v] ? size : largest[v];
    sum.add(v, b, only(value, lanes));
  });
  // What the values are multiplied by before all else: less than 1 where their squares would overflow.
  const Real most = largest_of(largest), scale = most > kLarge ? kLarge / most : 1.0f;
  if (scale < 1.0f) {
    sum = {};
    each_vector<kVectors>(row.width, [&](std::size_t b, std::size_t v, std::size_t lanes) __attribute__((
                                         always_inline)) { sum.add(v, b, only(load(row.at(b, v)) * scale, lanes)); });
  }
  const Real mean = sum.total() / row.count();
  each_vector<kVectors>(row.width, [&](std::size_t b, std::size_t v, std::size_t lanes) __attribute__((always_inline)) {
    const Floats off = only(load(row.at(b, v)) * scale - mean, lanes);
    square.add(v, b, off * off);
  });
  return {scale, mean, 1.0f / root(square.total() / row.count() + eps)};
}

// The gradient of the values from that of the normalised ones: scale rstd (d - mean(d) - n mean(d n)). Reads d at
// row.data and n at `normalised`, laid out alike; writes to `to`, which may be either.
template <std::size_t kVectors>
[[gnu::noinline]] void norm_backward(const NormRow<kVectors>& row, const Real* normalised, Real factor, Real* to) {
  LaneSums<kVectors> sum, product;
  each_vector<kVectors>(row.width, [&](std::size_t b, std::size_t v, std::size_t lanes) __attribute__((always_inline)) {
    const Floats d = only(load(row.at(b, v)), lanes);
    sum.add(v, b, d);
    product.add(v, b, d * load(normalised + b * row.block + v * kWidth));
  });
  const Real mean = sum.total() / row.count(), slope = product.total() / row.count();
  each_vector<kVectors>(row.width, [&](std::size_t b, std::size_t v, std::size_t lanes) __attribute__((always_inline)) {
    const std::size_t at = b * row.block + v * kWidth;
    const Floats n = load(normalised + at);
    store(to + at, only((load(row.data + at) - mean - n * slope) * factor, lanes));
  });
}

// Calls run with the number of a block's vectors as a constant, for the number of gates that a layer learns.
template <class Run>
void with_gates(std::size_t gates, Run run) {
  if (gates == 4)
    run(std::integral_constant<std::size_t, 4>{});
  else if (gates == 3)
    run(std::integral_constant<std::size_t, 3>{});
  else if (gates == 2)
    run(std::integral_constant<std::size_t, 2>{});
  else
    run(std::integral_constant<std::size_t, 1>{});
}

}  // namespace GATEWISE_ISA
}  // namespace gatewise
