// Squares of kWidth x kWidth numbers, turned on their way from memory into registers.
#pragma once

#include <utility>

#include "narrow.h"

namespace gatewise {
namespace GATEWISE_ISA {

// Shuffles are quick within pieces of 16 bytes, and loads put pieces beside each other on a port of their own.
constexpr int kNumbers = kWidth, kPiece = 16 / sizeof(Real), kPieces = kNumbers / kPiece;
using EveryLane = std::make_integer_sequence<int, kNumbers>;

// In each piece runs of a and of b in turn, from a's and b's lower or upper half.
template <int kRun, bool kUpper>
struct Interleaved {
  static constexpr int from(int lane) {
    const int at = lane % kPiece, run = at / kRun;
    return lane - at + (kUpper ? kPiece / 2 : 0) + run / 2 * kRun + at % kRun + run % 2 * kNumbers;
  }
};

// Of four pieces every second one of a, then of b.
template <bool kOdd>
struct EverySecond {
  static constexpr int from(int lane) {
    const int piece = lane / kPiece;
    return (2 * (piece % 2) + kOdd) * kPiece + lane % kPiece + piece / 2 * kNumbers;
  }
};

template <class Pick, int... kLane>
inline Floats picked(Floats a, Floats b, std::integer_sequence<int, kLane...>) {
  return __builtin_shufflevector(a, b, Pick::from(kLane)...);
}
template <class Pick>
inline Floats pick(Floats a, Floats b) {
  return picked<Pick>(a, b, EveryLane{});
}

#if defined(__AVX512F__)
inline Floats joined(const Real* first, const Real* second) {
  __m256d a, b;
  std::memcpy(&a, first, sizeof a);
  std::memcpy(&b, second, sizeof b);
  // Every lane is wanted: the form without a mask makes GCC 12 warn of a vector that is not initialised.
  return (Floats)_mm512_maskz_insertf64x4(0xff, _mm512_castpd256_pd512(a), b, 1);
}
#else
template <int... kLane>
inline Floats joined(const Real* first, const Real* second, std::integer_sequence<int, kLane...>) {
  typedef Real Half __attribute__((vector_size(sizeof(Floats) / 2)));
  Half a, b;
  std::memcpy(&a, first, sizeof a);
  std::memcpy(&b, second, sizeof b);
  return __builtin_shufflevector(a, b, kLane...);
}
// Half a vector from each place.
inline Floats joined(const Real* first, const Real* second) { return joined(first, second, EveryLane{}); }
#endif

// Turns the squares that as many vectors have in each piece.
inline void turn_pieces(Floats (&v)[kPiece]) {
  if constexpr (kPiece == 2) {
    const Floats a = v[0], b = v[1];
    v[0] = pick<Interleaved<1, false>>(a, b);
    v[1] = pick<Interleaved<1, true>>(a, b);
  } else {
    const Floats a = pick<Interleaved<1, false>>(v[0], v[1]), b = pick<Interleaved<1, true>>(v[0], v[1]),
                 c = pick<Interleaved<1, false>>(v[2], v[3]), d = pick<Interleaved<1, true>>(v[2], v[3]);
    v[0] = pick<Interleaved<2, false>>(a, c);
    v[1] = pick<Interleaved<2, true>>(a, c);
    v[2] = pick<Interleaved<2, false>>(b, d);
    v[3] = pick<Interleaved<2, true>>(b, d);
  }
}

inline constexpr Real kNoRow[kWidth] = {};

// A square of the first `lanes` rows, `stride` apart, with zeros for the others: to[k] is its column k.
[[gnu::always_inline]] inline void load_turned(const Real* rows, std::size_t stride, std::size_t lanes,
                                               Floats (&to)[kWidth]) {
  const auto row = [&](std::size_t lane) { return lane < lanes ? rows + lane * stride : kNoRow; };
  constexpr int kTogether = kPieces == 4 ? 2 : 1;
#pragma GCC unroll 2
  for (int column = 0; column < kNumbers; column += kTogether * kPiece) {
    Floats v[kTogether][kPiece];
#pragma GCC unroll 4
    for (int i = 0; i < kPiece; ++i) {
      const auto at = [&](int piece) { return row(piece * kPiece + i) + column; };
      if constexpr (kPieces == 1) {
        v[0][i] = load(at(0));
      } else if constexpr (kPieces == 2) {
        v[0][i] = joined(at(0), at(1));
      } else {
        const Floats a = joined(at(0), at(1)), b = joined(at(2), at(3));
        v[0][i] = pick<EverySecond<false>>(a, b);
        v[1][i] = pick<EverySecond<true>>(a, b);
      }
    }
#pragma GCC unroll 2
    for (int part = 0; part < kTogether; ++part) {
      turn_pieces(v[part]);
#pragma GCC unroll 4
      for (int i = 0; i < kPiece; ++i) to[column + part * kPiece + i] = v[part][i];
    }
  }
}

// The same of words k to k + kWidth of rows of `columns` numbers.
[[gnu::always_inline]] inline void words_turned(const Real* rows, std::size_t columns, std::size_t lanes, std::size_t k,
                                                Floats (&to)[kWidth]) {
  if constexpr (kNarrow) {
    Real square[kWidth * kWidth];
#pragma GCC unroll 16
    for (std::size_t lane = 0; lane < kWidth; ++lane)
      store(square + lane * kWidth, lane < lanes ? words_at(rows + lane * columns, k) : Floats{});
    load_turned(square, kWidth, kWidth, to);
  } else {
    load_turned(rows + k, columns, lanes, to);
  }
}

}  // namespace GATEWISE_ISA
}  // namespace gatewise
