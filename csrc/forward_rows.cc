// Forward: what each row reads and writes in a step, and its states before the first and after the last.
#include <cstring>

#include "forward.h"

namespace gatewise {
namespace GATEWISE_ISA {

bool has_options_but_norm(const Layer& layer, const Sequence& s) {
  bool traces = false;
  for (const Real* trace : s.trace) traces = traces || trace;
  return layer.clips || layer.seen_count || layer.keeps_pre() || s.h_mask || s.c_mask || traces;
}

bool has_options(const Layer& layer, const Sequence& s) { return layer.layer_norm || has_options_but_norm(layer, s); }

// The states before the first step.
void ForwardGroup::begin() {
  for (std::size_t k = 0; k < job_.count; ++k) {
    ForwardRows& rows = rows_[k];
    const Chunk& chunk = *rows.chunk;
    for (std::size_t r = 0; r < chunk.rows; ++r) {
      if (job_.first)
        restore(rows, r);
      else {
        const std::size_t slot = job_.sequence->slot(chunk.row[r]);
        load_cells(rows, r, job_.sequence->state, slot);
        load_seen(job_.sequence->state, slot, rows.seen_rows + r * layout_.seen_depth);
      }
    }
  }
}

// Copies one row's states besides h and gates from a row of dense tensors; null is zeros.
void ForwardGroup::load_cells(ForwardRows& rows, std::size_t r, const Real* const* from, std::size_t row) {
  const std::size_t hidden = layer_.hidden;
  for (std::size_t state = 1; state < layer_.plain_states(); ++state)
    for (std::size_t b = first_block_; b < last_block_; ++b) {
      Floats value = {};
      if (from[state]) value = load_some(from[state] + row * hidden + b * kWidth, lanes_of(b, hidden));
      store(rows.c + (state - 1) * plane() + (b * kChunk + r) * kWidth, value);
    }
}

// The same of the gates seen.
void ForwardGroup::load_seen(const Real* const* from, std::size_t row, Real* seen) const {
  const std::size_t hidden = layer_.hidden;
  for (std::size_t i = 0; i < layer_.seen_count; ++i) {
    const Real* gate = from[layer_.plain_states() + i];
    if (gate)
      std::memcpy(seen + i * hidden, gate + row * hidden, hidden * sizeof(Real));
    else
      std::memset(seen + i * hidden, 0, hidden * sizeof(Real));
  }
}

// The same from what was kept of the step before the first.
void ForwardGroup::restore(ForwardRows& rows, std::size_t r) {
  const std::size_t s = job_.first - 1;
  if (s >= rows.chunk->steps() || r >= rows.chunk->active(s)) return;
  const std::size_t active = rows.chunk->active(s), at = rows.chunk->base + rows.chunk->offset(s);
  for (std::size_t state = 1; state < layer_.plain_states(); ++state)
    for (std::size_t b = first_block_; b < last_block_; ++b)
      store(rows.c + (state - 1) * plane() + (b * kChunk + r) * kWidth,
            load(job_.saved.cells + (state - 1) * job_.saved.plane + at * layout_.padded + (b * active + r) * kWidth));
}

// Points every row at what it reads and writes in step s; returns the number of rows.
std::size_t ForwardGroup::point_at(std::size_t s) {
  std::size_t all = 0;
  for (std::size_t k = 0; k < job_.count; ++k) {
    ForwardRows& rows = rows_[k];
    rows.active = s < rows.chunk->steps() ? rows.chunk->active(s) : 0;
    for (std::size_t r = 0; r < rows.active; ++r) {
      point_row(rows, r, s);
      for (std::size_t source = 0; kNarrow && source < 3; ++source) {
        const std::size_t count = count_of(source);
        const Real*& row = rows.source[source][r];
        row = factors(row, count, rows.factors[source] + r * words(count));
      }
    }
    all += rows.active;
  }
  return all;
}

void ForwardGroup::point_row(ForwardRows& rows, std::size_t r, std::size_t s) {
  const Sequence& sequence = *job_.sequence;
  const Chunk& chunk = *rows.chunk;
  const std::size_t row = chunk.row[r], t = chunk.time(r, s, sequence.reverse);
  rows.source[Piece::kX][r] = sequence.x.at(t, row);
  rows.y[r] = job_.again ? rows.unused + r * layer_.width() : sequence.y.at(t, row);
  const Real* h = s ? sequence.y.at(chunk.time(r, s - 1, sequence.reverse), row) : first_h(row);
  rows.restarts[r] = sequence.reset && restarts(sequence, chunk, r, s);
  if (rows.restarts[r]) h = sequence.start[kH] ? sequence.start[kH] + row * layer_.recurrent() : zeros_;
  rows.h_old[r] = rows.source[Piece::kHidden][r] = h;
  rows.source[Piece::kSeen][r] = nullptr;
  if (points_more_) point_more(rows, r, s, t);
}

// What only options, projections and masks need.
void ForwardGroup::point_more(ForwardRows& rows, std::size_t r, std::size_t s, std::size_t t) {
  const Sequence& sequence = *job_.sequence;
  const std::size_t row = rows.chunk->row[r], wide = layer_.recurrent();
  if (layout_.seen_depth && rows.restarts[r]) {
    Real* at = rows.seen_rows + (2 * kChunk + r) * layout_.seen_depth;
    load_seen(sequence.start, row, at);
    rows.source[Piece::kSeen][r] = at;
  } else if (layout_.seen_depth) {
    rows.source[Piece::kSeen][r] = seen_before(rows, r, s);
  }
  if (sequence.recurrent_mask) {
    Real* masked = rows.masked + r * wide;
    const Real* mask = sequence.recurrent_mask + row * wide;
    for (std::size_t k = 0; k < wide; ++k) masked[k] = rows.h_old[r][k] * mask[k];
    rows.source[Piece::kHidden][r] = masked;
  }
  const std::size_t dense = t * sequence.rows + row, hidden = layer_.hidden;
  if (sequence.h_mask) rows.h_mask[r] = sequence.h_mask + dense * wide;
  if (sequence.c_mask) rows.c_mask[r] = sequence.c_mask + dense * hidden;
  for (std::size_t i = 0; i < kTraces; ++i)
    if (sequence.trace[i]) rows.trace[i][r] = sequence.trace[i] + dense * (i == kGates + kH ? wide : hidden);
  if (layer_.projected)
    rows.unprojected[r] = job_.saved.unprojected
                              ? job_.saved.unprojected + (window(*rows.chunk, s) + r) * layout_.padded
                              : rows.m_rows + r * layout_.padded;
  for (std::size_t i = 0; i < layer_.seen_count; ++i)
    rows.seen[layer_.seen[i]][r] = seen_after(rows, r, s) + i * hidden;
}

// Where a row's gates of the step before step s stand, and where those of step s go.
const Real* ForwardGroup::seen_before(const ForwardRows& rows, std::size_t r, std::size_t s) const {
  if (!s || !job_.saved.seen) return rows.seen_rows + (s % 2 * kChunk + r) * layout_.seen_depth;
  return job_.saved.seen + (rows.chunk->base + rows.chunk->offset(s - 1) + r) * layout_.seen_depth;
}

Real* ForwardGroup::seen_after(const ForwardRows& rows, std::size_t r, std::size_t s) const {
  if (!job_.saved.seen || job_.again) return rows.seen_rows + ((s + 1) % 2 * kChunk + r) * layout_.seen_depth;
  return job_.saved.seen + (rows.chunk->base + rows.chunk->offset(s) + r) * layout_.seen_depth;
}

// The final states.
void ForwardGroup::finish() {
  const Sequence& sequence = *job_.sequence;
  for (std::size_t k = 0; k < job_.count; ++k) {
    const ForwardRows& rows = rows_[k];
    const Chunk& chunk = *rows.chunk;
    for (std::size_t r = 0; r < chunk.rows; ++r) {
      const std::size_t row = chunk.row[r], slot = sequence.slot(row), last = chunk.length[r];
      const std::size_t wide = layer_.recurrent(), hidden = layer_.hidden;
      if (sequence.final[kH]) {
        const Real* h = last ? sequence.y.at(chunk.time(r, last - 1, sequence.reverse), row) : first_h(row);
        Real* const to = sequence.final[kH] + slot * wide;
        if (h != to) std::memcpy(to, h, wide * sizeof(Real));
      }
      for (std::size_t state = 1; state < layer_.plain_states(); ++state)
        for (std::size_t b = 0; sequence.final[state] && b < layout_.blocks; ++b)
          store_some(sequence.final[state] + slot * hidden + b * kWidth,
                     load(rows.c + (state - 1) * plane() + (b * kChunk + r) * kWidth), lanes_of(b, hidden));
      for (std::size_t i = 0; i < layer_.seen_count; ++i)
        if (Real* to = sequence.final[layer_.plain_states() + i])
          std::memcpy(to + slot * hidden, seen_before(rows, r, last) + i * hidden, hidden * sizeof(Real));
    }
  }
}

}  // namespace GATEWISE_ISA
}  // namespace gatewise
