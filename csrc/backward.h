// One group of chunks going back through time: backward.cc, with its rows in backward_rows.cc, what is summed over them
// in backward_sums.cc, and the products of a call's only row-step in backward_once.cc.
#pragma once

#include "forward.h"

namespace gatewise {
namespace GATEWISE_ISA {

// The rows of one chunk. Arrays of pointers have kChunk elements.
struct BackwardRows {
  const Chunk* chunk;
  std::size_t active;
  std::size_t window;  // the first row-step of this step in the window
  const Real* dy[kChunk];
  const Real* h_mask[kChunk];
  const Real* c_mask[kChunk];
  const Real* dtrace[kTraces][kChunk];
  const Real* dprojected[kChunk];
  bool restarts[kChunk];
  bool any_restart;
  const Real* c_old;  // planes of [blocks][...][kWidth]
  std::size_t old_block, old_plane;
  Real *dh, *dc, *dseen;  // gradients of the states: vectors of [kChunk][kWidth]
  Real *staged, *dm, *carry, *dx;
  Real *hat, *normalised, *dnorm;
};

class BackwardGroup {
 public:
  BackwardGroup(const BackwardJob& job, BackwardRows* rows, Scratch& scratch)
      : job_(job), layer_(*job.layer), sequence_(*job.sequence), layout_(layer_), rows_(rows) {
    chunks_ = scratch.take<PanelChunk>(job.count);
    for (std::size_t k = 0; k < job.count; ++k) take(rows_[k], scratch);
  }

  static std::size_t state_size(const Layer& layer, const Layout& layout) {
    return (layout.dh.vectors + (layer.plain_states() - 1) * layout.blocks + layout.dseen.vectors) * kVectorStride;
  }

  void run();

 private:
  std::size_t plane() const { return layout_.blocks * kVectorStride; }

  void take(BackwardRows& rows, Scratch& scratch);

  bool options() const;

  void attach(BackwardRows& rows);

  Real* state_at(const BackwardRows& rows, std::size_t state) const {
    if (state == kH) return rows.dh;
    if (state < layer_.plain_states()) return rows.dc + (state - 1) * plane();
    return rows.dseen + (state - layer_.plain_states()) * plane();
  }

  Real* seen_row(const BackwardRows& rows, std::size_t r, bool start) const {
    return job_.start_seen + ((rows.chunk->index * kChunk + r) * 2 + start) * layout_.seen_depth;
  }

  void fill_seen(const BackwardRows& rows, std::size_t r) const;

  void step(std::size_t s);

  void point_row(BackwardRows& rows, std::size_t r, std::size_t s);
  void point_more(BackwardRows& rows, std::size_t r, std::size_t s, std::size_t t);

  void find_old_cells(BackwardRows& rows, std::size_t s);

  void unproject(BackwardRows& rows);

  Real* gates_at(const BackwardRows& rows, Real* kept) const {
    return kept + rows.window * layout_.blocks * layout_.line;
  }

  void cell(BackwardRows& rows);

  Real* sums_of(const BackwardRows& rows, std::size_t block, std::size_t r = 0) const {
    const std::size_t number = job_.by_row ? rows.chunk->row[r] : rows.chunk->index;
    return job_.sums + (number * layout_.blocks + block) * layout_.sums(layer_);
  }

  void point(const BackwardRows& rows, std::size_t block, BackwardBlock& at, const BackwardExtras* extras) const;

  void cell_block(const BackwardRows& rows, std::size_t block, Stage stage) const;

  void unnormalise(const BackwardRows& rows, bool recurrent) const;

  void products(std::size_t s);

  void multiply_weights(Weight weight, const PanelChunk* chunks, std::size_t count) const;
  // For one active row.
  void multiply_unpacked(Weight weight, std::size_t columns, const PanelChunk& source) const;

  PanelChunk chunk_of(const BackwardRows& rows, Real* lines, Real* to) const;

  // With few rows the weights of x are not wanted at every step but once for up to kAhead of them: the gradients of x
  // come after all steps.
  bool few_rows() const { return sequence_.rows <= kFewRows; }

  void input_gradients();
  void input_gradients(const BackwardRows& rows, std::size_t s, std::size_t last);

  void store_dx(const BackwardRows& rows, const Real* from, std::size_t r, std::size_t s) const;

  void pass_by();

  void restart(const BackwardRows& rows, std::size_t r) const;

  void add_up(const BackwardRows& rows) const;

  void finish(const BackwardRows& rows) const;

  const BackwardJob& job_;
  const Layer& layer_;
  const Sequence& sequence_;
  const Layout layout_;
  BackwardRows* rows_;
  PanelChunk* chunks_ = nullptr;
  BackwardPoint point_ = nullptr;
  bool options_ = false;
};

}  // namespace GATEWISE_ISA
}  // namespace gatewise
