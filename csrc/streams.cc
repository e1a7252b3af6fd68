#include <nanobind/stl/optional.h>

#include <algorithm>
#include <cstring>
#include <mutex>
#include <new>
#include <optional>
#include <stdexcept>
#include <string>
#include <utility>

#include "array.h"
#include "casters.h"
#include "model.h"
#include "python.h"
#include "runtime.h"

namespace nb = nanobind;

namespace gatewise {
namespace {

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

void bind_streams(nb::module_& m) {
  using namespace nb::literals;
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
