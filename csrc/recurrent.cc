// The recurrent block: a stack of layers, each of one or two directions.
#include <algorithm>
#include <cstring>

#include "executor.h"

namespace gatewise {
namespace {

void add_to(float* y, const float* x, std::size_t count) {
  for (std::size_t i = 0; i < count; ++i) y[i] = y[i] + x[i];
}

class Recurrent : public Block {
 public:
  Recurrent(const Kernels<float>& kernels, RecurrentShape shape) : Block(kernels), shape_(std::move(shape)) {
    Sequence<float> one;
    one.steps = one.rows = 1;
    for (const Layer& layer : shape_.layers) {
      const Sizes sizes = kernels.sizes(layer, one);
      packed_.push_back(start_at_);
      sizes_.push_back(sizes.packed_forward);
      start_at_ += aligned(shape_.halved ? (sizes.packed_forward + 1) / 2 : sizes.packed_forward);
      scratch_ = std::max(scratch_, aligned(sizes.forward_scratch));
      most_ = std::max(most_, sizes.packed_forward);
      const auto peeps = [](const GateRow& gate) { return gate.peep != Peep::kNone; };
      const bool peephole = std::any_of(std::begin(layer.row.gates), std::end(layer.row.gates), peeps);
      reads_halved_ = shape_.halved && sizes.unpacked && !peephole && !layer.projected;
      for (std::size_t s = 0; s < layer.states(); ++s) widths_.push_back(layer.state_width(s));
    }
    for (const std::size_t width : widths_) state_ += width;
  }

  std::size_t output_width() const override { return shape_.layers[0].width() * shape_.directions; }
  std::size_t packed_size() const override { return start_at_ + (shape_.learned_state ? state_ : 0); }
  std::vector<std::size_t> state_widths() const override { return widths_; }
  const float* start(const float* packed) const override { return shape_.learned_state ? packed + start_at_ : nullptr; }
  const char* whole_only() const override {
    return shape_.directions == 2 ? "it reads sequences in both directions of time" : nullptr;
  }

  void pack(const float* const* weights, float* packed) const override {
    for (std::size_t number = 0; number < shape_.layers.size(); ++number) {
      const float* own[kWeightKinds] = {};
      for (const std::size_t kind : shape_.kinds) own[kind] = *weights++;
      if (!shape_.halved) {
        kernels_.pack_forward(shape_.layers[number], own, packed + packed_[number], 0, 1);
        continue;
      }
      const Buffer<float> whole(sizes_[number]);
      kernels_.pack_forward(shape_.layers[number], own, whole.data(), 0, 1);
      kernels_.halving->halve(shape_.layers[number], whole.data(), reinterpret_cast<Bfloat*>(packed + packed_[number]));
    }
    float* to = packed + start_at_;
    for (std::size_t i = 0; shape_.learned_state && i < widths_.size(); ++i)
      to = std::copy_n(*weights++, widths_[i], to);
  }

  void run(const float* packed, const Flow& in, const States& states, float* y, const Run& run) const override {
    const std::size_t size = in.steps * in.rows * output_width();
    Buffer<float> between[2];
    const Buffer<float> starts = repeated(packed, in), wide = shape_.halved ? Buffer<float>(most_) : Buffer<float>();
    const float* x = in.data;
    for (std::size_t layer = 0; layer < layers(); ++layer) {
      float* to = y;
      if (layer + 1 < layers()) {
        if (!between[layer % 2]) between[layer % 2] = Buffer<float>(std::max(size, std::size_t{1}));
        to = between[layer % 2].data();
      }
      for (std::size_t side = 0; side < shape_.directions; ++side) {
        Sequence<float> s = sequence(layer, side, in, x, to, states);
        if (starts) spread(starts.data(), in.rows, number(layer, side), s.start);
        const float* const own = whole(packed, number(layer, side), wide.data());
        forward_packed(kernels_, shape_.layers[number(layer, side)], own, s, run.threads, *run.interrupt);
      }
      if (adds(layer)) add_to(to, x, size);
      x = to;
    }
  }

  void step(const float* packed, const Flow& in, const States& states, float* y, float* scratch) const override {
    float* const own = scratch + 2 * aligned(output_width());
    const float* x = in.data;
    for (std::size_t layer = 0; layer < layers(); ++layer) {
      float* const to = layer + 1 < layers() ? scratch + layer % 2 * aligned(output_width()) : y;
      const Sequence<float> s = sequence(layer, 0, in, x, to, states);
      if (reads_halved_)
        forward_step(kernels_, shape_.layers[layer], own, half(packed, layer), s, own);
      else
        forward_step(kernels_, shape_.layers[layer], whole(packed, layer, own + scratch_), nullptr, s, own);
      if (adds(layer)) add_to(to, x, output_width());
      x = to;
    }
  }
  std::size_t step_scratch() const override {
    return 2 * aligned(output_width()) + scratch_ + (shape_.halved && !reads_halved_ ? most_ : 0);
  }

 private:
  std::size_t layers() const { return shape_.layers.size() / shape_.directions; }
  std::size_t number(std::size_t layer, std::size_t side) const { return layer * shape_.directions + side; }
  const Bfloat* half(const float* packed, std::size_t number) const {
    return reinterpret_cast<const Bfloat*>(packed + packed_[number]);
  }
  // The weights of a layer and direction as the engine reads them, in `to` if they are kept in less.
  const float* whole(const float* packed, std::size_t number, float* to) const {
    if (!shape_.halved) return packed + packed_[number];
    kernels_.halving->widen(shape_.layers[number], half(packed, number), to);
    return to;
  }
  bool adds(std::size_t layer) const { return shape_.residual && layer > 1; }

  Sequence<float> sequence(std::size_t layer, std::size_t side, const Flow& in, const float* x, float* y,
                           const States& states) const {
    const Layer& own = shape_.layers[number(layer, side)];
    const auto row = [](std::size_t width) { return static_cast<std::ptrdiff_t>(width); };
    Sequence<float> s;
    s.steps = in.steps;
    s.rows = in.rows;
    s.reverse = side == 1;
    s.x = {x, row(in.rows * own.inputs), row(own.inputs)};
    s.y = {y + side * own.width(), row(in.rows * output_width()), row(output_width())};
    s.lengths = in.lengths.empty() ? nullptr : in.lengths.data();
    s.reset = in.reset;
    s.slots = states.slots;
    spread(states.data, states.capacity, number(layer, side), s.final);
    std::copy_n(s.final, kMaxStates, s.state);
    return s;
  }

  // Where the states of a layer and direction begin, of so many rows each.
  template <class Float>
  void spread(float* data, std::size_t rows, std::size_t number, Float* (&to)[kMaxStates]) const {
    const std::size_t count = shape_.layers[0].states();
    for (std::size_t i = 0; i < number * count; ++i) data += rows * widths_[i];
    for (std::size_t i = 0; i < count; ++i) {
      to[i] = data;
      data += rows * widths_[number * count + i];
    }
  }

  // The learned states for every row, where rows restart inside.
  Buffer<float> repeated(const float* packed, const Flow& in) const {
    if (!in.reset || !shape_.learned_state) return {};
    Buffer<float> all(std::max(in.rows * state_, std::size_t{1}));
    float* to = all.data();
    const float* from = packed + start_at_;
    for (const std::size_t width : widths_) {
      for (std::size_t b = 0; b < in.rows; ++b) to = std::copy_n(from, width, to);
      from += width;
    }
    return all;
  }

  const RecurrentShape shape_;
  std::vector<std::size_t> packed_, sizes_, widths_;  // where packed weights begin, and their number; of the states
  std::size_t start_at_ = 0, state_ = 0, scratch_ = 0, most_ = 0;
  bool reads_halved_ = false;  // whether a step reads the weights as they are kept
};

}  // namespace

std::unique_ptr<Block> make_recurrent(const Kernels<float>& kernels, RecurrentShape shape) {
  return std::make_unique<Recurrent>(kernels, std::move(shape));
}

}  // namespace gatewise
