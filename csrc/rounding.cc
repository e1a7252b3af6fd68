// Rows of bfloat16 to float32 and back. Contract: kernels.h.
#include <cstring>

#include "kernels.h"

namespace gatewise {
namespace GATEWISE_ISA {
namespace {

std::uint32_t nearest(float value) {
  std::uint32_t i;
  std::memcpy(&i, &value, sizeof i);
  return nearest_upper(i);
}

void widen(const Bfloat* from, std::size_t count, float* to) {
  for (std::size_t i = 0; i < count; ++i) {
    const std::uint32_t upper = std::uint32_t{from[i].bits} << 16;
    std::memcpy(to + i, &upper, sizeof upper);
  }
}

void round(const float* from, std::size_t count, Bfloat* to) {
  for (std::size_t i = 0; i < count; ++i) to[i].bits = static_cast<std::uint16_t>(nearest(from[i]) >> 16);
}

void round_in_place(float* values, std::size_t count) {
  for (std::size_t i = 0; i < count; ++i) {
    const std::uint32_t upper = nearest(values[i]) & 0xffff0000u;
    std::memcpy(values + i, &upper, sizeof upper);
  }
}

}  // namespace

extern const Rounding rounding;
const Rounding rounding = {widen, round, round_in_place};

}  // namespace GATEWISE_ISA
}  // namespace gatewise
