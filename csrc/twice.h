// Several vectors that go through the same function side by side. One alone leaves a core waiting for each result; of
// several the instructions alternate.
#pragma once

#include <type_traits>

#include "simd.h"

namespace gatewise {
namespace GATEWISE_ISA {

template <class V>
struct Twice {
  V a, b;
};
using Pair = Twice<Floats>;
using Quad = Twice<Pair>;

// What is defined for V holds for Twice<V>.
#define GATEWISE_TWICE(op)                                                     \
  template <class V>                                                           \
  [[gnu::always_inline]] inline Twice<V> operator op(Twice<V> x, Twice<V> y) { \
    return {x.a op y.a, x.b op y.b};                                           \
  }                                                                            \
  template <class V, class Scalar>                                             \
    requires std::is_arithmetic_v<Scalar>                                      \
  [[gnu::always_inline]] inline Twice<V> operator op(Twice<V> x, Scalar y) {   \
    return {x.a op y, x.b op y};                                               \
  }
GATEWISE_TWICE(+)
GATEWISE_TWICE(-)
GATEWISE_TWICE(*)
GATEWISE_TWICE(/)
GATEWISE_TWICE(&)
GATEWISE_TWICE(|)
GATEWISE_TWICE(<<)
GATEWISE_TWICE(>>)
#undef GATEWISE_TWICE

template <class V>
[[gnu::always_inline]] inline Twice<V> operator-(Real x, Twice<V> y) {
  return {x - y.a, x - y.b};
}
template <class V>
[[gnu::always_inline]] inline Twice<V> operator/(Real x, Twice<V> y) {
  return {x / y.a, x / y.b};
}
template <class V>
[[gnu::always_inline]] inline Twice<V> operator-(Twice<V> x) {
  return {-x.a, -x.b};
}

[[gnu::always_inline]] inline Floats fma(Floats x, Floats y, Real z) { return fma(x, y, broadcast(z)); }
[[gnu::always_inline]] inline Floats fma(Floats x, Real y, Floats z) { return fma(x, broadcast(y), z); }
[[gnu::always_inline]] inline Floats fma(Floats x, Real y, Real z) { return fma(x, broadcast(y), broadcast(z)); }
template <class V>
[[gnu::always_inline]] inline Twice<V> fma(Twice<V> x, Twice<V> y, Twice<V> z) {
  return {fma(x.a, y.a, z.a), fma(x.b, y.b, z.b)};
}
template <class V>
[[gnu::always_inline]] inline Twice<V> fma(Twice<V> x, Twice<V> y, Real z) {
  return {fma(x.a, y.a, z), fma(x.b, y.b, z)};
}
template <class V>
[[gnu::always_inline]] inline Twice<V> fma(Twice<V> x, Real y, Twice<V> z) {
  return {fma(x.a, y, z.a), fma(x.b, y, z.b)};
}
template <class V>
[[gnu::always_inline]] inline Twice<V> fma(Twice<V> x, Real y, Real z) {
  return {fma(x.a, y, z), fma(x.b, y, z)};
}

template <class V>
[[gnu::always_inline]] inline Twice<V> within(Twice<V> x, Real low, Real high) {
  return {within(x.a, low, high), within(x.b, low, high)};
}
template <class V>
[[gnu::always_inline]] inline Twice<V> at_most(Twice<V> x, Real high) {
  return {at_most(x.a, high), at_most(x.b, high)};
}
template <class V>
[[gnu::always_inline]] inline auto bits(Twice<V> x) {
  return Twice<decltype(bits(x.a))>{bits(x.a), bits(x.b)};
}
template <class V>
[[gnu::always_inline]] inline auto from_bits(Twice<V> x) {
  return Twice<decltype(from_bits(x.a))>{from_bits(x.a), from_bits(x.b)};
}

// x < bound ? y : z
[[gnu::always_inline]] inline Floats below(Floats x, Real bound, Floats y, Floats z) { return x < bound ? y : z; }
template <class V>
[[gnu::always_inline]] inline Twice<V> below(Twice<V> x, Real bound, Twice<V> y, Twice<V> z) {
  return {below(x.a, bound, y.a, z.a), below(x.b, bound, y.b, z.b)};
}

template <class V>
constexpr std::size_t kVectorsOf = sizeof(V) / sizeof(Floats);

template <class V, class Get>
[[gnu::always_inline]] inline V collected(std::size_t i, Get get) {
  if constexpr (std::is_same_v<V, Floats>)
    return get(i);
  else
    return {collected<decltype(V::a)>(i, get), collected<decltype(V::a)>(i + kVectorsOf<V> / 2, get)};
}
template <class V, class Put>
[[gnu::always_inline]] inline void spread(V values, std::size_t i, Put put) {
  if constexpr (std::is_same_v<V, Floats>) {
    put(i, values);
  } else {
    spread(values.a, i, put);
    spread(values.b, i + kVectorsOf<V> / 2, put);
  }
}

// put(i, function(get(i))) for i < count, several side by side.
template <class Get, class Function, class Put>
[[gnu::always_inline]] inline void map(std::size_t count, Get get, Function function, Put put) {
  std::size_t i = 0;
  for (; i + 4 <= count; i += 4) spread(function(collected<Quad>(i, get)), i, put);
  if (i + 2 <= count) {
    spread(function(collected<Pair>(i, get)), i, put);
    i += 2;
  }
  if (i < count) put(i, function(get(i)));
}

}  // namespace GATEWISE_ISA
}  // namespace gatewise
