// Backward of one row-step: weights are read as they are and their gradients written where they belong, for to pack
// both would take longer. Every sum still adds its terms in the order of units and gates.
#include "backward.h"

namespace gatewise {
namespace GATEWISE_ISA {
namespace {

// The rows of the learned gates in a matrix of weights or of their gradients, for one unit.
template <class Data>
std::size_t rows_of(const Layer& layer, Data* matrix, std::size_t unit, std::size_t columns, Data* (&rows)[kGates]) {
  std::size_t count = 0;
  for (const Gate gate : {kI, kF, kO, kG})
    if (layer.row.learned(gate)) rows[count++] = matrix + (layer.order[gate] * layer.hidden + unit) * columns;
  return count;
}

// Adds a unit's terms to the sums, which lie vector by vector; `values` are the gradients of its gates.
template <std::size_t kCount>
void add_unit(const Real* const (&rows)[kGates], const Real* values, std::size_t columns, Real* sums) {
  Floats value[kCount];
#pragma GCC unroll 4
  for (std::size_t gate = 0; gate < kCount; ++gate) value[gate] = broadcast(values[gate * kWidth]);
  for (std::size_t k = 0; k < columns; k += kWidth, sums += kVectorStride) {
    const std::size_t lanes = columns - k < kWidth ? columns - k : kWidth;
    Floats sum = load(sums);
#pragma GCC unroll 4
    for (std::size_t gate = 0; gate < kCount; ++gate) {
      const Floats weights = lanes == kWidth ? load(rows[gate] + k) : load_some(rows[gate] + k, lanes);
      sum = fma(weights, value[gate], sum);
    }
    store(sums, sum);
  }
}

}  // namespace

void BackwardGroup::multiply_unpacked(Weight weight, std::size_t columns, const PanelChunk& source) const {
  for (std::size_t v = 0; v < vectors(columns); ++v) store(source.to + v * kVectorStride, Floats{});
  for (std::size_t unit = 0; unit < layer_.hidden; ++unit) {
    const Real* rows[kGates];
    const std::size_t count = rows_of(layer_, job_.weights[weight], unit, columns, rows);
    const Real* const values = source.lines + unit / kWidth * source.block + unit % kWidth;
    switch (count) {
      case 1:
        add_unit<1>(rows, values, columns, source.to);
        break;
      case 2:
        add_unit<2>(rows, values, columns, source.to);
        break;
      case 3:
        add_unit<3>(rows, values, columns, source.to);
        break;
      default:
        add_unit<4>(rows, values, columns, source.to);
    }
  }
}

void reduce_once(const ReduceJob& job) {
  const Layer& layer = *job.layer;
  const Layout layout(layer);
  const auto outer = [&](Weight weight, const Real* inputs, std::size_t columns, std::size_t unit, const Real* values) {
    if (!job.dweights[weight]) return;
    Real* rows[kGates];
    const std::size_t count = rows_of(layer, job.dweights[weight], unit, columns, rows);
    for (std::size_t gate = 0; gate < count; ++gate)
      for (std::size_t k = 0; k < columns; k += kWidth) {
        const std::size_t lanes = columns - k < kWidth ? columns - k : kWidth;
        // A sum of one term, as others are: zero is never negative.
        const Floats product = fma(broadcast(values[gate * kWidth]), load_some(inputs + k, lanes), Floats{});
        store_some(rows[gate] + k, product, lanes);
      }
  };
  const std::size_t end = job.last_block * kWidth < layer.hidden ? job.last_block * kWidth : layer.hidden;
  for (std::size_t unit = job.first_block * kWidth; unit < end; ++unit) {
    const Real* const values = job.saved.gates + unit / kWidth * layout.line + unit % kWidth;
    outer(kWeightIh, job.x_rows[0], layer.inputs, unit, values);
    outer(kWeightHh, job.h_rows[0], layer.recurrent(), unit, values);
  }
}

}  // namespace GATEWISE_ISA
}  // namespace gatewise
