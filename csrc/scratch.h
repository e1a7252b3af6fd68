// Hands out parts of one piece of memory, or only counts them when there is none.
#pragma once

#include <cstddef>

namespace gatewise {

template <class Real>
class Scratch {
 public:
  [[gnu::always_inline]] explicit Scratch(Real* memory = nullptr) : memory_(memory) {}

  template <class T = Real>
  [[gnu::always_inline]] T* take(std::size_t count) {
    constexpr std::size_t kLine = 64;
    const std::size_t at = used_;
    used_ += (count * sizeof(T) + kLine - 1) / kLine * kLine;
    return memory_ ? reinterpret_cast<T*>(reinterpret_cast<char*>(memory_) + at) : nullptr;
  }

  [[gnu::always_inline]] std::size_t count() const { return used_ / sizeof(Real); }

 private:
  Real* memory_;
  std::size_t used_ = 0;
};

}  // namespace gatewise
