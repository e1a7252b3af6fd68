// Weights into the order in which the kernels read them, and gradients back. layout.h says where things lie.
#include <cstring>

#include "layout.h"
#include "transpose.h"

namespace gatewise {
namespace GATEWISE_ISA {
namespace {

// to[k][lane] = rows[lane][k] for the columns of some rows, lines `line` apart; zeros in the other lanes.
void transpose_in(const Real* rows, std::size_t columns, std::size_t lanes, Real* to, std::size_t line) {
  std::size_t k = 0;
  for (; k + kWidth <= columns; k += kWidth) {
    Floats v[kWidth];
#pragma GCC unroll 16
    for (std::size_t lane = 0; lane < kWidth; ++lane)
      v[lane] = lane < lanes ? load(rows + lane * columns + k) : Floats{};
    transpose_from<1>(v);
#pragma GCC unroll 16
    for (std::size_t j = 0; j < kWidth; ++j) store(to + (k + j) * line, v[j]);
  }
  for (; k < columns; ++k)
    for (std::size_t lane = 0; lane < kWidth; ++lane)
      to[k * line + lane] = lane < lanes ? rows[lane * columns + k] : 0.0f;
}

void transpose_out(const Real* from, std::size_t line, std::size_t columns, std::size_t lanes, Real* rows) {
  std::size_t k = 0;
  for (; k + kWidth <= columns; k += kWidth) {
    Floats v[kWidth];
#pragma GCC unroll 16
    for (std::size_t j = 0; j < kWidth; ++j) v[j] = load(from + (k + j) * line);
    transpose_from<1>(v);
    for (std::size_t lane = 0; lane < lanes; ++lane) store(rows + lane * columns + k, v[lane]);
  }
  for (; k < columns; ++k)
    for (std::size_t lane = 0; lane < lanes; ++lane) rows[lane * columns + k] = from[k * line + lane];
}

// The part of `count` things that falls to one of several workers.
struct Share {
  std::size_t first, last;
  Share(std::size_t count, std::size_t part, std::size_t parts)
      : first(count * part / parts), last(count * (part + 1) / parts) {}
};

void copy_vector(const Real* from, std::size_t width, std::size_t padded, Real* to) {
  std::memset(to, 0, padded * sizeof(Real));
  if (from) std::memcpy(to, from, width * sizeof(Real));
}

constexpr Gate kEvery[] = {kI, kF, kO, kG};

void pack_block(const Layer& layer, const Layout& layout, const Weights& weights, std::size_t block, Real* to) {
  const std::size_t lanes = lanes_of(block, layer.hidden), line = layout.line;
  for (const Gate gate : kEvery) {
    if (!layer.row.learned(gate)) continue;
    const std::size_t row = layer.order[gate] * layer.hidden + block * kWidth;
    Real* at = to + layer.row.slot(gate) * kWidth;
    Floats bias = {};
    if (layer.bias) bias = load_some(weights[kBiasIh] + row, lanes) + load_some(weights[kBiasHh] + row, lanes);
    store(at, bias);
    transpose_in(weights[kWeightIh] + row * layer.inputs, layer.inputs, lanes, at + layout.x_at(), line);
    transpose_in(weights[kWeightHh] + row * layer.recurrent(), layer.recurrent(), lanes, at + layout.h_at(layer), line);
  }
  if (!layer.seen_count) return;
  const std::size_t seen_line = layout.seen_vectors * kWidth;
  Real* seen = to + layout.seen_at(layer);
  std::memset(seen, 0, layout.seen_depth * seen_line * sizeof(Real));
  for (std::size_t i = 0; i < layer.seen_count; ++i)
    transpose_in(weights[kWeightGates] + (i * layer.hidden + block * kWidth) * layout.seen_depth, layout.seen_depth,
                 lanes, seen + layer.row.slot(layer.seen[i]) * kWidth, seen_line);
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

// Where vector v of the projections' outputs comes from.
template <class Float>
struct Output {
  Float* rows;  // [.., H], from the vector's first row on; null if there are none
  std::size_t lanes;
};

template <class Float>
Output<Float> output_of(const Layer& layer, Float* own, Float* beside, std::size_t v) {
  const std::size_t first = vectors(layer.projected);
  const bool second = v >= first;
  const std::size_t at = second ? v - first : v;
  Float* const rows = second ? beside : own;
  return {rows ? rows + at * kWidth * layer.hidden : nullptr, lanes_of(at, second ? layer.beside : layer.projected)};
}

// Rows of a matrix whose columns are the outputs, side by side in panels. Depth runs over `units` and for each of them
// over `per_unit` rows; row(unit, number) is where one stands, or null for zeros. `first` is the first output vector,
// `width` the number of columns, of which this worker sees to some.
template <class Row>
void pack_rows(const Panels& shape, std::size_t first, std::size_t width, std::size_t units, std::size_t per_unit,
               Row row, Real* packed, std::size_t part, std::size_t parts) {
  const Share share(vectors(width), part, parts);
  for (std::size_t v = share.first; v < share.last; ++v) {
    const std::size_t vector = first + v, panel = shape.panel_of(vector), line = shape.vectors_of(panel) * kWidth;
    Real* to = packed + shape.at(panel) + (vector - shape.first(panel)) * kWidth;
    const std::size_t lanes = lanes_of(v, width);
    for (std::size_t unit = 0; unit < units; ++unit)
      for (std::size_t number = 0; number < per_unit; ++number, to += line) {
        const Real* from = row(unit, number);
        store(to, !from ? Floats{} : lanes == kWidth ? load(from + v * kWidth) : load_some(from + v * kWidth, lanes));
      }
  }
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

void pack_backward(const Layer& layer, const Weights& weights, bool with_dx, Real* packed, std::size_t part,
                   std::size_t parts) {
  const Layout layout(layer);
  struct {
    std::size_t at[kGates];
    std::size_t operator[](std::size_t slot) const { return at[slot]; }
  } row_block = {};
  std::size_t seen_number[kGates];
  for (std::size_t& number : seen_number) number = kGates;
  for (const Gate gate : kEvery)
    if (layer.row.learned(gate)) row_block.at[layer.row.slot(gate)] = layer.order[gate];
  for (std::size_t i = 0; i < layer.seen_count; ++i) seen_number[layer.row.slot(layer.seen[i])] = i;
  const std::size_t gates = layer.gates(), hidden = layer.hidden;
  const auto rows_of = [&](const Real* weight, std::size_t width) {
    return [=](std::size_t unit, std::size_t gate) { return weight + (row_block[gate] * hidden + unit) * width; };
  };
  pack_rows(layout.dh, 0, layer.recurrent(), hidden, gates, rows_of(weights[kWeightHh], layer.recurrent()), packed,
            part, parts);
  if (with_dx)
    pack_rows(layout.dx, 0, layer.inputs, hidden, gates, rows_of(weights[kWeightIh], layer.inputs),
              packed + layout.dx_at(), part, parts);
  for (std::size_t i = 0; i < layer.seen_count; ++i) {
    const auto seen = [&](std::size_t unit, std::size_t slot) -> const Real* {
      if (seen_number[slot] == kGates) return nullptr;
      return weights[kWeightGates] + (seen_number[slot] * hidden + unit) * layout.seen_depth + i * hidden;
    };
    pack_rows(layout.dseen, i * layout.blocks, hidden, hidden, layout.seen_vectors, seen, packed + layout.dseen_at(),
              part, parts);
  }
  if (layer.projected) {
    const auto output = [&](std::size_t d, std::size_t) {
      return d < layer.projected ? weights[kWeightHr] + d * hidden
                                 : weights[kWeightHp] + (d - layer.projected) * hidden;
    };
    pack_rows(layout.dm, 0, hidden, layer.width(), 1, output, packed + layout.dm_at(), part, parts);
  }
}

// Adds up one vector of the sums over all chunks.
static Floats total(const Real* sums, std::size_t chunks, std::size_t stride) {
  Floats sum = {};
  for (std::size_t k = 0; k < chunks; ++k) sum = sum + load(sums + k * stride);
  return sum;
}

void unpack(const Layer& layer, const Real* dpacked, const Real* sums, std::size_t chunks, Real* const* dweights,
            std::size_t part, std::size_t parts) {
  const Layout layout(layer);
  const std::size_t line = layout.line, per_block = layout.sums(layer), stride = layout.blocks * per_block;
  const std::size_t hidden = layer.hidden, wide = layer.recurrent();
  const auto put = [&](std::size_t kind, std::size_t row, std::size_t lanes, const Real* from) {
    if (dweights[kind]) store_some(dweights[kind] + row, total(from, chunks, stride), lanes);
  };
  const Share share(layout.blocks, part, parts);
  for (std::size_t block = share.first; block < share.last; ++block) {
    const std::size_t lanes = lanes_of(block, hidden), column = block * kWidth;
    const Real* at = dpacked + block * line * layout.gradient_depth(layer);
    const Real* sum = sums + block * per_block;
    const Real* gains = sum + line + kGates * kWidth;
    for (const Gate gate : kEvery) {
      if (!layer.row.learned(gate)) continue;
      const std::size_t row = layer.order[gate] * hidden + column, slot = layer.row.slot(gate) * kWidth;
      if (Real* to = dweights[kWeightIh]) transpose_out(at + slot, line, layer.inputs, lanes, to + row * layer.inputs);
      if (Real* to = dweights[kWeightHh])
        transpose_out(at + layer.inputs * line + slot, line, wide, lanes, to + row * wide);
      for (const Weight bias : {kBiasIh, kBiasHh}) put(bias, row, lanes, sum + slot);
      if (layer.row.gates[gate].peep != Peep::kNone)
        put(kPeephole, layer.peep_order[gate] * hidden + column, lanes, sum + line + gate * kWidth);
      if (!layer.layer_norm) continue;
      put(kNormIh, row, lanes, gains + slot);
      put(kNormHh, row, lanes, gains + line + slot);
    }
    if (layer.layer_norm) {
      put(kNormCell, column, lanes, gains + 2 * line);
      put(kNormCellBias, column, lanes, gains + 2 * line + kWidth);
    }
    for (std::size_t i = 0; dweights[kWeightGates] && i < layer.seen_count; ++i)
      transpose_out(at + (layer.inputs + wide) * line + layer.row.slot(layer.seen[i]) * kWidth, line, layout.seen_depth,
                    lanes, dweights[kWeightGates] + (i * hidden + column) * layout.seen_depth);
  }
  if (part || !layer.projected) return;
  const Real* from = dpacked + layout.blocks * line * layout.gradient_depth(layer);
  for (std::size_t v = 0; v < layout.projection.vectors; ++v) {
    const auto output = output_of(layer, dweights[kWeightHr], dweights[kWeightHp], v);
    const std::size_t panel = layout.projection.panel_of(v);
    if (output.rows)
      transpose_out(from + layout.projection.at(panel) + (v - layout.projection.first(panel)) * kWidth,
                    layout.projection.vectors_of(panel) * kWidth, hidden, output.lanes, output.rows);
  }
}

}  // namespace GATEWISE_ISA
}  // namespace gatewise
