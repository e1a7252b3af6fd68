// Forward of one group of chunks through time: load, multiply, cell, store.
//
//   pre_g = (b_ih + b_hh) + sum_k w_ih[g][k] x[k] + sum_k w_hh[g][k] h[k] + sum_k w_gates[g][k] seen[k], in this order,
//   then the cell's equations (pointwise_forward.cc), then the projections. With layer normalisation the two products
//   are formed apart and normalised first.
//
// The one idea: the gates of a vector of hidden units lie together in the packed weights, so that a tile of a few rows
// accumulates all its products in registers, and the cell finds a block's gates in the first-level cache.
#include <cstring>

#include "gate_tile.h"
#include "meeting.h"

namespace gatewise {
namespace GATEWISE_ISA {

void ForwardGroup::run() {
  options_ = has_options(layer_, *job_.sequence);
  only_norm_ = layer_.layer_norm && !has_options_but_norm(layer_, *job_.sequence);
  point_ = forward_point(layer_.row, options_);
  points_more_ = options_ || layer_.projected || job_.sequence->recurrent_mask;
  plan_pieces();
  plan_fetching();
  std::memset(zeros_, 0, zero_count() * sizeof(Real));
  if (job_.meeting) return share();
  begin();
  for (std::size_t s = job_.first; s < job_.last; ++s) {
    if (job_.watch.stopped()) return;
    if (!point_at(s)) break;
    advance(s);
  }
  finish();
}

// Takes blocks of every step, where other workers take the others. The first round is for the states before the first
// step, the last one for those after the last.
void ForwardGroup::share() {
  Meeting& meeting = *job_.meeting;
  const std::size_t steps = job_.last - job_.first, blocks = layout_.blocks, seats = meeting.seats();
  for (std::size_t round = meeting.join(job_.seat); round < steps + 2; ++round) {
    if (job_.watch.stopped()) return;
    const std::size_t s = job_.first + round - 1;
    const bool steps_on = round && round <= steps;
    bool points = steps_on;
    for (std::size_t part; (part = meeting.next(round, job_.seat, job_.watch)) != Meeting::kNone; meeting.done()) {
      // Not before: who comes late might read states that the last round is writing over.
      if (points) point_at(s);
      points = false;
      first_block_ = blocks * part / seats;
      last_block_ = blocks * (part + 1) / seats;
      if (!round) begin();
      if (steps_on) advance(s);
      if (round > steps && !part) finish();
    }
  }
}

// From the states before step s to those after it, of the rows that have been pointed at theirs.
void ForwardGroup::advance(std::size_t s) {
  for (std::size_t k = 0; k < job_.count && job_.sequence->reset; ++k)
    for (std::size_t r = 0; r < rows_[k].active; ++r)
      if (rows_[k].restarts[r]) load_cells(rows_[k], r, job_.sequence->start, rows_[k].chunk->row[r]);
  if (hoists() && (s - job_.first) % kAhead == 0) multiply_inputs(s);
  if (layer_.layer_norm)
    normalised_step(s);
  else
    step(s);
  if (layer_.projected) project();
}

// Memory for all chunks; with an empty Scratch this only counts.
void ForwardGroup::take(Scratch& scratch) {
  zeros_ = scratch.take(zero_count());
  for (std::size_t k = 0; k < job_.count; ++k) {
    ForwardRows& rows = rows_[k];
    const std::size_t block = kChunk * layout_.line;
    rows.c = scratch.take((layer_.plain_states() - 1) * plane());
    const std::size_t most = job_.sequence->rows < kChunk ? job_.sequence->rows : kChunk;
    const std::size_t steps = job_.sequence->steps < kAhead ? job_.sequence->steps : kAhead;
    const std::size_t ahead = steps * layout_.blocks * most * layout_.line;
    const std::size_t one = layout_.blocks * layout_.line > block ? layout_.blocks * layout_.line : block;
    rows.gates = scratch.take(hoists() ? ahead : layer_.layer_norm ? layout_.blocks * block : one);
    rows.masked = scratch.take(job_.sequence->recurrent_mask ? kChunk * layer_.recurrent() : 0);
    rows.seen_rows = scratch.take(3 * kChunk * layout_.seen_depth);
    rows.m_rows = scratch.take(layer_.projected ? kChunk * layout_.padded : 0);
    rows.unused = scratch.take(kChunk * layer_.width());
    rows.out = scratch.take(layout_.projection.vectors * kVectorStride);
    const std::size_t normed = layer_.layer_norm ? layout_.blocks * block : 0;
    rows.norm_x = scratch.take(normed);
    rows.norm_h = scratch.take(normed);
    rows.fresh = scratch.take(layer_.layer_norm ? plane() : 0);
    rows.stats = scratch.take(layer_.layer_norm ? 3 * kChunk : 0);
    for (std::size_t source = 0; source < 3; ++source)
      rows.factors[source] = scratch.take(kNarrow ? kChunk * words(count_of(source)) : 0);
    rows.factors[3] = scratch.take(kNarrow && layer_.projected ? kChunk * words(layer_.hidden) : 0);
  }
}

// The cells' states, and gates that are formed ahead, are those of all workers.
void ForwardGroup::take_common() {
  const std::ptrdiff_t common = job_.common - job_.scratch;
  rows_[0].c += common;
  if (hoists()) rows_[0].gates += common;
}

void ForwardGroup::plan_pieces() {
  std::size_t counts[3], whole = 0;
  for (std::size_t source = 0; source < 3; ++source) whole += counts[source] = words(count_of(source));
  const std::size_t starts[] = {layout_.x_at(), layout_.h_at(layer_), layout_.seen_at(layer_)};
  const std::size_t widths[] = {layer_.gates(), layer_.gates(), layout_.seen_vectors};
  // Very deep sums take larger bites rather than more of them.
  const std::size_t depth = kDepth * (1 + whole / (kDepth * (kMaxPieces - 4)));
  std::size_t filled = depth;
  for (std::size_t source = 0; source < 3; ++source)
    for (std::size_t from = 0; from < counts[source];) {
      if (filled >= depth || (hoists() && source == Piece::kHidden && from == 0)) {
        groups_[group_count_++] = {piece_count_, piece_count_};
        filled = 0;
      }
      const std::size_t left = counts[source] - from, room = depth - filled, count = left < room ? left : room;
      const auto line_at = [&](std::size_t v) {
        return starts[source] + layout_.vector_at(v, counts[source]) + from * layout_.vector_line(v, widths[source]);
      };
      pieces_[piece_count_++] = {static_cast<Piece::Source>(source), from, count, line_at(0), line_at(layout_.part)};
      groups_[group_count_ - 1].last = piece_count_;
      if (source == Piece::kX) input_groups_ = group_count_;
      from += count;
      filled += count;
    }
}

GateTile ForwardGroup::tile_of(std::size_t block, PieceGroup pieces, const ForwardRows& rows, bool begins,
                               bool with_bias, Real* gates) const {
  const Real* packed = job_.packed + block * layout_.block;
  return {pieces_,
          pieces.first,
          pieces.last,
          {rows.source[0], rows.source[1], rows.source[2]},
          packed,
          begins,
          with_bias ? packed : nullptr,
          gates,
          layout_.line,
          layout_.seen_vectors};
}

// Four rows use vectors of 64 bytes up faster than a second-level cache brings them. More rows with all four gates
// would have more sums than there are registers, so there a chunk's rows take two gates at a time.
void ForwardGroup::multiply_rows(const GateTile& tile, std::size_t rows) const {
  if (layout_.part < layer_.gates() && rows > tile_rows(4)) return tiles_of<2>(Halves{tile}, rows);
  tiles(tile, rows, layer_.gates());
}

void ForwardGroup::multiply_block(std::size_t block, PieceGroup pieces, const ForwardRows& rows, bool begins,
                                  bool with_bias, Real* gates) const {
  multiply_rows(tile_of(block, pieces, rows, begins, with_bias, gates), rows.active);
}

// A block's gates in step s, where the products with x have been formed ahead or are begun now.
Real* ForwardGroup::step_gates(const ForwardRows& rows, std::size_t s, std::size_t block) const {
  if (job_.saved.gates || !hoists()) {
    // The blocks of a single row wait for one another.
    Real* const scratch = rows.gates + (single() ? block * layout_.line : 0);
    return gates_at(rows, job_.saved.gates, scratch, s, block);
  }
  const Chunk& chunk = *rows.chunk;
  const std::size_t begin = s - (s - job_.first) % kAhead;
  const std::size_t at = chunk.offset(s) - chunk.offset(begin);
  return rows.gates + (at * layout_.blocks + block * chunk.active(s)) * layout_.line;
}

// Begins the pre-activations of the steps from s on with the products with x, block by block: its weights stay near for
// all steps. The rows of a tile are those of a step, or the steps of a row, whichever are more.
void ForwardGroup::multiply_inputs(std::size_t s) {
  for (std::size_t k = 0; k < job_.count; ++k) {
    ForwardRows rows = rows_[k];
    const Chunk& chunk = *rows.chunk;
    std::size_t end = s + kAhead < job_.last ? s + kAhead : job_.last;
    end = end < chunk.steps() ? end : chunk.steps();
    for (std::size_t t = s, last = t; t < end; t = last) {
      rows.active = chunk.active(t);
      while (last < end && chunk.active(last) == rows.active) ++last;
      multiply_inputs(rows, t, last);
    }
  }
}

// The same for steps t <= u < last of one chunk, which the same rows take.
void ForwardGroup::multiply_inputs(const ForwardRows& rows, std::size_t t, std::size_t last) {
  const Chunk& chunk = *rows.chunk;
  const std::size_t active = rows.active, steps = last - t, line = layout_.line;
  const bool across = steps > active;
  const std::size_t high = across ? steps : active, count = across ? active : steps;
  const Real* x[kAhead * kChunk];
  for (std::size_t r = 0; r < active; ++r)
    for (std::size_t u = t; u < last; ++u)
      x[across ? r * steps + u - t : (u - t) * active + r] =
          job_.sequence->x.at(chunk.time(r, u, job_.sequence->reverse), chunk.row[r]);
  for (std::size_t block = first_block_; block < last_block_; ++block)
    for (std::size_t i = 0; i < count; ++i) {
      const Real* packed = job_.packed + block * layout_.block;
      const GateTile tile = {pieces_,
                             0,
                             groups_[input_groups_ - 1].last,
                             {x + i * high, nullptr, nullptr},
                             packed,
                             true,
                             packed,
                             across ? step_gates(rows, t, block) + i * line : step_gates(rows, t + i, block),
                             across ? layout_.blocks * active * line : line,
                             layout_.seen_vectors};
      multiply_rows(tile, high);
    }
}

// How chunks share out the weights of a group. Groups are taken for equally large: where they are not, what is fetched
// is not all that comes next. Weights of half a megabyte to one are still near enough for hints to cost what they
// bring.
void ForwardGroup::plan_fetching() {
  const std::size_t chunks = job_.count < kFetching ? job_.count : kFetching;
  if (chunks < 2 || layout_.blocks * layout_.block * sizeof(Real) <= 2 * kMiddleBytes) return;
  const std::size_t first = hoists() ? input_groups_ : 0;
  fetch_.begin = pieces_[groups_[first].first].at;
  fetch_.group = (layout_.block - fetch_.begin) / (group_count_ - first);
  fetch_.share = fetch_.group / chunks;
  fetch_.vector = fetch_.share / layer_.gates() * sizeof(Real);
  fetch_.stride = sizeof(Floats) / chunks;
  fetch_.chunks = chunks;
}

// Lets the tile of chunk k fetch its share of the `next` group's weights in a step's i-th block.
void ForwardGroup::fetch_ahead(GateTile& tile, std::size_t s, std::size_t i, std::size_t next, std::size_t k) const {
  const std::size_t at = fetch_.begin + next * fetch_.group + k * fetch_.share;
  const Real* const from = job_.packed + in_turn(s, i, layout_.blocks) * layout_.block + at;
  tile.ahead = {reinterpret_cast<const char*>(from), fetch_.stride};
  tile.ahead_vector = fetch_.vector;
}

void ForwardGroup::step(std::size_t s) {
  if (single()) return single_step(s);
  const std::size_t first = hoists() ? input_groups_ : 0;
  const std::size_t blocks = last_block_ - first_block_;
  for (std::size_t i = 0; i < blocks; ++i) {
    const std::size_t block = first_block_ + in_turn(s, i, blocks);
    for (std::size_t g = first; g < group_count_; ++g) {
      const bool last = g + 1 == group_count_;
      for (std::size_t k = 0; k < job_.count; ++k) {
        const ForwardRows& rows = rows_[k];
        if (!rows.active) continue;
        Real* gates = step_gates(rows, s, block);
        GateTile tile = tile_of(block, groups_[g], rows, g == 0, true, gates);
        if (k < fetch_.chunks && !last) fetch_ahead(tile, s, i, g + 1 - first, k);
        if (k < fetch_.chunks && last && i + 1 < blocks) fetch_ahead(tile, s, i + 1, 0, k);
        multiply_rows(tile, rows.active);
        if (last) cell(rows, s, block, gates, Stage::kWhole);
      }
    }
  }
}

// The only row's products two blocks at a time, then its cells all together.
void ForwardGroup::single_step(std::size_t s) {
  const ForwardRows& rows = rows_[0];
  const std::size_t blocks = last_block_ - first_block_, pairs = (blocks + 1) / 2;
  const std::size_t first = hoists() ? input_groups_ : 0;
  const PieceGroup pieces = {groups_[first].first, groups_[group_count_ - 1].last};
  Real* const gates = step_gates(rows, s, first_block_);
  for (std::size_t i = 0; i < pairs && !job_.weights; ++i) {
    const std::size_t at = 2 * in_turn(s, i, pairs), block = first_block_ + at, both = at + 1 < blocks ? 2 : 1;
    const GateTile tile = tile_of(block, pieces, rows, first == 0, true, gates + at * layout_.line);
#if defined(GATEWISE_HALVES)
    if (job_.halved) {
      single_row(tile, job_.halved + block * layout_.block, both, layout_.block, layer_.gates());
      continue;
    }
#endif
    single_row(tile, tile.block, both, layout_.block, layer_.gates());
  }
  if (job_.weights) multiply_unpacked(gates);
  ForwardBlock at = block_of(rows, s, first_block_, gates);
  at.across = true;
  at.rows = blocks;
  at.lanes = lanes_of(last_block_ - 1, layer_.hidden);
  at.c_stride = kVectorStride;
  at.peep_stride = kWidth;
  point_(layer_.row, at);
}

ForwardBlock ForwardGroup::block_of(const ForwardRows& rows, std::size_t s, std::size_t block, Real* gates) const {
  Real* kept = nullptr;
  if (job_.saved.cells && !job_.again)
    kept =
        job_.saved.cells + (rows.chunk->base + rows.chunk->offset(s)) * layout_.padded + block * rows.active * kWidth;
  const Real* const peep = job_.packed + block * kWidth;
  return {.rows = rows.active,
          .lanes = lanes_of(block, layer_.hidden),
          .column = block * kWidth,
          .across = false,
          .gates = gates,
          .c = rows.c + block * kVectorStride,
          .c_stride = kWidth,
          .plane = plane(),
          .kept = kept,
          .kept_plane = job_.saved.plane,
          .out = layer_.projected ? rows.unprojected : rows.y,
          .peep = {peep + layout_.peep_at(kI), peep + layout_.peep_at(kF), peep + layout_.peep_at(kO),
                   peep + layout_.peep_at(kG)},
          .peep_stride = 0,
          .extras = nullptr};
}

void ForwardGroup::cell(const ForwardRows& rows, std::size_t s, std::size_t block, Real* gates, Stage stage) const {
  ForwardBlock at = block_of(rows, s, block, gates);
  if (!options_) return point_(layer_.row, at);
  const ForwardExtras extras = extras_of(rows, block, stage);
  at.extras = &extras;
  point_(layer_.row, at);
}

ForwardExtras ForwardGroup::extras_of(const ForwardRows& rows, std::size_t block, Stage stage) const {
  const Sequence& sequence = *job_.sequence;
  ForwardExtras extras;
  extras.stage = stage;
  extras.only_norm = only_norm_;
  extras.clips = layer_.clips;
  extras.keeps_pre = layer_.keeps_pre();
  extras.clip = layer_.bound<Real>();
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
  return extras;
}

std::size_t forward_scratch(const Layer& layer, const Sequence& sequence) {
  Job job;
  job.layer = &layer;
  job.sequence = &sequence;
  job.count = 1;
  Scratch scratch;
  scratch.take<ForwardRows>(1);
  ForwardRows counted;
  ForwardGroup(job, &counted, scratch);
  return scratch.count();
}

void forward(const Job& job) {
  Scratch scratch(job.scratch);
  ForwardRows* rows = scratch.take<ForwardRows>(job.count);
  for (std::size_t k = 0; k < job.count; ++k) rows[k].chunk = job.chunks[k];
  ForwardGroup(job, rows, scratch).run();
}

}  // namespace GATEWISE_ISA
}  // namespace gatewise
