// Forward: steps with layer normalisation, and the projections.
#include "forward.h"

namespace gatewise {
namespace GATEWISE_ISA {

// Weights from beyond it are shared by all chunks, block by block; else, or where not even one block would stay there,
// each chunk's gates had better be near.
void ForwardGroup::normalised_step(std::size_t s) {
  const std::size_t bytes = layout_.block * sizeof(Real);
  const std::size_t together = bytes <= kMiddleBytes && layout_.blocks * bytes > kMiddleBytes ? job_.count : 1;
  for (std::size_t k = 0; k < job_.count; k += together) {
    for (std::size_t i = 0; i < layout_.blocks; ++i) {
      const std::size_t block = in_turn(s, i, layout_.blocks);
      for (std::size_t each = k; each < k + together; ++each) multiply_apart(rows_[each], block);
    }
    for (std::size_t each = k; each < k + together; ++each) normalised_cells(rows_[each], s);
  }
}

// The products with x and with h, which are normalised each by itself. In scratch, though they may be kept: tiles that
// are stored far away keep the weights waiting.
void ForwardGroup::multiply_apart(const ForwardRows& rows, std::size_t block) const {
  if (!rows.active) return;
  std::size_t of_x = 0;
  while (of_x < piece_count_ && pieces_[of_x].source == Piece::kX) ++of_x;
  const std::size_t at = block * rows.active * layout_.line;
  multiply_block(block, {0, of_x}, rows, true, false, rows.norm_x + at);
  multiply_block(block, {of_x, piece_count_}, rows, true, false, rows.norm_h + at);
}

void ForwardGroup::normalised_cells(const ForwardRows& rows, std::size_t s) const {
  if (!rows.active) return;
  for (std::size_t r = 0; r < rows.active; ++r) normalise(rows, s, r);
  for (std::size_t block = 0; block < layout_.blocks; ++block)
    cell(rows, s, block, normed(rows, job_.saved.gates, rows.gates, s, block), Stage::kCell);
  for (std::size_t r = 0; r < rows.active; ++r) {
    const Moments c = moments(NormRow<1>{rows.fresh + r * kWidth, kVectorStride, layer_.hidden});
    rows.stats[r] = c.mean;
    rows.stats[kChunk + 2 * r] = c.scale;
    rows.stats[kChunk + 2 * r + 1] = c.rstd;
    if (Real* kept = job_.saved.scale) {
      kept += (window(*rows.chunk, s) + r) * 5;
      kept[2] = c.scale;
      kept[3] = c.rstd;
      kept[4] = c.mean;
    }
  }
  for (std::size_t block = 0; block < layout_.blocks; ++block)
    cell(rows, s, block, normed(rows, job_.saved.gates, rows.gates, s, block), Stage::kOutput);
}

Real* ForwardGroup::normed(const ForwardRows& rows, Real* kept, Real* scratch, std::size_t s, std::size_t block) const {
  return gates_at(rows, kept, scratch + block * rows.active * layout_.line, s, block);
}

// One row's pre-activations from its two products, whose normalised numbers backward wants.
void ForwardGroup::normalise(const ForwardRows& rows, std::size_t s, std::size_t r) const {
  const std::size_t line = layout_.line, stride = rows.active * line;
  Real* const x = rows.norm_x + r * line;
  Real* const h = rows.norm_h + r * line;
  Real* const kept_x = normed(rows, job_.saved.norm_x, rows.norm_x, s, 0) + r * line;
  Real* const kept_h = normed(rows, job_.saved.norm_h, rows.norm_h, s, 0) + r * line;
  Real* const pre = normed(rows, job_.saved.gates, rows.gates, s, 0) + r * line;
  const bool keeps = job_.saved.norm_x;
  Moments of_x, of_h;
  with_gates(layer_.gates(), [&](auto gates) {
    of_x = moments(NormRow<gates()>{x, stride, layer_.hidden});
    of_h = moments(NormRow<gates()>{h, stride, layer_.hidden});
  });
  if (Real* kept = job_.saved.scale) {
    kept += (window(*rows.chunk, s) + r) * 5;
    kept[0] = of_x.scale * of_x.rstd;
    kept[1] = of_h.scale * of_h.rstd;
  }
  for (std::size_t block = 0; block < layout_.blocks; ++block) {
    const Real* gain_x = job_.packed + layout_.gain_at(false) + block * line;
    const Real* gain_h = job_.packed + layout_.gain_at(true) + block * line;
    const Real* bias = job_.packed + block * layout_.block;
    for (std::size_t v = 0; v < line; v += kWidth) {
      const std::size_t at = block * stride + v;
      const Floats nx = (load(x + at) * of_x.scale - of_x.mean) * of_x.rstd;
      const Floats nh = (load(h + at) * of_h.scale - of_h.mean) * of_h.rstd;
      if (keeps) {
        store(kept_x + at, nx);
        store(kept_h + at, nh);
      }
      store(pre + at, fma(nx, load(gain_x + v), nh * load(gain_h + v)) + load(bias + v));
    }
  }
}

// h and the second projection, from what the cell shows.
void ForwardGroup::project() {
  const std::size_t own = vectors(layer_.projected);
  for (std::size_t k = 0; k < job_.count; ++k) {
    ForwardRows& rows = rows_[k];
    if (!rows.active) continue;
    const Real* shown[kChunk];
    for (std::size_t r = 0; r < rows.active; ++r)
      shown[r] = factors(rows.unprojected[r], layer_.hidden, rows.factors[3] + r * words(layer_.hidden));
    const PanelChunk chunk = {.active = rows.active, .rows = shown, .to = rows.out};
    panel_products(layout_.projection, job_.packed + layout_.projection_at(), &chunk, 1, 0);
    for (std::size_t v = 0; v < layout_.projection.vectors; ++v)
      for (std::size_t r = 0; r < rows.active; ++r) {
        Floats value = load(rows.out + v * kVectorStride + r * kWidth);
        const bool beside = v >= own;
        const std::size_t block = beside ? v - own : v, column = block * kWidth;
        const std::size_t lanes = lanes_of(block, beside ? layer_.beside : layer_.projected);
        if (job_.sequence->h_mask && !beside) {
          const Floats old = load_some(rows.h_old[r] + column, lanes);
          value = fma(load_some(rows.h_mask[r] + column, lanes), value - old, old);
        }
        store_some(rows.y[r] + (beside ? layer_.projected : 0) + column, value, lanes);
        if (!beside && job_.sequence->trace[kGates + kH]) store_some(rows.trace[kGates + kH][r] + column, value, lanes);
      }
  }
}

}  // namespace GATEWISE_ISA
}  // namespace gatewise
