// Whole operations on top of the kernels: they bring memory, threads and the order of things.
#pragma once

#include <memory>
#include <mutex>

#include "kernels.h"
#include "memory.h"

namespace gatewise {

// What forward keeps for backward. kStates keeps the states only; backward then computes the gates again, a window of
// steps at a time, to the same bits.
enum class Keep { kNothing, kStates, kAll };

struct Interrupted {};

template <class Real>
class Tape {
 public:
  const Kernels<Real>* kernels = nullptr;  // those that wrote it
  Buffer<Real> states;                     // Saved's history
  std::mutex mutex;                        // guards what follows: a backward takes it away
  Buffer<Real> window;                     // Saved's window of the whole sequence, until the first backward; or nothing
};

// Runs one direction of a layer. Fills padding of y and of traces with zeros. Throws std::bad_alloc, Interrupted.
template <class Real>
std::unique_ptr<Tape<Real>> forward(const Kernels<Real>& kernels, const Layer& layer, const Weights<Real>& weights,
                                    const Sequence<Real>& sequence, Keep keep, std::size_t threads,
                                    Interrupt& interrupt);

// The same of weights that were packed before, with nothing kept.
void forward_packed(const Kernels<float>& kernels, const Layer& layer, const float* packed,
                    const Sequence<float>& sequence, std::size_t threads, Interrupt& interrupt);

// One step of one row without threads, memory of its own or interruption: kernels.sizes' forward_scratch for it. With
// `halved` (see Job), which may be null, `packed` is not read.
void forward_step(const Kernels<float>& kernels, const Layer& layer, const float* packed, const Bfloat* halved,
                  const Sequence<float>& sequence, float* scratch);

// The gradients of that run, of which `sequence` must be the same, y still with its values. May be called again.
// Gradients of `start` are added to, all others written.
template <class Real>
void backward(const Layer& layer, const Weights<Real>& weights, const Sequence<Real>& sequence,
              const Gradients<Real>& gradients, Tape<Real>& tape, std::size_t threads, Interrupt& interrupt);

}  // namespace gatewise
