// Hands out parts of one piece of memory, or only counts them when there is none.
#pragma once

#include <cstddef>

namespace gatewise {
namespace {

class Scratch {
 public:
  explicit Scratch(float* memory = nullptr) : memory_(memory) {}

  template <class T = float>
  T* take(std::size_t count) {
    constexpr std::size_t kLine = 64;
    const std::size_t at = used_;
    used_ += (count * sizeof(T) + kLine - 1) / kLine * kLine;
    return memory_ ? reinterpret_cast<T*>(reinterpret_cast<char*>(memory_) + at) : nullptr;
  }

  std::size_t floats() const { return used_ / sizeof(float); }

 private:
  float* memory_;
  std::size_t used_ = 0;
};

}  // namespace
}  // namespace gatewise
