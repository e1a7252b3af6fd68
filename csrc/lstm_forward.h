// Forward pass of the vanilla LSTM over a whole sequence, one layer and direction, float32.
//
//   pre_g = (b_ih + b_hh) + sum_k w_ih[g][k] x[k] + sum_k w_hh[g][k] h[k]     in this order, for each gate g
//   c     = f c + i g           i, f, o = sigmoid(pre), g = tanh(pre)
//   h     = o tanh(c)
//
// as gatewise.reference.scan defines it. No torch and no Python here; every length is in floats.
#pragma once

#include <cstddef>

namespace gatewise {

// Row-major and dense: w_ih [4H, D], w_hh [4H, H], b_ih and b_hh [4H], both null for a layer without biases.
// order names the four blocks of H rows, as "ifgo" does. Read only during pack().
struct LstmWeights {
  const float* w_ih;
  const float* w_hh;
  const float* b_ih;
  const float* b_hh;
  const char* order;
};

// One batch of sequences. Element (t, b, k) of x is x[t * x_time + b * x_row + k]; of y likewise. h0, c0, h_n and c_n
// are dense [B, H]. y, h_n and c_n are written and must overlap neither each other nor anything that is read, with one
// exception: h_n may be h0 and c_n may be c0. No pointer is kept. With reverse, time runs from the last step to the
// first. With no steps, the state is copied and x and y are not touched.
struct LstmSequence {
  std::size_t steps;
  std::size_t rows;
  std::size_t inputs;
  std::size_t hidden;
  const float* x;
  std::ptrdiff_t x_time;
  std::ptrdiff_t x_row;
  const float* h0;
  const float* c0;
  float* y;
  std::ptrdiff_t y_time;
  std::ptrdiff_t y_row;
  float* h_n;
  float* c_n;
  bool reverse;
};

// The kernel as compiled for one instruction set. None of these allocates, throws, or keeps state.
struct LstmForward {
  // Lengths of the two buffers the caller provides. They need no alignment and no initial value.
  std::size_t (*packed_size)(std::size_t inputs, std::size_t hidden);
  std::size_t (*cells_size)(std::size_t rows, std::size_t hidden);

  // Fills packed, which is then read by any number of run() calls, from any thread.
  void (*pack)(const LstmWeights& weights, std::size_t inputs, std::size_t hidden, float* packed);

  // Runs rows first <= b < last. Calls on disjoint rows may run at the same time, each with its own cells of
  // cells_size(last - first, hidden). What a row computes does not depend on which rows run beside it.
  void (*run)(const LstmSequence& sequence, const float* packed, float* cells, std::size_t first, std::size_t last);
};

}  // namespace gatewise
