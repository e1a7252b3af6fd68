// Contract and equations: lstm_forward.h. Compiled once per instruction set, as namespace GATEWISE_ISA.
//
// The one idea: the four gates of a vector of hidden units lie together in the packed weights, so that a tile of a few
// batch rows accumulates all its products in registers and finishes the step there: a pre-activation never meets
// memory. Packed layout, for each block of kWidth hidden units, padded with zeros: [4][kWidth] biases, then
// [D + H][4][kWidth] weights.
//
// Each accumulator adds its terms one by one in the order of k, whatever the tile around it: that is why a row's bits
// depend neither on its neighbours nor on where the sequence was cut.
#include "lstm_forward.h"

#include "math.h"
#include "simd.h"

namespace gatewise {
namespace {

// Gates in registers and in the packed weights. This order is private to this file.
enum Gate : std::size_t { kI, kF, kG, kO, kGates };
constexpr char kGateNames[] = "ifgo";
constexpr std::size_t kStride = kGates * kWidth;

std::size_t block_count(std::size_t hidden) { return (hidden + kWidth - 1) / kWidth; }
std::size_t panel_size(std::size_t inputs, std::size_t hidden) { return (1 + inputs + hidden) * kStride; }
std::size_t packed_size(std::size_t inputs, std::size_t hidden) {
  return block_count(hidden) * panel_size(inputs, hidden);
}
std::size_t cells_size(std::size_t rows, std::size_t hidden) { return rows * block_count(hidden) * kWidth; }

// The lanes of one block that are hidden units; the rest is padding.
std::size_t lanes_of(std::size_t block, std::size_t hidden) {
  const std::size_t left = hidden - block * kWidth;
  return left < kWidth ? left : kWidth;
}

// Transposes `columns` columns of the rows of one gate and block, a few at a time, so that the lines being written stay
// in the first-level cache until all lanes have filled them.
void pack_gate(const float* rows, std::size_t columns, std::size_t lanes, float* to) {
  constexpr std::size_t kStrip = 16;
  for (std::size_t start = 0; start < columns; start += kStrip) {
    const std::size_t end = start + kStrip < columns ? start + kStrip : columns;
    for (std::size_t lane = 0; lane < kWidth; ++lane)
      for (std::size_t k = start; k < end; ++k) to[k * kStride + lane] = lane < lanes ? rows[lane * columns + k] : 0.0f;
  }
}

void pack(const LstmWeights& weights, std::size_t inputs, std::size_t hidden, float* packed) {
  for (std::size_t block = 0; block < block_count(hidden); ++block) {
    const std::size_t lanes = lanes_of(block, hidden);
    for (std::size_t gate = 0; gate < kGates; ++gate) {
      const std::size_t position = std::strchr(weights.order, kGateNames[gate]) - weights.order;
      const std::size_t row = position * hidden + block * kWidth;
      float* to = packed + block * panel_size(inputs, hidden) + gate * kWidth;
      Floats bias = {};
      if (weights.b_ih) bias = load_some(weights.b_ih + row, lanes) + load_some(weights.b_hh + row, lanes);
      store(to, bias);
      pack_gate(weights.w_ih + row * inputs, inputs, lanes, to + kStride);
      pack_gate(weights.w_hh + row * hidden, hidden, lanes, to + (1 + inputs) * kStride);
    }
  }
}

// What a tile of kRows rows by kBlocks blocks holds in registers.
template <std::size_t kRows, std::size_t kBlocks>
using Tile = Floats[kBlocks][kRows][kGates];

// Adds the products of `count` elements of each row with as many steps of the panels.
template <std::size_t kRows, std::size_t kBlocks>
inline void multiply(Tile<kRows, kBlocks>& sum, const float* const (&from)[kRows],
                     const float* const (&panels)[kBlocks], std::size_t count) {
  for (std::size_t k = 0; k < count; ++k) {
#pragma GCC unroll 4
    for (std::size_t block = 0; block < kBlocks; ++block) {
      Floats weights[kGates];
#pragma GCC unroll 4
      for (std::size_t gate = 0; gate < kGates; ++gate)
        weights[gate] = load(panels[block] + k * kStride + gate * kWidth);
#pragma GCC unroll 8
      for (std::size_t row = 0; row < kRows; ++row) {
        const Floats value = broadcast(from[row][k]);
#pragma GCC unroll 4
        for (std::size_t gate = 0; gate < kGates; ++gate)
          sum[block][row][gate] = fma(weights[gate], value, sum[block][row][gate]);
      }
    }
  }
}

// The equations of the cell, from pre-activations: updates c and returns h.
inline Floats lstm_cell(const Floats (&pre)[kGates], Floats& c) {
  c = fma(sigmoid(pre[kF]), c, sigmoid(pre[kI]) * tanh(pre[kG]));
  return sigmoid(pre[kO]) * tanh(c);
}

// One time step: where it reads and writes. All pointers are at the first row of the range.
struct Step {
  const float* x;
  std::ptrdiff_t x_row;
  const float* h;
  std::ptrdiff_t h_row;
  float* y;
  std::ptrdiff_t y_row;
  float* cells;  // [block][row][kWidth]
  std::size_t rows, inputs, hidden;
};

// kRows rows from `row`, kBlocks blocks from `block`: load, multiply, cell, store.
template <std::size_t kRows, std::size_t kBlocks>
void run_tile(const Step& step, const float* packed, std::size_t row, std::size_t block) {
  const std::size_t panel = panel_size(step.inputs, step.hidden);
  const float *x[kRows], *h[kRows], *input[kBlocks], *recurrent[kBlocks];
  for (std::size_t r = 0; r < kRows; ++r) {
    x[r] = step.x + static_cast<std::ptrdiff_t>(row + r) * step.x_row;
    h[r] = step.h + static_cast<std::ptrdiff_t>(row + r) * step.h_row;
  }
  Tile<kRows, kBlocks> sum;
  for (std::size_t b = 0; b < kBlocks; ++b) {
    const float* bias = packed + (block + b) * panel;
    input[b] = bias + kStride;
    recurrent[b] = input[b] + step.inputs * kStride;
    for (std::size_t r = 0; r < kRows; ++r)
      for (std::size_t gate = 0; gate < kGates; ++gate) sum[b][r][gate] = load(bias + gate * kWidth);
  }
  multiply<kRows, kBlocks>(sum, x, input, step.inputs);
  multiply<kRows, kBlocks>(sum, h, recurrent, step.hidden);
  for (std::size_t b = 0; b < kBlocks; ++b) {
    const std::size_t lanes = lanes_of(block + b, step.hidden);
    for (std::size_t r = 0; r < kRows; ++r) {
      float* cell = step.cells + ((block + b) * step.rows + row + r) * kWidth;
      float* y = step.y + static_cast<std::ptrdiff_t>(row + r) * step.y_row + (block + b) * kWidth;
      Floats c = load(cell);
      const Floats out = lstm_cell(sum[b][r], c);
      store(cell, c);
      if (lanes == kWidth)
        store(y, out);
      else
        store_some(y, out, lanes);
    }
  }
}

using RunTile = void (*)(const Step&, const float*, std::size_t, std::size_t);

// The tile for each number of rows. Fewer than kTileRows leave registers free, but only a single row is short of
// independent sums to hide the latency of fma, and takes two blocks at once.
constexpr RunTile kTiles[] = {nullptr,        run_tile<1, 1>, run_tile<2, 1>, run_tile<3, 1>,
                              run_tile<4, 1>, run_tile<5, 1>, run_tile<6, 1>};
static_assert(kTileRows < sizeof kTiles / sizeof kTiles[0]);

// Blocks outside, rows inside: a block's weights stay in the first-level cache while all rows use them.
void run_step(const Step& step, const float* packed) {
  const std::size_t blocks = block_count(step.hidden);
  std::size_t block = 0;
  if (step.rows == 1)
    for (; block + 2 <= blocks; block += 2) run_tile<1, 2>(step, packed, 0, block);
  for (; block < blocks; ++block) {
    for (std::size_t row = 0; row < step.rows;) {
      const std::size_t left = step.rows - row;
      // The last two tiles share what is left evenly: 2 + 2 rather than 3 + 1.
      const std::size_t take = left >= 2 * kTileRows ? kTileRows : left > kTileRows ? (left + 1) / 2 : left;
      kTiles[take](step, packed, row, block);
      row += take;
    }
  }
}

void run(const LstmSequence& s, const float* packed, float* cells, std::size_t first, std::size_t last) {
  const std::size_t rows = last - first, blocks = block_count(s.hidden);
  const auto start = static_cast<std::ptrdiff_t>(first);
  for (std::size_t block = 0; block < blocks; ++block)
    for (std::size_t row = 0; row < rows; ++row)
      store(cells + (block * rows + row) * kWidth,
            load_some(s.c0 + (first + row) * s.hidden + block * kWidth, lanes_of(block, s.hidden)));

  const float* h = s.h0 + first * s.hidden;
  auto h_row = static_cast<std::ptrdiff_t>(s.hidden);
  for (std::size_t step = 0; step < s.steps; ++step) {
    const auto t = static_cast<std::ptrdiff_t>(s.reverse ? s.steps - 1 - step : step);
    float* y = s.y + t * s.y_time + start * s.y_row;
    const float* x = s.x + t * s.x_time + start * s.x_row;
    run_step({x, s.x_row, h, h_row, y, s.y_row, cells, rows, s.inputs, s.hidden}, packed);
    h = y;
    h_row = s.y_row;
  }

  for (std::size_t row = 0; row < rows; ++row) {
    const std::size_t at = (first + row) * s.hidden;
    std::memmove(s.h_n + at, h + static_cast<std::ptrdiff_t>(row) * h_row, s.hidden * sizeof(float));
    for (std::size_t block = 0; block < blocks; ++block)
      store_some(s.c_n + at + block * kWidth, load(cells + (block * rows + row) * kWidth), lanes_of(block, s.hidden));
  }
}

}  // namespace

namespace GATEWISE_ISA {
extern const LstmForward lstm_forward;
const LstmForward lstm_forward = {packed_size, cells_size, pack, run};
}  // namespace GATEWISE_ISA
}  // namespace gatewise
