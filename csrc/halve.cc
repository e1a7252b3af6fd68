// Packed weights as bfloat16, and back. Contract: kernels.h.
#include <cstring>

#include "halved.h"
#include "layout.h"

namespace gatewise {
namespace GATEWISE_ISA {
namespace {

// The nearest bfloat16, ties to even; the largest one for what is beyond.
Bfloat nearest(float value) {
  std::uint32_t bits;
  std::memcpy(&bits, &value, sizeof bits);
  const std::uint32_t rounded = nearest_upper(bits) >> 16;
  return {static_cast<std::uint16_t>((rounded & 0x7fff) == 0x7f80 ? rounded - 1 : rounded)};
}

// How many of the packed numbers lie pair by pair: where lines have an even number of vectors, the elements of two lie
// in turn, because to take them apart costs less than to widen each.
std::size_t paired(const Layer& layer, std::size_t count) {
  return layer.gates() % 2 ? 0 : count / (2 * kWidth) * (2 * kWidth);
}

}  // namespace

void halve(const Layer& layer, const float* packed, Bfloat* halved) {
  const std::size_t count = Layout(layer).forward_size(), last = paired(layer, count);
  for (std::size_t i = 0; i < last; i += 2 * kWidth)
    for (std::size_t lane = 0; lane < kWidth; ++lane) {
      halved[i + 2 * lane] = nearest(packed[i + lane]);
      halved[i + 2 * lane + 1] = nearest(packed[i + kWidth + lane]);
    }
  for (std::size_t i = last; i < count; ++i) halved[i] = nearest(packed[i]);
}

void widen(const Layer& layer, const Bfloat* halved, float* packed) {
  const std::size_t count = Layout(layer).forward_size(), last = paired(layer, count);
  for (std::size_t i = 0; i < last; i += 2 * kWidth) {
    const Two two = load_two(halved + i);
    store(packed + i, two.first);
    store(packed + i + kWidth, two.second);
  }
  for (std::size_t i = last; i < count; i += kWidth) store(packed + i, load(halved + i));
}

extern const Halving halving;
const Halving halving = {halve, widen};

}  // namespace GATEWISE_ISA
}  // namespace gatewise
