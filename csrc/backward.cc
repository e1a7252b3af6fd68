// Backward of one group of chunks through time.
//
// Step by step from the last: the cell's derivatives (pointwise_backward.cc) turn the kept gates into the gradients of
// the pre-activations, in place; their products with the weights are the gradients of h of the step before and of x.
// The same array of gradients then feeds the products for the weights (reduce.cc), with no transposition anywhere.
#include <cstring>

#include "kernels.h"
#include "norm.h"
#include "panels.h"
#include "pointwise.h"
#include "scratch.h"

namespace gatewise {
namespace {

using namespace GATEWISE_ISA;

constexpr std::size_t kFewRows = 16;

// The rows of one chunk. Arrays of pointers have kChunk elements.
struct Rows {
  const Chunk* chunk;
  std::size_t active;
  std::size_t window;  // the first row-step of this step in the window
  const float* dy[kChunk];
  const float* h_mask[kChunk];
  const float* c_mask[kChunk];
  const float* dtrace[kTraces][kChunk];
  const float* dprojected[kChunk];
  bool restarts[kChunk];
  bool any_restart;
  const float* c_old;  // planes of [blocks][...][kWidth]
  std::size_t old_block, old_plane;
  float *dh, *dc, *dseen;  // gradients of the states: vectors of [kChunk][kWidth]
  float *staged, *dm, *carry, *dx;
  float *hat, *normalised, *dnorm;
};

class Group {
 public:
  Group(const BackwardJob& job, Rows* rows, Scratch& scratch)
      : job_(job), layer_(*job.layer), sequence_(*job.sequence), layout_(layer_), rows_(rows) {
    chunks_ = scratch.take<PanelChunk>(job.count);
    for (std::size_t k = 0; k < job.count; ++k) take(rows_[k], scratch);
  }

  static std::size_t state_size(const Layer& layer, const Layout& layout) {
    return (layout.dh.vectors + (layer.plain_states() - 1) * layout.blocks + layout.dseen.vectors) * kVectorStride;
  }

  void run() {
    options_ = options();
    point_ = backward_point(layer_.row, options_);
    for (std::size_t k = 0; k < job_.count; ++k) attach(rows_[k]);
    for (std::size_t s = job_.last; s-- > job_.first;) {
      if (job_.watch.stopped()) return;
      step(s);
    }
    if (job_.gradients->dx.data && few_rows()) input_gradients();
    for (std::size_t k = 0; k < job_.count; ++k) add_up(rows_[k]);
    if (!job_.first)
      for (std::size_t k = 0; k < job_.count; ++k) finish(rows_[k]);
  }

 private:
  std::size_t plane() const { return layout_.blocks * kVectorStride; }

  void take(Rows& rows, Scratch& scratch) {
    rows.staged = scratch.take((layer_.plain_states() - 1) * plane());
    rows.dm = scratch.take(layer_.projected ? plane() : 0);
    rows.carry = scratch.take(sequence_.h_mask ? layout_.dh.vectors * kVectorStride : 0);
    rows.dx = scratch.take(layout_.dx.vectors * kVectorStride);
    const std::size_t normed = layer_.layer_norm ? plane() : 0;
    rows.hat = scratch.take(normed);
    rows.normalised = scratch.take(normed);
    rows.dnorm = scratch.take(layer_.layer_norm ? layout_.blocks * kChunk * layout_.line : 0);
  }

  bool options() const {
    bool traces = false;
    for (const float* trace : job_.gradients->dtrace) traces = traces || trace;
    return layer_.keeps_pre() || layer_.layer_norm || layer_.seen_count || sequence_.h_mask || sequence_.c_mask ||
           traces;
  }

  void attach(Rows& rows) {
    rows.dh = job_.state + rows.chunk->index * state_size(layer_, layout_);
    rows.dc = rows.dh + layout_.dh.vectors * kVectorStride;
    rows.dseen = rows.dc + (layer_.plain_states() - 1) * plane();
    if (!job_.begins) return;
    std::memset(rows.dh, 0, state_size(layer_, layout_) * sizeof(float));
    for (std::size_t state = 0; state < layer_.states(); ++state) {
      const float* from = job_.gradients->dfinal[state];
      const std::size_t width = layer_.state_width(state);
      for (std::size_t r = 0; from && r < rows.chunk->rows; ++r)
        for (std::size_t v = 0; v < vectors(width); ++v)
          store(state_at(rows, state) + v * kVectorStride + r * kWidth,
                load_some(from + rows.chunk->row[r] * width + v * kWidth, lanes_of(v, width)));
    }
    for (std::size_t r = 0; job_.start_seen && r < rows.chunk->rows; ++r) fill_seen(rows, r);
  }

  float* state_at(const Rows& rows, std::size_t state) const {
    if (state == kH) return rows.dh;
    if (state < layer_.plain_states()) return rows.dc + (state - 1) * plane();
    return rows.dseen + (state - layer_.plain_states()) * plane();
  }

  float* seen_row(const Rows& rows, std::size_t r, bool start) const {
    return job_.start_seen + ((rows.chunk->index * kChunk + r) * 2 + start) * layout_.seen_depth;
  }

  // The gates that a row sees at its first step, and after a reset.
  void fill_seen(const Rows& rows, std::size_t r) const {
    for (const bool start : {false, true})
      for (std::size_t i = 0; i < layer_.seen_count; ++i) {
        const float* const* states = start ? sequence_.start : sequence_.state;
        const float* from = states[layer_.plain_states() + i];
        const std::size_t hidden = layer_.hidden;
        float* to = seen_row(rows, r, start) + i * hidden;
        if (from)
          std::memcpy(to, from + rows.chunk->row[r] * hidden, hidden * sizeof(float));
        else
          std::memset(to, 0, hidden * sizeof(float));
      }
  }

  void step(std::size_t s) {
    for (std::size_t k = 0; k < job_.count; ++k) {
      Rows& rows = rows_[k];
      rows.active = s < rows.chunk->steps() ? rows.chunk->active(s) : 0;
      if (!rows.active) continue;
      const auto offset = static_cast<std::ptrdiff_t>(rows.chunk->offset(s));
      rows.window = static_cast<std::size_t>(job_.place[rows.chunk->index] + offset);
      rows.any_restart = false;
      for (std::size_t r = 0; r < rows.active; ++r) point_row(rows, r, s);
      find_old_cells(rows, s);
      if (layer_.projected) unproject(rows);
      cell(rows);
    }
    products(s);
    for (std::size_t k = 0; k < job_.count; ++k)
      for (std::size_t r = 0; rows_[k].active && rows_[k].any_restart && r < rows_[k].active; ++r)
        if (rows_[k].restarts[r]) restart(rows_[k], r);
  }

  // Points a row at what its step reads, and notes for reduce where its inputs stand.
  void point_row(Rows& rows, std::size_t r, std::size_t s) {
    const Chunk& chunk = *rows.chunk;
    const std::size_t row = chunk.row[r], t = chunk.time(r, s, sequence_.reverse), wide = layer_.recurrent();
    const std::size_t dense = t * sequence_.rows + row, at = rows.window + r;
    rows.restarts[r] = sequence_.reset && restarts(sequence_, chunk, r, s);
    rows.any_restart = rows.any_restart || rows.restarts[r];
    const float* h = sequence_.state[kH] ? sequence_.state[kH] + row * wide : job_.zeros;
    if (s) h = sequence_.y.at(chunk.time(r, s - 1, sequence_.reverse), row);
    if (rows.restarts[r]) h = sequence_.start[kH] ? sequence_.start[kH] + row * wide : job_.zeros;
    if (sequence_.recurrent_mask) {
      float* masked = job_.masked + at * wide;
      const float* mask = sequence_.recurrent_mask + row * wide;
      for (std::size_t k = 0; k < wide; ++k) masked[k] = h[k] * mask[k];
      h = masked;
    }
    job_.x_rows[at] = sequence_.x.at(t, row);
    job_.h_rows[at] = h;
    if (layer_.seen_count)
      job_.seen_rows[at] = rows.restarts[r] ? seen_row(rows, r, true)
                           : !s ? seen_row(rows, r, false)
                                : job_.saved.seen + (chunk.base + chunk.offset(s - 1) + r) * layout_.seen_depth;
    if (job_.gradients->dy.data) rows.dy[r] = job_.gradients->dy.at(t, row);
    if (sequence_.h_mask) rows.h_mask[r] = sequence_.h_mask + dense * wide;
    if (sequence_.c_mask) rows.c_mask[r] = sequence_.c_mask + dense * layer_.hidden;
    for (std::size_t i = 0; i < kTraces; ++i)
      if (job_.gradients->dtrace[i])
        rows.dtrace[i][r] = job_.gradients->dtrace[i] + dense * (i == kGates + kH ? wide : layer_.hidden);
  }

  // Where the cell states before step s stand: as kept, or put together where some rows start.
  void find_old_cells(Rows& rows, std::size_t s) {
    if (layer_.plain_states() == 1) return;
    const Chunk& chunk = *rows.chunk;
    const float* kept = nullptr;
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
        const float* from = rows.restarts[r] ? sequence_.start[state] : s ? nullptr : sequence_.state[state];
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
  void unproject(Rows& rows) {
    const std::size_t wide = layer_.recurrent();
    for (std::size_t r = 0; r < rows.active; ++r) {
      float* to = job_.dprojected + (rows.window + r) * layer_.width();
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

  float* gates_at(const Rows& rows, float* kept) const { return kept + rows.window * layout_.blocks * layout_.line; }

  void cell(Rows& rows) {
    if (!layer_.layer_norm) {
      for (std::size_t block = 0; block < layout_.blocks; ++block) cell_block(rows, block, Stage::kWhole);
      return;
    }
    for (std::size_t block = 0; block < layout_.blocks; ++block) cell_block(rows, block, Stage::kOutput);
    for (std::size_t r = 0; r < rows.active; ++r) {
      const float* scale = job_.saved.scale + (rows.window + r) * 5;
      const NormRow of_c = {rows.normalised + r * kWidth, kVectorStride, 1, layer_.hidden};
      norm_backward(of_c, rows.hat + r * kWidth, scale[2] * scale[3], of_c.data);
    }
    for (std::size_t block = 0; block < layout_.blocks; ++block) cell_block(rows, block, Stage::kCell);
    for (std::size_t r = 0; r < rows.active; ++r) unnormalise(rows, r);
  }

  float* sums_of(const Rows& rows, std::size_t block) const {
    return job_.sums + (rows.chunk->index * layout_.blocks + block) * layout_.sums(layer_);
  }

  void cell_block(const Rows& rows, std::size_t block, Stage stage) const {
    BackwardBlock at;
    at.rows = rows.active;
    at.lanes = lanes_of(block, layer_.hidden);
    at.column = block * kWidth;
    at.gates = gates_at(rows, job_.saved.gates) + block * rows.active * layout_.line;
    at.c_old = rows.c_old + block * rows.old_block;
    at.old_plane = rows.old_plane;
    at.dh = (layer_.projected ? rows.dm : rows.dh) + block * kVectorStride;
    if (job_.gradients->dy.data && !layer_.projected) at.dy = rows.dy;
    at.dc = rows.dc + block * kVectorStride;
    at.plane = plane();
    for (const Gate gate : {kI, kF, kO, kG}) at.peep[gate] = job_.packed + layout_.peep_at(gate) + block * kWidth;
    at.dbias = sums_of(rows, block);
    at.dpeep = at.dbias + layout_.line;
    if (!options_) return point_(layer_.row, at);
    BackwardExtras extras;
    extras.clips = layer_.clips;
    extras.keeps_pre = layer_.keeps_pre();
    extras.clip = layer_.clip;
    if (sequence_.h_mask && !layer_.projected) {
      extras.h_mask = rows.h_mask;
      extras.carry = rows.carry + block * kVectorStride;
    }
    if (sequence_.c_mask) extras.c_mask = rows.c_mask;
    for (std::size_t i = 0; i < kTraces; ++i)
      if (job_.gradients->dtrace[i] && !(layer_.projected && i == kGates + kH)) extras.dtrace[i] = rows.dtrace[i];
    for (std::size_t i = 0; i < layer_.seen_count; ++i)
      extras.dseen[layer_.seen[i]] = rows.dseen + i * plane() + block * kVectorStride;
    float mean[kChunk], scale[2 * kChunk];
    if (layer_.layer_norm) {
      for (std::size_t r = 0; r < rows.active; ++r) {
        const float* kept = job_.saved.scale + (rows.window + r) * 5;
        scale[2 * r] = kept[2], scale[2 * r + 1] = kept[3], mean[r] = kept[4];
      }
      extras.stage = stage;
      extras.c_mean = mean;
      extras.c_scale = scale;
      extras.c_gain = job_.packed + layout_.cell_gain_at(false) + block * kWidth;
      extras.c_bias = job_.packed + layout_.cell_gain_at(true) + block * kWidth;
      extras.hat = rows.hat + block * kVectorStride;
      extras.normalised = rows.normalised + block * kVectorStride;
      extras.dgain = at.dpeep + kGates * kWidth + 2 * layout_.line;
      extras.dshift = extras.dgain + kWidth;
    }
    at.extras = &extras;
    point_(layer_.row, at);
  }

  // From the gradients of a row's pre-activations to those of its two products, which take the normalised ones' place.
  void unnormalise(const Rows& rows, std::size_t r) const {
    const std::size_t line = layout_.line, stride = rows.active * line;
    const float* dpre = gates_at(rows, job_.saved.gates) + r * line;
    const float* scale = job_.saved.scale + (rows.window + r) * 5;
    for (const bool recurrent : {false, true}) {
      float* const normalised = gates_at(rows, recurrent ? job_.saved.norm_h : job_.saved.norm_x) + r * line;
      float* const d = rows.dnorm + r * line;
      for (std::size_t block = 0; block < layout_.blocks; ++block) {
        const float* gain = job_.packed + layout_.gain_at(recurrent) + block * line;
        float* dgain = sums_of(rows, block) + line + kGates * kWidth + recurrent * line;
        for (std::size_t v = 0; v < line; v += kWidth) {
          const Floats gradient = load(dpre + block * stride + v);
          store(dgain + v, fma(gradient, load(normalised + block * stride + v), load(dgain + v)));
          store(d + block * stride + v, gradient * load(gain + v));
        }
      }
      norm_backward({d, stride, layer_.gates(), layer_.hidden}, normalised, scale[recurrent], normalised);
    }
  }

  // The gradients of the states before step s, and of x.
  void products(std::size_t s) {
    const std::size_t gates = layer_.gates();
    float* const of_h = layer_.layer_norm ? job_.saved.norm_h : job_.saved.gates;
    for (std::size_t k = 0; k < job_.count; ++k) {
      chunks_[k] = chunk_of(rows_[k], of_h, rows_[k].dh);
      if (sequence_.h_mask && !sequence_.recurrent_mask) chunks_[k].from = rows_[k].carry;
    }
    panel_products(layout_.dh, job_.packed_backward, chunks_, job_.count, gates);
    if (sequence_.recurrent_mask) unmask();
    if (layer_.seen_count) {
      for (std::size_t k = 0; k < job_.count; ++k) chunks_[k] = chunk_of(rows_[k], of_h, rows_[k].dseen);
      const float* packed = job_.packed_backward + layout_.dseen_at();
      panel_products(layout_.dseen, packed, chunks_, job_.count, layout_.seen_vectors);
    }
    if (!job_.gradients->dx.data || few_rows()) return;
    float* const of_x = layer_.layer_norm ? job_.saved.norm_x : job_.saved.gates;
    for (std::size_t k = 0; k < job_.count; ++k) chunks_[k] = chunk_of(rows_[k], of_x, rows_[k].dx);
    panel_products(layout_.dx, job_.packed_backward + layout_.dx_at(), chunks_, job_.count, gates);
    for (std::size_t k = 0; k < job_.count; ++k)
      for (std::size_t r = 0; r < rows_[k].active; ++r) store_dx(rows_[k], rows_[k].dx + r * kWidth, r, s);
  }

  PanelChunk chunk_of(const Rows& rows, float* lines, float* to) const {
    PanelChunk chunk = {.active = rows.active, .line = layer_.gates(), .block = rows.active * layout_.line, .to = to};
    if (rows.active) chunk.lines = gates_at(rows, lines);
    return chunk;
  }

  // With few rows the weights of x are not wanted at every step but once for many: the gradients of x come after all
  // steps. A single row's steps are the rows of a tile.
  bool few_rows() const { return sequence_.rows <= kFewRows; }

  void input_gradients() {
    const float* const of_x = layer_.layer_norm ? job_.saved.norm_x : job_.saved.gates;
    const float* const packed = job_.packed_backward + layout_.dx_at();
    for (std::size_t k = 0; k < job_.count; ++k) {
      const Rows& rows = rows_[k];
      const Chunk& chunk = *rows.chunk;
      const std::size_t end = job_.last < chunk.steps() ? job_.last : chunk.steps();
      for (std::size_t s = job_.first; s < end;) {
        const std::size_t active = chunk.active(s);
        std::size_t last = s + 1;
        while (active == 1 && last < end && last < s + kChunk && chunk.active(last) == 1) ++last;
        const auto window =
            static_cast<std::size_t>(job_.place[chunk.index] + static_cast<std::ptrdiff_t>(chunk.offset(s)));
        const bool single = active == 1;
        const PanelChunk source = {.active = single ? last - s : active,
                                   .lines = of_x + window * layout_.blocks * layout_.line,
                                   .line = single ? layout_.blocks * layer_.gates() : layer_.gates(),
                                   .block = active * layout_.line,
                                   .to = rows.dx};
        panel_products(layout_.dx, packed, &source, 1, layer_.gates());
        for (std::size_t i = 0; i < source.active; ++i)
          store_dx(rows, rows.dx + i * kWidth, single ? 0 : i, single ? s + i : s);
        s = last;
      }
    }
  }

  void store_dx(const Rows& rows, const float* from, std::size_t r, std::size_t s) const {
    float* to = job_.gradients->dx.at(rows.chunk->time(r, s, sequence_.reverse), rows.chunk->row[r]);
    for (std::size_t v = 0; v < layout_.dx.vectors; ++v) {
      Floats value = load(from + v * kVectorStride);
      const std::size_t lanes = lanes_of(v, layer_.inputs);
      if (job_.gradients->add_dx) value = value + load_some(to + v * kWidth, lanes);
      store_some(to + v * kWidth, value, lanes);
    }
  }

  // h entered the products through a mask, the part that zoneout let pass did not.
  void unmask() {
    const std::size_t wide = layer_.recurrent();
    for (std::size_t k = 0; k < job_.count; ++k)
      for (std::size_t r = 0; r < rows_[k].active; ++r) {
        const float* mask = sequence_.recurrent_mask + rows_[k].chunk->row[r] * wide;
        for (std::size_t v = 0; v < layout_.dh.vectors; ++v) {
          const std::size_t at = v * kVectorStride + r * kWidth;
          const Floats m = load_some(mask + v * kWidth, lanes_of(v, wide));
          const Floats past = sequence_.h_mask ? load(rows_[k].carry + at) : Floats{};
          store(rows_[k].dh + at, fma(load(rows_[k].dh + at), m, past));
        }
      }
  }

  // A row that restarted before this step: what it would hand to the step before belongs to the start.
  void restart(const Rows& rows, std::size_t r) const {
    for (std::size_t state = 0; state < layer_.states(); ++state) {
      const std::size_t width = layer_.state_width(state);
      float* to = job_.gradients->dstart[state];
      if (to) to += rows.chunk->row[r] * width;
      for (std::size_t v = 0; v < vectors(width); ++v) {
        float* at = state_at(rows, state) + v * kVectorStride + r * kWidth;
        if (to) {
          const std::size_t lanes = lanes_of(v, width);
          store_some(to + v * kWidth, load_some(to + v * kWidth, lanes) + load(at), lanes);
        }
        store(at, Floats{});
      }
    }
  }

  void add_up(const Rows& rows) const {
    const std::size_t count = layout_.blocks * layout_.sums(layer_);
    float* const sums = job_.sums + rows.chunk->index * count;
    float* const totals = job_.totals + rows.chunk->index * count;
    for (std::size_t i = 0; i < count; i += kWidth) {
      store(totals + i, load(totals + i) + load(sums + i));
      store(sums + i, Floats{});
    }
  }

  void finish(const Rows& rows) const {
    for (std::size_t state = 0; state < layer_.states(); ++state) {
      const std::size_t width = layer_.state_width(state);
      float* to = job_.gradients->dstate[state];
      for (std::size_t r = 0; to && r < rows.chunk->rows; ++r)
        for (std::size_t v = 0; v < vectors(width); ++v)
          store_some(to + rows.chunk->row[r] * width + v * kWidth,
                     load(state_at(rows, state) + v * kVectorStride + r * kWidth), lanes_of(v, width));
    }
  }

  const BackwardJob& job_;
  const Layer& layer_;
  const Sequence& sequence_;
  const Layout layout_;
  Rows* rows_;
  PanelChunk* chunks_ = nullptr;
  BackwardPoint point_ = nullptr;
  bool options_ = false;
};

}  // namespace

namespace GATEWISE_ISA {

std::size_t backward_state(const Layer& layer) { return Group::state_size(layer, Layout(layer)); }

std::size_t backward_scratch(const Layer& layer, const Sequence& sequence) {
  BackwardJob job;
  job.layer = &layer;
  job.sequence = &sequence;
  job.count = 1;
  Scratch scratch;
  Rows counted;
  scratch.take<Rows>(1);
  Group(job, &counted, scratch);
  return scratch.floats();
}

void backward(const BackwardJob& job) {
  Scratch scratch(job.scratch);
  Rows* rows = scratch.take<Rows>(job.count);
  for (std::size_t k = 0; k < job.count; ++k) rows[k].chunk = job.chunks[k];
  Group(job, rows, scratch).run();
}

}  // namespace GATEWISE_ISA
}  // namespace gatewise
