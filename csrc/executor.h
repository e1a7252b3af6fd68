// A model's blocks, one after the other, from a saved model's weights: whole sequences, or step by step with the states
// of many streams. The torch model in inference and gatewise.runtime both run here, so that their bits agree.
//
// Everything that passes between blocks is dense [T, B, width]. The weights are packed once, into memory that is the
// caller's and may be mapped from a file by several processes; nothing here changes them.
#pragma once

#include <cstddef>
#include <memory>
#include <vector>

#include "engine.h"

namespace gatewise {

// Floats up to the next cache line, where every part of packed weights begins.
constexpr std::size_t aligned(std::size_t floats) { return (floats + 15) / 16 * 16; }

// The states of `capacity` streams, of which row b's lie in slot slots[b], or b if that is null. All values of a state
// lie together: [capacity, width] one after the other.
struct States {
  float* data = nullptr;
  std::size_t capacity = 0;
  const std::size_t* slots = nullptr;

  std::size_t slot(std::size_t row) const { return slots ? slots[row] : row; }
};

// What passes from block to block.
struct Flow {
  std::size_t steps = 0, rows = 0;
  const float* data = nullptr;
  const std::int64_t* tokens = nullptr;  // [T, B] for an embedding, in the place of data
  std::vector<std::int64_t> lengths;     // [B], or empty
  const std::uint8_t* reset = nullptr;   // [T, B], or null
  const float* candidates = nullptr;     // [candidate_steps, B, K] of the last steps, for a mixture
  std::size_t candidate_steps = 0;

  std::size_t end(std::size_t row) const { return lengths.empty() ? steps : static_cast<std::size_t>(lengths[row]); }
};

struct Run {
  std::size_t threads = 1;
  Interrupt* interrupt = nullptr;
};

class Block {
 public:
  explicit Block(const Kernels<float>& kernels) : kernels_(kernels) {}
  virtual ~Block() = default;

  virtual std::size_t output_width() const = 0;
  // Throws std::invalid_argument for inputs that cannot be taken, which only a first block can meet.
  virtual void check(const Flow&) const {}
  // What a flow becomes besides its data.
  virtual void pass(Flow&) const {}
  virtual std::size_t packed_size() const { return 0; }
  virtual void pack(const float* const* weights, float* packed) const = 0;
  // The widths of the states of one stream, in their order.
  virtual std::vector<std::size_t> state_widths() const { return {}; }
  // What a stream begins with: the values of all states one after the other, or null for zeros.
  virtual const float* start(const float*) const { return nullptr; }
  // Why this block cannot go step by step, or null.
  virtual const char* whole_only() const { return nullptr; }

  // `states` are this block's own, and are changed.
  virtual void run(const float* packed, const Flow& in, const States& states, float* y, const Run& run) const = 0;
  // The same of one step of one row.
  virtual void step(const float* packed, const Flow& in, const States& states, float* y, float* scratch) const = 0;
  virtual std::size_t step_scratch() const { return 0; }

 protected:
  const Kernels<float>& kernels_;
};

// The sizes of a recurrent block.
struct RecurrentShape {
  std::vector<Layer> layers;  // by layer and direction
  std::size_t directions = 1;
  bool residual = false;           // from the third layer up
  bool learned_state = false;      // after the weights of all layers come the states of all layers
  bool halved = false;             // weights are kept as bfloat16; the arithmetic is that of float32
  std::vector<std::size_t> kinds;  // of the weights of each layer and direction, in their order (Weight)
};

std::unique_ptr<Block> make_recurrent(const Kernels<float>& kernels, RecurrentShape shape);
std::unique_ptr<Block> make_embedding(const Kernels<float>& kernels, std::size_t count, std::size_t width);
std::unique_ptr<Block> make_linear(const Kernels<float>& kernels, std::size_t in, std::size_t out);
std::unique_ptr<Block> make_layer_norm(const Kernels<float>& kernels, std::size_t width, float eps);
std::unique_ptr<Block> make_scaling(const Kernels<float>& kernels, std::size_t width, bool inverse);
std::unique_ptr<Block> make_mixture(const Kernels<float>& kernels, std::size_t candidates, std::size_t quantiles);

struct ConvolutionShape {
  std::size_t in = 0, out = 0, kernel = 1, stride = 1, dilation = 1;
  bool causal = true;
};
std::unique_ptr<Block> make_convolution(const Kernels<float>& kernels, const ConvolutionShape& shape);

class Executor {
 public:
  Executor() = default;
  Executor(const Executor&) = delete;
  Executor& operator=(const Executor&) = delete;

  void add(std::unique_ptr<Block> block, std::size_t weights);

  std::size_t packed_size() const { return packed_size_; }
  // Floats of the states of one stream.
  std::size_t state_size() const { return state_size_; }
  std::size_t output_width() const { return places_.back().block->output_width(); }
  const char* whole_only() const;

  // From the weights of all blocks, one after the other. Comes before all that follows.
  void pack(const std::vector<const float*>& weights, float* packed) const;

  // Sets the states of a slot to what a stream begins with.
  void begin(const float* packed, const States& states, std::size_t slot) const;
  // One stream's states, one after the other.
  void read(const States& states, std::size_t slot, float* to) const;
  void write(const States& states, std::size_t slot, const float* from) const;

  // To be called before what follows, while nothing has changed: throws std::invalid_argument for a token that the
  // embedding has not.
  void check(const Flow& flow) const { places_.front().block->check(flow); }
  // y [output steps, B, output width], zero past the end of a row. Throws std::bad_alloc, Interrupted.
  void run(const float* packed, Flow flow, const States& states, float* y, const Run& run) const;
  void step(const float* packed, Flow flow, const States& states, float* y, float* scratch) const;
  std::size_t step_scratch() const;

 private:
  struct Place {
    std::unique_ptr<Block> block;
    std::size_t weights;        // how many it has
    std::size_t packed, state;  // where its part begins
    std::vector<std::size_t> widths;
  };
  template <class Use>
  void each_state(const States& states, std::size_t slot, Use use) const;

  std::vector<Place> places_;
  std::size_t packed_size_ = 0, state_size_ = 0, widest_ = 0, largest_step_ = 0;
};

}  // namespace gatewise
