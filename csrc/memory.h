// Memory that is kept and used again: fresh pages from the system would cost a training step more than they should.
//
// What is kept and what is in use together exceed the most that was in use at once by no more than a quarter; a piece
// in use may be up to twice as large as was asked for.
#pragma once

#include <cstddef>
#include <utility>

namespace gatewise {

// To be called once, before any other thread can be here: afterwards a process may fork at any moment.
void keep_memory_across_forks();

class Memory {
 public:
  Memory() = default;
  // Not initialised, aligned to a cache line. Throws std::bad_alloc.
  explicit Memory(std::size_t bytes);
  Memory(Memory&& other) noexcept
      : data_(std::exchange(other.data_, nullptr)), bytes_(std::exchange(other.bytes_, 0)) {}
  Memory& operator=(Memory&& other) noexcept {
    std::swap(data_, other.data_);
    std::swap(bytes_, other.bytes_);
    return *this;
  }
  ~Memory();

  void* data() const { return data_; }
  explicit operator bool() const { return data_; }

 private:
  void* data_ = nullptr;
  std::size_t bytes_ = 0;
};

// The same as so many numbers.
template <class Real>
class Buffer {
 public:
  Buffer() = default;
  explicit Buffer(std::size_t count) : memory_(count * sizeof(Real)) {}

  Real* data() const { return static_cast<Real*>(memory_.data()); }
  explicit operator bool() const { return static_cast<bool>(memory_); }

 private:
  Memory memory_;
};

}  // namespace gatewise
