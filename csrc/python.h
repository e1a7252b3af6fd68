// What the bindings share: work without the interpreter's lock.
#pragma once

#include <nanobind/nanobind.h>

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

}  // namespace gatewise
