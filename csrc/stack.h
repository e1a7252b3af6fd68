// The layers of a module as one call: what reads torch's tensors and makes the results, forward and backward.
#pragma once

#include <nanobind/nanobind.h>

#include <cstddef>
#include <memory>
#include <optional>
#include <string>
#include <variant>
#include <vector>

#include "engine.h"
#include "tensor.h"

namespace gatewise {

// What a tuple holds, borrowed, from the `first` on. One by one: the stable ABI does not tell where a tuple's items
// lie.
class Objects {
 public:
  Objects() = default;
  explicit Objects(nanobind::handle tuple, std::size_t first = 0)
      : tuple_(tuple), first_(first), size_(static_cast<std::size_t>(NB_TUPLE_GET_SIZE(tuple.ptr())) - first) {}

  std::size_t size() const { return size_; }
  PyObject* operator[](std::size_t i) const {
    return NB_TUPLE_GET_ITEM(tuple_.ptr(), static_cast<Py_ssize_t>(first_ + i));
  }
  Objects rest() const {
    Objects all_but_first = *this;
    ++all_but_first.first_;
    --all_but_first.size_;
    return all_but_first;
  }

 private:
  nanobind::handle tuple_;
  std::size_t first_ = 0, size_ = 0;
};

// What cuts the rows of a batch: their ends, and where they restart. Copies: the caller may change what was given.
struct Pieces {
  std::vector<std::int64_t> lengths;  // [B], or empty
  std::vector<std::uint8_t> reset;    // [T, B], or empty
  std::size_t steps = 0;              // of reset

  bool fit(std::size_t all_steps, std::size_t all_rows) const;
};

// The outputs below the last layer, and a tape for each layer and direction.
template <class Real>
struct Layers {
  std::vector<Buffer<Real>> inner;
  std::vector<std::unique_ptr<Tape<Real>>> tapes;
};

// What forward keeps for backward.
struct Kept {
  Kept() = default;
  Kept(Kept&&) = default;  // and no copies

  bool batch_first = false;
  std::size_t steps = 0, rows = 0;
  std::shared_ptr<const Pieces> pieces;
  std::variant<Layers<float>, Layers<double>> layers;
};

// `given` are x, the initial states if there are any, and the weights, layer by layer: all of float32, of float64, or
// of bfloat16, which is widened, and the results rounded, layer by layer. `autocast`, if it asks for bfloat16, rounds
// the same way, and takes float32 and bfloat16 together. With the interpreter's lock only, which is free while the
// engine works.
class Stack {
 public:
  // Places (Weight), names and shapes are those of the parameters of each layer and direction. Of a `step` x is [B, D]
  // and a state [B, ·], else [T, B, D] or [B, T, D] and [L·S, B, ·].
  Stack(std::shared_ptr<const Torch> torch, std::vector<Layer> layers, std::size_t directions, bool step,
        std::vector<std::size_t> places, nanobind::tuple names, const std::vector<std::vector<std::size_t>>& shapes);

  // Lengths, int64 [B], and resets, bool laid out as the call, each or None; null if they cannot be read.
  std::unique_ptr<Pieces> cut(nanobind::handle lengths, nanobind::handle reset, bool batch_first) const;

  // The tensors of a call and whether one requires a gradient; or None if the call does not fit: a tensor is missing,
  // or the engine cannot read it as it is, or a gradient is required of what would be rounded.
  nanobind::object gather(nanobind::handle parameters, nanobind::handle x, nanobind::handle states, bool batch_first,
                          const Pieces* pieces, bool autocast) const;
  // The results of a call whose gradient nobody wants, as `forward` returns them; or None if it does not fit.
  nanobind::object infer(nanobind::handle parameters, nanobind::handle x, nanobind::handle states, bool batch_first,
                         const Pieces* pieces, bool autocast, std::size_t threads) const;
  // The results, y (which a step has not: it is its h) and the final states; and what is kept, or None. `given` is what
  // gather returned.
  nanobind::tuple forward(const nanobind::tuple& given, bool batch_first, std::shared_ptr<const Pieces> pieces,
                          bool autocast, const std::string& keep, std::size_t threads) const;
  // The gradients of all that is `wanted`, the last of which are the given tensors, None for the others; or None if a
  // saved tensor is not what it was, or a gradient cannot be read. `saved` are the first result and what was given.
  nanobind::object backward(const Kept& kept, const nanobind::tuple& saved, const nanobind::tuple& wanted,
                            const nanobind::tuple& gradients, std::size_t threads) const;

 private:
  struct Call;
  template <class Real>
  struct Outputs;
  template <class Real>
  struct Derivative;

  std::size_t states() const { return layers_[0].states(); }
  std::size_t width() const { return layers_[0].width() * directions_; }
  Shape output_shape(const Call& call) const;
  Shape state_shape(const Call& call, std::size_t state) const;

  // What gather and infer have in common: a call if it fits, whose addresses hold as long as `given`, its tensors.
  std::optional<Call> collect(nanobind::handle parameters, nanobind::handle x, nanobind::handle states,
                              bool batch_first, const Pieces* pieces, bool autocast, nanobind::tuple& given) const;
  std::optional<Call> read(Objects given, bool batch_first, const Pieces* pieces, bool autocast) const;
  bool holds(Objects given, const Call& call) const;
  // The results of either type; what is kept goes to `kept`.
  nanobind::tuple results_of(Objects given, const Call& call, Keep keep, std::size_t threads, Kept& kept) const;
  nanobind::tuple rounded_of(Call call, std::size_t threads) const;
  template <class Real>
  nanobind::tuple forward_of(Objects given, const Call& call, Keep keep, std::size_t threads, Kept& kept) const;
  template <class Real>
  nanobind::object backward_of(const Kept& kept, Objects saved, Objects wanted, Objects gradients, const Call& call,
                               std::size_t threads) const;
  template <class Real>
  bool read_gradients(const Call& call, Objects gradients, Derivative<Real>& to) const;
  template <class Real>
  nanobind::tuple make_gradients(const Call& call, Objects given, Objects wanted, Derivative<Real>& to) const;

  template <class Real>
  Sequence<Real> sequence(const Call& call, std::size_t number, const Layers<Real>& kept, Real* y) const;
  template <class Real>
  void states_of(const Call& call, std::size_t number, Real* const* states, Real** to) const;
  template <class Real, class From>
  void weights_of(std::size_t number, From from, Real** to) const;
  template <class Real>
  void run(const Call& call, const Outputs<Real>& outputs, Keep keep, std::size_t threads, Layers<Real>& kept,
           Interrupt& interrupt) const;
  template <class Real>
  void run_back(const Call& call, const Layers<Real>& kept, const Derivative<Real>& derivative, std::size_t threads,
                Interrupt& interrupt) const;

  std::shared_ptr<const Torch> torch_;
  std::vector<Layer> layers_;
  std::size_t directions_;
  bool step_;
  std::vector<std::size_t> places_;
  nanobind::tuple names_;
  std::vector<Shape> shapes_;
};

}  // namespace gatewise
