// One group of chunks going through time: forward.cc, with its rows in forward_rows.cc and layer normalisation and
// projections in forward_norm.cc.
#pragma once

#include "norm.h"
#include "panels.h"
#include "pointwise.h"

namespace gatewise {
namespace GATEWISE_ISA {

// A run of products with the same source: `count` words from `from`, whose lines are at `at` in a block's weights, the
// second parts of lines at `rest`.
struct Piece {
  enum Source : std::size_t { kX, kHidden, kSeen } source;
  std::size_t from, count, at, rest;
};

// Pieces first <= p < last are multiplied while their weights stay in the second-level cache.
struct PieceGroup {
  std::size_t first, last;
};

// What the tiles of the first `chunks` chunks fetch of the weights that come next: numbers to where the groups of a
// block begin, in a group and in a share of one, bytes in a share's part for each vector of a line and for each of its
// words.
struct Fetching {
  std::size_t chunks = 0, begin = 0, group = 0, share = 0, vector = 0, stride = 0;
};

// Blocks are taken to and fro: what a step used last is still in a near cache when the next one begins.
inline std::size_t in_turn(std::size_t step, std::size_t i, std::size_t count) { return step % 2 ? count - 1 - i : i; }

struct GateTile;

// Whether anything is asked for that the compiled rows leave out.
bool has_options(const Layer& layer, const Sequence& sequence);
// The same besides layer normalisation.
bool has_options_but_norm(const Layer& layer, const Sequence& sequence);

// The rows of one chunk in forward. Arrays of pointers have kChunk elements.
struct ForwardRows {
  const Chunk* chunk;
  std::size_t active;
  bool restarts[kChunk];          // from the sequence's start states, in this step
  const Real* source[3][kChunk];  // by Piece::Source
  const Real* h_old[kChunk];      // h before dropout
  Real* y[kChunk];
  Real* unprojected[kChunk];
  const Real* h_mask[kChunk];
  const Real* c_mask[kChunk];
  Real* trace[kTraces][kChunk];
  Real* seen[kGates][kChunk];
  Real* c;          // planes of [blocks][kChunk][kWidth]
  Real* gates;      // of a block, or of steps formed ahead, where nothing is kept
  Real* masked;     // [kChunk][R]
  Real* seen_rows;  // [kChunk][seen] of two steps, then after a reset
  Real* m_rows;     // [kChunk][padded]
  Real* unused;     // [kChunk][width], for what has been written before
  Real* out;        // of projections
  Real *norm_x, *norm_h, *fresh, *stats;
  Real* factors[4];  // [kChunk][words] by Piece::Source and of what is projected; in narrow builds
};

constexpr std::size_t kMaxPieces = 64;
// With so few rows a step is over before its weights have come from the cache: the products with x of several steps,
// and in backward those with the weights of x, are formed together, so that only the recurrent weights are wanted at
// every step. More steps than kAhead gain nothing that could be measured, and their gates have to be fetched again.
constexpr std::size_t kFewRows = 16;
constexpr std::size_t kAhead = 32;

class ForwardGroup {
 public:
  ForwardGroup(const Job& job, ForwardRows* rows, Scratch& scratch)
      : job_(job), layer_(*job.layer), layout_(layer_), rows_(rows), last_block_(layout_.blocks) {
    take(scratch);
    if (job.meeting) take_common();
  }

  void run();

  void take(Scratch& scratch);

 private:
  bool hoists() const {
    return !kNarrow && !job_.weights && !layer_.layer_norm && layer_.inputs >= kWidth &&
           job_.sequence->rows <= kFewRows && job_.sequence->steps > 1;
  }

  std::size_t plane() const { return layout_.blocks * kVectorStride; }
  std::size_t zero_count() const {
    return layer_.recurrent() > layout_.seen_depth ? layer_.recurrent() : layout_.seen_depth;
  }

  void take_common();
  void share();

  void plan_pieces();

  void begin();
  void advance(std::size_t s);

  void load_cells(ForwardRows& rows, std::size_t r, const Real* const* from, std::size_t row);
  void load_seen(const Real* const* from, std::size_t row, Real* seen) const;

  void restore(ForwardRows& rows, std::size_t r);

  const Real* first_h(std::size_t row) const {
    const Real* h = job_.sequence->state[kH];
    return h ? h + job_.sequence->slot(row) * layer_.recurrent() : zeros_;
  }

  std::size_t point_at(std::size_t s);

  void point_row(ForwardRows& rows, std::size_t r, std::size_t s);
  void point_more(ForwardRows& rows, std::size_t r, std::size_t s, std::size_t t);

  // The terms of a row's sums, by Piece::Source.
  std::size_t count_of(std::size_t source) const {
    return source == Piece::kX ? layer_.inputs : source == Piece::kHidden ? layer_.recurrent() : layout_.seen_depth;
  }

  const Real* seen_before(const ForwardRows& rows, std::size_t r, std::size_t s) const;
  Real* seen_after(const ForwardRows& rows, std::size_t r, std::size_t s) const;

  std::size_t window(const Chunk& chunk, std::size_t s) const {
    return static_cast<std::size_t>(job_.place[chunk.index] + static_cast<std::ptrdiff_t>(chunk.offset(s)));
  }

  // A block's gates of the active rows, in what is kept or in scratch.
  Real* gates_at(const ForwardRows& rows, Real* kept, Real* scratch, std::size_t s, std::size_t block) const {
    if (!kept) return scratch;
    return kept + (window(*rows.chunk, s) * layout_.blocks + block * rows.active) * layout_.line;
  }

  GateTile tile_of(std::size_t block, PieceGroup pieces, const ForwardRows& rows, bool begins, bool with_bias,
                   Real* gates) const;

  void multiply_rows(const GateTile& tile, std::size_t rows) const;
  void multiply_block(std::size_t block, PieceGroup pieces, const ForwardRows& rows, bool begins, bool with_bias,
                      Real* gates) const;

  // Whether there is but one row, of a cell without options.
  bool single() const { return job_.count == 1 && rows_[0].active == 1 && !options_; }

  Real* step_gates(const ForwardRows& rows, std::size_t s, std::size_t block) const;

  void multiply_inputs(std::size_t s);
  void multiply_inputs(const ForwardRows& rows, std::size_t t, std::size_t last);

  void plan_fetching();
  void fetch_ahead(GateTile& tile, std::size_t s, std::size_t i, std::size_t next, std::size_t k) const;

  void step(std::size_t s);

  void single_step(std::size_t s);

  void multiply_unpacked(Real* gates) const;

  ForwardBlock block_of(const ForwardRows& rows, std::size_t s, std::size_t block, Real* gates) const;

  ForwardExtras extras_of(const ForwardRows& rows, std::size_t block, Stage stage) const;

  void cell(const ForwardRows& rows, std::size_t s, std::size_t block, Real* gates, Stage stage) const;

  void normalised_step(std::size_t s);

  void multiply_apart(const ForwardRows& rows, std::size_t block) const;

  void normalised_cells(const ForwardRows& rows, std::size_t s) const;

  Real* normed(const ForwardRows& rows, Real* kept, Real* scratch, std::size_t s, std::size_t block) const;

  void normalise(const ForwardRows& rows, std::size_t s, std::size_t r) const;

  void project();

  void finish();

  const Job& job_;
  const Layer& layer_;
  const Layout layout_;
  ForwardRows* rows_;
  ForwardPoint point_ = nullptr;
  bool options_ = false, only_norm_ = false, points_more_ = false;
  Real* zeros_ = nullptr;
  Piece pieces_[kMaxPieces + 4];
  PieceGroup groups_[kMaxPieces + 4];
  std::size_t piece_count_ = 0, group_count_ = 0;
  std::size_t input_groups_ = 0;  // groups with pieces of x
  Fetching fetch_;
  std::size_t first_block_ = 0, last_block_;  // that the steps of this worker are made of
};

}  // namespace GATEWISE_ISA
}  // namespace gatewise
