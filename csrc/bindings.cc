// The Python module gatewise._native. Pointers come as integers and are not checked here: gatewise.ops has done so.
#include <nanobind/nanobind.h>
#include <nanobind/stl/optional.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/vector.h>

#include <algorithm>
#include <cstdint>
#include <optional>
#include <stdexcept>
#include <string>
#include <vector>

#include "dispatch.h"
#include "engine.h"

namespace nb = nanobind;

namespace {

using gatewise::Kernels;
using Address = std::uintptr_t;

using Isa = std::optional<std::string>;

const Kernels& kernels_named(const Isa& isa) { return isa ? gatewise::kernels_for(*isa) : gatewise::default_kernels(); }

template <class Pointer>
Pointer at(Address address) {
  return reinterpret_cast<Pointer>(address);
}

void lstm_forward(std::size_t steps, std::size_t rows, std::size_t inputs, std::size_t hidden, Address x,
                  std::ptrdiff_t x_time, std::ptrdiff_t x_row, Address h0, Address c0, Address w_ih, Address w_hh,
                  Address b_ih, Address b_hh, Address y, std::ptrdiff_t y_time, std::ptrdiff_t y_row, Address h_n,
                  Address c_n, bool reverse, const std::string& order, const Isa& isa) {
  if (order.size() != 4 || !std::is_permutation(order.begin(), order.end(), "ifgo"))
    throw std::invalid_argument("order must name the gates i, f, g and o, got '" + order + "'.");
  const Kernels& kernels = kernels_named(isa);
  const gatewise::LstmWeights weights = {at<const float*>(w_ih), at<const float*>(w_hh), at<const float*>(b_ih),
                                         at<const float*>(b_hh), order.c_str()};
  const gatewise::LstmSequence sequence = {steps,
                                           rows,
                                           inputs,
                                           hidden,
                                           at<const float*>(x),
                                           x_time,
                                           x_row,
                                           at<const float*>(h0),
                                           at<const float*>(c0),
                                           at<float*>(y),
                                           y_time,
                                           y_row,
                                           at<float*>(h_n),
                                           at<float*>(c_n),
                                           reverse};
  nb::gil_scoped_release release;
  gatewise::lstm_forward(kernels, weights, sequence);
}

void math(const std::string& name, Address from, Address to, std::size_t count, const Isa& isa) {
  const gatewise::MathArrays& arrays = *kernels_named(isa).math;
  const auto function = name == "exp"       ? arrays.exp
                        : name == "sigmoid" ? arrays.sigmoid
                        : name == "tanh"    ? arrays.tanh
                                            : nullptr;
  if (!function) throw std::invalid_argument("no function '" + name + "': there are exp, sigmoid and tanh.");
  nb::gil_scoped_release release;
  function(at<const float*>(from), at<float*>(to), count);
}

std::vector<std::string> available_isas() {
  std::vector<std::string> names;
  for (const Kernels& kernels : gatewise::available()) names.emplace_back(kernels.isa);
  return names;
}

}  // namespace

NB_MODULE(_native, m) {
  using namespace nb::literals;
  m.def("available_isas", &available_isas);
  m.def("isa", [] { return std::string(gatewise::default_kernels().isa); });
  m.def("lstm_forward", &lstm_forward, "steps"_a, "rows"_a, "inputs"_a, "hidden"_a, "x"_a, "x_time"_a, "x_row"_a,
        "h0"_a, "c0"_a, "w_ih"_a, "w_hh"_a, "b_ih"_a, "b_hh"_a, "y"_a, "y_time"_a, "y_row"_a, "h_n"_a, "c_n"_a,
        "reverse"_a, "order"_a, "isa"_a = nb::none());
  m.def("math", &math, "name"_a, "source"_a, "target"_a, "count"_a, "isa"_a = nb::none());
}
