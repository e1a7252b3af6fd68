// The blocks of a model between its recurrent layers. Contract: kernels.h.
//
// A row's bits depend on nothing but the row: each output is its bias, then its products in the order of k.
#include "kernels.h"
#include "math.h"
#include "norm.h"
#include "panels.h"

namespace gatewise {
namespace GATEWISE_ISA {
namespace {

Panels panels_of(std::size_t in, std::size_t out) { return {vectors(out), in}; }

// [panels][bias]
std::size_t size(std::size_t in, std::size_t out) { return panels_of(in, out).size() + vectors(out) * kWidth; }

void pack(std::size_t in, std::size_t out, const float* weight, const float* bias, float* packed) {
  const Panels shape = panels_of(in, out);
  for (std::size_t p = 0; p < shape.count(); ++p) {
    const std::size_t first = shape.first(p) * kWidth, line = shape.vectors_of(p) * kWidth;
    float* const panel = packed + shape.at(p);
    for (std::size_t k = 0; k < in; ++k)
      for (std::size_t i = 0; i < line; ++i)
        panel[k * line + i] = first + i < out ? weight[(first + i) * in + k] : 0.0f;
  }
  float* const last = packed + shape.size();
  for (std::size_t i = 0; i < vectors(out) * kWidth; ++i) last[i] = bias && i < out ? bias[i] : 0.0f;
}

void multiply(std::size_t in, std::size_t out, const float* packed, const float* x, std::size_t x_row, float* y,
              std::size_t y_row, std::size_t rows) {
  const Panels shape = panels_of(in, out);
  const float* const bias = packed + shape.size();
  // A panel stays in a near cache while all rows pass.
  for (std::size_t p = 0; p < shape.count(); ++p)
    for (std::size_t first = 0; first < rows; first += kChunk) {
      const std::size_t count = rows - first < kChunk ? rows - first : kChunk;
      const float* at[kChunk];
      float sum[kPanel * kVectorStride];
      for (std::size_t r = 0; r < count; ++r) {
        at[r] = x + (first + r) * x_row;
        for (std::size_t v = 0; v < shape.vectors_of(p); ++v)
          store(sum + v * kVectorStride + r * kWidth, load(bias + (shape.first(p) + v) * kWidth));
      }
      const PanelTile tile = {.rows = at, .panel = packed + shape.at(p), .last = in, .from = sum, .to = sum};
      tiles(tile, count, shape.vectors_of(p));
      for (std::size_t v = 0; v < shape.vectors_of(p); ++v)
        for (std::size_t r = 0; r < count; ++r) {
          const std::size_t block = shape.first(p) + v;
          store_some(y + (first + r) * y_row + block * kWidth, load(sum + v * kVectorStride + r * kWidth),
                     lanes_of(block, out));
        }
    }
}

void norm(std::size_t width, float eps, const float* gain, const float* shift, const float* x, float* y,
          std::size_t rows, float* scratch) {
  for (std::size_t r = 0; r < rows; ++r, x += width, y += width) {
    for (std::size_t b = 0; b < vectors(width); ++b)
      store(scratch + b * kWidth, load_some(x + b * kWidth, lanes_of(b, width)));
    const Moments of = moments(NormRow<1>{scratch, kWidth, width}, eps);
    for (std::size_t b = 0; b < vectors(width); ++b) {
      const std::size_t lanes = lanes_of(b, width), at = b * kWidth;
      const Floats normalised = (load(scratch + at) * of.scale - of.mean) * of.rstd;
      store_some(y + at, fma(normalised, load_some(gain + at, lanes), load_some(shift + at, lanes)), lanes);
    }
  }
}

void standardise(std::size_t width, const float* mean, const float* std, bool inverse, const float* x, float* y,
                 std::size_t rows) {
  for (std::size_t r = 0; r < rows; ++r, x += width, y += width)
    for (std::size_t i = 0; i < width; ++i) y[i] = inverse ? x[i] * std[i] + mean[i] : (x[i] - mean[i]) / std[i];
}

void mix(std::size_t candidates, std::size_t quantiles, const float* x, const float* given, float* y, std::size_t rows,
         float* scratch) {
  for (std::size_t r = 0; r < rows; ++r, x += quantiles + candidates, given += candidates, y += quantiles) {
    const float* const logits = x + quantiles;
    float most = logits[0];
    for (std::size_t k = 1; k < candidates; ++k) most = logits[k] > most || logits[k] != logits[k] ? logits[k] : most;
    for (std::size_t b = 0; b < vectors(candidates); ++b)
      store(scratch + b * kWidth, exp(load_some(logits + b * kWidth, lanes_of(b, candidates)) - most));
    float total = 0.0f, sum = 0.0f;
    for (std::size_t k = 0; k < candidates; ++k) total += scratch[k];
    for (std::size_t k = 0; k < candidates; ++k) sum += scratch[k] / total * given[k];
    for (std::size_t q = 0; q < quantiles; ++q) y[q] = x[q] + sum;
  }
}

}  // namespace

extern const Dense dense;
const Dense dense = {size, pack, multiply, norm, standardise, mix};

}  // namespace GATEWISE_ISA
}  // namespace gatewise
