// The gradients of the weights of one window: sums over its row-steps of (gradient of a pre-activation) x (input).
//
// Each sum is formed by one thread, in the order of chunks and steps, in bites of kBite row-steps that start from zero:
// so it depends on nothing but the shapes, and its error stays small. A strip of the inputs is copied together first:
// rows that lie a power of two apart would push each other out of the cache.
#include "layout.h"
#include "multiply.h"

namespace gatewise {
namespace GATEWISE_ISA {

void reduce_once(const ReduceJob&);

namespace {

constexpr std::size_t kBite = 128;
constexpr std::size_t kStrip = 24;          // columns
constexpr std::size_t kBlocksTogether = 8;  // blocks that use a strip while it is in the cache

// Columns of a strip x the vectors of lines, added to [columns][line].
struct OuterTile {
  const Real* strip;
  const Real* lines;
  std::size_t count;
  bool begins;  // to is written, not added to
  Real* to;

  template <std::size_t kColumns, std::size_t kVectors>
  void run(std::size_t column) const {
    Tile<kColumns, kVectors> sum;
    clear_tile<kColumns, kVectors>(sum);
    const Real* const from = strip + column;
#pragma GCC unroll 2
    for (std::size_t i = 0; i < count; ++i)
      add_products<kVectors>(
          sum, [&](std::size_t v) { return Lines<kVectors>{lines}(i, v); },
          [&](std::size_t k) { return broadcast(from[i * kStrip + k]); });
#pragma GCC unroll 8
    for (std::size_t k = 0; k < kColumns; ++k)
#pragma GCC unroll 4
      for (std::size_t v = 0; v < kVectors; ++v) {
        Real* at = to + ((column + k) * kVectors + v) * kWidth;
        store(at, begins ? sum[k][v] : load(at) + sum[k][v]);
      }
  }
};

// A row-step of the window: its number, the line of its row in the first block, and how far the next block's is.
struct RowStep {
  std::size_t number, line, block;
};

class Reduction {
 public:
  Reduction(const ReduceJob& job, Scratch& scratch) : job_(job), layer_(*job.layer), layout_(layer_) {
    lines_ = scratch.take(kBlocksTogether * kBite * kGates * kWidth);
    strip_ = scratch.take(kBite * kStrip);
    rows_ = scratch.take<const Real*>(kBite);
    bite_ = scratch.take<RowStep>(kBite);
  }

  void run() {
    for (std::size_t block = job_.first_block; block < job_.last_block; block += kBlocksTogether) {
      const std::size_t left = job_.last_block - block, blocks = left < kBlocksTogether ? left : kBlocksTogether;
      each_bite([&](std::size_t count) { gates(count, block, blocks); });
    }
    for (std::size_t panel = job_.first_panel; panel < job_.last_panel; ++panel)
      each_bite([&](std::size_t count) { projection(count, panel); });
  }

 private:
  // Fills bite_ with the window's row-steps, a bite at a time, and calls use(their count).
  template <class Use>
  void each_bite(Use use) {
    std::size_t count = 0;
    begins_ = job_.begins;
    each_row_step([&](std::size_t window, std::size_t r, std::size_t active) {
      bite_[count++] = {window + r, window * layout_.blocks + r, active};
      if (count < kBite) return true;
      use(count);
      begins_ = false;
      count = 0;
      return !job_.watch.stopped();
    });
    if (count) use(count);
  }

  // Calls use(the window's number of the first row of a step, which row, how many there are) while it returns true.
  template <class Use>
  void each_row_step(Use use) const {
    const auto at = [&](const Chunk& chunk, std::size_t s) {
      return static_cast<std::size_t>(job_.place[chunk.index] + static_cast<std::ptrdiff_t>(chunk.offset(s)));
    };
    for (std::size_t k = 0; !job_.rows && k < job_.chunk_count; ++k) {
      const Chunk& chunk = job_.chunks[k];
      for (std::size_t s = job_.first; s < job_.last && s < chunk.steps(); ++s) {
        const std::size_t window = at(chunk, s), active = chunk.active(s);
        for (std::size_t r = 0; r < active; ++r)
          if (!use(window, r, active)) return;
      }
    }
    for (std::size_t i = 0; i < job_.row_count; ++i) {
      const auto [chunk, r] = job_.rows[i];
      for (std::size_t s = job_.first; s < job_.last && s < chunk->length[r]; ++s)
        if (!use(at(*chunk, s), r, chunk->active(s))) return;
    }
  }

  void gather(std::size_t count, const Real* from, std::size_t block, std::size_t blocks) const {
    const std::size_t line = layout_.line;
    for (std::size_t i = 0; i < count; ++i)
      for (std::size_t b = 0; b < blocks; ++b) {
        const Real* at = from + (bite_[i].line + (block + b) * bite_[i].block) * line;
        for (std::size_t v = 0; v < line; v += kWidth) store(lines_ + (b * kBite + i) * line + v, load(at + v));
      }
  }

  // Where the bite's rows stand.
  const Real* const* rows_of(const Real* const* all, std::size_t count) const {
    for (std::size_t i = 0; i < count; ++i) rows_[i] = all[bite_[i].number];
    return rows_;
  }

  void gates(std::size_t count, std::size_t block, std::size_t blocks) const {
    const Saved& saved = job_.saved;
    const std::size_t line = layout_.line, depth = layout_.gradient_depth(layer_), vectors = layer_.gates();
    Real* to = job_.dpacked + block * line * depth;
    gather(count, layer_.layer_norm ? saved.norm_x : saved.gates, block, blocks);
    outer(rows_of(job_.x_rows, count), count, layer_.inputs, blocks, vectors, to, line * depth);
    to += layer_.inputs * line;
    if (layer_.layer_norm) gather(count, saved.norm_h, block, blocks);
    outer(rows_of(job_.h_rows, count), count, layer_.recurrent(), blocks, vectors, to, line * depth);
    to += layer_.recurrent() * line;
    if (layer_.seen_count)
      outer(rows_of(job_.seen_rows, count), count, layout_.seen_depth, blocks, vectors, to, line * depth);
  }

  // Adds the products of all columns of `rows` with the gathered lines of some blocks, whose gradients lie `stride`
  // apart.
  void outer(const Real* const* rows, std::size_t count, std::size_t columns, std::size_t blocks, std::size_t vectors,
             Real* to, std::size_t stride) const {
    const std::size_t line = vectors * kWidth;
    for (std::size_t column = 0; column < columns && !job_.watch.stopped(); column += kStrip) {
      const std::size_t left = columns - column, width = left < kStrip ? left : kStrip;
      for (std::size_t i = 0; i < count; ++i)
        for (std::size_t k = 0; k < width; k += kWidth) {
          const std::size_t lanes = width - k < kWidth ? width - k : kWidth;
          Real* at = strip_ + i * kStrip + k;
          const Real* from = rows[i] + column + k;
          if (lanes == kWidth)
            store(at, load(from));
          else
            store_some(at, load_some(from, lanes), lanes);
        }
      for (std::size_t b = 0; b < blocks; ++b)
        tiles(OuterTile{strip_, lines_ + b * kBite * line, count, begins_, to + b * stride + column * line}, width,
              vectors);
    }
  }

  void projection(std::size_t count, std::size_t panel) const {
    const Panels& shape = layout_.projection;
    const std::size_t own = vectors(layer_.projected), width = shape.vectors_of(panel);
    Real* to = job_.dpacked + layout_.blocks * layout_.line * layout_.gradient_depth(layer_) + shape.at(panel);
    for (std::size_t i = 0; i < count; ++i) {
      const Real* from = job_.dprojected + bite_[i].number * layer_.width();
      rows_[i] = job_.saved.unprojected + bite_[i].number * layout_.padded;
      for (std::size_t v = 0; v < width; ++v) {
        const std::size_t vector = shape.first(panel) + v;
        const bool beside = vector >= own;
        const std::size_t at = beside ? vector - own : vector;
        const std::size_t lanes = lanes_of(at, beside ? layer_.beside : layer_.projected);
        store(lines_ + (i * width + v) * kWidth,
              load_some(from + (beside ? layer_.projected : 0) + at * kWidth, lanes));
      }
    }
    outer(rows_, count, layer_.hidden, 1, width, to, 0);
  }

  const ReduceJob& job_;
  const Layer& layer_;
  const Layout layout_;
  Real *lines_, *strip_;
  const Real** rows_;
  RowStep* bite_;
  bool begins_ = false;
};

}  // namespace

std::size_t reduce_scratch(const Layer& layer) {
  ReduceJob job;
  job.layer = &layer;
  Scratch scratch;
  Reduction(job, scratch);
  return scratch.count();
}

void reduce(const ReduceJob& job) {
  if (job.dweights) return reduce_once(job);
  Scratch scratch(job.scratch);
  Reduction(job, scratch).run();
}

}  // namespace GATEWISE_ISA
}  // namespace gatewise
