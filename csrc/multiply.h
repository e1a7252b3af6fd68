// The products: tiles of a few rows by a few vectors whose sums stay in registers.
//
// Each sum adds its terms one by one in the order of k, whatever the tile around it and wherever it is interrupted and
// taken up again: that is why a row's bits depend neither on its neighbours nor on where a sequence was cut.
#pragma once

#include <utility>

#include "narrow.h"
#include "schedule.h"

namespace gatewise {
namespace GATEWISE_ISA {

template <std::size_t kRows, std::size_t kVectors>
using Tile = Floats[kRows][kVectors];

// The most rows of a tile whose sums fit the registers.
constexpr std::size_t tile_rows(std::size_t vectors) {
  return kRegisters / vectors < kChunk ? kRegisters / vectors : kChunk;
}

// Lines of kLine vectors: vector v of line k.
template <std::size_t kLine>
struct Lines {
  const Real* at;
  [[gnu::always_inline]] Floats operator()(std::size_t k, std::size_t v) const {
    return load(at + (k * kLine + v) * kWidth);
  }
};

// The same where the first kFirst vectors of all lines lie apart from the others.
template <std::size_t kLine, std::size_t kFirst>
struct PartedLines {
  const Real *first, *rest;
  [[gnu::always_inline]] Floats operator()(std::size_t k, std::size_t v) const {
    return v < kFirst ? Lines<kFirst>{first}(k, v) : Lines<kLine - kFirst>{rest}(k, v - kFirst);
  }
};

// Adds one term to each sum: value(r) times weight(v). Whichever of rows and vectors are fewer stay in registers
// while the others pass, because all of them and the sums would not fit.
template <std::size_t kUsed, std::size_t kRows, std::size_t kVectors, class Weight, class Value>
[[gnu::always_inline]] inline void add_products(Tile<kRows, kVectors>& sum, Weight weight, Value value) {
  if constexpr (kRows <= kUsed) {
    Floats values[kRows];
#pragma GCC unroll 8
    for (std::size_t r = 0; r < kRows; ++r) values[r] = value(r);
#pragma GCC unroll 4
    for (std::size_t v = 0; v < kUsed; ++v) {
      const Floats weights = weight(v);
#pragma GCC unroll 8
      for (std::size_t r = 0; r < kRows; ++r) sum[r][v] = product(weights, values[r], sum[r][v]);
    }
  } else {
    Floats weights[kUsed];
#pragma GCC unroll 4
    for (std::size_t v = 0; v < kUsed; ++v) weights[v] = weight(v);
#pragma GCC unroll 8
    for (std::size_t r = 0; r < kRows; ++r) {
      const Floats one = value(r);
#pragma GCC unroll 4
      for (std::size_t v = 0; v < kUsed; ++v) sum[r][v] = product(weights[v], one, sum[r][v]);
    }
  }
}

// What is fetched into the second-level cache meanwhile: `stride` bytes for each line of a product.
struct Ahead {
  const char* at = nullptr;
  std::size_t stride = 0;
  // One hint for two lines: each takes the place of a load.
  [[gnu::always_inline]] void fetch(std::size_t k) const {
    if (k % 2 == 0) __builtin_prefetch(at + k * stride, 0, 2);
  }
  void pass(std::size_t count) { at += count * stride; }
};

// So many chunks share what comes next, half a line of 64 bytes for each line of two vectors; more would ask twice.
constexpr std::size_t kFetching = 4;

// Where all is near: even hints that find their line take 2 to 5 % of the time.
struct NoneAhead {
  void fetch(std::size_t) const {}
  void pass(std::size_t) {}
};

// Adds `count` products: row r's element k times the first kUsed vectors of line k.
template <std::size_t kUsed, std::size_t kRows, std::size_t kVectors, class Weights, class Fetch>
[[gnu::always_inline]] inline void multiply(Tile<kRows, kVectors>& sum, const Real* const (&rows)[kRows],
                                            const Weights weights, std::size_t count, const Fetch ahead) {
#pragma GCC unroll 4
  for (std::size_t k = 0; k < count; ++k) {
    ahead.fetch(k);
    add_products<kUsed>(
        sum, [&](std::size_t v) { return weights(k, v); }, [&](std::size_t r) { return broadcast_word(rows[r] + k); });
  }
}

// The same with rows that are lines of gates: depth runs over (unit, gate), for the units first <= u < last, of which
// the first begins a block. Lines of a block lie `line` vectors apart and blocks `block` apart.
template <std::size_t kRows, std::size_t kVectors, class Fetch>
[[gnu::always_inline]] inline void multiply_gates(Tile<kRows, kVectors>& sum, const Real* lines, std::size_t line,
                                                  std::size_t block, std::size_t gates, const Real* panel,
                                                  std::size_t first, std::size_t last, Fetch ahead) {
  lines += first / kWidth * block;
  for (std::size_t unit = first; unit < last; unit += kWidth, lines += block) {
    const std::size_t lanes = last - unit < kWidth ? last - unit : kWidth;
    for (std::size_t lane = 0; lane < lanes; ++lane, panel += gates * kVectors * kWidth, ahead.pass(gates))
#pragma GCC unroll 2
      for (std::size_t gate = 0; gate < gates; ++gate) {
        ahead.fetch(gate);
        add_products<kVectors>(
            sum, [&](std::size_t v) { return Lines<kVectors>{panel}(gate, v); },
            [&](std::size_t r) { return broadcast(lines[(r * line + gate) * kWidth + lane]); });
      }
  }
}

// Calls tile.template run<rows, kVectors>(row) until all rows are done, in tiles of nearly equal height.
template <std::size_t kVectors, class Job>
[[gnu::always_inline]] inline void tiles_of(const Job& job, std::size_t rows) {
  constexpr std::size_t kMost = tile_rows(kVectors);
  static constexpr auto kRun = []<std::size_t... kRow>(std::index_sequence<kRow...>) {
    struct {
      void (*run[kMost])(const Job&, std::size_t);
    } table = {{(+[](const Job& j, std::size_t row) { j.template run<kRow + 1, kVectors>(row); })...}};
    return table;
  }(std::make_index_sequence<kMost>{});
  std::size_t left = (rows + kMost - 1) / kMost;
  for (std::size_t row = 0; row < rows; --left) {
    const std::size_t take = (rows - row + left - 1) / left;
    kRun.run[take - 1](job, row);
    row += take;
  }
}

template <class Job>
inline void tiles(const Job& job, std::size_t rows, std::size_t vectors) {
  switch (vectors) {
    case 1:
      return tiles_of<1>(job, rows);
    case 2:
      return tiles_of<2>(job, rows);
    case 3:
      return tiles_of<3>(job, rows);
    default:
      return tiles_of<4>(job, rows);
  }
}

// Not `= {}`: the compiler would clear memory, with an instruction slower than a step of the product.
template <std::size_t kRows, std::size_t kVectors>
[[gnu::always_inline]] inline void clear_tile(Tile<kRows, kVectors>& sum) {
#pragma GCC unroll 8
  for (std::size_t r = 0; r < kRows; ++r)
#pragma GCC unroll 4
    for (std::size_t v = 0; v < kVectors; ++v) sum[r][v] = Floats{};
}

// Loads the sums of rows from `row`: vector v of row r lies at from + r * line + v * vector.
template <std::size_t kRows, std::size_t kVectors>
[[gnu::always_inline]] inline void load_tile(Tile<kRows, kVectors>& sum, const Real* from, std::size_t line,
                                             std::size_t vector) {
#pragma GCC unroll 8
  for (std::size_t r = 0; r < kRows; ++r)
#pragma GCC unroll 4
    for (std::size_t v = 0; v < kVectors; ++v) sum[r][v] = load(from + r * line + v * vector);
}

template <std::size_t kRows, std::size_t kVectors>
[[gnu::always_inline]] inline void store_tile(const Tile<kRows, kVectors>& sum, Real* to, std::size_t line,
                                              std::size_t vector) {
#pragma GCC unroll 8
  for (std::size_t r = 0; r < kRows; ++r)
#pragma GCC unroll 4
    for (std::size_t v = 0; v < kVectors; ++v) store(to + r * line + v * vector, sum[r][v]);
}

}  // namespace GATEWISE_ISA
}  // namespace gatewise
