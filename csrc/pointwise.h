// The equations of the cells between the products: one block of hidden units for the rows of one chunk.
//
// What a cell is made of is a Row. The rows of the literature, without options, are compiled each by itself; every
// other row and all options run through the same source with the row read at run time. Functions are applied to all
// rows side by side where there are no options, or only layer normalisation, which is wanted most and costs most.
#pragma once

#include <utility>

#include "simd.h"

namespace gatewise {
namespace GATEWISE_ISA {

enum class Stage : std::uint8_t { kWhole, kCell, kOutput };

// What only options need. Pointers to rows are arrays of kChunk.
struct ForwardExtras {
  Stage stage = Stage::kWhole;  // layer normalisation needs c of all blocks before the first h
  bool only_norm = false;       // and there is no other option
  bool clips = false, keeps_pre = false;
  Real clip = 0.0f;
  const Real* const* h_mask = nullptr;  // rows of M for h, with h_old the rows of h of the step before
  const Real* const* h_old = nullptr;
  const Real* const* c_mask = nullptr;
  Real* const* trace[kTraces] = {};                 // rows to write gates and states to
  Real* const* seen[kGates] = {};                   // rows of the gates that the next step sees
  Real* fresh = nullptr;                            // [rows][kWidth]: the new c, from kCell to kOutput
  const Real* c_mean = nullptr;                     // [rows]: ĉ = (c * scale - mean) * rstd
  const Real* c_scale = nullptr;                    // [rows][2]: scale, rstd
  const Real *c_gain = nullptr, *c_bias = nullptr;  // at the block
};

// All of it is set by those who call: to clear it first would take as long as a vector's functions.
//
// Usually a block of some rows. Of a single row all blocks are computed at once, in the place of rows.
struct ForwardBlock {
  std::size_t rows, lanes, column;
  bool across;  // blocks in the place of rows; `lanes` are those of the last one
  Real* gates;  // [rows][line]: pre-activations in, activations out (pre-activations if keeps_pre)
  Real* c;      // [rows][kWidth], `c_stride` apart, in place; n and m lie `plane` further on each
  std::size_t c_stride, plane;
  Real* kept;  // the new c [rows][kWidth] for backward, n and m `kept_plane` further on; or null
  std::size_t kept_plane;
  Real* const* out;          // rows of h, or of what is to be projected, written at `column`
  const Real* peep[kGates];  // at the block; the next one's lie `peep_stride` further on
  std::size_t peep_stride;
  const ForwardExtras* extras;  // null in the compiled rows

  template <bool kAcross>
  [[gnu::always_inline]] void put(std::size_t r, Floats value) const {
    Real* to = kAcross ? out[0] + column + r * kWidth : out[r] + column;
    if (lanes == kWidth || (kAcross && r + 1 < rows))
      store(to, value);
    else
      store_some(to, value, lanes);
  }
};

struct BackwardExtras {
  bool clips = false, keeps_pre = false;
  Real clip = 0.0f;
  const Real* const* h_mask = nullptr;
  const Real* const* c_mask = nullptr;
  const Real* const* dtrace[kTraces] = {};  // rows of gradients of gates and states
  const Real* dseen[kGates] = {};           // [rows][kWidth], of the gates as the next step saw them
  Real* carry = nullptr;                    // [rows][kWidth]: what of dh passes by the cell to the step before
  // Layer normalisation of c: kOutput writes ĉ and its gradient, which becomes c's before kCell.
  Stage stage = Stage::kWhole;
  const Real *c_mean = nullptr, *c_scale = nullptr;
  const Real *c_gain = nullptr, *c_bias = nullptr;
  Real* hat = nullptr;         // [rows][kWidth]
  Real* normalised = nullptr;  // [rows][kWidth]
};

// Row r's new c, normalised; a gain and a bias make of it what the cell shows. For both kinds of extras.
template <class Extras>
[[gnu::always_inline]] inline Floats normalised(const Extras& extras, std::size_t r, Floats c) {
  return (c * broadcast(extras.c_scale[2 * r]) - extras.c_mean[r]) * extras.c_scale[2 * r + 1];
}

struct BackwardBlock {
  std::size_t rows = 0, lanes = 0, column = 0;
  Real* gates = nullptr;        // [rows][line]: what forward kept in, gradients of the pre-activations out
  const Real* c_old = nullptr;  // [rows][kWidth]: the state before the step; n and m `old_plane` further on
  std::size_t old_plane = 0;
  const Real* dh = nullptr;         // [rows][kWidth], from the step after
  const Real* const* dy = nullptr;  // rows, or null
  Real* dc = nullptr;               // [rows][kWidth], in place; dn and dm `plane` further on
  std::size_t plane = 0;
  const Real* peep[kGates] = {};
  // Added to, laid out as Layout::sums has them: gradients of biases, peepholes, c's gain and bias. One for all
  // rows, or of each row its own.
  Real* const* sums = nullptr;
  bool by_row = false;
  const BackwardExtras* extras = nullptr;
};

// Calls use(gate) for each gate, unrolled, so that what a compiled row makes of it is settled when it is compiled.
template <class Use>
[[gnu::always_inline]] inline void each_gate(Use use) {
  use(kI);
  use(kF);
  use(kO);
  use(kG);
}

using ForwardPoint = void (*)(const Row&, const ForwardBlock&);
using BackwardPoint = void (*)(const Row&, const BackwardBlock&);

// The function for a row: a compiled one if there is one and no options are in the way.
ForwardPoint forward_point(const Row& row, bool extras);
BackwardPoint backward_point(const Row& row, bool extras);

// The rows that are compiled each by itself. One line here and the cell has its own code.
constexpr GateRow kSigmoid{Kind::kLearned, Squash::kSigmoid, Peep::kNone};
constexpr GateRow kTanhG{Kind::kLearned, Squash::kTanh, Peep::kNone};
constexpr GateRow kBefore{Kind::kLearned, Squash::kSigmoid, Peep::kBefore};
constexpr GateRow kAfter{Kind::kLearned, Squash::kSigmoid, Peep::kAfter};
constexpr GateRow kOpenGate{Kind::kOpen, Squash::kIdentity, Peep::kNone};
constexpr GateRow kCoupledGate{Kind::kCoupled, Squash::kIdentity, Peep::kNone};
constexpr GateRow kLinearG{Kind::kLearned, Squash::kIdentity, Peep::kNone};
constexpr GateRow kWideG{Kind::kLearned, Squash::kWideSigmoid, Peep::kNone};

constexpr Row kRows[] = {
    {Update::kAdditive, {kSigmoid, kSigmoid, kSigmoid, kTanhG}, Squash::kTanh},   // lstm, np
    {Update::kAdditive, {kBefore, kCoupledGate, kAfter, kTanhG}, Squash::kTanh},  // cifg
#if !defined(GATEWISE_FEW_ROWS)
    {Update::kAdditive, {kBefore, kBefore, kAfter, kTanhG}, Squash::kTanh},                 // peephole
    {Update::kAdditive, {kSigmoid, kCoupledGate, kSigmoid, kTanhG}, Squash::kTanh},         // cifg without peepholes
    {Update::kAdditive, {kOpenGate, kBefore, kAfter, kTanhG}, Squash::kTanh},               // nig
    {Update::kAdditive, {kBefore, kOpenGate, kAfter, kTanhG}, Squash::kTanh},               // nfg
    {Update::kAdditive, {kBefore, kBefore, kOpenGate, kTanhG}, Squash::kTanh},              // nog
    {Update::kAdditive, {kBefore, kBefore, kAfter, kLinearG}, Squash::kTanh},               // niaf
    {Update::kAdditive, {kBefore, kBefore, kAfter, kTanhG}, Squash::kIdentity},             // noaf
    {Update::kAdditive, {kSigmoid, kOpenGate, kSigmoid, kWideG}, Squash::kCentredSigmoid},  // lstm-1997
#endif
};

}  // namespace GATEWISE_ISA
}  // namespace gatewise
