// What the bindings share: work without the interpreter's lock.
#pragma once

#include <nanobind/nanobind.h>

#include <cstddef>
#include <span>
#include <string>

#include "engine.h"
#include "words.h"

namespace gatewise {

inline Keep keep_named(const std::string& name) {
  constexpr const char* kKeeps[] = {"nothing", "states", "all"};
  return word<Keep>(kKeeps, name);
}

// Lets Python see to its signals; an exception stays set and stops the work.
inline void poll_signals(void* data) {
  const nanobind::gil_scoped_acquire acquire;
  if (PyErr_CheckSignals() != 0) static_cast<Interrupt*>(data)->stop = true;
}

// Runs work without the interpreter's lock; long work is interruptible.
template <class Work>
auto interruptible(Work work) {
  Interrupt interrupt;
  interrupt.poll = poll_signals;
  interrupt.data = &interrupt;
  try {
    const nanobind::gil_scoped_release release;
    return work(interrupt);
  } catch (const Interrupted&) {
    throw nanobind::python_error();
  }
}

// A tuple that takes these.
inline nanobind::tuple tuple_of(std::span<nanobind::object> parts) {
  auto tuple = nanobind::steal<nanobind::tuple>(PyTuple_New(static_cast<Py_ssize_t>(parts.size())));
  if (!tuple.is_valid()) nanobind::raise_python_error();
  for (std::size_t i = 0; i < parts.size(); ++i)
    NB_TUPLE_SET_ITEM(tuple.ptr(), static_cast<Py_ssize_t>(i), parts[i].release().ptr());
  return tuple;
}

}  // namespace gatewise
