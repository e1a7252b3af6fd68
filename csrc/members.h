// An ensemble: layers of one shape, each with weights and rows of its own, as one call.
#pragma once

#include <memory>
#include <span>
#include <vector>

#include "engine.h"

namespace gatewise {

// `gradients` and `tape` of backward only.
template <class Real>
struct Member {
  const Real* weights[kWeightKinds] = {};
  Sequence<Real> sequence;
  Gradients<Real> gradients;
  Tape<Real>* tape = nullptr;
};

// As forward and backward of each member. As many members as threads, or more, are shared out among them; fewer run
// one after the other, each on all threads. The bits are the same either way.
template <class Real>
std::vector<std::unique_ptr<Tape<Real>>> forward_members(const Kernels<Real>& kernels, const Layer& layer,
                                                         std::span<const Member<Real>> members, Keep keep,
                                                         std::size_t threads, Interrupt& interrupt);

template <class Real>
void backward_members(const Layer& layer, std::span<const Member<Real>> members, std::size_t threads,
                      Interrupt& interrupt);

}  // namespace gatewise
