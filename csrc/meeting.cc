#include "meeting.h"

#if defined(__SSE2__)
#include <emmintrin.h>
#endif

namespace gatewise {
namespace {

void pause() {
#if defined(__SSE2__)
  _mm_pause();
#elif defined(__aarch64__)
  asm volatile("yield");
#endif
}

}  // namespace

std::size_t Meeting::join(std::size_t seat) {
  parts_[seat].joined.store(true, std::memory_order_relaxed);
  return done_.load(std::memory_order_acquire) / seats_;
}

bool Meeting::claim(std::size_t round, std::size_t part) {
  std::size_t before = round;
  return parts_[part].begun.compare_exchange_strong(before, round + 1, std::memory_order_relaxed);
}

std::size_t Meeting::next(std::size_t round, std::size_t seat, const Watch& watch) {
  // A pause takes 15 to 50 ns. Nobody waits longer than for a few microseconds for who has not begun a part: at first
  // all are given as long to come. Who has begun may want the core after a while.
  constexpr std::size_t kLate = 64, kPatience = 1024;
  if (claim(round, seat)) return seat;
  for (std::size_t turn = 0; !over(round); ++turn) {
    for (std::size_t part = 0; part < seats_; ++part) {
      const Part& at = parts_[part];
      if (at.begun.load(std::memory_order_relaxed) > round) continue;
      const bool waited = turn >= kLate || (round && !at.joined.load(std::memory_order_relaxed));
      if (waited && claim(round, part)) return part;
    }
    if (turn < kPatience) {
      pause();
      continue;
    }
    if (watch.stopped()) return kNone;
    std::this_thread::yield();
  }
  return kNone;
}

}  // namespace gatewise
