// Layer normalisation of rows that lie in blocks, forward and backward.
//
// Sums over a row are formed in 16 lanes whatever the width of a vector, so that every instruction set with fma gives
// the same bits. Rows with values beyond kLarge are scaled down first, as in gatewise.reference: their variance would
// overflow.
#pragma once

#include "layout.h"

namespace gatewise {
namespace GATEWISE_ISA {

constexpr float kLarge = 1e12f;
constexpr float kNormEps = 1e-5f;
constexpr std::size_t kParts = kWidth < 16 ? 16 / kWidth : 1;

// A row: vector v of block b at data + b * block + v * kWidth; `width` units, `per_block` vectors in a block.
struct NormRow {
  float* data;
  std::size_t block, per_block, width;
  std::size_t blocks() const { return vectors(width); }
  float count() const { return static_cast<float>(width * per_block); }
};

// Sixteen sums. Add each block's vectors, then take the total.
struct LaneSums {
  Floats part[kParts] = {};
  void add(std::size_t block, Floats v) { part[block % kParts] = part[block % kParts] + v; }
  float total() const {
    float lane[kParts * kWidth];
    for (std::size_t i = 0; i < kParts; ++i) store(lane + i * kWidth, part[i]);
    for (std::size_t half = kParts * kWidth / 2; half; half /= 2)
      for (std::size_t i = 0; i < half; ++i) lane[i] = lane[i] + lane[i + half];
    return lane[0];
  }
};

// Padding counts for nothing.
inline Floats only(Floats v, std::size_t lanes) {
  float kept[kWidth];
  store(kept, v);
  return load_some(kept, lanes);
}

struct Moments {
  float scale, mean, rstd;  // normalised = (v * scale - mean) * rstd
};

inline Moments moments(const NormRow& row) {
  Floats largest = {};
  for (std::size_t b = 0; b < row.blocks(); ++b)
    for (std::size_t v = 0; v < row.per_block; ++v) {
      const Floats value = from_bits(bits(load(row.data + b * row.block + v * kWidth)) & 0x7fffffff);
      largest = value > largest ? value : largest;
    }
  float most = 0.0f;
  for (std::size_t i = 0; i < kWidth; ++i) most = largest[i] > most ? largest[i] : most;
  const float scale = most > kLarge ? kLarge / most : 1.0f;
  LaneSums sum, square;
  for (std::size_t b = 0; b < row.blocks(); ++b)
    for (std::size_t v = 0; v < row.per_block; ++v)
      sum.add(b, only(load(row.data + b * row.block + v * kWidth) * scale, lanes_of(b, row.width)));
  const float mean = sum.total() / row.count();
  for (std::size_t b = 0; b < row.blocks(); ++b)
    for (std::size_t v = 0; v < row.per_block; ++v) {
      const Floats off = only(load(row.data + b * row.block + v * kWidth) * scale - mean, lanes_of(b, row.width));
      square.add(b, off * off);
    }
  return {scale, mean, 1.0f / __builtin_sqrtf(square.total() / row.count() + kNormEps)};
}

// The gradient of the values from that of the normalised ones: scale rstd (d - mean(d) - n mean(d n)). Reads d at
// row.data and n at `normalised`, laid out alike; writes to `to`, which may be either.
inline void norm_backward(const NormRow& row, const float* normalised, float factor, float* to) {
  LaneSums sum, product;
  for (std::size_t b = 0; b < row.blocks(); ++b)
    for (std::size_t v = 0; v < row.per_block; ++v) {
      const std::size_t at = b * row.block + v * kWidth;
      const Floats d = only(load(row.data + at), lanes_of(b, row.width));
      sum.add(b, d);
      product.add(b, d * load(normalised + at));
    }
  const float mean = sum.total() / row.count(), slope = product.total() / row.count();
  for (std::size_t b = 0; b < row.blocks(); ++b)
    for (std::size_t v = 0; v < row.per_block; ++v) {
      const std::size_t at = b * row.block + v * kWidth;
      const Floats n = load(normalised + at);
      store(to + at, only((load(row.data + at) - mean - n * slope) * factor, lanes_of(b, row.width)));
    }
}

}  // namespace GATEWISE_ISA
}  // namespace gatewise
