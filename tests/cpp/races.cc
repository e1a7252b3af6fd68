// Threads that call the engine at the same time, for the thread sanitizer (`make sanitize-threads`): forward, backward
// on a tape they share, calls from within calls, interrupts, and the kept memory. All results have the bits of one
// thread alone.
#include <array>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <optional>
#include <random>
#include <string>
#include <thread>
#include <vector>

#include "describe.h"
#include "dispatch.h"
#include "engine.h"
#include "plan.h"
#include "team.h"

using namespace gatewise;

namespace {

// The vanilla LSTM; with layer norm, projections, peepholes and masks; and one whose gates see those of the step
// before.
enum class Cell { kPlain, kMasked, kSeeing };
struct Shape {
  std::size_t T, B, D, H;
  Cell cell = Cell::kPlain;
};
// Chunks for everybody, and one chunk that all share.
constexpr Shape kMany = {9, 41, 24, 40}, kOne = {35, 7, 24, 72}, kRow = {35, 1, 24, 150};
constexpr std::size_t kMost = 9 * kRow.H * kRow.H;
constexpr std::size_t kCallers = 4;

void expect(bool holds, const char* what) {
  if (holds) return;
  std::fprintf(stderr, "not so: %s\n", what);
  std::exit(1);
}

template <class Real>
std::vector<Real> uniform(std::size_t count, unsigned seed) {
  std::mt19937 generator(seed);
  std::uniform_real_distribution<Real> draw(Real(-0.4), Real(0.4));
  std::vector<Real> values(count);
  for (Real& value : values) value = draw(generator);
  return values;
}

Layer layer_of(const Shape& shape) {
  const bool masked = shape.cell == Cell::kMasked;
  const std::string before = masked ? "before" : "none", after = masked ? "after" : "none";
  std::vector<std::string> seen;
  if (shape.cell == Cell::kSeeing) seen = {"i", "f", "o"};
  return make_layer(shape.D, shape.H, "additive",
                    {{"i", "learned", "sigmoid", before},
                     {"f", "learned", "sigmoid", before},
                     {"g", "learned", "tanh", "none"},
                     {"o", "learned", "sigmoid", after}},
                    "tanh", seen, true, masked, std::nullopt, masked ? shape.H / 3 : 0, masked ? 5 : 0);
}

// How many numbers each parameter has; 0 for those that the layer has not.
std::array<std::size_t, kWeightKinds> counts(const Layer& layer) {
  const std::size_t H = layer.hidden, rows = layer.gates() * H, seen = layer.seen_count * H;
  std::array<std::size_t, kWeightKinds> found = {};
  found[kWeightIh] = rows * layer.inputs;
  found[kWeightHh] = rows * layer.recurrent();
  found[kBiasIh] = found[kBiasHh] = rows;
  found[kWeightHr] = layer.projected * H;
  found[kWeightHp] = layer.beside * H;
  for (const GateRow& gate : layer.row.gates) found[kPeephole] += gate.peep == Peep::kNone ? 0 : H;
  found[kWeightGates] = seen * seen;
  if (!layer.layer_norm) return found;
  found[kNormIh] = found[kNormHh] = rows;
  found[kNormCell] = found[kNormCellBias] = H;
  return found;
}

template <class Real>
const std::vector<Real> kX = uniform<Real>(kMost, 1);
template <class Real>
const std::vector<Real> kDy = uniform<Real>(kMost, 2);
template <class Real>
const std::vector<Real> kMasks = uniform<Real>(kMost, 3);
// The numbers of all parameters: a kind's are so many further on.
template <class Real>
const std::vector<Real> kWeights = uniform<Real>(kMost + 1000 * kWeightKinds, 4);

// One caller's call, and what it writes.
template <class Real>
struct Call {
  Shape shape;
  Layer layer;
  std::vector<Real> y, dx;
  std::array<std::vector<Real>, kWeightKinds> dweights;
  Weights<Real> weights = {};
  Sequence<Real> sequence;
  std::vector<std::int64_t> lengths;

  Call(const Shape& shape, bool ragged) : shape(shape), layer(layer_of(shape)) {
    const std::size_t T = shape.T, B = shape.B, D = shape.D;
    y.resize(T * B * layer.width());
    dx.resize(T * B * D);
    const auto sizes = counts(layer);
    for (std::size_t i = 0; i < kWeightKinds; ++i) {
      if (!sizes[i]) continue;
      weights[i] = kWeights<Real>.data() + 1000 * i;
      dweights[i].resize(sizes[i]);
    }
    sequence.steps = T;
    sequence.rows = B;
    const auto wide = [](std::size_t width) { return static_cast<std::ptrdiff_t>(width); };
    sequence.x = {kX<Real>.data(), wide(B * D), wide(D)};
    sequence.y = {y.data(), wide(B * layer.width()), wide(layer.width())};
    if (shape.cell == Cell::kMasked) sequence.recurrent_mask = sequence.h_mask = sequence.c_mask = kMasks<Real>.data();
    if (!ragged) return;
    for (std::size_t b = 0; b < B; ++b) lengths.push_back(static_cast<std::int64_t>(b * 7 % (T + 1)));
    sequence.lengths = lengths.data();
  }

  std::unique_ptr<Tape<Real>> run(Keep keep, std::size_t threads, Interrupt& interrupt) {
    return forward(isa_in_use().kernels<Real>(), layer, weights, sequence, keep, threads, interrupt);
  }
  void run_back(Tape<Real>& tape, std::size_t threads, Interrupt& interrupt) {
    Gradients<Real> gradients;
    gradients.dy = {kDy<Real>.data(), sequence.y.time, sequence.y.row};
    gradients.dx = {dx.data(), sequence.x.time, sequence.x.row};
    for (std::size_t i = 0; i < kWeightKinds; ++i)
      if (weights[i]) gradients.dweights[i] = dweights[i].data();
    backward(layer, weights, sequence, gradients, tape, threads, interrupt);
  }
  bool same(const Call& other) const { return y == other.y && dx == other.dx && dweights == other.dweights; }
};

template <class Real>
std::unique_ptr<Call<Real>> alone(const Shape& shape, bool ragged) {
  auto call = std::make_unique<Call<Real>>(shape, ragged);
  Interrupt interrupt;
  const auto tape = call->run(Keep::kAll, 1, interrupt);
  call->run_back(*tape, 1, interrupt);
  return call;
}

template <class Work>
void at_once(Work work) {
  std::vector<std::thread> callers;
  for (std::size_t i = 0; i < kCallers; ++i) callers.emplace_back(work, i);
  for (std::thread& caller : callers) caller.join();
}

template <class Real>
void separate_calls(const Call<Real>& even, const Call<Real>& ragged, int rounds) {
  at_once([&](std::size_t number) {
    for (int round = 0; round < rounds; ++round) {
      const bool cut = (number + static_cast<std::size_t>(round)) % 2;
      Call<Real> call(even.shape, cut);
      Interrupt interrupt;
      const Keep keep = round % 3 ? Keep::kAll : Keep::kStates;
      const std::size_t threads = 1 + (number + static_cast<std::size_t>(round)) % 4;
      const auto tape = call.run(keep, threads, interrupt);
      call.run_back(*tape, threads, interrupt);
      expect(call.same(cut ? ragged : even), "calls beside each other give the bits of one alone");
    }
  });
}

// One takes the window that forward kept, the others compute it again.
template <class Real>
void shared_tape(const Call<Real>& even, int rounds) {
  for (int round = 0; round < rounds; ++round) {
    Call<Real> whole(even.shape, false);
    Interrupt interrupt;
    const auto tape = whole.run(Keep::kAll, 2, interrupt);
    at_once([&](std::size_t number) {
      Call<Real> own(even.shape, false);
      own.y = whole.y;
      Interrupt none;
      own.run_back(*tape, 1 + number % 3, none);
      expect(own.same(even), "backward on a tape that is shared");
    });
  }
}

template <class Real>
void nested_calls(const Call<Real>& even, int rounds) {
  for (int round = 0; round < rounds; ++round) {
    std::vector<int> right(6);
    auto outer = [&](std::size_t, std::size_t part) {
      Call<Real> call(even.shape, false);
      Interrupt interrupt;
      const auto tape = call.run(Keep::kAll, 3, interrupt);
      call.run_back(*tape, 3, interrupt);
      right[part] = call.same(even);
    };
    parallel(3, right.size(), outer);
    for (const int each : right) expect(each, "calls from within the parts of another");
  }
}

// Stopped by its own poll, and by another thread at any moment: either it is whole, or it says so.
template <class Real>
void interrupts(const Call<Real>& even, int rounds) {
  for (int round = 0; round < rounds; ++round)
    at_once([&](std::size_t number) {
      Call<Real> call(even.shape, false);
      Interrupt interrupt;
      interrupt.data = &interrupt;
      interrupt.asked = {};
      interrupt.poll = [](void* data) { static_cast<Interrupt*>(data)->stop = true; };
      if (number % 2) interrupt.poll = [](void*) {};
      std::thread other;
      if (number % 2) other = std::thread([&] { interrupt.stop = true; });
      bool stopped = false;
      try {
        const auto tape = call.run(Keep::kAll, 3, interrupt);
        call.run_back(*tape, 3, interrupt);
      } catch (const Interrupted&) {
        stopped = true;
      }
      if (other.joinable()) other.join();
      expect(stopped || call.same(even), "a call that was not stopped is whole");
      expect(stopped || number % 2, "a poll that says stop stops");
    });
}

void kept_memory(int rounds) {
  at_once([&](std::size_t number) {
    std::vector<Buffer<float>> held;
    for (int round = 0; round < rounds; ++round) {
      held.emplace_back(64 + 997 * ((static_cast<std::size_t>(round) + number) % 13));
      std::memset(held.back().data(), static_cast<int>(number), 64);
      if (held.size() > 5) held.erase(held.begin());
    }
  });
}

template <class Real>
void all(int rounds) {
  for (const Cell cell : {Cell::kPlain, Cell::kMasked, Cell::kSeeing})
    for (Shape shape : {kMany, kOne, kRow}) {
      shape.cell = cell;
      const auto even = alone<Real>(shape, false), ragged = alone<Real>(shape, true);
      const Plan<Real> plan(isa_in_use().kernels<Real>(), even->layer, even->sequence, 2);
      const bool one = shape.B <= kChunk, plain = cell == Cell::kPlain;
      expect((plan.seats == 2) == (one && plain), "one chunk of the plain cell is shared");
      // The others' calls take as long as several, and their threads meet no more often.
      const int some = 1 + rounds / ((one ? 4 : 1) * (plain ? 1 : 6));
      separate_calls(*even, *ragged, some);
      shared_tape(*even, some);
      nested_calls(*even, some);
      interrupts(*even, some);
    }
}

}  // namespace

int main(int count, char** arguments) {
  const int rounds = count > 1 ? std::atoi(arguments[1]) : 20;
  keep_memory_across_forks();
  watch_forks();
  expect(!std::strcmp(team_name(), "own"), "the team is our own");
  for (const InstructionSet& isa : available()) {
    use_isa(isa);
    all<float>(rounds);
    all<double>(rounds);
    kept_memory(rounds * 100);
    std::printf("%s: no race and the same bits\n", isa.name);
  }
}
