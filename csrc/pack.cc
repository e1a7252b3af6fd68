// Weights into the order in which forward reads them. layout.h says where things lie.
#include "pack.h"

#include <cstring>

namespace gatewise {
namespace GATEWISE_ISA {
namespace {

// to[k][lane] = rows[lane][k] for the words of some rows, lines `line` apart; zeros in the other lanes.
[[gnu::always_inline]] inline void turn_in(const Real* rows, std::size_t columns, std::size_t lanes, Real* to,
                                           std::size_t line) {
  std::size_t k = 0;
  for (; kPerWord * (k + kWidth) <= columns; k += kWidth) {
    Floats v[kWidth];
    words_turned(rows, columns, lanes, k, v);
#pragma GCC unroll 16
    for (std::size_t j = 0; j < kWidth; ++j) store(to + (k + j) * line, v[j]);
  }
  for (; k < words(columns); ++k)
    for (std::size_t lane = 0; lane < kWidth; ++lane)
      to[k * line + lane] = lane < lanes ? word_at(rows + lane * columns, k, columns) : Real{0};
}

void transpose_in(const Real* rows, std::size_t columns, std::size_t lanes, Real* to, std::size_t line) {
  if (lanes == kWidth)  // a number that is known makes better code
    turn_in(rows, columns, kWidth, to, line);
  else
    turn_in(rows, columns, lanes, to, line);
}

void copy_vector(const Real* from, std::size_t width, std::size_t padded, Real* to) {
  std::memset(to, 0, padded * sizeof(Real));
  if (from) std::memcpy(to, from, width * sizeof(Real));
}

void pack_block(const Layer& layer, const Layout& layout, const Weights& weights, std::size_t block, Real* to) {
  const std::size_t lanes = lanes_of(block, layer.hidden);
  const auto put = [&](const Real* rows, std::size_t columns, std::size_t slot, std::size_t width, Real* at) {
    transpose_in(rows, columns, lanes, at + layout.vector_at(slot, words(columns)), layout.vector_line(slot, width));
  };
  for (const Gate gate : kEvery) {
    if (!layer.row.learned(gate)) continue;
    const std::size_t row = layer.order[gate] * layer.hidden + block * kWidth;
    const std::size_t slot = layer.row.slot(gate);
    Floats bias = {};
    if (layer.bias) bias = load_some(weights[kBiasIh] + row, lanes) + load_some(weights[kBiasHh] + row, lanes);
    store(to + slot * kWidth, bias);
    put(weights[kWeightIh] + row * layer.inputs, layer.inputs, slot, layer.gates(), to + layout.x_at());
    put(weights[kWeightHh] + row * layer.recurrent(), layer.recurrent(), slot, layer.gates(), to + layout.h_at(layer));
  }
  if (!layer.seen_count) return;
  Real* const seen = to + layout.seen_at(layer);
  std::memset(seen, 0, words(layout.seen_depth) * layout.seen_vectors * kWidth * sizeof(Real));
  for (std::size_t i = 0; i < layer.seen_count; ++i)
    put(weights[kWeightGates] + (i * layer.hidden + block * kWidth) * layout.seen_depth, layout.seen_depth,
        layer.row.slot(layer.seen[i]), layout.seen_vectors, seen);
}

void pack_gains(const Layer& layer, const Layout& layout, const Weights& weights, Real* packed) {
  for (const bool recurrent : {false, true})
    for (std::size_t block = 0; block < layout.blocks; ++block)
      for (const Gate gate : kEvery) {
        if (!layer.row.learned(gate)) continue;
        const Real* from = weights[recurrent ? kNormHh : kNormIh] + layer.order[gate] * layer.hidden + block * kWidth;
        store(packed + layout.gain_at(recurrent) + block * layout.line + layer.row.slot(gate) * kWidth,
              load_some(from, lanes_of(block, layer.hidden)));
      }
  copy_vector(weights[kNormCell], layer.hidden, layout.padded, packed + layout.cell_gain_at(false));
  copy_vector(weights[kNormCellBias], layer.hidden, layout.padded, packed + layout.cell_gain_at(true));
}

}  // namespace

void pack_forward(const Layer& layer, const Weights& weights, Real* packed, std::size_t part, std::size_t parts) {
  const Layout layout(layer);
  const Share share(parts ? layout.blocks : 0, part, parts ? parts : 1);
  for (std::size_t block = share.first; block < share.last; ++block)
    pack_block(layer, layout, weights, block, packed + block * layout.block);
  if (part) return;
  for (const Gate gate : {kI, kF, kO, kG})
    if (layer.row.gates[gate].peep != Peep::kNone)
      copy_vector(weights[kPeephole] + layer.peep_order[gate] * layer.hidden, layer.hidden, layout.padded,
                  packed + layout.peep_at(gate));
  if (layer.layer_norm) pack_gains(layer, layout, weights, packed);
  for (std::size_t v = 0; v < layout.projection.vectors; ++v) {
    const auto output = output_of(layer, weights[kWeightHr], weights[kWeightHp], v);
    const std::size_t panel = layout.projection.panel_of(v), line = layout.projection.vectors_of(panel) * kWidth;
    transpose_in(
        output.rows, layer.hidden, output.lanes,
        packed + layout.projection_at() + layout.projection.at(panel) + (v - layout.projection.first(panel)) * kWidth,
        line);
  }
}

}  // namespace GATEWISE_ISA
}  // namespace gatewise
