#include "engine.h"

#include <memory>
#include <new>

namespace gatewise {
namespace {

constexpr std::align_val_t kCacheLine{64};
// A thread keeps up to this much between calls: fresh pages from the system would cost small calls more than their
// arithmetic, and large calls nothing worth noticing.
constexpr std::size_t kKeep = std::size_t{4} << 20;

struct Free {
  void operator()(float* memory) const { ::operator delete(memory, kCacheLine); }
};
using Buffer = std::unique_ptr<float, Free>;

Buffer allocate(std::size_t floats) {
  return Buffer(static_cast<float*>(::operator new(floats * sizeof(float), kCacheLine)));
}

// Calls `use` with scratch memory of this thread.
template <class Use>
void with_scratch(std::size_t floats, Use use) {
  thread_local Buffer kept;
  thread_local std::size_t size = 0;
  if (floats * sizeof(float) > kKeep) {
    use(allocate(floats).get());
    return;
  }
  if (size < floats) {
    size = 0;
    kept.reset();
    kept = allocate(floats);
    size = floats;
  }
  use(kept.get());
}

}  // namespace

void lstm_forward(const Kernels& kernels, const LstmWeights& weights, const LstmSequence& sequence) {
  const LstmForward& kernel = *kernels.lstm_forward;
  if (sequence.rows == 0) return;
  const std::size_t packed = kernel.packed_size(sequence.inputs, sequence.hidden);
  const std::size_t cells = kernel.cells_size(sequence.rows, sequence.hidden);
  with_scratch(packed + cells, [&](float* scratch) {
    kernel.pack(weights, sequence.inputs, sequence.hidden, scratch);
    kernel.run(sequence, scratch, scratch + packed, 0, sequence.rows);
  });
}

}  // namespace gatewise
