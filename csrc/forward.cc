// Forward of one group of chunks through time: load, multiply, cell, store.
//
//   pre_g = (b_ih + b_hh) + sum_k w_ih[g][k] x[k] + sum_k w_hh[g][k] h[k] + sum_k w_gates[g][k] seen[k], in this order,
//   then the cell's equations (pointwise_forward.cc), then the projections. With layer normalisation the two products
//   are formed apart and normalised first.
//
// The one idea: the gates of a vector of hidden units lie together in the packed weights, so that a tile of a few rows
// accumulates all its products in registers, and the cell finds a block's gates in the first-level cache.
#include "forward.h"

#include <cstring>

namespace gatewise {
namespace {

using namespace GATEWISE_ISA;

// A tile of pre-activations.
struct GateTile {
  const Piece* pieces;
  std::size_t first, last;
  const float* const* source[3];  // by Piece::Source
  const float* block;             // packed weights
  bool begins;                    // from the bias, or zero if that is null
  const float* bias;
  float* gates;
  std::size_t stride;  // from one row's gates to the next
  std::size_t seen_vectors;

  template <std::size_t kRows, std::size_t kVectors>
  void run(std::size_t row) const {
    Tile<kRows, kVectors> sum = {};
    float* at = gates + row * stride;
    if (!begins)
      load_tile<kRows, kVectors>(sum, at, stride, kWidth);
    else if (bias)
      load_tile<kRows, kVectors>(sum, bias, 0, kWidth);
    for (std::size_t p = first; p < last; ++p) {
      const Piece& piece = pieces[p];
      const float* rows[kRows];
      for (std::size_t r = 0; r < kRows; ++r) rows[r] = source[piece.source][row + r] + piece.from;
      if (kVectors == 4 && piece.source == Piece::kSeen && seen_vectors == 3)
        multiply<(kVectors == 4 ? 3 : kVectors)>(sum, rows, block + piece.at, piece.count);
      else
        multiply<kVectors>(sum, rows, block + piece.at, piece.count);
    }
    store_tile<kRows, kVectors>(sum, at, stride, kWidth);
  }
};

constexpr std::size_t kMaxPieces = 64;
// With so few rows a step is over before its weights have come from the cache: the products with x of several steps are
// formed together, so that only the recurrent weights are wanted at every step.
constexpr std::size_t kFewRows = 16;
constexpr std::size_t kAhead = 16;

class Group {
 public:
  Group(const Job& job, ForwardRows* rows, Scratch& scratch)
      : job_(job), layer_(*job.layer), layout_(layer_), rows_(rows) {
    take(scratch);
  }

  void run() {
    options_ = options();
    point_ = forward_point(layer_.row, options_);
    plan_pieces();
    begin();
    for (std::size_t s = job_.first; s < job_.last; ++s) {
      if (job_.watch.stopped()) return;
      if (!point_at(s)) break;
      if (hoists() && (s - job_.first) % kAhead == 0) multiply_inputs(s);
      if (layer_.layer_norm)
        normalised_step(s);
      else
        step(s);
      if (layer_.projected) project(s);
    }
    finish();
  }

  // Memory for all chunks; with an empty Scratch this only counts.
  void take(Scratch& scratch) {
    zeros_ = scratch.take(zero_count());
    for (std::size_t k = 0; k < job_.count; ++k) {
      ForwardRows& rows = rows_[k];
      const std::size_t block = kChunk * layout_.line;
      rows.c = scratch.take((layer_.plain_states() - 1) * plane());
      const std::size_t most = job_.sequence->rows < kChunk ? job_.sequence->rows : kChunk;
      const std::size_t ahead = kAhead * layout_.blocks * most * layout_.line;
      rows.gates = scratch.take(hoists() ? ahead : layer_.layer_norm ? layout_.blocks * block : block);
      rows.masked = scratch.take(job_.sequence->recurrent_mask ? kChunk * layer_.recurrent() : 0);
      rows.seen_rows = scratch.take(3 * kChunk * layout_.seen_depth);
      rows.m_rows = scratch.take(layer_.projected ? kChunk * layout_.padded : 0);
      rows.out = scratch.take(layout_.projection.vectors * kVectorStride);
      const std::size_t normed = layer_.layer_norm ? layout_.blocks * block : 0;
      rows.norm_x = scratch.take(normed);
      rows.norm_h = scratch.take(normed);
      rows.fresh = scratch.take(layer_.layer_norm ? plane() : 0);
      rows.stats = scratch.take(layer_.layer_norm ? 3 * kChunk : 0);
    }
  }

 private:
  bool hoists() const {
    return !layer_.layer_norm && layer_.inputs >= kWidth && job_.sequence->rows <= kFewRows && job_.sequence->steps > 1;
  }

  std::size_t plane() const { return layout_.blocks * kVectorStride; }
  std::size_t zero_count() const {
    return layer_.recurrent() > layout_.seen_depth ? layer_.recurrent() : layout_.seen_depth;
  }

  // Whether anything is asked for that the compiled rows leave out.
  bool options() const {
    const Sequence& s = *job_.sequence;
    bool traces = false;
    for (const float* trace : s.trace) traces = traces || trace;
    return layer_.clips || layer_.layer_norm || layer_.seen_count || layer_.keeps_pre() || s.h_mask || s.c_mask ||
           traces;
  }

  void plan_pieces() {
    const std::size_t counts[] = {layer_.inputs, layer_.recurrent(), layout_.seen_depth};
    const std::size_t starts[] = {layout_.x_at(), layout_.h_at(layer_), layout_.seen_at(layer_)};
    const std::size_t lines[] = {layout_.line, layout_.line, layout_.seen_vectors * kWidth};
    std::size_t whole = 0, filled = kDepth;
    for (const std::size_t count : counts) whole += count;
    // Very deep sums take larger bites rather than more of them.
    const std::size_t depth = kDepth * (1 + whole / (kDepth * (kMaxPieces - 4)));
    for (std::size_t source = 0; source < 3; ++source)
      for (std::size_t from = 0; from < counts[source];) {
        if (filled >= depth || (hoists() && source == Piece::kHidden && from == 0)) {
          groups_[group_count_++] = {piece_count_, piece_count_};
          filled = 0;
        }
        const std::size_t left = counts[source] - from, room = depth - filled, count = left < room ? left : room;
        pieces_[piece_count_++] = {static_cast<Piece::Source>(source), from, count,
                                   starts[source] + from * lines[source]};
        groups_[group_count_ - 1].last = piece_count_;
        if (source == Piece::kX) input_groups_ = group_count_;
        from += count;
        filled += count;
      }
  }

  // The states before the first step.
  void begin() {
    std::memset(zeros_, 0, zero_count() * sizeof(float));
    for (std::size_t k = 0; k < job_.count; ++k) {
      ForwardRows& rows = rows_[k];
      const Chunk& chunk = *rows.chunk;
      for (std::size_t r = 0; r < chunk.rows; ++r) {
        if (job_.first)
          restore(rows, r);
        else
          load_state(rows, r, job_.sequence->state, rows.seen_rows + r * layout_.seen_depth);
      }
    }
  }

  // Copies one row's states, h aside, from dense tensors; null is zeros.
  void load_state(ForwardRows& rows, std::size_t r, const float* const* from, float* seen) {
    const std::size_t row = rows.chunk->row[r], hidden = layer_.hidden;
    for (std::size_t state = 1; state < layer_.plain_states(); ++state)
      for (std::size_t b = 0; b < layout_.blocks; ++b) {
        Floats value = {};
        if (from[state]) value = load_some(from[state] + row * hidden + b * kWidth, lanes_of(b, hidden));
        store(rows.c + (state - 1) * plane() + (b * kChunk + r) * kWidth, value);
      }
    for (std::size_t i = 0; i < layer_.seen_count; ++i) {
      const float* gate = from[layer_.plain_states() + i];
      if (gate)
        std::memcpy(seen + i * hidden, gate + row * hidden, hidden * sizeof(float));
      else
        std::memset(seen + i * hidden, 0, hidden * sizeof(float));
    }
  }

  // The same from what was kept of the step before the first.
  void restore(ForwardRows& rows, std::size_t r) {
    const std::size_t s = job_.first - 1;
    if (s >= rows.chunk->steps() || r >= rows.chunk->active(s)) return;
    const std::size_t active = rows.chunk->active(s), at = rows.chunk->base + rows.chunk->offset(s);
    for (std::size_t state = 1; state < layer_.plain_states(); ++state)
      for (std::size_t b = 0; b < layout_.blocks; ++b)
        store(
            rows.c + (state - 1) * plane() + (b * kChunk + r) * kWidth,
            load(job_.saved.cells + (state - 1) * job_.saved.plane + at * layout_.padded + (b * active + r) * kWidth));
  }

  const float* first_h(std::size_t row) const {
    const float* h = job_.sequence->state[kH];
    return h ? h + row * layer_.recurrent() : zeros_;
  }

  // Points every row at what it reads and writes in step s; returns the number of rows.
  std::size_t point_at(std::size_t s) {
    std::size_t all = 0;
    for (std::size_t k = 0; k < job_.count; ++k) {
      ForwardRows& rows = rows_[k];
      rows.active = s < rows.chunk->steps() ? rows.chunk->active(s) : 0;
      for (std::size_t r = 0; r < rows.active; ++r) point_row(rows, r, s);
      all += rows.active;
    }
    return all;
  }

  void point_row(ForwardRows& rows, std::size_t r, std::size_t s) {
    const Sequence& sequence = *job_.sequence;
    const Chunk& chunk = *rows.chunk;
    const std::size_t row = chunk.row[r], t = chunk.time(r, s, sequence.reverse), wide = layer_.recurrent();
    rows.source[Piece::kX][r] = sequence.x.at(t, row);
    rows.y[r] = sequence.y.at(t, row);
    const float* h = s ? sequence.y.at(chunk.time(r, s - 1, sequence.reverse), row) : first_h(row);
    const float* seen = layout_.seen_depth ? seen_before(rows, r, s) : nullptr;
    if (sequence.reset && restarts(sequence, chunk, r, s)) {
      h = sequence.start[kH] ? sequence.start[kH] + row * wide : zeros_;
      float* at = rows.seen_rows + (2 * kChunk + r) * layout_.seen_depth;
      load_state(rows, r, sequence.start, at);
      seen = at;
    }
    rows.h_old[r] = h;
    rows.source[Piece::kHidden][r] = h;
    rows.source[Piece::kSeen][r] = seen;
    if (sequence.recurrent_mask) {
      float* masked = rows.masked + r * wide;
      const float* mask = sequence.recurrent_mask + row * wide;
      for (std::size_t k = 0; k < wide; ++k) masked[k] = h[k] * mask[k];
      rows.source[Piece::kHidden][r] = masked;
    }
    const std::size_t dense = t * sequence.rows + row, hidden = layer_.hidden;
    if (sequence.h_mask) rows.h_mask[r] = sequence.h_mask + dense * wide;
    if (sequence.c_mask) rows.c_mask[r] = sequence.c_mask + dense * hidden;
    for (std::size_t i = 0; i < kTraces; ++i)
      if (sequence.trace[i]) rows.trace[i][r] = sequence.trace[i] + dense * (i == kGates + kH ? wide : hidden);
    if (layer_.projected)
      rows.unprojected[r] = job_.saved.unprojected ? job_.saved.unprojected + (window(chunk, s) + r) * layout_.padded
                                                   : rows.m_rows + r * layout_.padded;
    for (std::size_t i = 0; i < layer_.seen_count; ++i)
      rows.seen[layer_.seen[i]][r] = seen_after(rows, r, s) + i * hidden;
  }

  // Where a row's gates of the step before step s stand, and where those of step s go.
  const float* seen_before(const ForwardRows& rows, std::size_t r, std::size_t s) const {
    if (!s || !job_.saved.seen) return rows.seen_rows + (s % 2 * kChunk + r) * layout_.seen_depth;
    return job_.saved.seen + (rows.chunk->base + rows.chunk->offset(s - 1) + r) * layout_.seen_depth;
  }
  float* seen_after(const ForwardRows& rows, std::size_t r, std::size_t s) const {
    if (!job_.saved.seen) return rows.seen_rows + ((s + 1) % 2 * kChunk + r) * layout_.seen_depth;
    return job_.saved.seen + (rows.chunk->base + rows.chunk->offset(s) + r) * layout_.seen_depth;
  }

  std::size_t window(const Chunk& chunk, std::size_t s) const {
    return static_cast<std::size_t>(job_.place[chunk.index] + static_cast<std::ptrdiff_t>(chunk.offset(s)));
  }

  // A block's gates of the active rows, in what is kept or in scratch.
  float* gates_at(const ForwardRows& rows, float* kept, float* scratch, std::size_t s, std::size_t block) const {
    if (!kept) return scratch;
    return kept + (window(*rows.chunk, s) * layout_.blocks + block * rows.active) * layout_.line;
  }

  void multiply_block(std::size_t block, std::size_t first, std::size_t last, const ForwardRows& rows, bool begins,
                      bool with_bias, float* gates) const {
    const float* packed = job_.packed + block * layout_.block;
    const GateTile tile = {pieces_,
                           first,
                           last,
                           {rows.source[0], rows.source[1], rows.source[2]},
                           packed,
                           begins,
                           with_bias ? packed : nullptr,
                           gates,
                           layout_.line,
                           layout_.seen_vectors};
    tiles(tile, rows.active, layer_.gates());
  }

  // A block's gates in step s, where the products with x have been formed ahead or are begun now.
  float* step_gates(const ForwardRows& rows, std::size_t s, std::size_t block) const {
    if (job_.saved.gates || !hoists()) return gates_at(rows, job_.saved.gates, rows.gates, s, block);
    const Chunk& chunk = *rows.chunk;
    const std::size_t begin = s - (s - job_.first) % kAhead;
    const std::size_t at = chunk.offset(s) - chunk.offset(begin);
    return rows.gates + (at * layout_.blocks + block * chunk.active(s)) * layout_.line;
  }

  // Begins the pre-activations of the steps from s on with the products with x. A single row's steps are the rows of a
  // tile.
  void multiply_inputs(std::size_t s) {
    for (std::size_t k = 0; k < job_.count; ++k) {
      ForwardRows rows = rows_[k];
      const Chunk& chunk = *rows.chunk;
      std::size_t end = s + kAhead < job_.last ? s + kAhead : job_.last;
      end = end < chunk.steps() ? end : chunk.steps();
      for (std::size_t t = s; t < end;) {
        rows.active = chunk.active(t);
        std::size_t last = t + 1;
        while (rows.active == 1 && last < end && chunk.active(last) == 1) ++last;
        const float* x[kAhead > kChunk ? kAhead : kChunk];
        std::size_t count = 0;
        for (std::size_t u = t; u < last; ++u)
          for (std::size_t r = 0; r < rows.active; ++r)
            x[count++] = job_.sequence->x.at(chunk.time(r, u, job_.sequence->reverse), chunk.row[r]);
        for (std::size_t block = 0; block < layout_.blocks; ++block) {
          const float* packed = job_.packed + block * layout_.block;
          const GateTile tile = {pieces_,
                                 0,
                                 groups_[input_groups_ - 1].last,
                                 {x, nullptr, nullptr},
                                 packed,
                                 true,
                                 packed,
                                 step_gates(rows, t, block),
                                 rows.active == 1 ? layout_.blocks * layout_.line : layout_.line,
                                 layout_.seen_vectors};
          tiles(tile, count, layer_.gates());
        }
        t = last;
      }
    }
  }

  void step(std::size_t s) {
    const std::size_t first = hoists() ? input_groups_ : 0;
    for (std::size_t block = 0; block < layout_.blocks; ++block) {
      for (std::size_t g = first; g < group_count_; ++g)
        for (std::size_t k = 0; k < job_.count; ++k) {
          const ForwardRows& rows = rows_[k];
          if (!rows.active) continue;
          float* gates = step_gates(rows, s, block);
          multiply_block(block, groups_[g].first, groups_[g].last, rows, g == 0, true, gates);
          if (g + 1 == group_count_) cell(rows, s, block, gates, Stage::kWhole);
        }
    }
  }

  void cell(const ForwardRows& rows, std::size_t s, std::size_t block, float* gates, Stage stage) const {
    const Sequence& sequence = *job_.sequence;
    ForwardBlock at;
    at.rows = rows.active;
    at.lanes = lanes_of(block, layer_.hidden);
    at.column = block * kWidth;
    at.gates = gates;
    at.c = rows.c + block * kVectorStride;
    at.plane = plane();
    if (job_.saved.cells) {
      at.kept =
          job_.saved.cells + (rows.chunk->base + rows.chunk->offset(s)) * layout_.padded + block * rows.active * kWidth;
      at.kept_plane = job_.saved.plane;
    }
    at.out = layer_.projected ? rows.unprojected : rows.y;
    for (const Gate gate : {kI, kF, kO, kG}) at.peep[gate] = job_.packed + layout_.peep_at(gate) + block * kWidth;
    if (!options_) return point_(layer_.row, at);
    ForwardExtras extras;
    extras.stage = stage;
    extras.clips = layer_.clips;
    extras.keeps_pre = layer_.keeps_pre();
    extras.clip = layer_.clip;
    if (sequence.h_mask && !layer_.projected) extras.h_mask = rows.h_mask;
    extras.h_old = rows.h_old;
    if (sequence.c_mask) extras.c_mask = rows.c_mask;
    for (std::size_t i = 0; i < kTraces; ++i)
      if (sequence.trace[i] && !(layer_.projected && i == kGates + kH)) extras.trace[i] = rows.trace[i];
    for (std::size_t i = 0; i < layer_.seen_count; ++i) extras.seen[layer_.seen[i]] = rows.seen[layer_.seen[i]];
    extras.fresh = rows.fresh + block * kVectorStride;
    extras.c_mean = rows.stats;
    extras.c_scale = rows.stats + kChunk;
    extras.c_gain = job_.packed + layout_.cell_gain_at(false) + block * kWidth;
    extras.c_bias = job_.packed + layout_.cell_gain_at(true) + block * kWidth;
    at.extras = &extras;
    point_(layer_.row, at);
  }

  void normalised_step(std::size_t s) {
    for (std::size_t k = 0; k < job_.count; ++k) {
      const ForwardRows& rows = rows_[k];
      if (!rows.active) continue;
      for (std::size_t block = 0; block < layout_.blocks; ++block) {
        std::size_t of_x = 0;
        while (of_x < piece_count_ && pieces_[of_x].source == Piece::kX) ++of_x;
        multiply_block(block, 0, of_x, rows, true, false, normed(rows, job_.saved.norm_x, rows.norm_x, s, block));
        multiply_block(block, of_x, piece_count_, rows, true, false,
                       normed(rows, job_.saved.norm_h, rows.norm_h, s, block));
      }
      for (std::size_t r = 0; r < rows.active; ++r) normalise(rows, s, r);
      for (std::size_t block = 0; block < layout_.blocks; ++block)
        cell(rows, s, block, normed(rows, job_.saved.gates, rows.gates, s, block), Stage::kCell);
      for (std::size_t r = 0; r < rows.active; ++r) {
        const Moments c = moments({rows.fresh + r * kWidth, kVectorStride, 1, layer_.hidden});
        rows.stats[r] = c.mean;
        rows.stats[kChunk + 2 * r] = c.scale;
        rows.stats[kChunk + 2 * r + 1] = c.rstd;
        if (float* kept = job_.saved.scale) {
          kept += (window(*rows.chunk, s) + r) * 5;
          kept[2] = c.scale;
          kept[3] = c.rstd;
          kept[4] = c.mean;
        }
      }
      for (std::size_t block = 0; block < layout_.blocks; ++block)
        cell(rows, s, block, normed(rows, job_.saved.gates, rows.gates, s, block), Stage::kOutput);
    }
  }

  float* normed(const ForwardRows& rows, float* kept, float* scratch, std::size_t s, std::size_t block) const {
    return gates_at(rows, kept, scratch + block * rows.active * layout_.line, s, block);
  }

  // One row's pre-activations from its two products, which are left normalised.
  void normalise(const ForwardRows& rows, std::size_t s, std::size_t r) const {
    const std::size_t line = layout_.line, stride = rows.active * line;
    float* const x = normed(rows, job_.saved.norm_x, rows.norm_x, s, 0) + r * line;
    float* const h = normed(rows, job_.saved.norm_h, rows.norm_h, s, 0) + r * line;
    float* const pre = normed(rows, job_.saved.gates, rows.gates, s, 0) + r * line;
    const Moments of_x = moments({x, stride, layer_.gates(), layer_.hidden});
    const Moments of_h = moments({h, stride, layer_.gates(), layer_.hidden});
    if (float* kept = job_.saved.scale) {
      kept += (window(*rows.chunk, s) + r) * 5;
      kept[0] = of_x.scale * of_x.rstd;
      kept[1] = of_h.scale * of_h.rstd;
    }
    for (std::size_t block = 0; block < layout_.blocks; ++block) {
      const float* gain_x = job_.packed + layout_.gain_at(false) + block * line;
      const float* gain_h = job_.packed + layout_.gain_at(true) + block * line;
      const float* bias = job_.packed + block * layout_.block;
      for (std::size_t v = 0; v < line; v += kWidth) {
        const std::size_t at = block * stride + v;
        const Floats nx = (load(x + at) * of_x.scale - of_x.mean) * of_x.rstd;
        const Floats nh = (load(h + at) * of_h.scale - of_h.mean) * of_h.rstd;
        store(x + at, nx);
        store(h + at, nh);
        store(pre + at, fma(nx, load(gain_x + v), nh * load(gain_h + v)) + load(bias + v));
      }
    }
  }

  // h and the second projection, from what the cell shows.
  void project(std::size_t s) {
    const std::size_t own = vectors(layer_.projected);
    for (std::size_t k = 0; k < job_.count; ++k) {
      ForwardRows& rows = rows_[k];
      if (!rows.active) continue;
      const PanelChunk chunk = {.active = rows.active, .rows = rows.unprojected, .to = rows.out};
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
          if (!beside && job_.sequence->trace[kGates + kH])
            store_some(rows.trace[kGates + kH][r] + column, value, lanes);
        }
    }
    (void)s;
  }

  // The final states.
  void finish() {
    const Sequence& sequence = *job_.sequence;
    for (std::size_t k = 0; k < job_.count; ++k) {
      const ForwardRows& rows = rows_[k];
      const Chunk& chunk = *rows.chunk;
      for (std::size_t r = 0; r < chunk.rows; ++r) {
        const std::size_t row = chunk.row[r], wide = layer_.recurrent(), hidden = layer_.hidden, last = chunk.length[r];
        if (sequence.final[kH]) {
          const float* h = last ? sequence.y.at(chunk.time(r, last - 1, sequence.reverse), row) : first_h(row);
          std::memcpy(sequence.final[kH] + row * wide, h, wide * sizeof(float));
        }
        for (std::size_t state = 1; state < layer_.plain_states(); ++state)
          for (std::size_t b = 0; sequence.final[state] && b < layout_.blocks; ++b)
            store_some(sequence.final[state] + row * hidden + b * kWidth,
                       load(rows.c + (state - 1) * plane() + (b * kChunk + r) * kWidth), lanes_of(b, hidden));
        for (std::size_t i = 0; i < layer_.seen_count; ++i)
          if (float* to = sequence.final[layer_.plain_states() + i])
            std::memcpy(to + row * hidden, seen_before(rows, r, last) + i * hidden, hidden * sizeof(float));
      }
    }
  }

  const Job& job_;
  const Layer& layer_;
  const Layout layout_;
  ForwardRows* rows_;
  ForwardPoint point_ = nullptr;
  bool options_ = false;
  float* zeros_ = nullptr;
  Piece pieces_[kMaxPieces + 4];
  PieceGroup groups_[kMaxPieces + 4];
  std::size_t piece_count_ = 0, group_count_ = 0;
  std::size_t input_groups_ = 0;  // groups with pieces of x
};

}  // namespace

namespace GATEWISE_ISA {

std::size_t forward_scratch(const Layer& layer, const Sequence& sequence) {
  Job job;
  job.layer = &layer;
  job.sequence = &sequence;
  job.count = 1;
  Scratch scratch;
  ForwardRows* rows = scratch.take<ForwardRows>(1);
  ForwardRows counted;
  (void)rows;
  Group(job, &counted, scratch);
  return scratch.floats();
}

void forward(const Job& job) {
  Scratch scratch(job.scratch);
  ForwardRows* rows = scratch.take<ForwardRows>(job.count);
  for (std::size_t k = 0; k < job.count; ++k) rows[k].chunk = job.chunks[k];
  Group(job, rows, scratch).run();
}

}  // namespace GATEWISE_ISA
}  // namespace gatewise
