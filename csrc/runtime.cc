#include "runtime.h"

#include <nanobind/stl/optional.h>
#include <nanobind/stl/string.h>

#include <algorithm>
#include <cstring>
#include <mutex>
#include <new>
#include <stdexcept>
#include <string>
#include <utility>

#include "array.h"
#include "casters.h"
#include "dispatch.h"
#include "executor.h"
#include "python.h"

namespace nb = nanobind;

namespace gatewise {
namespace {

using Address = std::uintptr_t;

// A model whose weights are packed, in memory that `owner` keeps.
class Model {
 public:
  Model() : isa_(isa_in_use()), kernels_(isa_.kernels<float>()) {}
  Model(const Model&) = delete;
  Model& operator=(const Model&) = delete;

  void add_recurrent(std::vector<Layer> layers, std::size_t directions, bool residual, bool learned, bool halved,
                     std::vector<std::size_t> kinds) {
    const std::size_t states = layers.at(0).states() * layers.size();
    const std::size_t weights = layers.size() * kinds.size() + (learned ? states : 0);
    if (!directions || layers.size() % directions) throw std::invalid_argument("layers and directions do not match.");
    executor.add(make_recurrent(kernels_, {std::move(layers), directions, residual, learned, halved, std::move(kinds)}),
                 weights);
    count_ += weights;
  }
  void add_embedding(std::size_t count, std::size_t width) { add(make_embedding(kernels_, count, width), 1); }
  void add_linear(std::size_t in, std::size_t out) { add(make_linear(kernels_, in, out), 2); }
  void add_layer_norm(std::size_t width, double eps) {
    add(make_layer_norm(kernels_, width, static_cast<float>(eps)), 2);
  }
  void add_convolution(std::size_t in, std::size_t out, std::size_t kernel, std::size_t stride, std::size_t dilation,
                       bool causal) {
    add(make_convolution(kernels_, {in, out, kernel, stride, dilation, causal}), 2);
  }
  void add_scaling(std::size_t width, bool inverse) { add(make_scaling(kernels_, width, inverse), 2); }
  void add_mixture(std::size_t candidates, std::size_t quantiles) {
    add(make_mixture(kernels_, candidates, quantiles), 0);
  }

  void pack(const std::vector<Address>& weights, Address to) const {
    if (weights.size() != count_) throw std::invalid_argument("an address for each weight.");
    std::vector<const float*> from;
    for (const Address each : weights) from.push_back(reinterpret_cast<const float*>(each));
    executor.pack(from, reinterpret_cast<float*>(to));
  }
  void bind(Address packed, nb::object owner) {
    packed_ = reinterpret_cast<const float*>(packed);
    owner_ = std::move(owner);
  }

  const float* packed() const {
    if (!packed_) throw std::logic_error("the weights are not packed.");
    return packed_;
  }
  std::string isa() const { return isa_.name; }

  // x [T, B, D], or tokens [T, B]; lengths [B]; reset [T, B]; candidates [T', B, K]; states as Executor has them; 0 is
  // none.
  void run(std::size_t steps, std::size_t rows, Address x, Address tokens, Address lengths, Address reset,
           std::pair<Address, std::size_t> candidates, Address states, Address y, std::size_t threads) const;

  Executor executor;

 private:
  void add(std::unique_ptr<Block> block, std::size_t weights) {
    executor.add(std::move(block), weights);
    count_ += weights;
  }

  const InstructionSet& isa_;
  const Kernels<float>& kernels_;
  std::size_t count_ = 0;
  const float* packed_ = nullptr;
  nb::object owner_;
};

void Model::run(std::size_t steps, std::size_t rows, Address x, Address tokens, Address lengths, Address reset,
                std::pair<Address, std::size_t> candidates, Address states, Address y, std::size_t threads) const {
  Flow flow;
  flow.steps = steps;
  flow.rows = rows;
  flow.data = reinterpret_cast<const float*>(x);
  flow.tokens = reinterpret_cast<const std::int64_t*>(tokens);
  if (lengths) {
    const auto* const from = reinterpret_cast<const std::int64_t*>(lengths);
    flow.lengths.assign(from, from + rows);
  }
  flow.reset = reinterpret_cast<const std::uint8_t*>(reset);
  flow.candidates = reinterpret_cast<const float*>(candidates.first);
  flow.candidate_steps = candidates.second;
  const States of = {reinterpret_cast<float*>(states), rows, nullptr};
  const float* const weights = packed();
  interruptible([&](Interrupt& interrupt) {
    executor.check(flow);
    executor.run(weights, std::move(flow), of, reinterpret_cast<float*>(y), {threads, &interrupt});
  });
}

// Frees the interpreter for steps that are longer than it takes to do so.
constexpr std::size_t kLongStep = std::size_t{1} << 20;
constexpr std::size_t kBurst = 1024;

// A model without states has no bytes, and a vector of none no address.
void copy_state(const nb::bytes& from, std::vector<float>& to) {
  if (!to.empty()) std::memcpy(to.data(), from.data(), from.size());
}

// One stream.
class Stream {
 public:
  // `make` returns a new array for the outputs of a step.
  Stream(std::shared_ptr<const Model> model, std::size_t inputs, nb::object make)
      : model_(std::move(model)),
        executor_(model_->executor),
        packed_(model_->packed()),
        inputs_(inputs),
        make_(std::move(make)),
        states_(std::max(executor_.state_size(), std::size_t{1})),
        scratch_(std::max(executor_.step_scratch(), std::size_t{1})) {
    if (const char* why = executor_.whole_only())
      throw nb::value_error((std::string("this model cannot go step by step: ") + why + ".").c_str());
    reset();
  }

  nb::object step(nb::handle x, nb::handle out) {
    nb::object y = out.is_none() ? make_() : nb::borrow(out);
    // A model of tokens has no inputs.
    const std::vector<std::size_t> shape = inputs_ ? std::vector<std::size_t>{inputs_} : std::vector<std::size_t>{1};
    const Array from(x, "x", inputs_ ? "f" : "l", shape, false);
    const Array to(y, "out", "f", {executor_.output_width()}, true);
    from.check_apart(to);
    executor_.check(flow(from, 0, 1));
    if (executor_.packed_size() < kLongStep) {
      go(from, to, 0, 1);
    } else {
      const nb::gil_scoped_release release;
      go(from, to, 0, 1);
    }
    return y;
  }

  // Several steps, one after the other: x [count, D], out [count, O]. Between bursts Python sees to its signals.
  void steps(nb::handle x, nb::handle out, std::size_t count) {
    const std::vector<std::size_t> shape = inputs_ ? std::vector<std::size_t>{count, inputs_} : std::vector{count};
    const Array from(x, "x", inputs_ ? "f" : "l", shape, false);
    const Array to(out, "out", "f", {count, executor_.output_width()}, true);
    from.check_apart(to);
    executor_.check(flow(from, 0, count));
    for (std::size_t first = 0; first < count; first += kBurst) {
      {
        const nb::gil_scoped_release release;
        go(from, to, first, std::min(first + kBurst, count));
      }
      if (PyErr_CheckSignals() != 0) throw nb::python_error();
    }
  }

  void reset() {
    const std::lock_guard<std::mutex> lock(mutex_);
    executor_.begin(packed_, states(), 0);
  }
  nb::bytes read() {
    std::vector<float> values(executor_.state_size());
    {
      const std::lock_guard<std::mutex> lock(mutex_);
      executor_.read(states(), 0, values.data());
    }
    return nb::bytes(values.data(), values.size() * sizeof(float));
  }
  void write(const nb::bytes& from) {
    if (from.size() != executor_.state_size() * sizeof(float)) throw std::invalid_argument("a state of another size.");
    std::vector<float> values(executor_.state_size());
    copy_state(from, values);
    const std::lock_guard<std::mutex> lock(mutex_);
    executor_.write(states(), 0, values.data());
  }

 private:
  States states() const { return {states_.data(), 1, nullptr}; }

  // Steps of one row, from `first` on.
  Flow flow(const Array& from, std::size_t first, std::size_t count) const {
    Flow flow;
    flow.steps = count;
    flow.rows = 1;
    if (inputs_)
      flow.data = from.data<const float>() + first * inputs_;
    else
      flow.tokens = from.data<const std::int64_t>() + first;
    return flow;
  }

  void go(const Array& from, const Array& to, std::size_t first, std::size_t last) {
    const std::lock_guard<std::mutex> lock(mutex_);
    for (std::size_t i = first; i < last; ++i) {
      float* const y = to.data<float>() + i * executor_.output_width();
      executor_.step(packed_, flow(from, i, 1), states(), y, scratch_.data());
    }
  }

  std::shared_ptr<const Model> model_;
  const Executor& executor_;
  const float* const packed_;
  const std::size_t inputs_;
  const nb::object make_;
  const Buffer<float> states_, scratch_;
  std::mutex mutex_;  // never waited for by one who holds the interpreter's lock and is waited for
};

// Many streams over one model.
class Pool {
 public:
  Pool(std::shared_ptr<const Model> model, std::size_t inputs, std::size_t capacity, std::size_t threads)
      : model_(std::move(model)),
        executor_(model_->executor),
        packed_(model_->packed()),
        inputs_(inputs),
        threads_(threads),
        states_(std::max(executor_.state_size() * capacity, std::size_t{1})),
        open_(capacity, 0),
        stamp_(capacity, 0) {
    if (const char* why = executor_.whole_only())
      throw nb::value_error((std::string("this model cannot go step by step: ") + why + ".").c_str());
    for (std::size_t slot = capacity; slot-- > 0;) free_.push_back(slot);
  }

  // Null if all slots are taken.
  std::optional<std::size_t> open(const std::optional<nb::bytes>& state) {
    const std::vector<float> values = floats(state);
    const nb::gil_scoped_release release;
    const std::lock_guard<std::mutex> lock(mutex_);
    if (free_.empty()) return {};
    const std::size_t slot = free_.back();
    if (state)
      executor_.write(states(), slot, values.data());
    else
      executor_.begin(packed_, states(), slot);
    // Only now: the others may throw.
    free_.pop_back();
    open_[slot] = 1;
    return slot;
  }
  // Whether it was open.
  bool close(std::size_t slot) {
    const nb::gil_scoped_release release;
    const std::lock_guard<std::mutex> lock(mutex_);
    if (slot >= open_.size() || !open_[slot]) return false;
    open_[slot] = 0;
    free_.push_back(slot);
    return true;
  }
  // Null if the slot is not open.
  std::optional<nb::bytes> snapshot(std::size_t slot) {
    std::vector<float> values(executor_.state_size());
    {
      const nb::gil_scoped_release release;
      const std::lock_guard<std::mutex> lock(mutex_);
      if (slot >= open_.size() || !open_[slot]) return {};
      executor_.read(states(), slot, values.data());
    }
    return nb::bytes(values.data(), values.size() * sizeof(float));
  }
  std::size_t live() {
    const nb::gil_scoped_release release;
    const std::lock_guard<std::mutex> lock(mutex_);
    return open_.size() - free_.size();
  }

  // Returns the place of a slot that is not open or comes twice, before anything has changed; else -1.
  std::ptrdiff_t step(nb::handle slots, nb::handle x, nb::handle y, std::size_t rows) {
    const Array places(slots, "slots", "l", {rows}, false);
    const std::vector<std::size_t> shape = inputs_ ? std::vector<std::size_t>{rows, inputs_} : std::vector{rows};
    const Array from(x, "x", inputs_ ? "f" : "l", shape, false);
    const Array to(y, "out", "f", {rows, executor_.output_width()}, true);
    from.check_apart(to);
    std::ptrdiff_t wrong = -1;
    interruptible([&](Interrupt& interrupt) {
      const std::lock_guard<std::mutex> lock(mutex_);
      const std::vector<std::size_t> checked = check(places.data<const std::int64_t>(), rows, wrong);
      if (wrong >= 0) return;
      Flow flow;
      flow.steps = 1;
      flow.rows = rows;
      if (inputs_)
        flow.data = from.data<const float>();
      else
        flow.tokens = from.data<const std::int64_t>();
      executor_.check(flow);
      States of = states();
      of.slots = checked.data();
      // A step is short, and half of one would leave some streams ahead of others.
      interrupt.poll = nullptr;
      const std::size_t state_size = executor_.state_size();
      const Buffer<float> before(std::max(rows * state_size, std::size_t{1}));
      for (std::size_t i = 0; i < rows; ++i) executor_.read(states(), checked[i], before.data() + i * state_size);
      try {
        executor_.run(packed_, std::move(flow), of, to.data<float>(), {threads_, &interrupt});
      } catch (const std::bad_alloc&) {
        // The first blocks have stepped, the others have not.
        for (std::size_t i = 0; i < rows; ++i) executor_.write(states(), checked[i], before.data() + i * state_size);
        throw;
      }
    });
    return wrong;
  }

 private:
  States states() const { return {states_.data(), open_.size(), nullptr}; }

  std::vector<std::size_t> check(const std::int64_t* slots, std::size_t rows, std::ptrdiff_t& wrong) {
    std::vector<std::size_t> checked(rows);
    ++now_;
    for (std::size_t i = 0; i < rows; ++i) {
      const auto slot = static_cast<std::size_t>(slots[i]);
      if (slot >= open_.size() || !open_[slot] || stamp_[slot] == now_) {
        wrong = static_cast<std::ptrdiff_t>(i);
        return {};
      }
      stamp_[slot] = now_;
      checked[i] = slot;
    }
    return checked;
  }

  std::vector<float> floats(const std::optional<nb::bytes>& state) const {
    if (!state) return {};
    if (state->size() != executor_.state_size() * sizeof(float))
      throw std::invalid_argument("a state of another size.");
    std::vector<float> values(executor_.state_size());
    copy_state(*state, values);
    return values;
  }

  std::shared_ptr<const Model> model_;
  const Executor& executor_;
  const float* const packed_;
  const std::size_t inputs_, threads_;
  const Buffer<float> states_;
  std::vector<std::uint8_t> open_;
  std::vector<std::uint64_t> stamp_;  // the step in which a slot was last
  std::uint64_t now_ = 0;
  std::vector<std::size_t> free_;
  std::mutex mutex_;
};

}  // namespace

void bind_runtime(nb::module_& m) {
  using namespace nb::literals;
  nb::class_<Model>(m, "Model")
      .def(nb::init<>())
      .def("add_recurrent", &Model::add_recurrent, "layers"_a, "directions"_a, "residual"_a, "learned"_a, "halved"_a,
           "kinds"_a)
      .def("add_embedding", &Model::add_embedding, "count"_a, "width"_a)
      .def("add_linear", &Model::add_linear, "inputs"_a, "outputs"_a)
      .def("add_layer_norm", &Model::add_layer_norm, "width"_a, "eps"_a)
      .def("add_convolution", &Model::add_convolution, "inputs"_a, "outputs"_a, "kernel"_a, "stride"_a, "dilation"_a,
           "causal"_a)
      .def("add_scaling", &Model::add_scaling, "width"_a, "inverse"_a)
      .def("add_mixture", &Model::add_mixture, "candidates"_a, "quantiles"_a)
      .def("pack", &Model::pack, "weights"_a, "to"_a)
      .def("bind", &Model::bind, "packed"_a, "owner"_a)
      .def_prop_ro("isa", &Model::isa)
      .def_prop_ro("packed_size", [](const Model& model) { return model.executor.packed_size(); })
      .def_prop_ro("state_size", [](const Model& model) { return model.executor.state_size(); })
      .def_prop_ro("whole_only",
                   [](const Model& model) -> std::optional<std::string> {
                     const char* const why = model.executor.whole_only();
                     return why ? std::optional<std::string>(why) : std::nullopt;
                   })
      .def("begin",
           [](const Model& model, Address states, std::size_t rows) {
             for (std::size_t b = 0; b < rows; ++b)
               model.executor.begin(model.packed(), {reinterpret_cast<float*>(states), rows, nullptr}, b);
           })
      .def("run", [](const Model& model, std::size_t steps, std::size_t rows, Address x, Address tokens,
                     Address lengths, Address reset, Address candidates, std::size_t candidate_steps, Address states,
                     Address y, std::size_t threads) {
        model.run(steps, rows, x, tokens, lengths, reset, {candidates, candidate_steps}, states, y, threads);
      });
  nb::class_<Stream>(m, "Stream")
      .def(nb::init<std::shared_ptr<const Model>, std::size_t, nb::object>(), "model"_a, "inputs"_a, "make"_a)
      .def("step", &Stream::step, "x"_a.none(), "out"_a = nb::none())
      .def("_steps", &Stream::steps, "x"_a, "out"_a, "count"_a)
      .def("reset", &Stream::reset)
      .def("read", &Stream::read)
      .def("write", &Stream::write);
  nb::class_<Pool>(m, "Pool")
      .def(nb::init<std::shared_ptr<const Model>, std::size_t, std::size_t, std::size_t>(), "model"_a, "inputs"_a,
           "capacity"_a, "threads"_a)
      .def("open", &Pool::open, "state"_a.none())
      .def("close", &Pool::close, "slot"_a)
      .def("snapshot", &Pool::snapshot, "slot"_a)
      .def("live", &Pool::live)
      .def("step", &Pool::step, "slots"_a, "x"_a, "out"_a, "rows"_a);
}

}  // namespace gatewise
