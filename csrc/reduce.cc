// The gradients of the weights of one window: sums over its row-steps of (gradient of a pre-activation) x (input).
//
// Each part of the packed gradients is formed by one thread, in the order of chunks and steps, in bites of kBite
// row-steps that start from zero: so the sums depend on nothing but the shapes, and their errors stay small.
#include <cstring>

#include "kernels.h"
#include "layout.h"
#include "multiply.h"
#include "scratch.h"

namespace gatewise {
namespace {

constexpr std::size_t kBite = 128;

// Columns of the inputs x the vectors of a line, added to [columns][line].
struct OuterTile {
  const float* const* rows;
  const float* lines;
  std::size_t count;
  float* to;

  template <std::size_t kColumns, std::size_t kVectors>
  void run(std::size_t column) const {
    Tile<kColumns, kVectors> sum = {};
    for (std::size_t i = 0; i < count; ++i) {
      const float* from = rows[i] + column;
      Floats value[kColumns];
#pragma GCC unroll 8
      for (std::size_t k = 0; k < kColumns; ++k) value[k] = broadcast(from[k]);
#pragma GCC unroll 4
      for (std::size_t v = 0; v < kVectors; ++v) {
        const Floats line = load(lines + (i * kVectors + v) * kWidth);
#pragma GCC unroll 8
        for (std::size_t k = 0; k < kColumns; ++k) sum[k][v] = fma(line, value[k], sum[k][v]);
      }
    }
    for (std::size_t k = 0; k < kColumns; ++k)
      for (std::size_t v = 0; v < kVectors; ++v) {
        float* at = to + ((column + k) * kVectors + v) * kWidth;
        store(at, load(at) + sum[k][v]);
      }
  }
};

// A step and a row among those that take it.
struct Position {
  std::size_t s, r;
};

// A run of row-steps of one chunk, at most kBite.
struct Bite {
  const Chunk& chunk;
  std::size_t s, r;  // the first one
  std::size_t at;    // its place in the window
  std::size_t count;
};

class Reduction {
 public:
  explicit Reduction(const ReduceJob& job) : job_(job), layer_(*job.layer), layout_(layer_) {
    Scratch scratch(job.scratch);
    lines_ = scratch.take(kBite * kPanel * kWidth);
    rows_ = scratch.take<const float*>(kBite);
  }

  static std::size_t scratch_size() {
    Scratch scratch;
    scratch.take(kBite * kPanel * kWidth);
    scratch.take<const float*>(kBite);
    return scratch.floats();
  }

  void run() {
    for (std::size_t k = 0; k < job_.chunk_count; ++k) {
      const Chunk& chunk = job_.chunks[k];
      const std::size_t last = job_.last < chunk.steps() ? job_.last : chunk.steps();
      if (job_.first >= last) continue;
      Bite bite = {chunk, job_.first, 0, 0, 0};
      std::size_t begin = chunk.offset(job_.first);
      const std::size_t end = chunk.offset(last);
      while (begin < end) {
        bite.at = static_cast<std::size_t>(job_.place[chunk.index] + static_cast<std::ptrdiff_t>(begin));
        bite.count = end - begin < kBite ? end - begin : kBite;
        const Position next = job_.item < layout_.blocks ? block(bite) : projection(bite);
        bite.s = next.s;
        bite.r = next.r;
        begin += bite.count;
      }
    }
  }

 private:
  // Calls copy(place of the step, active rows, row, number) for each row-step; returns where the next bite starts.
  template <class Copy>
  Position each(const Bite& bite, Copy copy) const {
    std::size_t s = bite.s, r = bite.r, window = bite.at - bite.r, active = bite.chunk.active(s);
    for (std::size_t i = 0; i < bite.count; ++i) {
      copy(window, active, r, i);
      if (++r == active) {
        window += active;
        r = 0;
        ++s;
        if (i + 1 < bite.count) active = bite.chunk.active(s);
      }
    }
    return {s, r};
  }

  Position gather(const Bite& bite, const float* gates) const {
    const std::size_t line = layout_.line;
    return each(bite, [&](std::size_t window, std::size_t active, std::size_t r, std::size_t i) {
      const float* from = gates + (window * layout_.blocks + job_.item * active + r) * line;
      for (std::size_t v = 0; v < line; v += kWidth) store(lines_ + i * line + v, load(from + v));
    });
  }

  Position block(const Bite& bite) const {
    const Saved& saved = job_.saved;
    float* to = job_.dpacked + job_.item * layout_.line * layout_.gradient_depth(layer_);
    const std::size_t vectors = layer_.gates();
    Position next = gather(bite, layer_.layer_norm ? saved.norm_x : saved.gates);
    tiles(OuterTile{job_.x_rows + bite.at, lines_, bite.count, to}, layer_.inputs, vectors);
    to += layer_.inputs * layout_.line;
    if (layer_.layer_norm) next = gather(bite, saved.norm_h);
    tiles(OuterTile{job_.h_rows + bite.at, lines_, bite.count, to}, layer_.recurrent(), vectors);
    to += layer_.recurrent() * layout_.line;
    if (layer_.seen_count) tiles(OuterTile{job_.seen_rows + bite.at, lines_, bite.count, to}, layout_.seen_depth, vectors);
    return next;
  }

  Position projection(const Bite& bite) const {
    const Panels& shape = layout_.projection;
    const std::size_t panel = job_.item - layout_.blocks, own = vectors(layer_.projected);
    const std::size_t count = shape.vectors_of(panel);
    float* to = job_.dpacked + layout_.blocks * layout_.line * layout_.gradient_depth(layer_) + shape.at(panel);
    const Position next = each(bite, [&](std::size_t window, std::size_t, std::size_t r, std::size_t i) {
      const float* from = job_.dprojected + (window + r) * layer_.width();
      rows_[i] = job_.saved.unprojected + (window + r) * layout_.padded;
      for (std::size_t v = 0; v < count; ++v) {
        const std::size_t vector = panel * kPanel + v;
        const bool beside = vector >= own;
        const std::size_t at = beside ? vector - own : vector;
        const std::size_t lanes = lanes_of(at, beside ? layer_.beside : layer_.projected);
        store(lines_ + (i * count + v) * kWidth,
              load_some(from + (beside ? layer_.projected : 0) + at * kWidth, lanes));
      }
    });
    tiles(OuterTile{rows_, lines_, bite.count, to}, layer_.hidden, count);
    return next;
  }

  const ReduceJob& job_;
  const Layer& layer_;
  const Layout layout_;
  float* lines_;
  const float** rows_;
};

}  // namespace

namespace GATEWISE_ISA {

std::size_t reduce_scratch() { return Reduction::scratch_size(); }

void reduce(const ReduceJob& job) { Reduction(job).run(); }

}  // namespace GATEWISE_ISA
}  // namespace gatewise
