#include "stack.h"

#include <algorithm>
#include <stdexcept>
#include <type_traits>
#include <utility>

#include "dispatch.h"
#include "python.h"
#include "stack_call.h"

namespace nb = nanobind;

namespace gatewise {

// What backward reads and writes besides the call's tensors; null where there is none.
template <class Real>
struct Stack::Derivative {
  std::vector<nb::object> read;  // keeps what follows
  Real* y = nullptr;
  const Real* dy = nullptr;
  const Real* dfinal[kMaxStates] = {};
  Real* dx = nullptr;
  Real* dstate[kMaxStates] = {};
  std::vector<Real*> dweights;
};

Stack::Stack(std::shared_ptr<const Torch> torch, std::vector<Layer> layers, std::size_t directions, bool step,
             std::vector<std::size_t> places, nb::tuple names, const std::vector<std::vector<std::size_t>>& shapes)
    : torch_(std::move(torch)),
      layers_(std::move(layers)),
      directions_(directions),
      step_(step),
      places_(std::move(places)),
      names_(std::move(names)) {
  for (const auto& sizes : shapes) {
    Shape& shape = shapes_.emplace_back();
    if (sizes.size() > kMaxDims) throw std::invalid_argument("too many dimensions.");
    for (const std::size_t size : sizes) shape.size[shape.dims++] = static_cast<std::int64_t>(size);
  }
  const bool fits = directions && !layers_.empty() && layers_.size() % directions == 0 &&
                    shapes_.size() == layers_.size() * places_.size() && nb::len(names_) == shapes_.size();
  const bool known = std::all_of(places_.begin(), places_.end(), [](std::size_t p) { return p < kWeightKinds; });
  if (!torch_ || !fits || !known) throw std::invalid_argument("parameters and layers do not match.");
}

Shape Stack::output_shape(const Call& call) const {
  if (step_) return {call.rows, width()};
  return {call.batch_first ? call.rows : call.steps, call.batch_first ? call.steps : call.rows, width()};
}

Shape Stack::state_shape(const Call& call, std::size_t state) const {
  const std::size_t size = layers_[0].state_width(state);
  return step_ ? Shape{call.rows, size} : Shape{layers_.size(), call.rows, size};
}

std::unique_ptr<Pieces> Stack::cut(nb::handle lengths, nb::handle reset, bool batch_first) const {
  auto pieces = std::make_unique<Pieces>();
  View view;
  if (!lengths.is_none()) {
    if (!torch_->read(lengths, view) || view.dtype != kInt64 || !torch_->holds(lengths, view)) return nullptr;
    if (view.shape.dims != 1) return nullptr;
    const auto* const from = static_cast<const std::int64_t*>(view.address);
    for (std::int64_t b = 0; b < view.shape.size[0]; ++b) pieces->lengths.push_back(from[b * view.stride[0]]);
  }
  if (!reset.is_none()) {
    if (!torch_->read(reset, view) || view.dtype != kBool || !torch_->holds(reset, view)) return nullptr;
    if (view.shape.dims != 2) return nullptr;
    const auto* const from = static_cast<const std::uint8_t*>(view.address);
    const std::size_t time = batch_first ? 1 : 0, row = 1 - time;
    pieces->steps = static_cast<std::size_t>(view.shape.size[time]);
    pieces->reset.reserve(view.shape.count());
    for (std::int64_t t = 0; t < view.shape.size[time]; ++t)
      for (std::int64_t b = 0; b < view.shape.size[row]; ++b)
        pieces->reset.push_back(from[t * view.stride[time] + b * view.stride[row]]);
  }
  return pieces;
}

bool Pieces::fit(std::size_t all_steps, std::size_t all_rows) const {
  if (!reset.empty() && (steps != all_steps || reset.size() != all_steps * all_rows)) return false;
  if (lengths.empty()) return !reset.empty();
  const auto most = static_cast<std::int64_t>(all_steps);
  return lengths.size() == all_rows &&
         std::all_of(lengths.begin(), lengths.end(), [=](std::int64_t n) { return 0 <= n && n <= most; });
}

std::optional<Stack::Call> Stack::read(Objects given, bool batch_first, const Pieces* pieces, bool autocast) const {
  Call call;
  call.pieces = pieces;
  if (given.size() != 1 + shapes_.size()) {
    call.states = states();
    if (given.size() != 1 + states() + shapes_.size()) return {};
  }
  call.views.resize(given.size());
  const View& x = call.views[0];
  for (std::size_t i = 0; i < given.size(); ++i) {
    const View& view = call.views[i];
    if (!torch_->read(given[i], call.views[i])) return {};
    if (autocast ? view.dtype != kFloat<float> && view.dtype != kBfloat : view.dtype != x.dtype) return {};
  }
  if (x.dtype != kFloat<float> && x.dtype != kFloat<double> && x.dtype != kBfloat) return {};
  call.half = autocast || x.dtype == kBfloat;
  const std::size_t dims = step_ ? 2 : 3;
  if (x.shape.dims != dims || x.stride[dims - 1] != 1) return {};
  if (x.shape.size[dims - 1] != static_cast<std::int64_t>(layers_[0].inputs)) return {};
  const auto first = static_cast<std::size_t>(x.shape.size[0]);
  const auto second = step_ ? 1 : static_cast<std::size_t>(x.shape.size[1]);
  if (!first || !second) return {};
  call.batch_first = batch_first || step_;
  call.rows = call.batch_first ? first : second;
  call.steps = call.batch_first ? second : first;
  if (pieces && !pieces->fit(call.steps, call.rows)) return {};
  const auto matches = [](const View& view, const Shape& shape) { return view.shape == shape && view.contiguous(); };
  for (std::size_t s = 0; s < call.states; ++s)
    if (!matches(call.views[1 + s], state_shape(call, s))) return {};
  for (std::size_t i = 0; i < shapes_.size(); ++i)
    if (!matches(call.views[1 + call.states + i], shapes_[i])) return {};
  return call;
}

bool Stack::holds(Objects given, const Call& call) const {
  for (std::size_t i = 0; i < given.size(); ++i)
    if (!torch_->holds(given[i], call.views[i])) return false;
  return true;
}

std::optional<Stack::Call> Stack::collect(nb::handle parameters, nb::handle x, nb::handle states, bool batch_first,
                                          const Pieces* pieces, bool autocast, nb::tuple& given) const {
  Objects initial;
  if (!states.is_none()) {
    if (!PyTuple_Check(states.ptr())) return {};
    initial = Objects(states);
    // Also if there are none of them, which is not the same as to leave them out.
    if (initial.size() != this->states()) return {};
  }
  std::vector<nb::object> tensors;
  tensors.reserve(1 + initial.size() + shapes_.size());
  tensors.push_back(nb::borrow(x));
  for (std::size_t i = 0; i < initial.size(); ++i) tensors.push_back(nb::borrow(initial[i]));
  const Objects names(names_);
  for (std::size_t i = 0; i < names.size(); ++i) {
    tensors.push_back(nb::steal(PyObject_GetItem(parameters.ptr(), names[i])));
    if (tensors.back().is_valid()) continue;
    if (!PyErr_ExceptionMatches(PyExc_KeyError)) nb::raise_python_error();
    PyErr_Clear();
    return {};
  }
  given = tuple_of(tensors);
  std::optional<Call> call = read(Objects(given), batch_first, pieces, autocast);
  if (call && !holds(Objects(given), *call)) call.reset();
  return call;
}

nb::object Stack::gather(nb::handle parameters, nb::handle x, nb::handle states, bool batch_first, const Pieces* pieces,
                         bool autocast) const {
  nb::tuple given;
  const std::optional<Call> call = collect(parameters, x, states, batch_first, pieces, autocast, given);
  if (!call) return nb::none();
  const Objects tensors(given);
  bool gradient = false;
  for (std::size_t i = 0; i < tensors.size() && !gradient; ++i) gradient = torch_->requires_grad(tensors[i]);
  if (call->half && gradient) return nb::none();
  return nb::make_tuple(given, gradient);
}

nb::object Stack::infer(nb::handle parameters, nb::handle x, nb::handle states, bool batch_first, const Pieces* pieces,
                        bool autocast, std::size_t threads) const {
  nb::tuple given;
  const std::optional<Call> call = collect(parameters, x, states, batch_first, pieces, autocast, given);
  if (!call) return nb::none();
  Kept nothing;
  return results_of(Objects(given), *call, Keep::kNothing, threads, nothing);
}

nb::tuple Stack::forward(const nb::tuple& given, bool batch_first, std::shared_ptr<const Pieces> pieces, bool autocast,
                         const std::string& keep, std::size_t threads) const {
  const std::optional<Call> call = read(Objects(given), batch_first, pieces.get(), autocast);
  if (!call) throw std::invalid_argument("these tensors do not fit.");
  Kept kept;
  kept.batch_first = call->batch_first;
  kept.steps = call->steps;
  kept.rows = call->rows;
  kept.pieces = std::move(pieces);
  const Keep keeps = keep_named(keep);
  if (call->half && keeps != Keep::kNothing) throw std::invalid_argument("nothing is kept of bfloat16.");
  const nb::tuple results = results_of(Objects(given), *call, keeps, threads, kept);
  return nb::make_tuple(results, keeps == Keep::kNothing ? nb::none() : nb::cast(std::move(kept)));
}

nb::tuple Stack::results_of(Objects given, const Call& call, Keep keep, std::size_t threads, Kept& kept) const {
  if (call.half) return rounded_of(call, threads);
  return call.doubles() ? forward_of<double>(given, call, keep, threads, kept)
                        : forward_of<float>(given, call, keep, threads, kept);
}

template <class Real>
nb::tuple Stack::forward_of(Objects given, const Call& call, Keep keep, std::size_t threads, Kept& kept) const {
  std::vector<nb::object> results;
  Outputs<Real> outputs;
  const auto make = [&](const Shape& shape) {
    View view;
    results.push_back(torch_->empty(given[0], shape, view));
    return view.data<Real>();
  };
  results.reserve(1 + states());
  if (!step_) outputs.y = make(output_shape(call));
  for (std::size_t s = 0; s < states(); ++s) outputs.final[s] = make(state_shape(call, s));
  if (step_) std::swap(outputs.y, outputs.final[kH]);
  auto& layers = kept.layers.emplace<Layers<Real>>();
  interruptible([&](Interrupt& interrupt) { run(call, outputs, keep, threads, layers, interrupt); });
  return tuple_of(results);
}

nb::object Stack::backward(const Kept& kept, const nb::tuple& saved, const nb::tuple& wanted,
                           const nb::tuple& gradients, std::size_t threads) const {
  const Objects given(saved, 1);
  const std::optional<Call> call = read(given, kept.batch_first, kept.pieces.get(), false);
  if (!call || call->half || call->steps != kept.steps || call->rows != kept.rows || !holds(given, *call))
    return nb::none();
  return call->doubles()
             ? backward_of<double>(kept, Objects(saved), Objects(wanted), Objects(gradients), *call, threads)
             : backward_of<float>(kept, Objects(saved), Objects(wanted), Objects(gradients), *call, threads);
}

template <class Real>
nb::object Stack::backward_of(const Kept& kept, Objects saved, Objects wanted, Objects gradients, const Call& call,
                              std::size_t threads) const {
  const auto* const layers = std::get_if<Layers<Real>>(&kept.layers);
  if (!layers) return nb::none();
  Derivative<Real> derivative;
  View y;
  derivative.read.push_back(torch_->dense(saved[0], output_shape(call), kFloat<Real>, y));
  derivative.y = y.data<Real>();
  if (!derivative.read[0].is_valid() || !read_gradients(call, gradients, derivative)) return nb::none();
  nb::tuple found = make_gradients(call, saved.rest(), wanted, derivative);
  interruptible([&](Interrupt& interrupt) { run_back(call, *layers, derivative, threads, interrupt); });
  return found;
}

template <class Real>
bool Stack::read_gradients(const Call& call, Objects gradients, Derivative<Real>& to) const {
  if (gradients.size() != states() + !step_) throw std::invalid_argument("a gradient for each result.");
  for (std::size_t i = 0; i < gradients.size(); ++i) {
    if (gradients[i] == Py_None) continue;
    const std::size_t state = step_ ? i : i - 1;
    View view;
    const Shape shape = i ? state_shape(call, state) : output_shape(call);
    to.read.push_back(torch_->dense(gradients[i], shape, kFloat<Real>, view));
    if (!to.read.back().is_valid()) return false;
    (i ? to.dfinal[state] : to.dy) = view.data<Real>();
  }
  return true;
}

template <class Real>
nb::tuple Stack::make_gradients(const Call& call, Objects given, Objects wanted, Derivative<Real>& to) const {
  if (wanted.size() < given.size()) throw std::invalid_argument("a word for each tensor.");
  const std::size_t before = wanted.size() - given.size();
  std::vector<nb::object> found(wanted.size(), nb::none());
  to.dweights.resize(shapes_.size());
  for (std::size_t i = 0; i < given.size(); ++i) {
    if (wanted[before + i] != Py_True) continue;
    View view;
    found[before + i] = torch_->empty(given[0], call.views[i].shape, view);
    Real*& place = !i ? to.dx : i <= call.states ? to.dstate[i - 1] : to.dweights[i - 1 - call.states];
    place = view.data<Real>();
  }
  return tuple_of(found);
}

template <class Real>
void Stack::states_of(const Call& call, std::size_t number, Real* const* states, Real** to) const {
  for (std::size_t s = 0; s < this->states(); ++s)
    to[s] = states[s] ? states[s] + number * call.rows * layers_[0].state_width(s) : nullptr;
}

template <class Real, class From>
void Stack::weights_of(std::size_t number, From from, Real** to) const {
  for (std::size_t i = 0; i < places_.size(); ++i) to[places_[i]] = from(number * places_.size() + i);
}

template <class Real>
Sequence<Real> Stack::sequence(const Call& call, std::size_t number, const Layers<Real>& kept, Real* y) const {
  const std::size_t layer = number / directions_, side = number % directions_;
  const auto inner = [&](std::size_t i) { return i < kept.inner.size() ? kept.inner[i].data() : y; };
  Sequence<Real> s;
  s.steps = call.steps;
  s.rows = call.rows;
  s.reverse = side == 1;
  if (call.pieces && !call.pieces->lengths.empty()) s.lengths = call.pieces->lengths.data();
  if (call.pieces && !call.pieces->reset.empty()) s.reset = call.pieces->reset.data();
  s.x = layer ? call.series<const Real>(inner(layer - 1), width(), 0) : call.x<Real>();
  s.y = call.series(inner(layer), width(), side * layers_[number].width());
  const Real* initial[kMaxStates] = {};
  for (std::size_t i = 0; i < call.states; ++i) initial[i] = call.views[1 + i].data<Real>();
  states_of(call, number, initial, s.state);
  return s;
}

template <class Real>
void Stack::run(const Call& call, const Outputs<Real>& outputs, Keep keep, std::size_t threads, Layers<Real>& kept,
                Interrupt& interrupt) const {
  const InstructionSet& isa = isa_in_use();
  const Kernels<Real>& kernels = isa.kernels<Real>(call.half);
  const std::size_t last = layers_.size() / directions_ - 1;
  kept.inner.reserve(last);
  for (std::size_t number = 0; number < layers_.size(); ++number) {
    const std::size_t layer = number / directions_;
    if (layer == kept.inner.size() && layer < last) {
      // Where nothing is kept, two take turns.
      const bool again = keep == Keep::kNothing && layer > 1;
      kept.inner.push_back(again ? std::move(kept.inner[layer - 2]) : Buffer<Real>(call.steps * call.rows * width()));
    }
    Sequence<Real> s = sequence(call, number, kept, outputs.y);
    states_of(call, number, outputs.final, s.final);
    const Real* weights[kWeightKinds] = {};
    weights_of(number, [&](std::size_t i) { return call.weight<Real>(i); }, weights);
    auto tape = gatewise::forward(kernels, layers_[number], weights, s, keep, threads, interrupt);
    if (tape) kept.tapes.push_back(std::move(tape));
    if constexpr (std::is_same_v<Real, float>) {
      const bool whole = (number + 1) % directions_ == 0;
      if (call.half && whole && layer < last)
        isa.singles->rounding->round_in_place(kept.inner[layer].data(), call.steps * call.rows * width());
    }
  }
}

// For stack_rounded.cc.
template void Stack::run(const Call&, const Outputs<float>&, Keep, std::size_t, Layers<float>&, Interrupt&) const;

template <class Real>
void Stack::run_back(const Call& call, const Layers<Real>& kept, const Derivative<Real>& derivative,
                     std::size_t threads, Interrupt& interrupt) const {
  Buffer<Real> spare[2];
  const Real* dy = derivative.dy;
  Real* dx = nullptr;
  for (std::size_t number = layers_.size(); number-- > 0;) {
    const std::size_t layer = number / directions_, side = number % directions_;
    const bool first = side == directions_ - 1;
    if (first && layer) {
      Buffer<Real>& buffer = spare[layer % 2];
      if (!buffer) buffer = Buffer<Real>(call.steps * call.rows * width());
      dx = buffer.data();
    } else if (first) {
      dx = derivative.dx;
    }
    Gradients<Real> g;
    g.dy = call.series(dy, width(), side * layers_[number].width());
    g.dx = call.series(dx, layers_[number].inputs, 0);
    g.add_dx = !first;
    states_of(call, number, derivative.dfinal, g.dfinal);
    states_of(call, number, derivative.dstate, g.dstate);
    weights_of(number, [&](std::size_t i) { return derivative.dweights[i]; }, g.dweights);
    const Real* weights[kWeightKinds] = {};
    weights_of(number, [&](std::size_t i) { return call.weight<Real>(i); }, weights);
    const Sequence<Real> s = sequence(call, number, kept, derivative.y);
    gatewise::backward(layers_[number], weights, s, g, *kept.tapes[number], threads, interrupt);
    if (!side) dy = dx;
  }
}

}  // namespace gatewise
