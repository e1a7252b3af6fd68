// The functions of math.h over arrays, so that tests can hold them to their contract on every instruction set.
#include "dispatch.h"
#include "math.h"
#include "simd.h"

namespace gatewise {
namespace {

template <Floats (*kFunction)(Floats)>
void apply(const float* from, float* to, std::size_t count) {
  for (std::size_t i = 0; i < count; i += kWidth) {
    const std::size_t lanes = count - i < kWidth ? count - i : kWidth;
    store_some(to + i, kFunction(load_some(from + i, lanes)), lanes);
  }
}

}  // namespace

namespace GATEWISE_ISA {
extern const MathArrays math_arrays;
const MathArrays math_arrays = {apply<exp>, apply<sigmoid>, apply<tanh>};
}  // namespace GATEWISE_ISA
}  // namespace gatewise
