// Forward of one row-step: its products from the weights as they are, for to pack them would take longer.
//
// Squares of weights are turned in registers, so that each sum still adds its terms in the order of k.
#include "forward.h"
#include "transpose.h"

namespace gatewise {
namespace GATEWISE_ISA {
namespace {

// Adds the products of a block's rows of each gate with `values`. Lanes of rows that are not there stay as they are.
template <std::size_t kVectors>
[[gnu::always_inline]] inline void add_rows(const Real* const (&rows)[kVectors], std::size_t columns, std::size_t lanes,
                                            const Real* values, Floats (&sum)[kVectors]) {
  // A processor follows so many rows from far memory and no more.
  constexpr std::size_t kMost = 16 / kWidth;
  constexpr std::size_t kTogether = kVectors <= kMost ? kVectors : kVectors % kMost ? 1 : kMost;
  const std::size_t whole = columns / (kPerWord * kWidth) * kWidth;
  for (std::size_t first = 0; first < kVectors; first += kTogether)
    for (std::size_t k = 0; k < whole; k += kWidth) {
#pragma GCC unroll 4
      for (std::size_t v = first; v < first + kTogether; ++v) {
        Floats square[kWidth];
        words_turned(rows[v], columns, lanes, k, square);
#pragma GCC unroll 16
        for (std::size_t j = 0; j < kWidth; ++j) sum[v] = product(square[j], broadcast_word(values + k + j), sum[v]);
      }
    }
  for (std::size_t k = whole; k < words(columns); ++k)
    for (std::size_t v = 0; v < kVectors; ++v) {
      Real column[kWidth] = {};
      for (std::size_t lane = 0; lane < lanes; ++lane) column[lane] = word_at(rows[v] + lane * columns, k, columns);
      sum[v] = product(load(column), broadcast_word(values + k), sum[v]);
    }
}

template <std::size_t kVectors>
void unpacked_block(const Layer& layer, const Real* const* weights, std::size_t block, const Real* x, const Real* h,
                    Real* gates) {
  const std::size_t lanes = lanes_of(block, layer.hidden);
  const Real *of_x[kVectors] = {}, *of_h[kVectors] = {};
  Floats sum[kVectors] = {};
  for (const Gate gate : {kI, kF, kO, kG}) {
    if (!layer.row.learned(gate)) continue;
    const std::size_t row = layer.order[gate] * layer.hidden + block * kWidth, v = layer.row.slot(gate);
    of_x[v] = weights[kWeightIh] + row * layer.inputs;
    of_h[v] = weights[kWeightHh] + row * layer.recurrent();
    if (layer.bias) sum[v] = load_some(weights[kBiasIh] + row, lanes) + load_some(weights[kBiasHh] + row, lanes);
  }
  if (lanes == kWidth) {  // a number that is known makes better code
    add_rows(of_x, layer.inputs, kWidth, x, sum);
    add_rows(of_h, layer.recurrent(), kWidth, h, sum);
  } else {
    add_rows(of_x, layer.inputs, lanes, x, sum);
    add_rows(of_h, layer.recurrent(), lanes, h, sum);
  }
  for (std::size_t v = 0; v < kVectors; ++v) store(gates + v * kWidth, sum[v]);
}

}  // namespace

void ForwardGroup::multiply_unpacked(Real* gates) const {
  const ForwardRows& rows = rows_[0];
  const Real *const x = rows.source[Piece::kX][0], *const h = rows.source[Piece::kHidden][0];
  for (std::size_t block = first_block_; block < last_block_; ++block, gates += layout_.line) {
    switch (layer_.gates()) {
      case 1:
        unpacked_block<1>(layer_, job_.weights, block, x, h, gates);
        break;
      case 2:
        unpacked_block<2>(layer_, job_.weights, block, x, h, gates);
        break;
      case 3:
        unpacked_block<3>(layer_, job_.weights, block, x, h, gates);
        break;
      default:
        unpacked_block<4>(layer_, job_.weights, block, x, h, gates);
    }
  }
}

}  // namespace GATEWISE_ISA
}  // namespace gatewise
