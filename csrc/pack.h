// What both ways of packing weights share: pack.cc for forward, pack_backward.cc for backward and its gradients.
#pragma once

#include "layout.h"
#include "transpose.h"

namespace gatewise {
namespace GATEWISE_ISA {

// The part of `count` things that falls to one of several workers.
struct Share {
  std::size_t first, last;
  Share(std::size_t count, std::size_t part, std::size_t parts)
      : first(count * part / parts), last(count * (part + 1) / parts) {}
};

constexpr Gate kEvery[] = {kI, kF, kO, kG};

// Where vector v of the projections' outputs comes from.
template <class Float>
struct Output {
  Float* rows;  // [.., H], from the vector's first row on; null if there are none
  std::size_t lanes;
};

template <class Float>
Output<Float> output_of(const Layer& layer, Float* own, Float* beside, std::size_t v) {
  const std::size_t first = vectors(layer.projected);
  const bool second = v >= first;
  const std::size_t at = second ? v - first : v;
  Float* const rows = second ? beside : own;
  return {rows ? rows + at * kWidth * layer.hidden : nullptr, lanes_of(at, second ? layer.beside : layer.projected)};
}

}  // namespace GATEWISE_ISA
}  // namespace gatewise
