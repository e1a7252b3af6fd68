// What a layer computes and on which memory: plain data, the same for every instruction set.
//
// The equations are those of gatewise.reference; the words are those of gatewise.spec. Real is float or double; every
// length is in Reals.
#pragma once

#include <cstddef>
#include <cstdint>
#include <limits>

#include "bfloat.h"

namespace gatewise {

// The order in which gates lie in a block of packed weights. Those that fgr sees again come first.
enum Gate : std::uint8_t { kI, kF, kO, kG };
constexpr std::size_t kGates = 4;

enum class Update : std::uint8_t { kRecurrent, kAdditive, kExponential };
enum class Kind : std::uint8_t { kAbsent, kOpen, kLearned, kCoupled };
enum class Peep : std::uint8_t { kNone, kBefore, kAfter };
enum class Squash : std::uint8_t { kSigmoid, kTanh, kRelu, kIdentity, kWideSigmoid, kCentredSigmoid, kExp };

struct GateRow {
  Kind kind = Kind::kAbsent;
  Squash squash = Squash::kIdentity;
  Peep peep = Peep::kNone;
  [[gnu::always_inline]] bool operator==(const GateRow&) const = default;
};

// A row of the cell table, with the peepholes that are switched on. Kernels use these functions: if one of them were
// not inlined, the linker could give all callers a copy with a kernel's instructions (make test-old-cpus).
struct Row {
  Update update = Update::kAdditive;
  GateRow gates[kGates];
  Squash output = Squash::kTanh;
  [[gnu::always_inline]] bool operator==(const Row&) const = default;

  [[gnu::always_inline]] constexpr bool learned(Gate gate) const { return gates[gate].kind == Kind::kLearned; }
  // Where a learned gate lies among the learned ones of a block.
  [[gnu::always_inline]] constexpr std::size_t slot(Gate gate) const {
    std::size_t before = 0;
    for (std::size_t g = 0; g < gate; ++g) before += gates[g].kind == Kind::kLearned;
    return before;
  }
  [[gnu::always_inline]] constexpr std::size_t learned_count() const { return slot(kG) + learned(kG); }
};

// The states a cell carries: h; c; for the exponential update n and m.
enum State : std::uint8_t { kH, kC, kN, kM };
// With the gates of the step before, which fgr carries as well.
constexpr std::size_t kMaxStates = 4 + kGates;

struct Layer {
  Row row;
  std::size_t inputs = 0, hidden = 0;
  std::size_t projected = 0;  // P, or 0
  std::size_t beside = 0;     // N: the second projection, or 0
  bool bias = true;
  bool layer_norm = false;
  bool clips = false;
  double clip = 0.0;
  std::uint8_t order[kGates] = {};       // the block of H rows of each learned gate in weights and biases
  std::uint8_t peep_order[kGates] = {};  // the same in weight_peephole
  std::size_t seen_count = 0;
  Gate seen[kGates] = {};  // in the order of the states and of weight_gates

  // A bound beyond a Real is its largest number, as in gatewise.reference.
  template <class Real>
  [[gnu::always_inline]] Real bound() const {
    constexpr Real kMost = std::numeric_limits<Real>::max();
    return clip < kMost ? static_cast<Real>(clip) : kMost;
  }
  std::size_t gates() const { return row.learned_count(); }
  std::size_t recurrent() const { return projected ? projected : hidden; }
  std::size_t width() const { return recurrent() + beside; }
  std::size_t plain_states() const {
    return row.update == Update::kRecurrent ? 1 : row.update == Update::kAdditive ? 2 : 4;
  }
  std::size_t states() const { return plain_states() + seen_count; }
  std::size_t state_width(std::size_t state) const { return state == kH ? recurrent() : hidden; }
  // Whether what is kept of a gate is its pre-activation: where the activation alone does not give the derivative.
  bool keeps_pre() const { return clips || row.update == Update::kExponential; }
};

// One tensor for each kind of parameter, dense and row-major, or null; their shapes say gatewise.spec.Variant.shapes.
enum Weight : std::uint8_t {
  kWeightIh,
  kWeightHh,
  kBiasIh,
  kBiasHh,
  kWeightHr,
  kWeightHp,
  kPeephole,
  kWeightGates,
  kNormIh,
  kNormHh,
  kNormCell,
  kNormCellBias,
  kWeightKinds
};
template <class Real>
using Weights = const Real* [kWeightKinds];

// A [T, B, width] tensor whose last dimension is contiguous.
template <class Real>
struct Series {
  Real* data = nullptr;
  std::ptrdiff_t time = 0, row = 0;
  Real* at(std::size_t t, std::size_t b) const {
    return data + static_cast<std::ptrdiff_t>(t) * time + static_cast<std::ptrdiff_t>(b) * row;
  }
};

// Values over time that a caller may ask for, dense [T, B, ·]: gates by Gate, then states by State.
constexpr std::size_t kTraces = kGates + 4;

// One direction's sequences. Everything dense is [B, ·] or [T, B, ·] in the order of the caller's rows. Outputs overlap
// neither each other nor anything that is read. No pointer is kept.
template <class Real>
struct Sequence {
  std::size_t steps = 0, rows = 0;
  bool reverse = false;
  Series<const Real> x;
  const std::int64_t* lengths = nullptr;  // each 0 to steps, or null for all
  const std::uint8_t* reset = nullptr;    // [T, B], or null
  const Real* state[kMaxStates] = {};     // null for zeros; may be what `final` is
  const Real* start[kMaxStates] = {};     // null for zeros
  const Real* recurrent_mask = nullptr;
  const Real* h_mask = nullptr;
  const Real* c_mask = nullptr;
  Series<Real> y;
  Real* final[kMaxStates] = {};
  Real* trace[kTraces] = {};
  // Where in `state` and `final` each row's states lie; null for its own number. Of calls without backward only.
  const std::size_t* slots = nullptr;

  std::size_t slot(std::size_t row) const { return slots ? slots[row] : row; }
};

// What backward is given and what it writes; null where nobody asks. dx is added to if add_dx, else written; padding of
// dx becomes zero.
//
// With `samples`, rows are so many groups of equal size, one after the other, and each has gradients of the weights of
// its own: dweights lie dweights_step apart.
template <class Real>
struct Gradients {
  Series<const Real> dy;
  const Real* dfinal[kMaxStates] = {};
  const Real* dtrace[kTraces] = {};
  Series<Real> dx;
  bool add_dx = false;
  Real* dstate[kMaxStates] = {};
  Real* dstart[kMaxStates] = {};
  Real* dweights[kWeightKinds] = {};
  std::size_t samples = 0;  // or 0: gradients of the weights are sums over all rows
  std::ptrdiff_t dweights_step[kWeightKinds] = {};
};

}  // namespace gatewise
