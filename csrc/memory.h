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

class Buffer {
 public:
  Buffer() = default;
  // Not initialised, aligned to a cache line. Throws std::bad_alloc.
  explicit Buffer(std::size_t floats);
  Buffer(Buffer&& other) noexcept
      : data_(std::exchange(other.data_, nullptr)), bytes_(std::exchange(other.bytes_, 0)) {}
  Buffer& operator=(Buffer&& other) noexcept {
    std::swap(data_, other.data_);
    std::swap(bytes_, other.bytes_);
    return *this;
  }
  ~Buffer();

  float* data() const { return data_; }
  explicit operator bool() const { return data_; }

 private:
  float* data_ = nullptr;
  std::size_t bytes_ = 0;
};

}  // namespace gatewise
