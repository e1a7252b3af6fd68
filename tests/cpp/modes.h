// The processor's treatment of subnormal numbers.
#pragma once

#include <cstdint>

#if defined(__SSE__)
#include <xmmintrin.h>
#endif

#if defined(__SSE__)
inline std::uint64_t modes() { return _mm_getcsr() & ~std::uint64_t{0x3f}; }  // without the flags of what happened
inline void set_modes(std::uint64_t value) { _mm_setcsr(static_cast<unsigned>(value)); }
constexpr std::uint64_t kFlush = 0x8040;  // results and operands
#elif defined(__aarch64__)
inline std::uint64_t modes() {
  std::uint64_t value;
  asm volatile("mrs %0, fpcr" : "=r"(value));
  return value;
}
inline void set_modes(std::uint64_t value) { asm volatile("msr fpcr, %0" : : "r"(value)); }
constexpr std::uint64_t kFlush = std::uint64_t{1} << 24;
#endif

// While this lives, this thread flushes subnormal numbers to zero.
class FlushToZero {
 public:
  FlushToZero() : former_(modes()) { set_modes(former_ | kFlush); }
  ~FlushToZero() { set_modes(former_); }
  FlushToZero(const FlushToZero&) = delete;
  FlushToZero& operator=(const FlushToZero&) = delete;

  bool stays() const { return modes() == (former_ | kFlush); }

 private:
  const std::uint64_t former_;
};
