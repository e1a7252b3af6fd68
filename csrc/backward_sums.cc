// Backward: what is summed over rows besides the products, for a chunk together or for each of its rows.
#include "backward.h"

namespace gatewise {
namespace GATEWISE_ISA {
namespace {

// The same pointers, as they are for row r alone.
BackwardBlock row_of(const BackwardBlock& block, std::size_t r, std::size_t line) {
  BackwardBlock one = block;
  one.rows = 1;
  one.gates += r * line;
  one.c_old += r * kWidth;
  one.dh += r * kWidth;
  if (one.dy) one.dy += r;
  one.dc += r * kWidth;
  return one;
}

BackwardExtras row_of(const BackwardExtras& extras, std::size_t r) {
  BackwardExtras one = extras;
  for (const Real* const** rows : {&one.h_mask, &one.c_mask})
    if (*rows) *rows += r;
  for (const Real* const*& rows : one.dtrace)
    if (rows) rows += r;
  for (const Real*& rows : one.dseen)
    if (rows) rows += r * kWidth;
  for (Real** rows : {&one.carry, &one.hat, &one.normalised})
    if (*rows) *rows += r * kWidth;
  if (one.c_mean) one.c_mean += r;
  if (one.c_scale) one.c_scale += 2 * r;
  return one;
}

}  // namespace

// The cell's derivatives for all rows at once; or row by row, so that each has its own sums, in the order that it has
// in a batch of one.
void BackwardGroup::point(const BackwardRows& rows, std::size_t block, BackwardBlock& at,
                          BackwardExtras* extras) const {
  const auto run = [&](BackwardBlock& of, BackwardExtras* options, std::size_t r) {
    of.dbias = sums_of(rows, block, r);
    of.dpeep = of.dbias + layout_.line;
    of.extras = options;
    if (options && layer_.layer_norm) {
      options->dgain = of.dpeep + kGates * kWidth + 2 * layout_.line;
      options->dshift = options->dgain + kWidth;
    }
    point_(layer_.row, of);
  };
  if (!job_.by_row) return run(at, extras, 0);
  for (std::size_t r = 0; r < rows.active; ++r) {
    BackwardBlock one = row_of(at, r, layout_.line);
    BackwardExtras own;
    if (extras) own = row_of(*extras, r);
    run(one, extras ? &own : nullptr, r);
  }
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
