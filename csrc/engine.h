// Whole operations on top of the kernels: they provide the scratch memory.
#pragma once

#include "dispatch.h"

namespace gatewise {

// Packs the weights and runs all rows. Throws std::bad_alloc; nothing is written then.
void lstm_forward(const Kernels& kernels, const LstmWeights& weights, const LstmSequence& sequence);

}  // namespace gatewise
