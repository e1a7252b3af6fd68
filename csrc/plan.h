// What a call of the engine is made of: its plan, the memory that it shares out, and the asking for signals.
#pragma once

#include <algorithm>
#include <cstring>
#include <thread>
#include <vector>

#include "engine.h"
#include "meeting.h"
#include "scratch.h"
#include "team.h"

namespace gatewise {

// Below this many multiplications a team costs more than it brings; one chunk goes back through time alone, and a team
// only shares out its products for the weights.
inline constexpr double kWorthATeam = 1e6;
inline constexpr double kWorthATeamForOne = 3e7;
// What each worker that shares a chunk must have to multiply in a step, for to meet after it costs as much.
inline constexpr double kWorthASeat = 5e4;
// At most so many chunks go through time together and share the weights of a block while these are in a near cache:
// from H = 512 on all weights have to come from a far one, or from memory, for each group and step anew.
inline constexpr std::size_t kTogether = 16;
// The gates of a window of backward take about this many bytes, so that they are still in a cache for reduce.
inline constexpr std::size_t kWindowBytes = std::size_t{2} << 20;

// All that is fixed for a call.
template <class Real>
struct Plan {
  const Kernels<Real>& kernels;
  const Layer& layer;
  const Sequence<Real>& sequence;
  const Sizes sizes;
  const Schedule schedule;
  std::size_t threads;
  std::size_t seats = 1;  // workers that share the steps of the only chunk in forward
  std::vector<std::vector<const Chunk*>> groups;

  Plan(const Kernels<Real>& k, const Layer& l, const Sequence<Real>& s, std::size_t most_threads)
      : kernels(k),
        layer(l),
        sequence(s),
        sizes(k.sizes(l, s)),
        schedule(s.steps, s.rows, s.lengths),
        threads(most_threads) {
    const double depth = static_cast<double>(l.inputs + l.recurrent());
    const double work = static_cast<double>(schedule.row_steps() * l.gates() * l.hidden) * depth;
    const std::size_t chunks = schedule.chunks().size();
    if (work < (chunks == 1 ? kWorthATeamForOne : kWorthATeam)) threads = 1;
    if (chunks == 1) seats = seats_for(work, most_threads);
    std::size_t count = (chunks + kTogether - 1) / kTogether;
    count = std::min(chunks, (count + threads - 1) / threads * threads);
    groups.resize(count);
    for (const Chunk& chunk : schedule.chunks()) groups[chunk.index % count].push_back(&chunk);
  }

  std::size_t steps() const { return schedule.steps(); }
  // Whether all there is to compute is one row-step, by kernels that take the weights as they are. Those for a group of
  // several chunks, be they empty, do not.
  bool unpacked() const { return sizes.unpacked && schedule.row_steps() == 1 && schedule.chunks().size() == 1; }
  std::size_t largest_group() const { return groups.empty() ? 0 : groups.front().size(); }
  // Of one worker.
  std::size_t forward_scratch() const { return largest_group() * sizes.forward_scratch; }
  std::size_t forward_workers() const { return std::max(threads, seats); }

 private:
  // Blocks are apart only in cells whose steps end with them: not where rows are normalised, projected or see gates.
  std::size_t seats_for(double work, std::size_t most) const {
    if (layer.layer_norm || layer.projected || layer.seen_count || !schedule.steps()) return 1;
    const auto worth = static_cast<std::size_t>(work / static_cast<double>(schedule.steps()) / kWorthASeat);
    return std::clamp(std::min({most, worth, sizes.blocks / 2, Meeting::kMostSeats}), std::size_t{1}, most);
  }
};

template <class Real>
Saved<Real> take_history(const Plan<Real>& plan, Scratch<Real>& scratch) {
  Saved<Real> saved;
  const std::size_t states = plan.layer.plain_states() - 1, rows = plan.schedule.row_steps();
  saved.plane = rows * plan.sizes.cells;
  saved.cells = states ? scratch.take(states * saved.plane) : nullptr;
  saved.seen = plan.layer.seen_count ? scratch.take(rows * plan.sizes.seen) : nullptr;
  return saved;
}

// The window arrays, for so many row-steps.
template <class Real>
void take_window(const Plan<Real>& plan, std::size_t rows, Scratch<Real>& scratch, Saved<Real>& saved) {
  const std::size_t gates = rows * plan.sizes.gates;
  saved.gates = scratch.take(gates);
  if (plan.layer.projected) saved.unprojected = scratch.take(rows * plan.sizes.unprojected);
  if (!plan.layer.layer_norm) return;
  saved.norm_x = scratch.take(gates);
  saved.norm_h = scratch.take(gates);
  saved.scale = scratch.take(rows * 5);
}

template <class Real, class Take>
std::size_t count_of(Take take) {
  Scratch<Real> counter;
  take(counter);
  return counter.count();
}

// Zeros where rows have ended, step by step: those of one step lie near each other.
template <class Real>
void clear_padding(const Sequence<Real>& sequence, const Chunk& chunk, Real* data, std::ptrdiff_t time,
                   std::ptrdiff_t row, std::size_t width) {
  const Series<Real> series = {data, time, row};
  for (std::size_t t = chunk.length[chunk.rows - 1]; t < sequence.steps; ++t)
    for (std::size_t r = chunk.rows; r-- && chunk.length[r] <= t;)
      std::memset(series.at(t, chunk.row[r]), 0, width * sizeof(Real));
}

template <class Real>
void clear_outputs(const Plan<Real>& plan, const Chunk& chunk) {
  const Sequence<Real>& s = plan.sequence;
  if (!s.lengths) return;
  clear_padding(s, chunk, s.y.data, s.y.time, s.y.row, plan.layer.width());
  for (std::size_t i = 0; i < kTraces; ++i) {
    if (!s.trace[i]) continue;
    const std::size_t width = i == kGates + kH ? plan.layer.recurrent() : plan.layer.hidden;
    clear_padding(s, chunk, s.trace[i], static_cast<std::ptrdiff_t>(s.rows * width), static_cast<std::ptrdiff_t>(width),
                  width);
  }
}

template <class Real>
void pack(const Plan<Real>& plan, const Weights<Real>& weights, Real* packed, bool all) {
  if (!all) return plan.kernels.pack_forward(plan.layer, weights, packed, 0, 0);
  const std::size_t parts = plan.threads;
  auto work = [&](std::size_t, std::size_t part) {
    plan.kernels.pack_forward(plan.layer, weights, packed, part, parts);
  };
  parallel(parts, parts, work);
}

// Only the thread that made the call may ask.
class Poll {
 public:
  explicit Poll(Interrupt& interrupt) : interrupt_(interrupt) {}
  Watch watch() const { return {&interrupt_, interrupt_.poll && std::this_thread::get_id() == interrupt_.caller}; }
  // For a caller that waits for other threads.
  void operator()() const { watch().stopped(); }
  void check() const {
    if (watch().stopped()) throw Interrupted{};
  }

 private:
  Interrupt& interrupt_;
};

template <class Real>
Job<Real> job_for(const Plan<Real>& plan, std::size_t group, const Real* packed, const Saved<Real>& saved,
                  const std::ptrdiff_t* place, std::size_t first, std::size_t last, Real* scratch) {
  Job<Real> job;
  job.layer = &plan.layer;
  job.sequence = &plan.sequence;
  job.packed = packed;
  job.chunks = plan.groups[group].data();
  job.count = plan.groups[group].size();
  job.place = place;
  job.first = first;
  job.last = last;
  job.saved = saved;
  job.scratch = scratch;
  return job;
}

template <class Real>
std::vector<std::ptrdiff_t> places(const Plan<Real>& plan) {
  std::vector<std::ptrdiff_t> place;
  for (const Chunk& chunk : plan.schedule.chunks()) place.push_back(static_cast<std::ptrdiff_t>(chunk.base));
  return place;
}

}  // namespace gatewise
