// Two vectors that go through the same function side by side. One alone leaves a core waiting for each result; of two
// the instructions alternate.
#pragma once

#include "simd.h"

namespace gatewise {
namespace GATEWISE_ISA {

struct Pair {
  Floats a, b;
};
struct PairInts {
  Ints a, b;
};

#define GATEWISE_PAIR(op)                                                                             \
  [[gnu::always_inline]] inline Pair operator op(Pair x, Pair y) { return {x.a op y.a, x.b op y.b}; } \
  [[gnu::always_inline]] inline Pair operator op(Pair x, float y) { return {x.a op y, x.b op y}; }    \
  [[gnu::always_inline]] inline Pair operator op(float x, Pair y) { return {x op y.a, x op y.b}; }
GATEWISE_PAIR(+)
GATEWISE_PAIR(-)
GATEWISE_PAIR(*)
GATEWISE_PAIR(/)
#undef GATEWISE_PAIR

[[gnu::always_inline]] inline Pair operator-(Pair x) { return {-x.a, -x.b}; }
[[gnu::always_inline]] inline PairInts operator+(PairInts x, std::int32_t y) { return {x.a + y, x.b + y}; }
[[gnu::always_inline]] inline PairInts operator-(PairInts x, std::int32_t y) { return {x.a - y, x.b - y}; }
[[gnu::always_inline]] inline PairInts operator-(PairInts x, PairInts y) { return {x.a - y.a, x.b - y.b}; }
[[gnu::always_inline]] inline PairInts operator&(PairInts x, std::int32_t y) { return {x.a & y, x.b & y}; }
[[gnu::always_inline]] inline PairInts operator|(PairInts x, PairInts y) { return {x.a | y.a, x.b | y.b}; }
[[gnu::always_inline]] inline PairInts operator<<(PairInts x, int y) { return {x.a << y, x.b << y}; }
[[gnu::always_inline]] inline PairInts operator>>(PairInts x, int y) { return {x.a >> y, x.b >> y}; }

[[gnu::always_inline]] inline Floats fma(Floats x, Floats y, float z) { return fma(x, y, broadcast(z)); }
[[gnu::always_inline]] inline Floats fma(Floats x, float y, Floats z) { return fma(x, broadcast(y), z); }
[[gnu::always_inline]] inline Floats fma(Floats x, float y, float z) { return fma(x, broadcast(y), broadcast(z)); }
[[gnu::always_inline]] inline Pair fma(Pair x, Pair y, Pair z) { return {fma(x.a, y.a, z.a), fma(x.b, y.b, z.b)}; }
[[gnu::always_inline]] inline Pair fma(Pair x, Pair y, float z) { return {fma(x.a, y.a, z), fma(x.b, y.b, z)}; }
[[gnu::always_inline]] inline Pair fma(Pair x, float y, Pair z) { return {fma(x.a, y, z.a), fma(x.b, y, z.b)}; }
[[gnu::always_inline]] inline Pair fma(Pair x, float y, float z) { return {fma(x.a, y, z), fma(x.b, y, z)}; }
[[gnu::always_inline]] inline Pair within(Pair x, float low, float high) {
  return {within(x.a, low, high), within(x.b, low, high)};
}
[[gnu::always_inline]] inline PairInts bits(Pair x) { return {bits(x.a), bits(x.b)}; }
[[gnu::always_inline]] inline Pair from_bits(PairInts x) { return {from_bits(x.a), from_bits(x.b)}; }

// x < bound ? y : z
[[gnu::always_inline]] inline Floats below(Floats x, float bound, Floats y, Floats z) { return x < bound ? y : z; }
[[gnu::always_inline]] inline Pair below(Pair x, float bound, Pair y, Pair z) {
  return {below(x.a, bound, y.a, z.a), below(x.b, bound, y.b, z.b)};
}

}  // namespace GATEWISE_ISA
}  // namespace gatewise
