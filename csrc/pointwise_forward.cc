// Contract: pointwise.h. Equations: gatewise.reference.cell.
#include "pointwise.h"
#include "squash.h"

namespace gatewise {
namespace GATEWISE_ISA {
namespace {

struct Point {
  const Row& row;
  const ForwardBlock& block;
  std::size_t r;
  Real* gates;  // this row's line

  // The pre-activation of a gate, complete; `c` is the state that it peeps at.
  [[gnu::always_inline]] Floats pre(Gate gate, Floats c) const {
    Real* at = gates + row.slot(gate) * kWidth;
    Floats value = load(at);
    const ForwardExtras* extras = block.extras;
    if (row.gates[gate].peep != Peep::kNone) {
      value = fma(load(block.peep[gate] + r * block.peep_stride), c, value);
      if (extras && extras->keeps_pre) store(at, value);
    }
    return extras && extras->clips ? clamp(value, extras->clip) : value;
  }

  // A learned gate's activation, which is also kept.
  [[gnu::always_inline]] Floats gate(Gate gate, Floats c) const {
    const Floats value = squash(row.gates[gate].squash, pre(gate, c));
    if (!(block.extras && block.extras->keeps_pre)) store(gates + row.slot(gate) * kWidth, value);
    show(gate, value);
    return value;
  }

  // Hands a gate out to those who asked for it.
  [[gnu::always_inline]] void show(Gate gate, Floats value) const {
    if (!block.extras) return;
    if (Real* const* rows = block.extras->trace[gate]) put(rows, value);
    if (Real* const* rows = block.extras->seen[gate]) put(rows, value);
  }

  [[gnu::always_inline]] void show(State state, Floats value) const {
    if (!block.extras) return;
    if (Real* const* rows = block.extras->trace[kGates + state]) put(rows, value);
  }

  [[gnu::always_inline]] void put(Real* const* rows, Floats value) const {
    Real* to = rows[r] + block.column;
    if (block.lanes == kWidth)
      store(to, value);
    else
      store_some(to, value, block.lanes);
  }

  [[gnu::always_inline]] Floats get(const Real* const* rows) const {
    return load_some(rows[r] + block.column, block.lanes);
  }

  // The state after zoneout, kept for the next step and for backward.
  [[gnu::always_inline]] void keep(State state, Floats value) const {
    const std::size_t number = state - kC;
    store(block.c + number * block.plane + r * block.c_stride, value);
    if (block.kept) store(block.kept + number * block.kept_plane + r * kWidth, value);
    show(state, value);
  }

  [[gnu::always_inline]] void finish(Floats h) const {
    if (block.extras && block.extras->h_mask) {
      const Floats old = get(block.extras->h_old);
      h = fma(get(block.extras->h_mask), h - old, old);
    }
    block.across ? block.put<true>(r, h) : block.put<false>(r, h);
    show(kH, h);
  }
};

[[gnu::always_inline]] inline void recurrent(const Point& point) { point.finish(point.gate(kG, Floats{})); }

// f c + i g, where an open gate is 1.
[[gnu::always_inline]] inline Floats updated(const Row& row, Floats i, Floats f, Floats g, Floats c) {
  const bool opens_i = row.gates[kI].kind == Kind::kOpen, opens_f = row.gates[kF].kind == Kind::kOpen;
  if (opens_f) return opens_i ? c + g : fma(i, g, c);
  return opens_i ? fma(f, c, g) : fma(f, c, i * g);
}

[[gnu::always_inline]] inline void additive(const Row& row, const Point& point) {
  const ForwardBlock& block = point.block;
  const ForwardExtras* extras = block.extras;
  const std::size_t at = point.r * kWidth, of_c = point.r * block.c_stride;
  const bool whole = !extras || extras->stage == Stage::kWhole;
  Floats c = {}, o = broadcast(1.0f);
  if (whole || extras->stage == Stage::kCell) {
    const Floats old = load(block.c + of_c);
    Floats i = broadcast(1.0f), f = i;
    if (row.learned(kI)) i = point.gate(kI, old);
    if (row.learned(kF)) f = point.gate(kF, old);
    if (row.gates[kI].kind == Kind::kCoupled) point.show(kI, i = 1.0f - f);
    if (row.gates[kF].kind == Kind::kCoupled) point.show(kF, f = 1.0f - i);
    c = updated(row, i, f, point.gate(kG, old), old);
    if (row.learned(kO)) o = point.gate(kO, row.gates[kO].peep == Peep::kBefore ? old : c);
    if (!whole) {
      // All else comes later, when c has been normalised.
      store(extras->fresh + at, c);
      return;
    }
  }
  Floats shown = c;
  if (!whole) {
    c = load(extras->fresh + at);
    shown = fma(normalised(*extras, point.r, c), load(extras->c_gain), load(extras->c_bias));
    if (row.learned(kO)) {
      o = load(point.gates + row.slot(kO) * kWidth);
      if (extras->keeps_pre) o = squash(row.gates[kO].squash, extras->clips ? clamp(o, extras->clip) : o);
    }
  }
  Floats kept = c;
  if (extras && extras->c_mask) {
    const Floats old = load(block.c + of_c);
    kept = fma(point.get(extras->c_mask), c - old, old);
  }
  point.keep(kC, kept);
  Floats h = squash(row.output, shown);
  if (row.learned(kO)) h = o * h;
  point.finish(h);
}

[[gnu::always_inline]] inline void exponential(const Row& row, const Point& point) {
  const ForwardBlock& block = point.block;
  const std::size_t at = point.r * block.c_stride;
  const Floats none = {};
  const Floats log_i = point.pre(kI, none), log_f = log_sigmoid(point.pre(kF, none));
  const Floats c_old = load(block.c + at), n_old = load(block.c + block.plane + at);
  const Floats m_old = load(block.c + 2 * block.plane + at);
  const Floats infinity = broadcast(static_cast<Real>(__builtin_inf()));
  const Floats before = n_old == 0.0f ? -infinity : log_f + m_old;
  // As torch.maximum does, a NaN on either side stays.
  Floats m = before > log_i ? before : log_i;
  m = before != before ? before : m;
  const Floats i = exp(log_i - m), f = exp(before - m);
  point.show(kI, i);
  point.show(kF, f);
  Floats g = squash(row.gates[kG].squash, point.pre(kG, none));
  Floats o = squash(row.gates[kO].squash, point.pre(kO, none));
  point.show(kG, g);
  point.show(kO, o);
  const Floats c = fma(f, c_old, i * g), n = fma(f, n_old, i);
  point.keep(kC, c);
  point.keep(kN, n);
  point.keep(kM, m);
  point.finish(o * squash(row.output, c / n));
}

[[gnu::always_inline]] inline void run(const Row& row, const ForwardBlock& block) {
  const std::size_t line = row.learned_count() * kWidth;
  for (std::size_t r = 0; r < block.rows; ++r) {
    const Point point = {row, block, r, block.gates + r * line};
    if (row.update == Update::kRecurrent)
      recurrent(point);
    else if (row.update == Update::kAdditive)
      additive(row, point);
    else
      exponential(row, point);
  }
}

// A gate's activations, of all rows, which peep at `c`.
[[gnu::always_inline]] inline void activate(const Row& row, const ForwardBlock& block, Gate gate, const Real* c,
                                            std::size_t stride) {
  const std::size_t line = row.learned_count() * kWidth;
  Real* const gates = block.gates + row.slot(gate) * kWidth;
  const auto pre = [&](std::size_t r) __attribute__((always_inline)) {
    const Floats value = load(gates + r * line);
    if (row.gates[gate].peep == Peep::kNone) return value;
    return fma(load(block.peep[gate] + r * block.peep_stride), load(c + r * stride), value);
  };
  const auto function = [&](auto value)
                            __attribute__((always_inline)) { return squash(row.gates[gate].squash, value); };
  map(block.rows, pre, function,
      [&](std::size_t r, Floats value) __attribute__((always_inline)) { store(gates + r * line, value); });
}

// The gates of an additive cell and its new state, function by function for all rows, which keeps a core busy.
template <class Keep>
[[gnu::always_inline]] inline void advance(const Row& row, const ForwardBlock& block, std::size_t stride, Real* fresh,
                                           std::size_t fresh_stride, Keep keep) {
  const std::size_t line = row.learned_count() * kWidth;
  each_gate([&](Gate gate) __attribute__((always_inline)) {
    if (row.learned(gate) && row.gates[gate].peep != Peep::kAfter) activate(row, block, gate, block.c, stride);
  });
  const auto value = [&](Gate gate, std::size_t r) __attribute__((always_inline)) {
    return row.learned(gate) ? load(block.gates + r * line + row.slot(gate) * kWidth) : broadcast(1.0f);
  };
  for (std::size_t r = 0; r < block.rows; ++r) {
    Floats i = value(kI, r), f = value(kF, r);
    if (row.gates[kI].kind == Kind::kCoupled) i = 1.0f - f;
    if (row.gates[kF].kind == Kind::kCoupled) f = 1.0f - i;
    const Floats c = updated(row, i, f, value(kG, r), load(block.c + r * stride));
    store(fresh + r * fresh_stride, c);
    keep(r, c);
  }
  if (row.learned(kO) && row.gates[kO].peep == Peep::kAfter) activate(row, block, kO, fresh, fresh_stride);
}

// h of all rows, from what the cell shows of its state.
template <bool kAcross, class Shown>
[[gnu::always_inline]] inline void output(const Row& row, const ForwardBlock& block, Shown shown) {
  const std::size_t line = row.learned_count() * kWidth;
  map(
      block.rows, shown, [&](auto c) __attribute__((always_inline)) { return squash(row.output, c); },
      [&](std::size_t r, Floats squashed) __attribute__((always_inline)) {
        const Floats h = row.learned(kO) ? load(block.gates + r * line + row.slot(kO) * kWidth) * squashed : squashed;
        block.put<kAcross>(r, h);
      });
}

// An additive cell without options.
template <bool kAcross>
[[gnu::always_inline]] inline void plain(const Row& row, const ForwardBlock& block) {
  const std::size_t stride = kAcross ? block.c_stride : kWidth;
  advance(row, block, stride, block.c, stride, [&](std::size_t r, Floats c) __attribute__((always_inline)) {
    if (block.kept) store(block.kept + r * kWidth, c);
  });
  output<kAcross>(row, block, [&](std::size_t r) __attribute__((always_inline)) { return load(block.c + r * stride); });
}

// A stage of one whose only option is layer normalisation.
[[gnu::always_inline]] inline void staged(const Row& row, const ForwardBlock& block) {
  const ForwardExtras& extras = *block.extras;
  if (extras.stage == Stage::kCell)
    return advance(row, block, kWidth, extras.fresh, kWidth, [](std::size_t, Floats) __attribute__((always_inline)) {});
  for (std::size_t r = 0; r < block.rows; ++r) {
    const Floats c = load(extras.fresh + r * kWidth);
    store(block.c + r * kWidth, c);
    if (block.kept) store(block.kept + r * kWidth, c);
  }
  const Floats gain = load(extras.c_gain), bias = load(extras.c_bias);
  output<false>(row, block, [&](std::size_t r) __attribute__((always_inline)) {
    return fma(normalised(extras, r, load(extras.fresh + r * kWidth)), gain, bias);
  });
}

[[gnu::always_inline]] inline void with_options(const Row& row, const ForwardBlock& block) {
  const bool stages = block.extras && block.extras->only_norm && row.update == Update::kAdditive;
  stages ? staged(row, block) : run(row, block);
}

void any(const Row& row, const ForwardBlock& block) { with_options(row, block); }

// Options are used with this row most.
void vanilla(const Row&, const ForwardBlock& block) { with_options(kRows[0], block); }

template <std::size_t kIndex>
void compiled(const Row&, const ForwardBlock& block) {
  block.across ? plain<true>(kRows[kIndex], block) : plain<false>(kRows[kIndex], block);
}

template <std::size_t... kIndex>
ForwardPoint find(const Row& row, std::index_sequence<kIndex...>) {
  ForwardPoint found = any;
  ((found = row == kRows[kIndex] ? compiled<kIndex> : found), ...);
  return found;
}

}  // namespace

ForwardPoint forward_point(const Row& row, bool extras) {
  if (extras) return row == kRows[0] ? vanilla : any;
  return find(row, std::make_index_sequence<sizeof kRows / sizeof kRows[0]>{});
}

}  // namespace GATEWISE_ISA
}  // namespace gatewise
