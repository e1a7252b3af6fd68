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
  const Real* const* rows = nullptr;
  const Real* lines = nullptr;  // [blocks][active rows][line][kWidth]
  std::size_t line = 0, block = 0, gates = 0;
  const Real* panel = nullptr;
  std::size_t first = 0, last = 0;  // of the depth, in elements or units
  const Real* from = nullptr;       // what the sums start from, laid out as `to`; null for zeros
  Real* to = nullptr;
  Ahead ahead = {};  // for each line, unless its stride is 0

  template <std::size_t kRows, std::size_t kVectors>
  void run(std::size_t row) const {
    Tile<kRows, kVectors> sum;
    begin(sum, row);
    if (rows) {
      const Real* at[kRows];
      for (std::size_t r = 0; r < kRows; ++r) at[r] = rows[row + r] + first;
      multiply<kVectors>(sum, at, Lines<kVectors>{panel + first * kVectors * kWidth}, last - first, NoneAhead());
    } else {
      const Real* const at = lines + row * line * kWidth;
      const Real* const weights = panel + first * gates * kVectors * kWidth;
      // Known numbers make better code; the last one is for everything else.
      if (gates == 4 && line == 4 && !row && ahead.stride)
        multiply_gates(sum, at, 4, block, 4, weights, first, last, ahead);
      else if (gates == 4 && line == 4)
        multiply_gates(sum, at, 4, block, 4, weights, first, last, NoneAhead());
      else if (gates == 3 && line == 3)
        multiply_gates(sum, at, 3, block, 3, weights, first, last, NoneAhead());
      else
        multiply_gates(sum, at, line, block, gates, weights, first, last, NoneAhead());
    }
    store_tile<kRows, kVectors>(sum, to + row * kWidth, kWidth, kVectorStride);
  }

  template <std::size_t kRows, std::size_t kVectors>
  [[gnu::always_inline]] void begin(Tile<kRows, kVectors>& sum, std::size_t row) const {
    if (from)
      load_tile<kRows, kVectors>(sum, from + row * kWidth, kWidth, kVectorStride);
    else
      clear_tile<kRows, kVectors>(sum);
  }
};

// One row of gates by two panels at once: the sums of one are too few to hide how long an addition takes.
template <std::size_t kFirst, std::size_t kSecond>
void two_panels(const PanelTile& one, const PanelTile& two) {
  Tile<1, kFirst> a;
  Tile<1, kSecond> b;
  one.begin(a, 0);
  two.begin(b, 0);
  const Real* panel_a = one.panel + one.first * one.gates * kFirst * kWidth;
  const Real* panel_b = two.panel + two.first * two.gates * kSecond * kWidth;
  const Real* lines = one.lines + one.first / kWidth * one.block;
  for (std::size_t unit = one.first; unit < one.last; unit += kWidth, lines += one.block) {
    const std::size_t lanes = one.last - unit < kWidth ? one.last - unit : kWidth;
    for (std::size_t lane = 0; lane < lanes; ++lane)
#pragma GCC unroll 4
      for (std::size_t gate = 0; gate < one.gates; ++gate) {
        const auto value = [&](std::size_t) { return broadcast(lines[gate * kWidth + lane]); };
        add_products<kFirst>(a, [&](std::size_t v) { return load(panel_a + v * kWidth); }, value);
        add_products<kSecond>(b, [&](std::size_t v) { return load(panel_b + v * kWidth); }, value);
        panel_a += kFirst * kWidth;
        panel_b += kSecond * kWidth;
      }
  }
  store_tile<1, kFirst>(a, one.to, kWidth, kVectorStride);
  store_tile<1, kSecond>(b, two.to, kWidth, kVectorStride);
}

inline void two_panels(const PanelTile& one, std::size_t width, const PanelTile& two, std::size_t other) {
  if (width == 2) return other == 2 ? two_panels<2, 2>(one, two) : two_panels<2, 3>(one, two);
  return other == 2 ? two_panels<3, 2>(one, two) : two_panels<3, 3>(one, two);
}

// How much of a panel's depth stays in the second-level cache while the rows of all chunks use it.
constexpr std::size_t kDepth = 1024;

// The source of one chunk's products and their destination; of few rows, the sources are steps of one chunk.
struct PanelChunk {
  std::size_t active = 0;
  const Real* const* rows = nullptr;
  const Real* lines = nullptr;
  std::size_t line = 0, block = 0;  // vectors from one row's line to the next, floats from one block's to the next
  Real* to = nullptr;
};

// Multiplies the sources of all chunks by a matrix of panels, whose depth has `gates` rows for each unit of lines.
inline void panel_products(const Panels& shape, const Real* packed, const PanelChunk* chunks, std::size_t count,
                           std::size_t gates) {
  const std::size_t per_unit = gates ? gates : 1;
  const std::size_t depth = shape.depth / per_unit, stride = kDepth / per_unit / kWidth * kWidth;
  const bool far = count > 1 && shape.size() * sizeof(Real) > kMiddleBytes;
  const bool single = count == 1 && chunks[0].active == 1 && chunks[0].lines;
  for (std::size_t p = 0, taken = 1; p < shape.count(); p += taken) {
    // A matrix of more than one panel has none narrower than two vectors.
    taken = single && p + 1 < shape.count() ? 2 : 1;
    for (std::size_t first = 0; first < depth; first += stride) {
      const std::size_t last = first + stride < depth ? first + stride : depth;
      const auto tile_of = [&](const PanelChunk& chunk, std::size_t panel) {
        const std::size_t at = shape.first(panel) * kVectorStride;
        const Real* const from = first ? chunk.to + at : nullptr;
        return PanelTile{chunk.rows, chunk.lines, chunk.line, chunk.block,  gates, packed + shape.at(panel),
                         first,      last,        from,       chunk.to + at};
      };
      if (taken == 2) {
        two_panels(tile_of(chunks[0], p), shape.vectors_of(p), tile_of(chunks[0], p + 1), shape.vectors_of(p + 1));
        continue;
      }
      // The chunks share out what comes next, which lies behind what they use.
      const std::size_t line = shape.vectors_of(p) * sizeof(Floats), bytes = (last - first) * per_unit * line;
      const std::size_t shares = count < kFetching ? count : kFetching;
      for (std::size_t k = 0; k < count; ++k) {
        if (!chunks[k].active) continue;
        PanelTile tile = tile_of(chunks[k], p);
        if (far && k < shares)
          tile.ahead = {reinterpret_cast<const char*>(tile.panel) + last * per_unit * line + bytes * k / shares,
                        line / shares};
        tiles(tile, chunks[k].active, shape.vectors_of(p));
      }
    }
  }
}

}  // namespace GATEWISE_ISA
}  // namespace gatewise
