// Contract: pointwise.h. The derivatives of what pointwise_forward.cc computes, in the opposite order.
#include "pointwise.h"
#include "schedule.h"
#include "squash.h"

namespace gatewise {
namespace GATEWISE_ISA {
namespace {

// What is summed over the rows of a block, or of one row.
struct Sums {
  Floats bias[kGates] = {};
  Floats peep[kGates] = {};
  Floats gain = {}, shift = {};

  [[gnu::always_inline]] void add_to(const Row& row, const BackwardBlock& block, Real* to) const {
    const auto add = [&](Real* at, Floats sum) __attribute__((always_inline)) { store(at, load(at) + sum); };
    const std::size_t line = row.learned_count() * kWidth;
    each_gate([&](Gate gate) __attribute__((always_inline)) {
      if (!row.learned(gate)) return;
      add(to + row.slot(gate) * kWidth, bias[gate]);
      if (row.gates[gate].peep != Peep::kNone) add(to + line + gate * kWidth, peep[gate]);
    });
    if (!block.extras || block.extras->stage == Stage::kWhole) return;
    add(to + 3 * line + kGates * kWidth, gain);
    add(to + 3 * line + (kGates + 1) * kWidth, shift);
  }
};

struct Point {
  const Row& row;
  const BackwardBlock& block;
  std::size_t r;
  Real* gates;  // this row's line
  Sums& sums;
  const Floats* shown;  // c and its squashing, where they were computed before; see run()

  [[gnu::always_inline]] Real* slot(Gate gate) const { return gates + row.slot(gate) * kWidth; }

  // A learned gate's activation.
  [[gnu::always_inline]] Floats value(Gate gate) const {
    const Floats kept = load(slot(gate));
    const BackwardExtras* extras = block.extras;
    if (!extras || !extras->keeps_pre) return kept;
    return squash(row.gates[gate].squash, extras->clips ? clamp(kept, extras->clip) : kept);
  }

  [[gnu::always_inline]] Floats get(const Real* const* rows) const {
    return block.lanes == kWidth ? load(rows[r] + block.column) : load_some(rows[r] + block.column, block.lanes);
  }

  // The gradients that reach a gate from outside the cell's own equations.
  [[gnu::always_inline]] Floats outside(Gate gate, Floats gradient) const {
    if (!block.extras) return gradient;
    if (const Real* const* rows = block.extras->dtrace[gate]) gradient = gradient + get(rows);
    if (const Real* seen = block.extras->dseen[gate]) gradient = gradient + load(seen + r * kWidth);
    return gradient;
  }

  [[gnu::always_inline]] Floats outside(State state, Floats gradient) const {
    if (!block.extras) return gradient;
    if (const Real* const* rows = block.extras->dtrace[kGates + state]) gradient = gradient + get(rows);
    return gradient;
  }

  // Passes dpre, the gradient of an unclipped pre-activation, on: to its place, its bias, its peephole. Returns it.
  [[gnu::always_inline]] Floats pass(Gate gate, Floats dpre, Floats c) const {
    Real* at = slot(gate);
    if (block.extras && block.extras->clips) dpre = unclamped(dpre, load(at), block.extras->clip);
    store(at, dpre);
    sums.bias[gate] = sums.bias[gate] + dpre;
    if (row.gates[gate].peep != Peep::kNone) sums.peep[gate] = fma(dpre, c, sums.peep[gate]);
    return dpre;
  }

  // What goes to the cell state that a gate peeps at.
  [[gnu::always_inline]] Floats peeped(Gate gate, Floats dpre, Floats dc) const {
    return row.gates[gate].peep == Peep::kNone ? dc : fma(load(block.peep[gate]), dpre, dc);
  }

  // The gradient of the cell's output; what zoneout lets pass by goes to `carry`.
  [[gnu::always_inline]] Floats dh() const {
    Floats gradient = load(block.dh + r * kWidth);
    if (block.dy) gradient = gradient + get(block.dy);
    gradient = outside(kH, gradient);
    if (!block.extras || !block.extras->carry) return gradient;
    const Floats taken = gradient * get(block.extras->h_mask);
    store(block.extras->carry + r * kWidth, gradient - taken);
    return taken;
  }
};

[[gnu::always_inline]] inline void recurrent(const Row& row, const Point& point) {
  const Floats g = point.value(kG);
  point.pass(kG, point.outside(kG, point.dh()) * slope(row.gates[kG].squash, g), Floats{});
}

struct Gates {
  Floats i, f, g;
};

[[gnu::always_inline]] inline Gates gates_of(const Row& row, const Point& point) {
  Gates v = {broadcast(1.0f), broadcast(1.0f), point.value(kG)};
  if (row.learned(kI)) v.i = point.value(kI);
  if (row.learned(kF)) v.f = point.value(kF);
  if (row.gates[kI].kind == Kind::kCoupled) v.i = 1.0f - v.f;
  if (row.gates[kF].kind == Kind::kCoupled) v.f = 1.0f - v.i;
  return v;
}

[[gnu::always_inline]] inline Floats updated(const Row& row, const Gates& v, Floats c) {
  const bool opens_i = row.gates[kI].kind == Kind::kOpen, opens_f = row.gates[kF].kind == Kind::kOpen;
  if (opens_f) return opens_i ? c + v.g : fma(v.i, v.g, c);
  return opens_i ? fma(v.f, c, v.g) : fma(v.f, c, v.i * v.g);
}

// What the output adds to the gradient of the new c, and the gradient of o's pre-activation.
struct FromOutput {
  Floats dc, dpre_o;
};

[[gnu::always_inline]] inline FromOutput output(const Row& row, const Point& point, Floats c, Floats old) {
  const BackwardExtras* extras = point.block.extras;
  const bool norms = extras && extras->stage != Stage::kWhole;
  const std::size_t at = point.r * kWidth;
  Floats shown = c, hat = {};
  if (norms) {
    hat = normalised(*extras, point.r, c);
    shown = fma(hat, load(extras->c_gain), load(extras->c_bias));
  }
  const Floats squashed = extras ? squash(row.output, shown) : point.shown[1];
  const Floats dh = point.dh();
  Floats through = dh, dpre_o = {};
  if (row.learned(kO)) {
    const Floats o = point.value(kO);
    through = dh * o;
    const Floats d_o = point.outside(kO, dh * squashed);
    dpre_o = point.pass(kO, d_o * slope(row.gates[kO].squash, o), row.gates[kO].peep == Peep::kBefore ? old : c);
  }
  const Floats dshown = through * slope(row.output, squashed);
  if (norms) {
    store(extras->hat + at, hat);
    store(extras->normalised + at, dshown * load(extras->c_gain));
    point.sums.gain = fma(dshown, hat, point.sums.gain);
    point.sums.shift = point.sums.shift + dshown;
  }
  return {dshown, dpre_o};
}

[[gnu::always_inline]] inline void additive(const Row& row, const Point& point) {
  const BackwardBlock& block = point.block;
  const BackwardExtras* extras = block.extras;
  const std::size_t at = point.r * kWidth;
  const Floats old = load(block.c_old + at);
  const Gates v = gates_of(row, point);
  FromOutput from;
  if (!extras || extras->stage != Stage::kCell) {
    from = output(row, point, extras ? updated(row, v, old) : point.shown[0], old);
    if (extras && extras->stage == Stage::kOutput) return;
  } else {
    from.dc = load(extras->normalised + at);
    from.dpre_o = row.learned(kO) ? load(point.slot(kO)) : Floats{};
  }
  Floats dc = point.outside(kC, load(block.dc + at)), past = {};
  if (extras && extras->c_mask) {
    const Floats taken = dc * point.get(extras->c_mask);
    past = dc - taken;
    dc = taken;
  }
  dc = dc + from.dc;
  if (row.gates[kO].peep == Peep::kAfter) dc = point.peeped(kO, from.dpre_o, dc);
  Floats di = point.outside(kI, dc * v.g), df = point.outside(kF, dc * old);
  const Floats dg = point.outside(kG, row.gates[kI].kind == Kind::kOpen ? dc : dc * v.i);
  if (row.gates[kF].kind == Kind::kCoupled) di = di - df;
  if (row.gates[kI].kind == Kind::kCoupled) df = df - di;
  Floats dc_old = row.gates[kF].kind == Kind::kOpen ? dc : dc * v.f;
  if (extras && extras->c_mask) dc_old = dc_old + past;
  if (row.learned(kI)) dc_old = point.peeped(kI, point.pass(kI, di * slope(row.gates[kI].squash, v.i), old), dc_old);
  if (row.learned(kF)) dc_old = point.peeped(kF, point.pass(kF, df * slope(row.gates[kF].squash, v.f), old), dc_old);
  if (row.gates[kO].peep == Peep::kBefore) dc_old = point.peeped(kO, from.dpre_o, dc_old);
  dc_old = point.peeped(kG, point.pass(kG, dg * slope(row.gates[kG].squash, v.g), old), dc_old);
  store(block.dc + at, dc_old);
}

[[gnu::always_inline]] inline void exponential(const Row& row, const Point& point) {
  const BackwardBlock& block = point.block;
  const std::size_t at = point.r * kWidth;
  const BackwardExtras& extras = *block.extras;
  const auto clipped = [&](Floats pre) { return extras.clips ? clamp(pre, extras.clip) : pre; };
  const Floats log_i = clipped(load(point.slot(kI))), pre_f = clipped(load(point.slot(kF)));
  const Floats g = point.value(kG), o = point.value(kO);
  const Floats c_old = load(block.c_old + at), n_old = load(block.c_old + block.old_plane + at);
  const Floats m_old = load(block.c_old + 2 * block.old_plane + at);
  const auto starts = n_old == 0.0f;
  const Floats before = starts ? broadcast(static_cast<Real>(-__builtin_inf())) : log_sigmoid(pre_f) + m_old;
  const Floats m = before > log_i ? before : log_i;
  const Floats i = exp(log_i - m), f = exp(before - m);
  const Floats c = fma(f, c_old, i * g), n = fma(f, n_old, i), quotient = c / n;
  const Floats squashed = squash(row.output, quotient);
  const Floats dh = point.dh();
  const Floats d_o = point.outside(kO, dh * squashed), dq = dh * o * slope(row.output, squashed);
  const Floats dc = point.outside(kC, load(block.dc + at)) + dq / n;
  const Floats dn = point.outside(kN, load(block.dc + block.plane + at)) - dq * quotient / n;
  Floats dm = point.outside(kM, load(block.dc + 2 * block.plane + at));
  const Floats di = point.outside(kI, fma(dc, g, dn)) * i;
  const Floats df = point.outside(kF, fma(dc, c_old, dn * n_old)) * f;
  const Floats dg = point.outside(kG, dc * i);
  dm = dm - di - df;
  // The larger of the two has m's gradient; where they are equal each has half.
  const Floats zero = {}, half = dm * 0.5f;
  const Floats to_before = before > log_i ? dm : before == log_i ? half : zero;
  const Floats to_i = log_i > before ? dm : before == log_i ? half : zero;
  const Floats dbefore = starts ? zero : df + to_before;
  store(block.dc + at, dc * f);
  store(block.dc + block.plane + at, dn * f);
  store(block.dc + 2 * block.plane + at, dbefore);
  point.pass(kI, di + to_i, zero);
  point.pass(kF, dbefore * sigmoid(-pre_f), zero);
  point.pass(kG, dg * slope(row.gates[kG].squash, g), zero);
  point.pass(kO, d_o * slope(row.gates[kO].squash, o), zero);
}

[[gnu::always_inline]] inline void run(const Row& row, const BackwardBlock& block) {
  const std::size_t line = row.learned_count() * kWidth;
  Floats shown[kChunk][2];
  Sums none;
  // As in forward, all rows' functions first.
  if (!block.extras && row.update == Update::kAdditive) {
    map(
        block.rows,
        [&](std::size_t r) __attribute__((always_inline)) {
          const Point point = {row, block, r, block.gates + r * line, none, nullptr};
          return shown[r][0] = updated(row, gates_of(row, point), load(block.c_old + r * kWidth));
        },
        [&](auto c) __attribute__((always_inline)) { return squash(row.output, c); },
        [&](std::size_t r, Floats squashed) __attribute__((always_inline)) { shown[r][1] = squashed; });
  }
  const std::size_t together = block.by_row ? 1 : block.rows;
  for (std::size_t first = 0; first < block.rows; first += together) {
    Sums sums;
    for (std::size_t r = first; r < first + together; ++r) {
      const Point point = {row, block, r, block.gates + r * line, sums, shown[r]};
      if (row.update == Update::kRecurrent)
        recurrent(row, point);
      else if (row.update == Update::kAdditive)
        additive(row, point);
      else
        exponential(row, point);
    }
    sums.add_to(row, block, block.sums[first]);
  }
}

void any(const Row& row, const BackwardBlock& block) { run(row, block); }

// Options are used with this row most.
void vanilla(const Row&, const BackwardBlock& block) { run(kRows[0], block); }

template <std::size_t kIndex>
void compiled(const Row&, const BackwardBlock& block) {
  // A copy that nothing else can see: else the compiler reads all of it again after every store.
  BackwardBlock own = block;
  own.extras = nullptr;
  run(kRows[kIndex], own);
}

template <std::size_t... kIndex>
BackwardPoint find(const Row& row, std::index_sequence<kIndex...>) {
  BackwardPoint found = any;
  ((found = row == kRows[kIndex] ? compiled<kIndex> : found), ...);
  return found;
}

}  // namespace

BackwardPoint backward_point(const Row& row, bool extras) {
  if (extras) return row == kRows[0] ? vanilla : any;
  return find(row, std::make_index_sequence<sizeof kRows / sizeof kRows[0]>{});
}

}  // namespace GATEWISE_ISA
}  // namespace gatewise
