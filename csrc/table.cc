// The table of one instruction set's functions for one type.
#include "layout.h"
#include "math.h"

namespace gatewise {
namespace GATEWISE_ISA {
namespace {

template <Floats (*kFunction)(Floats)>
void apply(const Real* from, Real* to, std::size_t count) {
  for (std::size_t i = 0; i < count; i += kWidth) {
    const std::size_t lanes = count - i < kWidth ? count - i : kWidth;
    store_some(to + i, kFunction(load_some(from + i, lanes)), lanes);
  }
}

}  // namespace

void pack_forward(const Layer&, const Weights&, Real*, std::size_t, std::size_t);
void pack_backward(const Layer&, const Weights&, bool, Real*, std::size_t, std::size_t);
void unpack(const Layer&, const Real*, const Real*, std::size_t, Real* const*, std::size_t, std::size_t);
void forward(const Job&);
void backward(const BackwardJob&);
void reduce(const ReduceJob&);
std::size_t forward_scratch(const Layer&, const Sequence&);
std::size_t backward_scratch(const Layer&, const Sequence&);
std::size_t backward_state(const Layer&);
std::size_t reduce_scratch(const Layer&);
bool has_options(const Layer&, const Sequence&);

extern const Halving halving;
extern const Rounding rounding;
extern const Dense dense;
extern const Kernels kernels;

#if defined(GATEWISE_NARROW)

namespace {

// Of forward that keeps nothing.
Sizes sizes(const Layer& layer, const Sequence& sequence) {
  const Layout layout(layer);
  return {
      .packed_forward = layout.forward_size(),
      .forward_scratch = forward_scratch(layer, sequence),
      .blocks = layout.blocks,
      .unpacked = !has_options(layer, sequence),
  };
}

}  // namespace

const Kernels kernels = {.sizes = sizes, .pack_forward = pack_forward, .forward = forward};

#else

namespace {

Sizes sizes(const Layer& layer, const Sequence& sequence) {
  const Layout layout(layer);
  return {
      .packed_forward = layout.forward_size(),
      .packed_backward = layout.backward_size(),
      .packed_gradient = layout.gradient_size(layer),
      .gates = layout.blocks * layout.line,
      .cells = layout.padded,
      .unprojected = layout.padded,
      .seen = layout.seen_depth,
      .sums = layout.blocks * layout.sums(layer),
      .state = backward_state(layer),
      .forward_scratch = forward_scratch(layer, sequence),
      .backward_scratch = backward_scratch(layer, sequence),
      .blocks = layout.blocks,
      .panels = layout.projection.count(),
      .reduce_scratch = reduce_scratch(layer),
      .unpacked = !has_options(layer, sequence),
  };
}

}  // namespace

const Kernels kernels = {
    .sizes = sizes,
    .pack_forward = pack_forward,
    .pack_backward = pack_backward,
    .forward = forward,
    .backward = backward,
    .reduce = reduce,
    .unpack = unpack,
    .math = {apply<exp<Floats>>, apply<sigmoid<Floats>>, apply<tanh<Floats>>},
#if !defined(GATEWISE_DOUBLE)
    .halving = &halving,
    .rounding = &rounding,
    .dense = &dense,
#endif
};

#endif

}  // namespace GATEWISE_ISA
}  // namespace gatewise
