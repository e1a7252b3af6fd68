// The blocks that work on every step alone, and the convolution over time.
#include <algorithm>
#include <cstring>
#include <stdexcept>
#include <string>

#include "executor.h"
#include "team.h"

namespace gatewise {
namespace {

// Rows are shared out where there are more than so many multiplications.
constexpr double kWorthATeam = 1e6;

// Calls work(worker, first, last) for parts of `rows`, on the threads of a run. Where a row lies makes no difference to
// it.
template <class Work>
void share_rows(const Run& run, std::size_t rows, std::size_t products, Work work) {
  const double all = static_cast<double>(rows) * static_cast<double>(products);
  const std::size_t parts = all < kWorthATeam ? 1 : run.threads, chunks = (rows + kChunk - 1) / kChunk;
  auto part = [&](std::size_t worker, std::size_t i) {
    work(worker, std::min(rows, chunks * i / parts * kChunk), std::min(rows, chunks * (i + 1) / parts * kChunk));
  };
  parallel(parts, parts, part);
}

class Embedding : public Block {
 public:
  Embedding(const Kernels<float>& kernels, std::size_t count, std::size_t width)
      : Block(kernels), count_(count), width_(width) {}
  std::size_t output_width() const override { return width_; }
  std::size_t packed_size() const override { return count_ * width_; }
  void pack(const float* const* weights, float* packed) const override {
    std::copy_n(weights[0], count_ * width_, packed);
  }
  void check(const Flow& in) const override {
    for (std::size_t i = 0; i < in.steps * in.rows; ++i)
      if (static_cast<std::size_t>(in.tokens[i]) >= count_)
        throw std::invalid_argument("x must be from 0 to " + std::to_string(count_ - 1) + ", got " +
                                    std::to_string(in.tokens[i]) + ".");
  }
  void run(const float* packed, const Flow& in, const States&, float* y, const Run&) const override {
    for (std::size_t i = 0; i < in.steps * in.rows; ++i)
      y = std::copy_n(packed + static_cast<std::size_t>(in.tokens[i]) * width_, width_, y);
  }
  void step(const float* packed, const Flow& in, const States& states, float* y, float*) const override {
    run(packed, in, states, y, {});
  }

 private:
  const std::size_t count_, width_;
};

class Linear : public Block {
 public:
  Linear(const Kernels<float>& kernels, std::size_t in, std::size_t out) : Block(kernels), in_(in), out_(out) {}
  std::size_t output_width() const override { return out_; }
  std::size_t packed_size() const override { return kernels_.dense->size(in_, out_); }
  void pack(const float* const* weights, float* packed) const override {
    kernels_.dense->pack(in_, out_, weights[0], weights[1], packed);
  }
  void run(const float* packed, const Flow& in, const States&, float* y, const Run& run) const override {
    share_rows(run, in.steps * in.rows, in_ * out_, [&](std::size_t, std::size_t first, std::size_t last) {
      kernels_.dense->multiply(in_, out_, packed, in.data + first * in_, in_, y + first * out_, out_, last - first);
    });
  }
  void step(const float* packed, const Flow& in, const States&, float* y, float*) const override {
    kernels_.dense->multiply(in_, out_, packed, in.data, in_, y, out_, 1);
  }

 private:
  const std::size_t in_, out_;
};

class LayerNorm : public Block {
 public:
  LayerNorm(const Kernels<float>& kernels, std::size_t width, float eps) : Block(kernels), width_(width), eps_(eps) {}
  std::size_t output_width() const override { return width_; }
  std::size_t packed_size() const override { return 2 * width_; }
  void pack(const float* const* weights, float* packed) const override {
    std::copy_n(weights[1], width_, std::copy_n(weights[0], width_, packed));
  }
  void run(const float* packed, const Flow& in, const States&, float* y, const Run&) const override {
    const Buffer<float> scratch(step_scratch());
    normalise(packed, in, in.steps * in.rows, y, scratch.data());
  }
  void step(const float* packed, const Flow& in, const States&, float* y, float* scratch) const override {
    normalise(packed, in, 1, y, scratch);
  }
  std::size_t step_scratch() const override { return width_ + kPadding; }

 private:
  void normalise(const float* packed, const Flow& in, std::size_t rows, float* y, float* scratch) const {
    kernels_.dense->norm(width_, eps_, packed, packed + width_, in.data, y, rows, scratch);
  }

  const std::size_t width_;
  const float eps_;
};

class Scaling : public Block {
 public:
  Scaling(const Kernels<float>& kernels, std::size_t width, bool inverse)
      : Block(kernels), width_(width), inverse_(inverse) {}
  std::size_t output_width() const override { return width_; }
  std::size_t packed_size() const override { return 2 * width_; }
  void pack(const float* const* weights, float* packed) const override {
    std::copy_n(weights[1], width_, std::copy_n(weights[0], width_, packed));
  }
  void run(const float* packed, const Flow& in, const States&, float* y, const Run&) const override {
    kernels_.dense->standardise(width_, packed, packed + width_, inverse_, in.data, y, in.steps * in.rows);
  }
  void step(const float* packed, const Flow& in, const States& states, float* y, float*) const override {
    run(packed, in, states, y, {});
  }

 private:
  const std::size_t width_;
  const bool inverse_;
};

class Mixture : public Block {
 public:
  Mixture(const Kernels<float>& kernels, std::size_t candidates, std::size_t quantiles)
      : Block(kernels), candidates_(candidates), quantiles_(quantiles) {}
  std::size_t output_width() const override { return quantiles_; }
  void pass(Flow& flow) const override {
    flow.steps = flow.candidate_steps;
    flow.lengths.clear();
    flow.reset = nullptr;
  }
  const char* whole_only() const override { return "its mixture wants the candidates of a whole forecast"; }
  void pack(const float* const*, float*) const override {}
  void run(const float*, const Flow& in, const States&, float* y, const Run&) const override {
    const Buffer<float> scratch(candidates_ + kPadding);
    const std::size_t first = (in.steps - in.candidate_steps) * in.rows * (quantiles_ + candidates_);
    kernels_.dense->mix(candidates_, quantiles_, in.data + first, in.candidates, y, in.candidate_steps * in.rows,
                        scratch.data());
  }
  void step(const float*, const Flow&, const States&, float*, float*) const override {}

 private:
  const std::size_t candidates_, quantiles_;
};

// Over time: y[t] = b + sum_j W_j x[t stride + j dilation - before], with zeros outside of the piece of its row. What
// came before the first step lies in the state of a convolution that goes step by step.
class Convolution : public Block {
 public:
  Convolution(const Kernels<float>& kernels, const ConvolutionShape& shape)
      : Block(kernels),
        shape_(shape),
        depth_(shape.kernel * shape.in),
        span_((shape.kernel - 1) * shape.dilation),
        before_(shape.causal ? span_ : span_ / 2),
        remembers_(span_ && !whole_only()) {}

  std::size_t output_width() const override { return shape_.out; }
  void pass(Flow& flow) const override {
    const auto shorter = [&](std::size_t steps) { return (steps + shape_.stride - 1) / shape_.stride; };
    flow.steps = shorter(flow.steps);
    for (std::int64_t& length : flow.lengths)
      length = static_cast<std::int64_t>(shorter(static_cast<std::size_t>(length)));
  }
  const char* whole_only() const override {
    if (!shape_.causal) return "its convolution reads what comes later";
    return shape_.stride > 1 ? "its convolution skips steps" : nullptr;
  }
  std::vector<std::size_t> state_widths() const override {
    if (!remembers_) return {};
    return {span_ * shape_.in};
  }

  std::size_t packed_size() const override { return kernels_.dense->size(depth_, shape_.out); }
  void pack(const float* const* weights, float* packed) const override {
    std::vector<float> by_tap(shape_.out * depth_);
    for (std::size_t o = 0; o < shape_.out; ++o)
      for (std::size_t i = 0; i < shape_.in; ++i)
        for (std::size_t j = 0; j < shape_.kernel; ++j)
          by_tap[o * depth_ + j * shape_.in + i] = weights[0][(o * shape_.in + i) * shape_.kernel + j];
    kernels_.dense->pack(depth_, shape_.out, by_tap.data(), weights[1], packed);
  }

  void run(const float* packed, const Flow& in, const States& states, float* y, const Run& run) const override {
    Flow out = in;
    pass(out);
    const Buffer<float> taken(run.threads * kChunk * depth_);
    share_rows(run, in.rows, out.steps * depth_ * shape_.out,
               [&](std::size_t worker, std::size_t first, std::size_t last) {
                 convolve(packed, in, states, y, first, last, out.steps, taken.data() + worker * kChunk * depth_);
               });
    if (remembers_)
      for (std::size_t b = 0; b < in.rows; ++b) remember(in, states, b);
  }

  void step(const float* packed, const Flow& in, const States& states, float* y, float* scratch) const override {
    convolve(packed, in, states, y, 0, 1, 1, scratch);
    if (remembers_) remember(in, states, 0);
  }
  std::size_t step_scratch() const override { return kChunk * depth_; }

 private:
  using Time = std::ptrdiff_t;

  // Where the piece begins that step t of a row is in, as far as step t reaches; before 0 where it goes on from the
  // state.
  Time beginning(const Flow& in, std::size_t b, std::size_t t) const {
    for (std::size_t back = 0; in.reset && back < before_ && back <= t; ++back)
      if (in.reset[(t - back) * in.rows + b]) return static_cast<Time>(t - back);
    return remembers_ ? -static_cast<Time>(span_) : 0;
  }
  Time ending(const Flow& in, std::size_t b, std::size_t t) const {
    const std::size_t end = in.end(b);
    for (std::size_t s = t + 1; in.reset && s < end && s <= t + span_ - before_; ++s)
      if (in.reset[s * in.rows + b]) return static_cast<Time>(s);
    return static_cast<Time>(end);
  }

  const float* at(const Flow& in, const States& states, std::size_t b, Time t) const {
    if (t >= 0) return in.data + (static_cast<std::size_t>(t) * in.rows + b) * shape_.in;
    return states.data + (states.slot(b) * span_ + static_cast<std::size_t>(t + static_cast<Time>(span_))) * shape_.in;
  }

  void gather(const Flow& in, const States& states, std::size_t b, std::size_t t, float* to) const {
    const Time first = beginning(in, b, t), last = ending(in, b, t);
    for (std::size_t j = 0; j < shape_.kernel; ++j, to += shape_.in) {
      const Time tap = static_cast<Time>(t + j * shape_.dilation) - static_cast<Time>(before_);
      if (tap < first || tap >= last)
        std::memset(to, 0, shape_.in * sizeof(float));
      else
        std::copy_n(at(in, states, b, tap), shape_.in, to);
    }
  }

  void convolve(const float* packed, const Flow& in, const States& states, float* y, std::size_t first,
                std::size_t last, std::size_t steps, float* taken) const {
    for (std::size_t t = 0; t < steps; ++t)
      for (std::size_t b = first; b < last; b += kChunk) {
        const std::size_t count = std::min(kChunk, last - b);
        for (std::size_t r = 0; r < count; ++r) gather(in, states, b + r, t * shape_.stride, taken + r * depth_);
        float* const to = y + (t * in.rows + b) * shape_.out;
        kernels_.dense->multiply(depth_, shape_.out, packed, taken, depth_, to, shape_.out, count);
      }
  }

  // The last steps of a row, for those to come.
  void remember(const Flow& in, const States& states, std::size_t b) const {
    const std::size_t end = in.end(b);
    if (!end) return;
    const Time first = beginning(in, b, end - 1);
    float* to = states.data + states.slot(b) * span_ * shape_.in;
    // From the oldest on, so that what is read has not been written yet.
    for (std::size_t i = 0; i < span_; ++i, to += shape_.in) {
      const Time t = static_cast<Time>(end + i) - static_cast<Time>(span_);
      if (t < first)
        std::memset(to, 0, shape_.in * sizeof(float));
      else
        std::copy_n(at(in, states, b, t), shape_.in, to);
    }
  }

  const ConvolutionShape shape_;
  const std::size_t depth_, span_, before_;
  const bool remembers_;
};

}  // namespace

std::unique_ptr<Block> make_embedding(const Kernels<float>& kernels, std::size_t count, std::size_t width) {
  return std::make_unique<Embedding>(kernels, count, width);
}
std::unique_ptr<Block> make_linear(const Kernels<float>& kernels, std::size_t in, std::size_t out) {
  return std::make_unique<Linear>(kernels, in, out);
}
std::unique_ptr<Block> make_layer_norm(const Kernels<float>& kernels, std::size_t width, float eps) {
  return std::make_unique<LayerNorm>(kernels, width, eps);
}
std::unique_ptr<Block> make_scaling(const Kernels<float>& kernels, std::size_t width, bool inverse) {
  return std::make_unique<Scaling>(kernels, width, inverse);
}
std::unique_ptr<Block> make_mixture(const Kernels<float>& kernels, std::size_t candidates, std::size_t quantiles) {
  return std::make_unique<Mixture>(kernels, candidates, quantiles);
}
std::unique_ptr<Block> make_convolution(const Kernels<float>& kernels, const ConvolutionShape& shape) {
  return std::make_unique<Convolution>(kernels, shape);
}

}  // namespace gatewise
