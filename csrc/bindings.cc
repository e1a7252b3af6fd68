// The Python module gatewise._native. Pointers come as integers and are not checked here: gatewise.ops has done so.
#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>
#include <nanobind/stl/optional.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/unique_ptr.h>

#include <cstdint>
#include <memory>
#include <optional>
#include <stdexcept>
#include <string>
#include <vector>

#include "casters.h"
#include "describe.h"
#include "dispatch.h"
#include "engine.h"
#include "members.h"
#include "python.h"
#include "runtime.h"
#include "shared_sum.h"
#include "stack.h"
#include "team.h"
#include "tensor.h"

namespace nb = nanobind;

namespace {

using namespace gatewise;
using Address = std::uintptr_t;
using Addresses = std::vector<Address>;

template <class T>
T* at(Address address) {
  return reinterpret_cast<T*>(address);
}

template <class T, std::size_t kCount>
void fill(T* (&to)[kCount], const Addresses& from) {
  if (from.size() > kCount) throw std::invalid_argument("too many addresses.");
  for (std::size_t i = 0; i < from.size(); ++i) to[i] = at<T>(from[i]);
}

// x, y and the dense tensors of a call: [steps, rows, x, x_time, x_row, y, y_time, y_row, lengths, reset, recurrent
// mask, h mask, c mask].
template <class Real>
Sequence<Real> make_sequence(bool reverse, const Addresses& call, const Addresses& state, const Addresses& start,
                             const Addresses& final, const Addresses& trace) {
  if (call.size() != 13) throw std::invalid_argument("a call is thirteen numbers.");
  Sequence<Real> s;
  s.steps = call[0];
  s.rows = call[1];
  s.reverse = reverse;
  s.x = {at<const Real>(call[2]), static_cast<std::ptrdiff_t>(call[3]), static_cast<std::ptrdiff_t>(call[4])};
  s.y = {at<Real>(call[5]), static_cast<std::ptrdiff_t>(call[6]), static_cast<std::ptrdiff_t>(call[7])};
  s.lengths = at<const std::int64_t>(call[8]);
  s.reset = at<const std::uint8_t>(call[9]);
  s.recurrent_mask = at<const Real>(call[10]);
  s.h_mask = at<const Real>(call[11]);
  s.c_mask = at<const Real>(call[12]);
  fill(s.state, state);
  fill(s.start, start);
  fill(s.final, final);
  fill(s.trace, trace);
  return s;
}

// `call` of the gradients: [dy, dy_time, dy_row, dx, dx_time, dx_row, add_dx].
template <class Real>
Gradients<Real> make_gradients(const Addresses& call, const Addresses& dfinal, const Addresses& dtrace,
                               const Addresses& dstate, const Addresses& dstart, const Addresses& dweights) {
  if (call.size() != 7) throw std::invalid_argument("a call of gradients is seven numbers.");
  Gradients<Real> g;
  g.dy = {at<const Real>(call[0]), static_cast<std::ptrdiff_t>(call[1]), static_cast<std::ptrdiff_t>(call[2])};
  g.dx = {at<Real>(call[3]), static_cast<std::ptrdiff_t>(call[4]), static_cast<std::ptrdiff_t>(call[5])};
  g.add_dx = call[6] != 0;
  fill(g.dfinal, dfinal);
  fill(g.dtrace, dtrace);
  fill(g.dstate, dstate);
  fill(g.dstart, dstart);
  fill(g.dweights, dweights);
  return g;
}

template <class Real>
std::unique_ptr<Tape<Real>> run_on(const Kernels<Real>& kernels, const Layer& layer, const Addresses& weights,
                                   const Sequence<Real>& sequence, Keep keep, std::size_t threads) {
  const Real* given[kWeightKinds] = {};
  fill(given, weights);
  return interruptible(
      [&](Interrupt& interrupt) { return forward(kernels, layer, given, sequence, keep, threads, interrupt); });
}

template <class Real>
std::unique_ptr<Tape<Real>> run_forward(const Layer& layer, const Addresses& weights, bool reverse,
                                        const Addresses& call, const Addresses& state, const Addresses& start,
                                        const Addresses& final, const Addresses& trace, const std::string& keep,
                                        std::size_t threads) {
  const Sequence<Real> sequence = make_sequence<Real>(reverse, call, state, start, final, trace);
  return run_on(isa_in_use().kernels<Real>(), layer, weights, sequence, keep_named(keep), threads);
}

// The same with products of bfloat16, of which nothing is kept.
std::unique_ptr<Tape<float>> run_forward_narrow(const Layer& layer, const Addresses& weights, bool reverse,
                                                const Addresses& call, const Addresses& state, const Addresses& start,
                                                const Addresses& final, const Addresses& trace, const std::string& keep,
                                                std::size_t threads) {
  const Kernels<float>* const kernels = isa_in_use().narrow;
  if (!kernels) throw std::invalid_argument("no products of bfloat16 here.");
  if (keep_named(keep) != Keep::kNothing) throw std::invalid_argument("nothing is kept of products of bfloat16.");
  const auto sequence = make_sequence<float>(reverse, call, state, start, final, trace);
  return run_on(*kernels, layer, weights, sequence, Keep::kNothing, threads);
}

template <class Real>
void run_backward(const Layer& layer, Tape<Real>& tape, const Addresses& weights, bool reverse, const Addresses& call,
                  const Addresses& state, const Addresses& start, const Addresses& gradient_call,
                  const Addresses& dfinal, const Addresses& dtrace, const Addresses& dstate, const Addresses& dstart,
                  const Addresses& dweights, std::size_t threads) {
  const Sequence<Real> sequence = make_sequence<Real>(reverse, call, state, start, {}, {});
  const Real* given[kWeightKinds] = {};
  fill(given, weights);
  const Gradients<Real> g = make_gradients<Real>(gradient_call, dfinal, dtrace, dstate, dstart, dweights);
  interruptible([&](Interrupt& interrupt) { backward(layer, given, sequence, g, tape, threads, interrupt); });
}

// What forward keeps of each member of an ensemble.
template <class Real>
struct Tapes {
  explicit Tapes(std::vector<std::unique_ptr<Tape<Real>>> kept) : each(std::move(kept)) {}
  Tapes(Tapes&&) = default;  // and no copies
  std::vector<std::unique_ptr<Tape<Real>>> each;
};

// Of an ensemble each list has all its numbers once more behind them: what is to be added from one member to the next.
Addresses of_member(const Addresses& list, std::size_t member) {
  const std::size_t count = list.size() / 2;
  Addresses own(list.begin(), list.begin() + static_cast<std::ptrdiff_t>(count));
  for (std::size_t i = 0; i < count; ++i) own[i] += member * list[count + i];
  return own;
}

template <class Real>
std::unique_ptr<Tapes<Real>> run_forward_members(const Layer& layer, std::size_t count, const Addresses& weights,
                                                 bool reverse, const Addresses& call, const Addresses& state,
                                                 const Addresses& start, const Addresses& final, const Addresses& trace,
                                                 const std::string& keep, std::size_t threads) {
  std::vector<Member<Real>> members(count);
  for (std::size_t i = 0; i < count; ++i) {
    fill(members[i].weights, of_member(weights, i));
    members[i].sequence = make_sequence<Real>(reverse, of_member(call, i), of_member(state, i), of_member(start, i),
                                              of_member(final, i), of_member(trace, i));
  }
  const Keep kept = keep_named(keep);
  const Kernels<Real>& kernels = isa_in_use().kernels<Real>();
  return interruptible([&](Interrupt& interrupt) {
    return std::make_unique<Tapes<Real>>(forward_members<Real>(kernels, layer, members, kept, threads, interrupt));
  });
}

// `dweights_step`, in numbers, is from one sample to the next; with no samples rows are summed up (see Gradients).
template <class Real>
void run_backward_members(const Layer& layer, const Tapes<Real>& tapes, const Addresses& weights, bool reverse,
                          const Addresses& call, const Addresses& state, const Addresses& start,
                          const Addresses& gradient_call, const Addresses& dfinal, const Addresses& dtrace,
                          const Addresses& dstate, const Addresses& dstart, const Addresses& dweights,
                          std::size_t samples, const std::vector<std::ptrdiff_t>& dweights_step, std::size_t threads) {
  std::vector<Member<Real>> members(tapes.each.size());
  if (dweights_step.size() > kWeightKinds) throw std::invalid_argument("too many steps.");
  for (std::size_t i = 0; i < members.size(); ++i) {
    Member<Real>& member = members[i];
    fill(member.weights, of_member(weights, i));
    member.sequence =
        make_sequence<Real>(reverse, of_member(call, i), of_member(state, i), of_member(start, i), {}, {});
    member.gradients = make_gradients<Real>(of_member(gradient_call, i), of_member(dfinal, i), of_member(dtrace, i),
                                            of_member(dstate, i), of_member(dstart, i), of_member(dweights, i));
    member.gradients.samples = samples;
    std::copy(dweights_step.begin(), dweights_step.end(), member.gradients.dweights_step);
    member.tape = tapes.each[i].get();
    if (!member.tape) throw std::invalid_argument("nothing was kept.");
  }
  interruptible([&](Interrupt& interrupt) { backward_members<Real>(layer, members, threads, interrupt); });
}

// Numbers that are not initialised, in memory that is kept when they go.
template <class Real>
nb::ndarray<nb::numpy, Real, nb::ndim<1>> empty(std::size_t count) {
  auto buffer = std::make_unique<Buffer<Real>>(count);
  Real* const data = buffer->data();
  nb::capsule owner(buffer.get(), [](void* p) noexcept { delete static_cast<Buffer<Real>*>(p); });
  buffer.release();
  return nb::ndarray<nb::numpy, Real, nb::ndim<1>>(data, {count}, owner);
}

template <class Real>
void math(const std::string& name, Address from, Address to, std::size_t count, const std::optional<std::string>& isa) {
  const MathArrays<Real>& arrays = (isa ? isa_named(*isa) : isa_in_use()).kernels<Real>().math;
  const auto function = name == "exp"       ? arrays.exp
                        : name == "sigmoid" ? arrays.sigmoid
                        : name == "tanh"    ? arrays.tanh
                                            : nullptr;
  if (!function) throw std::invalid_argument("no function '" + name + "': there are exp, sigmoid and tanh.");
  const nb::gil_scoped_release release;
  function(at<const Real>(from), at<Real>(to), count);
}

std::vector<std::string> available_isas() {
  std::vector<std::string> names;
  for (const InstructionSet& isa : available()) names.emplace_back(isa.name);
  return names;
}

}  // namespace

NB_MODULE(_native, m) {
  using namespace nb::literals;
  // A graph that is alive when the program ends holds tapes, which is no mistake.
  nb::set_leak_warnings(false);
  available();
  keep_memory_across_forks();
  watch_forks();
  m.def("available_isas", &available_isas);
  m.def("isa", [] { return std::string(isa_in_use().name); });
  m.def("use_isa", [](const std::string& name) { use_isa(isa_named(name)); }, "name"_a);
  m.def("team", [] { return std::string(team_name()); });
  m.def("math", &math<float>, "name"_a, "source"_a, "target"_a, "count"_a, "isa"_a = nb::none());
  m.def("math_double", &math<double>, "name"_a, "source"_a, "target"_a, "count"_a, "isa"_a = nb::none());
  nb::class_<Layer>(m, "Layer");
  nb::class_<Tape<float>>(m, "Tape");
  nb::class_<Tape<double>>(m, "DoubleTape");
  nb::class_<Tapes<float>>(m, "Tapes");
  nb::class_<Tapes<double>>(m, "DoubleTapes");
  m.def("layer", &make_layer, "inputs"_a, "hidden"_a, "update"_a, "gates"_a, "output"_a, "seen"_a, "bias"_a,
        "layer_norm"_a, "clip"_a.none(), "projected"_a, "beside"_a);
  m.def("empty", &empty<float>, "count"_a);
  m.def("empty_double", &empty<double>, "count"_a);
  nb::class_<Torch>(m, "Torch");
  nb::class_<Kept>(m, "Kept");
  nb::class_<Pieces>(m, "Pieces");
  nb::class_<Stack>(m, "Stack")
      .def(nb::init<std::shared_ptr<const Torch>, std::vector<Layer>, std::size_t, bool, std::vector<std::size_t>,
                    nb::tuple, const std::vector<std::vector<std::size_t>>&>())
      .def("cut", &Stack::cut, "lengths"_a.none(), "reset"_a.none(), "batch_first"_a)
      .def("gather", &Stack::gather, "parameters"_a, "x"_a.none(), "states"_a.none(), "batch_first"_a,
           "pieces"_a.none(), "autocast"_a)
      .def("infer", &Stack::infer, "parameters"_a, "x"_a.none(), "states"_a.none(), "batch_first"_a, "pieces"_a.none(),
           "autocast"_a, "threads"_a)
      .def("forward", &Stack::forward, "given"_a, "batch_first"_a, "pieces"_a.none(), "autocast"_a, "keep"_a,
           "threads"_a)
      .def("backward", &Stack::backward);
  m.def("torch", &Torch::make, "exchange"_a.none(), "kinds"_a, "kept"_a, "empty"_a, "half"_a, "dense"_a);
  m.def("forward", &run_forward<float>);
  m.def("forward_double", &run_forward<double>);
  m.def("forward_narrow", &run_forward_narrow);
  m.def("multiplies_bfloat16", [] { return isa_in_use().narrow != nullptr; });
  m.def("backward", &run_backward<float>);
  m.def("backward", &run_backward<double>);
  m.def("forward_members", &run_forward_members<float>);
  m.def("forward_members_double", &run_forward_members<double>);
  m.def("backward_members", &run_backward_members<float>);
  m.def("backward_members", &run_backward_members<double>);
  bind_runtime(m);
  bind_shared_sum(m);
}
