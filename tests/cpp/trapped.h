// Lets an AVX-512 processor run vdpbf16ps, which it may lack: each one is computed when the processor refuses it.
#pragma once

namespace trapped {
// False where the processor has no AVX-512 whose registers a signal shows, or lacks BW, which the kernels use as well.
bool install();
// How many have been computed.
unsigned long count();
}  // namespace trapped
