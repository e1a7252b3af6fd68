// What a stack knows of a call.
#pragma once

#include <cstddef>
#include <vector>

#include "stack.h"

namespace gatewise {

// A call's sizes, and where its tensors lie.
struct Stack::Call {
  bool batch_first = false;
  std::size_t steps = 0, rows = 0;
  std::size_t states = 0;  // how many are given: all or none
  bool half = false;       // whether results are bfloat16; what is given may be too
  const Pieces* pieces = nullptr;
  std::vector<View> views;

  bool doubles() const { return views[0].dtype == kFloat<double>; }

  template <class Real>
  Real* weight(std::size_t i) const {
    return views[1 + states + i].data<Real>();
  }
  template <class Real>
  Series<const Real> x() const {
    const View& x = views[0];
    return {x.data<const Real>(), x.stride[batch_first ? 1 : 0], x.stride[batch_first ? 0 : 1]};
  }
  // One direction's columns of a dense tensor laid out as x is.
  template <class Real>
  Series<Real> series(Real* data, std::size_t width, std::size_t column) const {
    if (!data) return {};
    const auto outer = static_cast<std::ptrdiff_t>((batch_first ? steps : rows) * width);
    const auto inner = static_cast<std::ptrdiff_t>(width);
    return {data + column, batch_first ? inner : outer, batch_first ? outer : inner};
  }
};

template <class Real>
struct Stack::Outputs {
  Real* y = nullptr;
  Real* final[kMaxStates] = {};
};

}  // namespace gatewise
