// What the bindings share: words for enumerations, and work without the interpreter's lock.
#pragma once

#include <nanobind/nanobind.h>

#include <cstddef>
#include <stdexcept>
#include <string>

#include "engine.h"

namespace gatewise {

template <class Word, std::size_t kCount>
Word word(const char* const (&words)[kCount], const std::string& name) {
  for (std::size_t i = 0; i < kCount; ++i)
    if (name == words[i]) return static_cast<Word>(i);
  throw std::invalid_argument("no word '" + name + "'.");
}

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
