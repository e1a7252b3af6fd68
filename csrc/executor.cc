#include "executor.h"

#include <algorithm>
#include <cstring>
#include <numeric>

namespace gatewise {
namespace {

void clear_past_ends(const Flow& flow, std::size_t width, float* y) {
  for (std::size_t b = 0; b < flow.rows && !flow.lengths.empty(); ++b)
    for (std::size_t t = flow.end(b); t < flow.steps; ++t)
      std::memset(y + (t * flow.rows + b) * width, 0, width * sizeof(float));
}

}  // namespace

void Executor::add(std::unique_ptr<Block> block, std::size_t weights) {
  std::vector<std::size_t> widths = block->state_widths();
  const std::size_t state = std::accumulate(widths.begin(), widths.end(), std::size_t{0});
  widest_ = std::max(widest_, block->output_width());
  largest_step_ = std::max(largest_step_, block->step_scratch());
  places_.push_back({std::move(block), weights, packed_size_, state_size_, std::move(widths)});
  packed_size_ += aligned(places_.back().block->packed_size());
  state_size_ += state;
}

const char* Executor::whole_only() const {
  for (const Place& place : places_)
    if (const char* why = place.block->whole_only()) return why;
  return nullptr;
}

void Executor::pack(const std::vector<const float*>& weights, float* packed) const {
  const float* const* from = weights.data();
  for (const Place& place : places_) {
    place.block->pack(from, packed + place.packed);
    from += place.weights;
  }
}

// Calls use(values, width) for each state of a slot. Allocates nothing.
template <class Use>
void Executor::each_state(const States& states, std::size_t slot, Use use) const {
  float* at = states.data;
  for (const Place& place : places_)
    for (const std::size_t width : place.widths) {
      use(at + slot * width, width);
      at += states.capacity * width;
    }
}

void Executor::begin(const float* packed, const States& states, std::size_t slot) const {
  std::vector<float> values(state_size_);
  for (const Place& place : places_)
    if (const float* start = place.block->start(packed + place.packed)) {
      const std::size_t count = std::accumulate(place.widths.begin(), place.widths.end(), std::size_t{0});
      std::copy_n(start, count, values.begin() + static_cast<std::ptrdiff_t>(place.state));
    }
  write(states, slot, values.data());
}

void Executor::read(const States& states, std::size_t slot, float* to) const {
  each_state(states, slot, [&](const float* at, std::size_t width) { to = std::copy_n(at, width, to); });
}

void Executor::write(const States& states, std::size_t slot, const float* from) const {
  each_state(states, slot, [&](float* at, std::size_t width) {
    std::copy_n(from, width, at);
    from += width;
  });
}

void Executor::run(const float* packed, Flow flow, const States& states, float* y, const Run& run) const {
  Buffer<float> between[2];
  for (std::size_t i = 0; i < places_.size(); ++i) {
    const Place& place = places_[i];
    Flow next = flow;
    place.block->pass(next);
    float* to = y;
    if (i + 1 < places_.size()) {
      Buffer<float>& buffer = between[i % 2];
      buffer = Buffer<float>(std::max(next.steps * next.rows * place.block->output_width(), std::size_t{1}));
      to = buffer.data();
    }
    const States own = {states.data + states.capacity * place.state, states.capacity, states.slots};
    place.block->run(packed + place.packed, flow, own, to, run);
    next.data = to;
    next.tokens = nullptr;
    flow = std::move(next);
  }
  clear_past_ends(flow, output_width(), y);
}

std::size_t Executor::step_scratch() const { return 2 * aligned(widest_) + largest_step_; }

void Executor::step(const float* packed, Flow flow, const States& states, float* y, float* scratch) const {
  float* const own_scratch = scratch + 2 * aligned(widest_);
  for (std::size_t i = 0; i < places_.size(); ++i) {
    const Place& place = places_[i];
    float* const to = i + 1 < places_.size() ? scratch + i % 2 * aligned(widest_) : y;
    const States own = {states.data + states.capacity * place.state, states.capacity, states.slots};
    place.block->step(packed + place.packed, flow, own, to, own_scratch);
    flow.data = to;
  }
}

}  // namespace gatewise
