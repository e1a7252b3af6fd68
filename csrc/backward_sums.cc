// Backward: what is summed over rows besides the products, for a chunk together or for each of its rows.
#include "backward.h"

namespace gatewise {
namespace GATEWISE_ISA {

// The cell's derivatives, with one sum for all rows or of each row its own, in the order that it has in a batch of one.
void BackwardGroup::point(const BackwardRows& rows, std::size_t block, BackwardBlock& at,
                          const BackwardExtras* extras) const {
  Real* sums[kChunk];
  for (std::size_t r = 0; r < (job_.by_row ? rows.active : 1); ++r) sums[r] = sums_of(rows, block, r);
  at.sums = sums;
  at.by_row = job_.by_row;
  at.extras = extras;
  point_(layer_.row, at);
}

void BackwardGroup::add_up(const BackwardRows& rows) const {
  const std::size_t count = layout_.blocks * layout_.sums(layer_);
  for (std::size_t r = 0; r < (job_.by_row ? rows.chunk->rows : 1); ++r) {
    Real* const sums = sums_of(rows, 0, r);
    Real* const totals = job_.totals + (sums - job_.sums);
    for (std::size_t i = 0; i < count; i += kWidth) {
      store(totals + i, load(totals + i) + load(sums + i));
      store(sums + i, Floats{});
    }
  }
}

// From the gradients of the pre-activations to those of one of their two products, which take the normalised ones'
// place. A step's share of a gain's gradient is summed over its rows first: one long sum would be less exact.
void BackwardGroup::unnormalise(const BackwardRows& rows, bool recurrent) const {
  const std::size_t line = layout_.line, stride = rows.active * line;
  const Real* const dpre = gates_at(rows, job_.saved.gates);
  Real* const normalised = gates_at(rows, recurrent ? job_.saved.norm_h : job_.saved.norm_x);
  const std::size_t groups = job_.by_row ? rows.active : 1, group = stride / groups;
  for (std::size_t block = 0; block < layout_.blocks; ++block) {
    const Real* gain = job_.packed + layout_.gain_at(recurrent) + block * line;
    for (std::size_t r = 0; r < groups; ++r) {
      Real* dgain = sums_of(rows, block, r) + line + kGates * kWidth + recurrent * line;
      const std::size_t first = block * stride + r * group;
      for (std::size_t v = 0; v < line; v += kWidth) {
        Floats sum = {};
        for (std::size_t at = first + v; at < first + group; at += line) {
          const Floats gradient = load(dpre + at);
          sum = fma(gradient, load(normalised + at), sum);
          store(rows.dnorm + at, gradient * load(gain + v));
        }
        store(dgain + v, load(dgain + v) + sum);
      }
    }
  }
  with_gates(layer_.gates(), [&](auto gates) {
    for (std::size_t r = 0; r < rows.active; ++r) {
      const Real* scale = job_.saved.scale + (rows.window + r) * 5;
      const NormRow<gates()> row = {rows.dnorm + r * line, stride, layer_.hidden};
      norm_backward(row, normalised + r * line, scale[recurrent], normalised + r * line);
    }
  });
}

}  // namespace GATEWISE_ISA
}  // namespace gatewise
