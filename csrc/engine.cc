#include "engine.h"

#include "plan.h"

namespace gatewise {
namespace {

// A forward call, whose packed weights may come later.
template <class Real>
struct Forward {
  const Plan<Real>& plan;
  const Real* packed;
  const Real* const* unpacked;  // instead of packed blocks for a single row-step, or null
  const Saved<Real>& saved;
  Real* scratches;
  const std::vector<std::ptrdiff_t> place = places(plan);

  Job<Real> job(std::size_t worker, std::size_t group, const Poll& poll) const {
    Real* const scratch = scratches + worker * plan.forward_scratch();
    Job<Real> job = job_for(plan, group, packed, saved, place.data(), 0, plan.steps(), scratch);
    job.watch = poll.watch();
    job.weights = unpacked;
    return job;
  }
};

// All chunks through time.
template <class Real>
void run_groups(const Forward<Real>& call, Poll& poll) {
  const Plan<Real>& plan = call.plan;
  auto work = [&](std::size_t worker, std::size_t group) {
    for (const Chunk* chunk : plan.groups[group]) clear_outputs(plan, *chunk);
    plan.kernels.forward(call.job(worker, group, poll));
  };
  parallel(plan.threads, plan.groups.size(), work, poll);
}

// The only chunk through time, by workers that share its steps. Unless `packed` is null, each packs there the weights
// of the blocks that it will take: what another has just written comes slowly.
template <class Real>
void run_shared(const Forward<Real>& call, const Weights<Real>& weights, Real* packed, Poll& poll) {
  const Plan<Real>& plan = call.plan;
  Meeting packing(plan.seats), steps(plan.seats);
  auto work = [&](std::size_t, std::size_t seat) {
    if (seat == 0) clear_outputs(plan, plan.schedule.chunks().front());
    Job<Real> job = call.job(seat, 0, poll);
    packing.join(seat);
    for (std::size_t part; packed && (part = packing.next(0, seat, job.watch)) != Meeting::kNone; packing.done())
      plan.kernels.pack_forward(plan.layer, weights, packed, part, plan.seats);
    job.meeting = &steps;
    job.seat = seat;
    job.common = call.scratches;
    plan.kernels.forward(job);
  };
  parallel(plan.seats, plan.seats, work, poll);
}

// The same of all chunks, or of the only one.
template <class Real>
void run_forward(const Forward<Real>& call, const Weights<Real>& weights, Real* packed, Interrupt& interrupt) {
  Poll poll(interrupt);
  if (call.plan.seats > 1) {
    run_shared(call, weights, packed, poll);
  } else {
    if (packed) pack(call.plan, weights, packed, true);
    run_groups(call, poll);
  }
  poll.check();
}

// A backward call's own memory and the steps it is made of.
template <class Real>
class Backward {
 public:
  Backward(const Plan<Real>& plan, const Weights<Real>& weights, const Gradients<Real>& gradients,
           const Tape<Real>& tape, Buffer<Real> window, Interrupt& interrupt)
      : plan_(plan),
        weights_(weights),
        gradients_(gradients),
        window_(std::move(window)),
        recomputes_(!window_),
        once_(plan.unpacked() && !plan.layer.projected && !gradients.samples),
        poll_(interrupt),
        place_(places(plan)) {
    Scratch<Real> history(tape.states.data());
    job_.saved = take_history(plan, history);
    // The same windows on every instruction set, whatever its padding: sums are formed window by window.
    const std::size_t padded = (plan.layer.hidden + 15) / 16 * 16 * plan.layer.gates();
    // Those of a sample are the windows of a batch of one, so that its sums are too.
    const std::size_t row = (samples() ? 1 : plan.sequence.rows) * padded * sizeof(Real);
    window_steps_ = std::clamp(kWindowBytes / std::max<std::size_t>(row, 1), std::size_t{1},
                               std::max<std::size_t>(plan.steps(), 1));
    const std::size_t window_rows = recomputes_ && !samples()
                                        ? std::min(plan.schedule.row_steps(), window_steps_ * plan.sequence.rows)
                                        : plan.schedule.row_steps();
    const auto own_window = [&](Scratch<Real>& scratch) { take_window(plan, window_rows, scratch, job_.saved); };
    if (recomputes_) window_ = Buffer<Real>(count_of<Real>(own_window));
    Scratch<Real> whole(window_.data());
    own_window(whole);
    const auto rest = [&](Scratch<Real>& scratch) { take(scratch, window_rows); };
    memory_ = Buffer<Real>(count_of<Real>(rest));
    Scratch<Real> scratch(memory_.data());
    rest(scratch);
  }

  void run() {
    const Sizes& sizes = plan_.sizes;
    const std::size_t chunks = plan_.schedule.chunks().size();
    pack(plan_, weights_, packed_, recomputes_ && !once_);
    const std::size_t parts = plan_.threads;
    auto packing = [&](std::size_t, std::size_t part) {
      plan_.kernels.pack_backward(plan_.layer, weights_, gradients_.dx.data != nullptr, packed_backward_, part, parts);
    };
    if (!once_) parallel(parts, parts, packing);
    if (!plan_.schedule.row_steps()) std::memset(dpacked_, 0, sizes.packed_gradient * sizeof(Real));
    std::memset(sums_, 0, 2 * sum_count() * sizes.sums * sizeof(Real));
    std::memset(zeros_, 0, zero_count() * sizeof(Real));
    std::size_t last = plan_.steps();
    bool begins = true;
    do {
      const std::size_t first = last ? (last - 1) / window_steps_ * window_steps_ : 0;
      window(first, last, begins);
      begins = false;
      last = first;
    } while (last);
    if (samples()) return reduce_samples();
    Real* dweights[kWeightKinds];
    std::copy(std::begin(gradients_.dweights), std::end(gradients_.dweights), dweights);
    if (once_) dweights[kWeightIh] = dweights[kWeightHh] = nullptr;  // they are there
    auto unpack = [&](std::size_t, std::size_t part) {
      plan_.kernels.unpack(plan_.layer, dpacked_, totals_, chunks, dweights, part, parts);
    };
    parallel(parts, parts, unpack);
  }

 private:
  std::size_t samples() const { return gradients_.samples; }
  std::size_t sum_count() const { return samples() ? plan_.sequence.rows : plan_.schedule.chunks().size(); }

  std::size_t zero_count() const {
    return std::max(plan_.layer.recurrent(), plan_.layer.seen_count * plan_.layer.hidden);
  }

  void take(Scratch<Real>& scratch, std::size_t rows) {
    const Sizes& sizes = plan_.sizes;
    const Layer& layer = plan_.layer;
    const std::size_t chunks = plan_.schedule.chunks().size();
    packed_ = scratch.take(sizes.packed_forward);
    packed_backward_ = scratch.take(once_ ? 0 : sizes.packed_backward);
    dpacked_ = scratch.take(once_ ? 0 : sizes.packed_gradient * (samples() ? plan_.threads : 1));
    sums_ = scratch.take(2 * sum_count() * sizes.sums);
    totals_ = sums_ + sum_count() * sizes.sums;
    zeros_ = scratch.take(zero_count());
    job_.state = scratch.take(chunks * sizes.state);
    job_.x_rows = scratch.template take<const Real*>(rows);
    job_.h_rows = scratch.template take<const Real*>(rows);
    if (layer.seen_count) {
      job_.seen_rows = scratch.template take<const Real*>(rows);
      job_.start_seen = scratch.take(chunks * kChunk * 2 * sizes.seen);
    }
    if (plan_.sequence.recurrent_mask) job_.masked = scratch.take(rows * layer.recurrent());
    if (layer.projected) job_.dprojected = scratch.take(rows * layer.width());
    group_scratch_ = plan_.largest_group() * std::max(sizes.forward_scratch, sizes.backward_scratch);
    scratch_ = scratch.take(plan_.threads * std::max(group_scratch_, sizes.reduce_scratch));
  }

  // Steps first <= s < last: the gates again if they were not kept, the steps backward, the products for the weights.
  void window(std::size_t first, std::size_t last, bool begins) {
    if (recomputes_ && !samples()) {
      std::ptrdiff_t base = 0;
      for (const Chunk& chunk : plan_.schedule.chunks()) {
        const std::size_t end = std::min(last, chunk.steps()), begin = std::min(first, end);
        place_[chunk.index] = base - static_cast<std::ptrdiff_t>(chunk.offset(begin));
        base += static_cast<std::ptrdiff_t>(chunk.offset(end) - chunk.offset(begin));
      }
    }
    auto steps = [&](std::size_t worker, std::size_t group) { go_back(worker, group, first, last, begins); };
    parallel(plan_.threads, plan_.groups.size(), steps, poll_);
    poll_.check();
    if (wants_weights() && !samples()) {
      const std::size_t parts = plan_.threads;
      auto products = [&](std::size_t worker, std::size_t part) {
        ReduceJob<Real> job = reduce_job(worker, first, last, begins);
        job.first_block = plan_.sizes.blocks * part / parts;
        job.last_block = plan_.sizes.blocks * (part + 1) / parts;
        job.first_panel = plan_.sizes.panels * part / parts;
        job.last_panel = plan_.sizes.panels * (part + 1) / parts;
        plan_.kernels.reduce(job);
      };
      parallel(plan_.threads, parts, products, poll_);
    }
    poll_.check();
  }

  bool wants_weights() const {
    return std::any_of(std::begin(gradients_.dweights), std::end(gradients_.dweights), [](Real* d) { return d; });
  }

  void go_back(std::size_t worker, std::size_t group, std::size_t first, std::size_t last, bool begins) {
    Real* const scratch = scratch_ + worker * std::max(group_scratch_, plan_.sizes.reduce_scratch);
    BackwardJob<Real> job = job_;
    static_cast<Job<Real>&>(job) = job_for(plan_, group, packed_, job_.saved, place_.data(), first, last, scratch);
    job.watch = poll_.watch();
    if (once_) job.weights = weights_;
    if (recomputes_) {
      Sequence<Real> again = plan_.sequence;
      for (Real*& trace : again.trace) trace = nullptr;
      for (Real*& final : again.final) final = nullptr;
      Job<Real> forward = job;
      forward.sequence = &again;
      forward.again = true;
      plan_.kernels.forward(forward);
    }
    job.gradients = &gradients_;
    job.packed_backward = packed_backward_;
    job.begins = begins;
    job.sums = sums_;
    job.totals = totals_;
    job.by_row = samples() != 0;
    job.zeros = zeros_;
    plan_.kernels.backward(job);
  }

  ReduceJob<Real> reduce_job(std::size_t worker, std::size_t first, std::size_t last, bool begins) const {
    ReduceJob<Real> job;
    job.layer = &plan_.layer;
    job.chunks = plan_.schedule.chunks().data();
    job.chunk_count = plan_.schedule.chunks().size();
    job.place = place_.data();
    job.first = first;
    job.last = last;
    job.saved = job_.saved;
    job.x_rows = job_.x_rows;
    job.h_rows = job_.h_rows;
    job.seen_rows = job_.seen_rows;
    job.dprojected = job_.dprojected;
    job.dpacked = dpacked_;
    if (once_) job.dweights = gradients_.dweights;
    job.begins = begins;
    job.scratch = scratch_ + worker * std::max(group_scratch_, plan_.sizes.reduce_scratch);
    job.watch = poll_.watch();
    return job;
  }

  // The weights' gradients of each sample, in the windows and the order of a batch of its own.
  void reduce_samples() {
    if (!wants_weights()) return;
    std::vector<RowPlace> rows(plan_.sequence.rows);
    for (const Chunk& chunk : plan_.schedule.chunks())
      for (std::size_t r = 0; r < chunk.rows; ++r) rows[chunk.row[r]] = {&chunk, r};
    const std::size_t each = rows.size() / samples();
    auto work = [&](std::size_t worker, std::size_t sample) {
      reduce_sample(worker, sample, rows.data() + sample * each, each);
    };
    parallel(plan_.threads, samples(), work, poll_);
    poll_.check();
  }

  void reduce_sample(std::size_t worker, std::size_t sample, const RowPlace* rows, std::size_t count) {
    const Sizes& sizes = plan_.sizes;
    Real* const dpacked = dpacked_ + worker * sizes.packed_gradient;
    std::size_t last = 0;
    for (std::size_t r = 0; r < count; ++r) last = std::max(last, rows[r].chunk->length[rows[r].row]);
    if (!last) std::memset(dpacked, 0, sizes.packed_gradient * sizeof(Real));
    for (bool begins = true; last; begins = false) {
      const std::size_t first = (last - 1) / window_steps_ * window_steps_;
      ReduceJob<Real> job = reduce_job(worker, first, last, begins);
      job.rows = rows;
      job.row_count = count;
      job.dpacked = dpacked;
      job.last_block = sizes.blocks;
      job.last_panel = sizes.panels;
      plan_.kernels.reduce(job);
      last = first;
    }
    Real* dweights[kWeightKinds];
    for (std::size_t kind = 0; kind < kWeightKinds; ++kind) {
      dweights[kind] = gradients_.dweights[kind];
      if (dweights[kind]) dweights[kind] += static_cast<std::ptrdiff_t>(sample) * gradients_.dweights_step[kind];
    }
    plan_.kernels.unpack(plan_.layer, dpacked, totals_ + sample * count * sizes.sums, count, dweights, 0, 1);
  }

  const Plan<Real>& plan_;
  const Weights<Real>& weights_;
  const Gradients<Real>& gradients_;
  Buffer<Real> window_, memory_;
  const bool recomputes_;
  const bool once_;  // one row-step: no matrix is packed
  Poll poll_;
  std::vector<std::ptrdiff_t> place_;
  std::size_t window_steps_ = 1, group_scratch_ = 0;
  Real *packed_ = nullptr, *packed_backward_ = nullptr, *dpacked_ = nullptr, *sums_ = nullptr, *totals_ = nullptr,
       *zeros_ = nullptr;
  Real* scratch_ = nullptr;
  BackwardJob<Real> job_;
};

}  // namespace

template <class Real>
std::unique_ptr<Tape<Real>> forward(const Kernels<Real>& kernels, const Layer& layer, const Weights<Real>& weights,
                                    const Sequence<Real>& sequence, Keep keep, std::size_t threads,
                                    Interrupt& interrupt) {
  const Plan<Real> plan(kernels, layer, sequence, threads);
  auto tape = keep == Keep::kNothing ? nullptr : std::make_unique<Tape<Real>>();
  Saved<Real> saved;
  if (tape) {
    tape->kernels = &kernels;
    const auto history = [&](Scratch<Real>& scratch) { saved = take_history(plan, scratch); };
    tape->states = Buffer<Real>(count_of<Real>(history));
    Scratch<Real> states(tape->states.data());
    history(states);
  }
  if (keep == Keep::kAll) {
    const auto window = [&](Scratch<Real>& scratch) { take_window(plan, plan.schedule.row_steps(), scratch, saved); };
    tape->window = Buffer<Real>(count_of<Real>(window));
    Scratch<Real> whole(tape->window.data());
    window(whole);
  }
  Real *packed = nullptr, *scratches = nullptr;
  const auto take = [&](Scratch<Real>& scratch) {
    packed = scratch.take(plan.sizes.packed_forward);
    scratches = scratch.take(plan.forward_workers() * plan.forward_scratch());
  };
  const Buffer<Real> memory(count_of<Real>(take));
  Scratch<Real> scratch(memory.data());
  take(scratch);
  const bool unpacked = plan.unpacked();
  if (unpacked) pack(plan, weights, packed, false);
  const Forward<Real> call = {plan, packed, unpacked ? weights : nullptr, saved, scratches};
  run_forward(call, weights, unpacked ? nullptr : packed, interrupt);
  return tape;
}

void forward_packed(const Kernels<float>& kernels, const Layer& layer, const float* packed,
                    const Sequence<float>& sequence, std::size_t threads, Interrupt& interrupt) {
  const Plan<float> plan(kernels, layer, sequence, threads);
  const Buffer<float> scratches(plan.forward_workers() * plan.forward_scratch());
  const Saved<float> nothing;
  const Forward<float> call = {plan, packed, nullptr, nothing, scratches.data()};
  run_forward<float>(call, {}, nullptr, interrupt);
}

void forward_step(const Kernels<float>& kernels, const Layer& layer, const float* packed, const Bfloat* halved,
                  const Sequence<float>& sequence, float* scratch) {
  Chunk chunk;
  chunk.rows = 1;
  chunk.length[0] = 1;
  const Chunk* const chunks = &chunk;
  const std::ptrdiff_t place = 0;
  static Interrupt never;  // making one reads the clock
  Job<float> job;
  job.layer = &layer;
  job.sequence = &sequence;
  job.packed = packed;
  job.halved = halved;
  job.chunks = &chunks;
  job.count = 1;
  job.place = &place;
  job.last = 1;
  job.scratch = scratch;
  job.watch.interrupt = &never;
  kernels.forward(job);
}

template <class Real>
void backward(const Layer& layer, const Weights<Real>& weights, const Sequence<Real>& sequence,
              const Gradients<Real>& gradients, Tape<Real>& tape, std::size_t threads, Interrupt& interrupt) {
  const Plan<Real> plan(*tape.kernels, layer, sequence, threads);
  if (gradients.dx.data && !gradients.add_dx)
    for (const Chunk& chunk : plan.schedule.chunks())
      clear_padding(sequence, chunk, gradients.dx.data, gradients.dx.time, gradients.dx.row, layer.inputs);
  Buffer<Real> window;
  {
    const std::lock_guard<std::mutex> lock(tape.mutex);
    window = std::move(tape.window);
  }
  Backward<Real>(plan, weights, gradients, tape, std::move(window), interrupt).run();
}

#define GATEWISE_OF(Real)                                                                                   \
  template std::unique_ptr<Tape<Real>> forward(const Kernels<Real>&, const Layer&, const Weights<Real>&,    \
                                               const Sequence<Real>&, Keep, std::size_t, Interrupt&);       \
  template void backward(const Layer&, const Weights<Real>&, const Sequence<Real>&, const Gradients<Real>&, \
                         Tape<Real>&, std::size_t, Interrupt&);
GATEWISE_OF(float)
GATEWISE_OF(double)

}  // namespace gatewise
