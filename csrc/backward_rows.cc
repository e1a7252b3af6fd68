// Backward: what each row reads in a step, and the gradients of its states before, between and after the steps.
#include <cstring>

#include "backward.h"

namespace gatewise {
namespace GATEWISE_ISA {

void BackwardGroup::take(BackwardRows& rows, Scratch& scratch) {
  rows.staged = scratch.take((layer_.plain_states() - 1) * plane());
  // Stays so where there is no cell state, and is not read.
  rows.c_old = rows.staged, rows.old_block = rows.old_plane = 0;
  rows.dm = scratch.take(layer_.projected ? plane() : 0);
  rows.carry = scratch.take(sequence_.h_mask ? layout_.dh.vectors * kVectorStride : 0);
  const std::size_t ahead = sequence_.steps < kAhead ? sequence_.steps : kAhead;
  rows.dx = scratch.take((few_rows() ? ahead : 1) * layout_.dx.vectors * kVectorStride);
  const std::size_t normed = layer_.layer_norm ? plane() : 0;
  rows.hat = scratch.take(normed);
  rows.normalised = scratch.take(normed);
  rows.dnorm = scratch.take(layer_.layer_norm ? layout_.blocks * kChunk * layout_.line : 0);
}

void BackwardGroup::attach(BackwardRows& rows) {
  rows.dh = job_.state + rows.chunk->index * state_size(layer_, layout_);
  rows.dc = rows.dh + layout_.dh.vectors * kVectorStride;
  rows.dseen = rows.dc + (layer_.plain_states() - 1) * plane();
  if (!job_.begins) return;
  std::memset(rows.dh, 0, state_size(layer_, layout_) * sizeof(Real));
  for (std::size_t state = 0; state < layer_.states(); ++state) {
    const Real* from = job_.gradients->dfinal[state];
    const std::size_t width = layer_.state_width(state);
    for (std::size_t r = 0; from && r < rows.chunk->rows; ++r)
      for (std::size_t v = 0; v < vectors(width); ++v)
        store(state_at(rows, state) + v * kVectorStride + r * kWidth,
              load_some(from + rows.chunk->row[r] * width + v * kWidth, lanes_of(v, width)));
  }
  for (std::size_t r = 0; job_.start_seen && r < rows.chunk->rows; ++r) fill_seen(rows, r);
}

// The gates that a row sees at its first step, and after a reset.
void BackwardGroup::fill_seen(const BackwardRows& rows, std::size_t r) const {
  for (const bool start : {false, true})
    for (std::size_t i = 0; i < layer_.seen_count; ++i) {
      const Real* const* states = start ? sequence_.start : sequence_.state;
      const Real* from = states[layer_.plain_states() + i];
      const std::size_t hidden = layer_.hidden;
      Real* to = seen_row(rows, r, start) + i * hidden;
      if (from)
        std::memcpy(to, from + rows.chunk->row[r] * hidden, hidden * sizeof(Real));
      else
        std::memset(to, 0, hidden * sizeof(Real));
    }
}

// Points a row at what its step reads, and notes for reduce where its inputs stand.
void BackwardGroup::point_row(BackwardRows& rows, std::size_t r, std::size_t s) {
  const Chunk& chunk = *rows.chunk;
  const std::size_t row = chunk.row[r], t = chunk.time(r, s, sequence_.reverse), at = rows.window + r;
  const Real* h = sequence_.state[kH] ? sequence_.state[kH] + row * layer_.recurrent() : job_.zeros;
  if (s) h = sequence_.y.at(chunk.time(r, s - 1, sequence_.reverse), row);
  rows.restarts[r] = sequence_.reset && restarts(sequence_, chunk, r, s);
  rows.any_restart = rows.any_restart || rows.restarts[r];
  if (rows.restarts[r]) h = sequence_.start[kH] ? sequence_.start[kH] + row * layer_.recurrent() : job_.zeros;
  job_.x_rows[at] = sequence_.x.at(t, row);
  job_.h_rows[at] = h;
  if (job_.gradients->dy.data) rows.dy[r] = job_.gradients->dy.at(t, row);
  if (options_ || sequence_.recurrent_mask) point_more(rows, r, s, t);
}

// What only options and masks need.
void BackwardGroup::point_more(BackwardRows& rows, std::size_t r, std::size_t s, std::size_t t) {
  const Chunk& chunk = *rows.chunk;
  const std::size_t row = chunk.row[r], wide = layer_.recurrent(), at = rows.window + r;
  const std::size_t dense = t * sequence_.rows + row;
  if (sequence_.recurrent_mask) {
    const Real*& h = job_.h_rows[at];
    Real* masked = job_.masked + at * wide;
    const Real* mask = sequence_.recurrent_mask + row * wide;
    for (std::size_t k = 0; k < wide; ++k) masked[k] = h[k] * mask[k];
    h = masked;
  }
  if (layer_.seen_count)
    job_.seen_rows[at] = rows.restarts[r] ? seen_row(rows, r, true)
                         : !s ? seen_row(rows, r, false)
                              : job_.saved.seen + (chunk.base + chunk.offset(s - 1) + r) * layout_.seen_depth;
  if (sequence_.h_mask) rows.h_mask[r] = sequence_.h_mask + dense * wide;
  if (sequence_.c_mask) rows.c_mask[r] = sequence_.c_mask + dense * layer_.hidden;
  for (std::size_t i = 0; i < kTraces; ++i)
    if (job_.gradients->dtrace[i])
      rows.dtrace[i][r] = job_.gradients->dtrace[i] + dense * (i == kGates + kH ? wide : layer_.hidden);
}

// Where the cell states before step s stand: as kept, or put together where some rows start.
void BackwardGroup::find_old_cells(BackwardRows& rows, std::size_t s) {
  if (layer_.plain_states() == 1) return;
  const Chunk& chunk = *rows.chunk;
  const Real* kept = nullptr;
  std::size_t stride = 0;
  if (s) {
    stride = chunk.active(s - 1) * kWidth;
    kept = job_.saved.cells + (chunk.base + chunk.offset(s - 1)) * layout_.padded;
    if (!rows.any_restart) {
      rows.c_old = kept, rows.old_block = stride, rows.old_plane = job_.saved.plane;
      return;
    }
  }
  rows.c_old = rows.staged, rows.old_block = kVectorStride, rows.old_plane = plane();
  for (std::size_t state = 1; state < layer_.plain_states(); ++state)
    for (std::size_t r = 0; r < rows.active; ++r) {
      const Real* from = rows.restarts[r] ? sequence_.start[state] : s ? nullptr : sequence_.state[state];
      for (std::size_t b = 0; b < layout_.blocks; ++b) {
        Floats value = {};
        if (from)
          value = load_some(from + chunk.row[r] * layer_.hidden + b * kWidth, lanes_of(b, layer_.hidden));
        else if (s && !rows.restarts[r])
          value = load(kept + (state - 1) * job_.saved.plane + b * stride + r * kWidth);
        store(rows.staged + (state - 1) * plane() + b * kVectorStride + r * kWidth, value);
      }
    }
}

// From the gradients of h and of the second projection to those of what the cell shows.
void BackwardGroup::unproject(BackwardRows& rows) {
  const std::size_t wide = layer_.recurrent();
  for (std::size_t r = 0; r < rows.active; ++r) {
    Real* to = job_.dprojected + (rows.window + r) * layer_.width();
    rows.dprojected[r] = to;
    for (std::size_t v = 0; v < layout_.dh.vectors; ++v) {
      const std::size_t column = v * kWidth, lanes = lanes_of(v, wide);
      Floats value = load(rows.dh + v * kVectorStride + r * kWidth);
      if (job_.gradients->dy.data) value = value + load_some(rows.dy[r] + column, lanes);
      if (job_.gradients->dtrace[kGates + kH]) value = value + load_some(rows.dtrace[kGates + kH][r] + column, lanes);
      if (sequence_.h_mask) {
        const Floats taken = value * load_some(rows.h_mask[r] + column, lanes);
        store(rows.carry + v * kVectorStride + r * kWidth, value - taken);
        value = taken;
      }
      store_some(to + column, value, lanes);
    }
    for (std::size_t k = 0; k < layer_.beside; ++k)
      to[wide + k] = job_.gradients->dy.data ? rows.dy[r][wide + k] : 0.0f;
  }
  const PanelChunk chunk = {.active = rows.active, .rows = rows.dprojected, .to = rows.dm};
  panel_products(layout_.dm, job_.packed_backward + layout_.dm_at(), &chunk, 1, 0);
}

// A row that restarted before this step: what it would hand to the step before belongs to the start.
void BackwardGroup::restart(const BackwardRows& rows, std::size_t r) const {
  for (std::size_t state = 0; state < layer_.states(); ++state) {
    const std::size_t width = layer_.state_width(state);
    Real* to = job_.gradients->dstart[state];
    if (to) to += rows.chunk->row[r] * width;
    for (std::size_t v = 0; v < vectors(width); ++v) {
      Real* at = state_at(rows, state) + v * kVectorStride + r * kWidth;
      if (to) {
        const std::size_t lanes = lanes_of(v, width);
        store_some(to + v * kWidth, load_some(to + v * kWidth, lanes) + load(at), lanes);
      }
      store(at, Floats{});
    }
  }
}

void BackwardGroup::finish(const BackwardRows& rows) const {
  for (std::size_t state = 0; state < layer_.states(); ++state) {
    const std::size_t width = layer_.state_width(state);
    Real* to = job_.gradients->dstate[state];
    for (std::size_t r = 0; to && r < rows.chunk->rows; ++r)
      for (std::size_t v = 0; v < vectors(width); ++v)
        store_some(to + rows.chunk->row[r] * width + v * kWidth,
                   load(state_at(rows, state) + v * kVectorStride + r * kWidth), lanes_of(v, width));
  }
}

}  // namespace GATEWISE_ISA
}  // namespace gatewise
