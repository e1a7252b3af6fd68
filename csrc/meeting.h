// Where the workers that share one chunk meet: rounds of as many parts as there are workers, and no part of a round
// begins before the last one's are done.
//
// A part is done by the worker whose seat has its number, so that the same weights stay in that one's near cache; or by
// another if that worker has not come, or is late. So nobody waits for a worker that has not begun, and one alone gets
// through.
#pragma once

#include <atomic>
#include <cstddef>

#include "kernels.h"

namespace gatewise {

class Meeting {
 public:
  static constexpr std::size_t kMostSeats = 16;
  static constexpr std::size_t kNone = kMostSeats;

  // `seats` is at most kMostSeats.
  explicit Meeting(std::size_t seats) : seats_(seats) {}

  [[gnu::always_inline]] std::size_t seats() const { return seats_; }
  // The first round that is not over.
  std::size_t join(std::size_t seat);
  // A part of the round that is now the caller's to do. kNone: all are done, or the call is stopped.
  std::size_t next(std::size_t round, std::size_t seat, const Watch& watch);
  [[gnu::always_inline]] void done() { done_.fetch_add(1, std::memory_order_release); }

 private:
  bool claim(std::size_t round, std::size_t part);
  bool over(std::size_t round) const { return done_.load(std::memory_order_acquire) >= (round + 1) * seats_; }

  struct alignas(64) Part {
    std::atomic<std::size_t> begun{0};  // rounds
    std::atomic<bool> joined{false};
  };
  const std::size_t seats_;
  Part parts_[kMostSeats];
  alignas(64) std::atomic<std::size_t> done_{0};  // parts of all rounds
};

}  // namespace gatewise
