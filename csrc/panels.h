// Products whose results are vectors of outputs: projections in forward, gradients of states and inputs in backward.
#pragma once

#include "layout.h"
#include "multiply.h"

namespace gatewise {
namespace GATEWISE_ISA {

// Outputs of a chunk lie vector by vector: [vectors][kChunk][kWidth].
constexpr std::size_t kVectorStride = kChunk * kWidth;

// One panel for the rows of one chunk. Depth runs over the elements of `rows`, or if that is null over (unit, gate) of
// `lines`.
struct PanelTile {
  const float* const* rows = nullptr;
  const float* lines = nullptr;  // [blocks][active rows][line][kWidth]
  std::size_t line = 0, block = 0, gates = 0;
  const float* panel = nullptr;
  std::size_t first = 0, last = 0;  // of the depth, in elements or units
  const float* from = nullptr;      // what the sums start from, laid out as `to`; null for zeros
  float* to = nullptr;

  template <std::size_t kRows, std::size_t kVectors>
  void run(std::size_t row) const {
    Tile<kRows, kVectors> sum = {};
    if (from) load_tile<kRows, kVectors>(sum, from + row * kWidth, kWidth, kVectorStride);
    if (rows) {
      const float* at[kRows];
      for (std::size_t r = 0; r < kRows; ++r) at[r] = rows[row + r] + first;
      multiply<kVectors>(sum, at, panel + first * kVectors * kWidth, last - first);
    } else {
      const float* const at = lines + row * line * kWidth;
      const float* const weights = panel + first * gates * kVectors * kWidth;
      // Known numbers make better code; the last one is for everything else.
      if (gates == 4 && line == 4)
        multiply_gates(sum, at, 4, block, 4, weights, first, last);
      else if (gates == 3 && line == 3)
        multiply_gates(sum, at, 3, block, 3, weights, first, last);
      else
        multiply_gates(sum, at, line, block, gates, weights, first, last);
    }
    store_tile<kRows, kVectors>(sum, to + row * kWidth, kWidth, kVectorStride);
  }
};

// How much of a panel's depth stays in the second-level cache while the rows of all chunks use it.
constexpr std::size_t kDepth = 1024;

// The source of one chunk's products and their destination.
struct PanelChunk {
  std::size_t active = 0;
  const float* const* rows = nullptr;
  const float* lines = nullptr;
  std::size_t line = 0, block = 0;  // vectors from one row's line to the next, floats from one block's to the next
  const float* from = nullptr;
  float* to = nullptr;
};

// Multiplies the sources of all chunks by a matrix of panels, whose depth has `gates` rows for each unit of lines.
inline void panel_products(const Panels& shape, const float* packed, const PanelChunk* chunks, std::size_t count,
                           std::size_t gates) {
  const std::size_t per_unit = gates ? gates : 1;
  const std::size_t depth = shape.depth / per_unit, stride = kDepth / per_unit / kWidth * kWidth;
  for (std::size_t p = 0; p < shape.count(); ++p) {
    for (std::size_t first = 0; first < depth; first += stride) {
      const std::size_t last = first + stride < depth ? first + stride : depth;
      for (std::size_t k = 0; k < count; ++k) {
        const PanelChunk& chunk = chunks[k];
        if (!chunk.active) continue;
        PanelTile tile = {
            chunk.rows,           chunk.lines, chunk.line, chunk.block, gates,
            packed + shape.at(p), first,       last,       chunk.from,  chunk.to + shape.first(p) * kVectorStride};
        if (first)
          tile.from = tile.to;
        else if (tile.from)
          tile.from += shape.first(p) * kVectorStride;
        tiles(tile, chunk.active, shape.vectors_of(p));
      }
    }
  }
}

}  // namespace GATEWISE_ISA
}  // namespace gatewise
