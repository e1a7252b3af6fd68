// A stack's results in bfloat16: computed in float32, and rounded after each layer.
#include <algorithm>
#include <utility>

#include "dispatch.h"
#include "plan.h"
#include "python.h"
#include "stack_call.h"

namespace nb = nanobind;

namespace gatewise {
namespace {

// Work on so many values, which may be gigabytes: between its pieces a signal is seen.
template <class Work>
void in_pieces(std::size_t count, const Poll& poll, Work work) {
  constexpr std::size_t kPiece = std::size_t{1} << 20;
  for (std::size_t first = 0; first < count; first += kPiece) {
    if (first) poll.check();
    work(first, std::min(kPiece, count - first));
  }
}

// A tensor's values as float32, in one piece.
Buffer<float> widened(View& view, const Rounding& rounding, const Poll& poll) {
  Buffer<float> wide(view.shape.count());
  const auto* const from = view.data<const Bfloat>();
  const auto& [dims, size] = view.shape;
  std::int64_t sizes[kMaxDims] = {1, 1, 1}, strides[kMaxDims] = {};
  for (std::size_t i = 0; i < dims; ++i) {
    sizes[kMaxDims - dims + i] = size[i];
    strides[kMaxDims - dims + i] = view.stride[i];
  }
  float* to = wide.data();
  if (view.contiguous()) {
    in_pieces(view.shape.count(), poll,
              [&](std::size_t first, std::size_t count) { rounding.widen(from + first, count, to + first); });
  } else {
    // It is x, whose last dimension is dense.
    for (std::int64_t i = 0; i < sizes[0]; ++i) {
      if (i) poll.check();
      for (std::int64_t j = 0; j < sizes[1]; ++j, to += sizes[2])
        rounding.widen(from + i * strides[0] + j * strides[1], static_cast<std::size_t>(sizes[2]), to);
    }
  }
  view.address = wide.data();
  for (std::size_t i = dims, dense = 1; i-- > 0; dense *= static_cast<std::size_t>(size[i]))
    view.stride[i] = static_cast<std::int64_t>(dense);
  view.dtype = kFloat<float>;
  return wide;
}

}  // namespace

// Where the processor multiplies bfloat16, that is what multiplies here.
nb::tuple Stack::rounded_of(Call call, std::size_t threads) const {
  std::vector<nb::object> results;
  std::vector<View> made;
  const auto make = [&](const Shape& shape) { results.push_back(torch_->empty_half(shape, made.emplace_back())); };
  if (!step_) make(output_shape(call));
  for (std::size_t s = 0; s < states(); ++s) make(state_shape(call, s));
  const Rounding& rounding = *isa_in_use().singles->rounding;
  interruptible([&](Interrupt& interrupt) {
    const Poll poll(interrupt);
    std::vector<Buffer<float>> kept;
    for (View& view : call.views)
      if (view.dtype == kBfloat) kept.push_back(widened(view, rounding, poll));
    std::vector<Buffer<float>> wide;
    for (const View& view : made) wide.emplace_back(view.shape.count());
    Outputs<float> outputs;
    if (!step_) outputs.y = wide[0].data();
    for (std::size_t s = 0; s < states(); ++s) outputs.final[s] = wide[s + !step_].data();
    if (step_) std::swap(outputs.y, outputs.final[kH]);
    Layers<float> layers;
    run(call, outputs, Keep::kNothing, threads, layers, interrupt);
    for (std::size_t i = 0; i < made.size(); ++i)
      in_pieces(made[i].shape.count(), poll, [&](std::size_t first, std::size_t count) {
        rounding.round(wide[i].data() + first, count, made[i].data<Bfloat>() + first);
      });
  });
  return tuple_of(results);
}

}  // namespace gatewise
