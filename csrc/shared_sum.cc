// The memory holds a line for each process, and two places for the values of each. In its turn a process puts its
// values into one of its places and says so in its line; when all have, everyone adds up all of them, in the order of
// the processes, so that all get the same bits. Nobody begins a turn before all have begun the one before, so what a
// slow process still reads lies in the other places.
//
// A step of training waits for other processes twice, and to sleep and wake takes longer than to add up the gradients
// of an LSTM: who waits stays awake for as long as others may work longer on their part of a step.
#include "shared_sum.h"

#include <nanobind/stl/optional.h>

#include <atomic>
#include <chrono>
#include <cstdint>
#include <cstring>
#include <optional>
#include <stdexcept>
#include <thread>

namespace nb = nanobind;

namespace gatewise {
namespace {

constexpr std::size_t kLine = 64;
constexpr std::chrono::milliseconds kAwake{20};
constexpr std::chrono::microseconds kNap{50};

struct alignas(kLine) Line {
  std::atomic<std::uint64_t> turn;
};
static_assert(std::atomic<std::uint64_t>::is_always_lock_free, "several processes look at it");

class SharedSum {
 public:
  // The memory is zero at first, begins at a line and outlives this.
  SharedSum(std::uintptr_t memory, std::size_t bytes, std::size_t rank, std::size_t size)
      : lines_(reinterpret_cast<Line*>(memory)), rank_(rank), size_(size) {
    if (rank >= size || memory % kLine || bytes < size * kLine) throw std::invalid_argument("no memory to share.");
    places_ = reinterpret_cast<char*>(memory) + size * kLine;
    room_ = (bytes - size * kLine) / (2 * size) / kLine * kLine;
  }

  // Begins a turn with the values of this process.
  void put(std::uintptr_t from, std::size_t bytes) {
    check(bytes);
    ++turn_;
    std::memcpy(place(rank_), reinterpret_cast<const void*>(from), bytes);
    lines_[rank_].turn.store(turn_, std::memory_order_release);
  }

  // Waits for all to have begun the turn: one that has not after so many seconds, if any.
  std::optional<std::size_t> missing(double seconds) const {
    const nb::gil_scoped_release release;
    const auto begin = std::chrono::steady_clock::now();
    for (std::size_t r = 0; r < size_; ++r)
      while (lines_[r].turn.load(std::memory_order_acquire) < turn_) {
        const std::chrono::duration<double> waited = std::chrono::steady_clock::now() - begin;
        if (waited.count() > seconds) return r;
        if (waited < kAwake)
          std::this_thread::yield();
        else
          std::this_thread::sleep_for(kNap);
      }
    return std::nullopt;
  }

  // After missing() has told of none.
  template <class Real>
  void sum(std::uintptr_t to, std::size_t count) const {
    check(count * sizeof(Real));
    const nb::gil_scoped_release release;
    Real* const total = reinterpret_cast<Real*>(to);
    std::memcpy(total, place(0), count * sizeof(Real));
    for (std::size_t r = 1; r < size_; ++r) {
      const Real* const values = reinterpret_cast<const Real*>(place(r));
      for (std::size_t i = 0; i < count; ++i) total[i] += values[i];
    }
  }

 private:
  void check(std::size_t bytes) const {
    if (bytes > room_) throw std::invalid_argument("more values than there is room for.");
  }

  char* place(std::size_t rank) const { return places_ + (turn_ % 2 * size_ + rank) * room_; }

  Line* lines_;
  char* places_;
  std::size_t rank_, size_, room_;
  std::uint64_t turn_ = 0;
};

}  // namespace

void bind_shared_sum(nb::module_& m) {
  using namespace nb::literals;
  nb::class_<SharedSum>(m, "SharedSum")
      .def(nb::init<std::uintptr_t, std::size_t, std::size_t, std::size_t>(), "memory"_a, "bytes"_a, "rank"_a, "size"_a)
      .def("put", &SharedSum::put, "source"_a, "bytes"_a)
      .def("missing", &SharedSum::missing, "seconds"_a)
      .def("sum_float32", &SharedSum::sum<float>, "target"_a, "count"_a)
      .def("sum_float64", &SharedSum::sum<double>, "target"_a, "count"_a);
}

}  // namespace gatewise
