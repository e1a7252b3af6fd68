// Backward of one group of chunks through time.
//
// Step by step from the last: the cell's derivatives (pointwise_backward.cc) turn the kept gates into the gradients of
// the pre-activations, in place; their products with the weights are the gradients of h of the step before and of x.
// The same array of gradients then feeds the products for the weights (reduce.cc), with no transposition anywhere.
#include "backward.h"

namespace gatewise {
namespace GATEWISE_ISA {

void BackwardGroup::run() {
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

bool BackwardGroup::options() const {
  bool traces = false;
  for (const Real* trace : job_.gradients->dtrace) traces = traces || trace;
  return layer_.keeps_pre() || layer_.layer_norm || layer_.seen_count || sequence_.h_mask || sequence_.c_mask || traces;
}

void BackwardGroup::step(std::size_t s) {
  for (std::size_t k = 0; k < job_.count; ++k) {
    BackwardRows& rows = rows_[k];
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

void BackwardGroup::cell(BackwardRows& rows) {
  if (!layer_.layer_norm) {
    for (std::size_t block = 0; block < layout_.blocks; ++block) cell_block(rows, block, Stage::kWhole);
    return;
  }
  for (std::size_t block = 0; block < layout_.blocks; ++block) cell_block(rows, block, Stage::kOutput);
  for (std::size_t r = 0; r < rows.active; ++r) {
    const Real* scale = job_.saved.scale + (rows.window + r) * 5;
    const NormRow<1> of_c = {rows.normalised + r * kWidth, kVectorStride, layer_.hidden};
    norm_backward(of_c, rows.hat + r * kWidth, scale[2] * scale[3], of_c.data);
  }
  for (std::size_t block = 0; block < layout_.blocks; ++block) cell_block(rows, block, Stage::kCell);
  for (const bool recurrent : {false, true}) unnormalise(rows, recurrent);
}

void BackwardGroup::cell_block(const BackwardRows& rows, std::size_t block, Stage stage) const {
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
  if (!options_) return point(rows, block, at, nullptr);
  BackwardExtras extras;
  extras.clips = layer_.clips;
  extras.keeps_pre = layer_.keeps_pre();
  extras.clip = layer_.bound<Real>();
  if (sequence_.h_mask && !layer_.projected) {
    extras.h_mask = rows.h_mask;
    extras.carry = rows.carry + block * kVectorStride;
  }
  if (sequence_.c_mask) extras.c_mask = rows.c_mask;
  for (std::size_t i = 0; i < kTraces; ++i)
    if (job_.gradients->dtrace[i] && !(layer_.projected && i == kGates + kH)) extras.dtrace[i] = rows.dtrace[i];
  for (std::size_t i = 0; i < layer_.seen_count; ++i)
    extras.dseen[layer_.seen[i]] = rows.dseen + i * plane() + block * kVectorStride;
  Real mean[kChunk], scale[2 * kChunk];
  if (layer_.layer_norm) {
    for (std::size_t r = 0; r < rows.active; ++r) {
      const Real* kept = job_.saved.scale + (rows.window + r) * 5;
      scale[2 * r] = kept[2], scale[2 * r + 1] = kept[3], mean[r] = kept[4];
    }
    extras.stage = stage;
    extras.c_mean = mean;
    extras.c_scale = scale;
    extras.c_gain = job_.packed + layout_.cell_gain_at(false) + block * kWidth;
    extras.c_bias = job_.packed + layout_.cell_gain_at(true) + block * kWidth;
    extras.hat = rows.hat + block * kVectorStride;
    extras.normalised = rows.normalised + block * kVectorStride;
  }
  point(rows, block, at, &extras);
}

// The gradients of the states before step s, and of x.
void BackwardGroup::products(std::size_t s) {
  Real* const of_h = layer_.layer_norm ? job_.saved.norm_h : job_.saved.gates;
  for (std::size_t k = 0; k < job_.count; ++k) chunks_[k] = chunk_of(rows_[k], of_h, rows_[k].dh);
  multiply_weights(kWeightHh, chunks_, job_.count);
  if (sequence_.recurrent_mask || sequence_.h_mask) pass_by();
  if (layer_.seen_count) {
    for (std::size_t k = 0; k < job_.count; ++k) chunks_[k] = chunk_of(rows_[k], of_h, rows_[k].dseen);
    const Real* packed = job_.packed_backward + layout_.dseen_at();
    panel_products(layout_.dseen, packed, chunks_, job_.count, layout_.seen_vectors);
  }
  if (!job_.gradients->dx.data || few_rows()) return;
  Real* const of_x = layer_.layer_norm ? job_.saved.norm_x : job_.saved.gates;
  for (std::size_t k = 0; k < job_.count; ++k) chunks_[k] = chunk_of(rows_[k], of_x, rows_[k].dx);
  multiply_weights(kWeightIh, chunks_, job_.count);
  for (std::size_t k = 0; k < job_.count; ++k)
    for (std::size_t r = 0; r < rows_[k].active; ++r) store_dx(rows_[k], rows_[k].dx + r * kWidth, r, s);
}

// The gradients of what the weights of h or of x were multiplied with.
void BackwardGroup::multiply_weights(Weight weight, const PanelChunk* chunks, std::size_t count) const {
  const bool of_h = weight == kWeightHh;
  if (!job_.weights) {
    const Real* const packed = job_.packed_backward + (of_h ? 0 : layout_.dx_at());
    return panel_products(of_h ? layout_.dh : layout_.dx, packed, chunks, count, layer_.gates());
  }
  for (std::size_t k = 0; k < count; ++k)
    if (chunks[k].active) multiply_unpacked(weight, of_h ? layer_.recurrent() : layer_.inputs, chunks[k]);
}

PanelChunk BackwardGroup::chunk_of(const BackwardRows& rows, Real* lines, Real* to) const {
  PanelChunk chunk = {.active = rows.active, .line = layer_.gates(), .block = rows.active * layout_.line, .to = to};
  if (rows.active) chunk.lines = gates_at(rows, lines);
  return chunk;
}

void BackwardGroup::input_gradients() {
  for (std::size_t k = 0; k < job_.count; ++k) {
    const Chunk& chunk = *rows_[k].chunk;
    const std::size_t end = job_.last < chunk.steps() ? job_.last : chunk.steps();
    for (std::size_t s = job_.first, last = s; s < end; s = last) {
      while (last < end && last < s + kAhead && chunk.active(last) == chunk.active(s)) ++last;
      input_gradients(rows_[k], s, last);
    }
  }
}

// The same for steps s <= t < last of one chunk, which the same rows take. A single row's steps are the rows of a tile;
// those of several rows would push each other out of the first-level cache, whole pages apart.
void BackwardGroup::input_gradients(const BackwardRows& rows, std::size_t s, std::size_t last) {
  const Chunk& chunk = *rows.chunk;
  const std::size_t active = chunk.active(s), steps = last - s, room = layout_.dx.vectors * kVectorStride;
  const bool single = active == 1;
  const auto window = static_cast<std::size_t>(job_.place[chunk.index] + static_cast<std::ptrdiff_t>(chunk.offset(s)));
  const Real* const of_x = layer_.layer_norm ? job_.saved.norm_x : job_.saved.gates;
  PanelChunk sources[kAhead];
  std::size_t count = 0;
  for (std::size_t t = 0; t < steps; t += single ? kChunk : 1, ++count) {
    const std::size_t left = steps - t < kChunk ? steps - t : kChunk;
    sources[count] = {.active = single ? left : active,
                      .lines = of_x + (window + t * active) * layout_.blocks * layout_.line,
                      .line = single ? layout_.blocks * layer_.gates() : layer_.gates(),
                      .block = active * layout_.line,
                      .to = rows.dx + count * room};
  }
  multiply_weights(kWeightIh, sources, count);
  for (std::size_t t = 0; t < steps; ++t)
    for (std::size_t r = 0; r < active; ++r) {
      const std::size_t source = single ? t / kChunk : t, row = single ? t % kChunk : r;
      store_dx(rows, rows.dx + source * room + row * kWidth, r, s + t);
    }
}

void BackwardGroup::store_dx(const BackwardRows& rows, const Real* from, std::size_t r, std::size_t s) const {
  Real* to = job_.gradients->dx.at(rows.chunk->time(r, s, sequence_.reverse), rows.chunk->row[r]);
  for (std::size_t v = 0; v < layout_.dx.vectors; ++v) {
    Floats value = load(from + v * kVectorStride);
    const std::size_t lanes = lanes_of(v, layer_.inputs);
    if (job_.gradients->add_dx) value = value + load_some(to + v * kWidth, lanes);
    store_some(to + v * kWidth, value, lanes);
  }
}

// h entered the products through a mask, the part that zoneout let pass did not. That part comes after the sums: where
// it is large, sums that start from it lose a digit.
void BackwardGroup::pass_by() {
  const std::size_t wide = layer_.recurrent();
  for (std::size_t k = 0; k < job_.count; ++k)
    for (std::size_t r = 0; r < rows_[k].active; ++r) {
      const Real* mask = sequence_.recurrent_mask ? sequence_.recurrent_mask + rows_[k].chunk->row[r] * wide : nullptr;
      for (std::size_t v = 0; v < layout_.dh.vectors; ++v) {
        const std::size_t at = v * kVectorStride + r * kWidth;
        const Floats past = sequence_.h_mask ? load(rows_[k].carry + at) : Floats{};
        const Floats sum = load(rows_[k].dh + at);
        store(rows_[k].dh + at, mask ? fma(sum, load_some(mask + v * kWidth, lanes_of(v, wide)), past) : sum + past);
      }
    }
}

std::size_t backward_state(const Layer& layer) { return BackwardGroup::state_size(layer, Layout(layer)); }

std::size_t backward_scratch(const Layer& layer, const Sequence& sequence) {
  BackwardJob job;
  job.layer = &layer;
  job.sequence = &sequence;
  job.count = 1;
  Scratch scratch;
  BackwardRows counted;
  scratch.take<BackwardRows>(1);
  BackwardGroup(job, &counted, scratch);
  return scratch.count();
}

void backward(const BackwardJob& job) {
  Scratch scratch(job.scratch);
  BackwardRows* rows = scratch.take<BackwardRows>(job.count);
  for (std::size_t k = 0; k < job.count; ++k) rows[k].chunk = job.chunks[k];
  BackwardGroup(job, rows, scratch).run();
}

}  // namespace GATEWISE_ISA
}  // namespace gatewise
