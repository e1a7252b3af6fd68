// Pre-activations of a block: tiles of some rows' gates, and a single row's.
#pragma once

#include <type_traits>

#include "forward.h"
#if defined(GATEWISE_HALVES)
#include "halved.h"
#endif

namespace gatewise {
namespace GATEWISE_ISA {

// A tile of pre-activations.
struct GateTile {
  const Piece* pieces;
  std::size_t first, last;
  const Real* const* source[3];  // by Piece::Source
  const Real* block;             // packed weights
  bool begins;                   // from the bias, or zero if that is null
  const Real* bias;
  Real* gates;
  std::size_t stride;  // from one row's gates to the next
  std::size_t seen_vectors;
  Ahead ahead = {};              // for each vector of a line, unless its stride is 0
  std::size_t ahead_vector = 0;  // bytes for each vector of all lines

  template <std::size_t kRows, std::size_t kVectors>
  void run(std::size_t row) const {
    multiply_vectors<kRows, kVectors, 0>(row);
  }

  // kVectors of a line, from the kFirst-th on, which begins a part.
  template <std::size_t kRows, std::size_t kVectors, std::size_t kFirst>
  void multiply_vectors(std::size_t row) const {
    if (!row && ahead.stride) return multiply_far<kRows, kVectors, kFirst>();
    multiply_vectors<kRows, kVectors, kFirst>(row, NoneAhead());
  }

  // By itself, because what it saves and restores would be a burden on small tiles.
  template <std::size_t kRows, std::size_t kVectors, std::size_t kFirst>
  [[gnu::noinline]] void multiply_far() const {
    multiply_vectors<kRows, kVectors, kFirst>(0, Ahead{ahead.at + kFirst * ahead_vector, kVectors * ahead.stride});
  }

  template <std::size_t kRows, std::size_t kVectors, std::size_t kFirst, class Fetch>
  [[gnu::always_inline]] void multiply_vectors(std::size_t row, Fetch fetch) const {
    Tile<kRows, kVectors> sum;
    Real* at = gates + row * stride + kFirst * kWidth;
    if (!begins)
      load_tile<kRows, kVectors>(sum, at, stride, kWidth);
    else if (bias)
      load_tile<kRows, kVectors>(sum, bias + kFirst * kWidth, 0, kWidth);
    else
      clear_tile<kRows, kVectors>(sum);
    for (std::size_t p = first; p < last; ++p) {
      const Piece& piece = pieces[p];
      const Real *const begin = block + (kFirst ? piece.rest : piece.at), *const rest = block + piece.rest;
      const Real* rows[kRows];
      for (std::size_t r = 0; r < kRows; ++r) rows[r] = source[piece.source][row + r] + piece.from;
      const auto add = [&](auto used) __attribute__((always_inline)) {
        if constexpr (kVectors == kGates && used > kPart)
          multiply<used>(sum, rows, PartedLines<used, kPart>{begin, rest}, piece.count, fetch);
        else
          multiply<used>(sum, rows, Lines<used>{begin}, piece.count, fetch);
        fetch.pass(piece.count);
      };
      if (kFirst + kVectors == kGates && piece.source == Piece::kSeen && seen_vectors == 3)
        add(std::integral_constant<std::size_t, 3 - kFirst>());
      else
        add(std::integral_constant<std::size_t, kVectors>());
    }
    store_tile<kRows, kVectors>(sum, at, stride, kWidth);
  }
};

// A tile of four vectors in two halves.
struct Halves {
  const GateTile& tile;

  template <std::size_t kRows, std::size_t kVectors>
  void run(std::size_t row) const {
    tile.multiply_vectors<kRows, kVectors, 0>(row);
    tile.multiply_vectors<kRows, kVectors, kVectors>(row);
  }
};

// The vectors of a line of packed weights.
template <std::size_t kVectors>
[[gnu::always_inline]] inline void load_line(const Real* from, Floats (&to)[kVectors]) {
#pragma GCC unroll 4
  for (std::size_t v = 0; v < kVectors; ++v) to[v] = load(from + v * kWidth);
}

// The pre-activations of a single row in kBlocks blocks, whose packed weights lie `apart`: those of one block are too
// few sums to hide how long an addition takes.
template <std::size_t kBlocks, std::size_t kVectors, class Weight>
void single_row(const GateTile& tile, const Weight* packed, std::size_t apart) {
  constexpr std::size_t kUsed = kVectors == kGates ? kPart : kVectors, kParts = kVectors / kUsed;
  Floats sum[kBlocks][kParts][kUsed];
#pragma GCC unroll 2
  for (std::size_t b = 0; b < kBlocks; ++b)
#pragma GCC unroll 2
    for (std::size_t part = 0; part < kParts; ++part) {
      if (tile.begins)
        load_line(packed + b * apart + part * kUsed * kWidth, sum[b][part]);
      else
        load_line(tile.gates + (b * kVectors + part * kUsed) * kWidth, sum[b][part]);
    }
  for (std::size_t p = tile.first; p < tile.last; ++p) {
    const Piece& piece = tile.pieces[p];
    const Real* const row = tile.source[piece.source][0] + piece.from;
    const Weight* const weights[] = {packed + piece.at, packed + piece.rest};
#pragma GCC unroll 2
    for (std::size_t k = 0; k < piece.count; ++k) {
      const Floats value = broadcast_word(row + k);
#pragma GCC unroll 2
      for (std::size_t b = 0; b < kBlocks; ++b)
#pragma GCC unroll 2
        for (std::size_t part = 0; part < kParts; ++part) {
          Floats line[kUsed];
          load_line(weights[part] + b * apart + k * kUsed * kWidth, line);
#pragma GCC unroll 4
          for (std::size_t v = 0; v < kUsed; ++v) sum[b][part][v] = product(line[v], value, sum[b][part][v]);
        }
    }
  }
#pragma GCC unroll 2
  for (std::size_t b = 0; b < kBlocks; ++b)
    store_tile<kParts, kUsed>(sum[b], tile.gates + b * kVectors * kWidth, kUsed * kWidth, kWidth);
}

template <std::size_t kVectors, class Weight>
void single_row(const GateTile& tile, const Weight* packed, std::size_t blocks, std::size_t apart) {
  return blocks == 2 ? single_row<2, kVectors>(tile, packed, apart) : single_row<1, kVectors>(tile, packed, apart);
}

template <class Weight>
void single_row(const GateTile& tile, const Weight* packed, std::size_t blocks, std::size_t apart, std::size_t gates) {
  switch (gates) {
    case 1:
      return single_row<1>(tile, packed, blocks, apart);
    case 2:
      return single_row<2>(tile, packed, blocks, apart);
    case 3:
      return single_row<3>(tile, packed, blocks, apart);
    default:
      return single_row<4>(tile, packed, blocks, apart);
  }
}

}  // namespace GATEWISE_ISA
}  // namespace gatewise
