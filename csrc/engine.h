// Whole operations on top of the kernels: they bring memory, threads and the order of things.
#pragma once

#include <memory>
#include <mutex>

#include "dispatch.h"
#include "memory.h"

namespace gatewise {

// What forward keeps for backward. kStates keeps the states only; backward then computes the gates again, a window of
// steps at a time, to the same bits.
enum class Keep { kNothing, kStates, kAll };

struct Interrupted {};

class Tape {
 public:
  const Kernels* kernels = nullptr;  // those that wrote it
  Buffer states;                     // Saved's history
  std::mutex mutex;                  // guards what follows: a backward takes it away
  Buffer window;                     // Saved's window of the whole sequence, until the first backward; or nothing
};

// Runs one direction of a layer. Fills padding of y and of traces with zeros. Throws std::bad_alloc, Interrupted.
std::unique_ptr<Tape> forward(const Kernels& kernels, const Layer& layer, const Weights& weights,
                              const Sequence& sequence, Keep keep, std::size_t threads, Interrupt& interrupt);

// The same of weights that were packed before, with nothing kept.
void forward_packed(const Kernels& kernels, const Layer& layer, const float* packed, const Sequence& sequence,
                    std::size_t threads, Interrupt& interrupt);

// One step of one row without threads, memory of its own or interruption: kernels.sizes' forward_scratch for it. With
// `halved` (see Job), which may be null, `packed` is not read.
void forward_step(const Kernels& kernels, const Layer& layer, const float* packed, const Bfloat* halved,
                  const Sequence& sequence, float* scratch);

// The gradients of that run, of which `sequence` must be the same, y still with its values. May be called again.
// Gradients of `start` are added to, all others written.
void backward(const Layer& layer, const Weights& weights, const Sequence& sequence, const Gradients& gradients,
              Tape& tape, std::size_t threads, Interrupt& interrupt);

}  // namespace gatewise
