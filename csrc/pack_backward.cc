// Weights into the order in which backward reads them, and gradients back. layout.h says where things lie.
#include "pack.h"

namespace gatewise {
namespace GATEWISE_ISA {
namespace {

void transpose_out(const Real* from, std::size_t line, std::size_t columns, std::size_t lanes, Real* rows) {
  std::size_t k = 0;
  for (; k + kWidth <= columns; k += kWidth) {
    Floats v[kWidth];
    load_turned(from + k * line, line, kWidth, v);
    for (std::size_t lane = 0; lane < lanes; ++lane) store(rows + lane * columns + k, v[lane]);
  }
  for (; k < columns; ++k)
    for (std::size_t lane = 0; lane < lanes; ++lane) rows[lane * columns + k] = from[k * line + lane];
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
