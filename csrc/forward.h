// One group of chunks going through time. See forward.cc.
#pragma once

#include "kernels.h"
#include "norm.h"
#include "panels.h"
#include "pointwise.h"
#include "scratch.h"

namespace gatewise {
namespace {

// A run of products with the same source: `count` elements from `from`, at `at` in a block's weights.
struct Piece {
  enum Source : std::size_t { kX, kHidden, kSeen } source;
  std::size_t from, count, at;
};

// Pieces first <= p < last are multiplied while their weights stay in the first-level cache.
struct PieceGroup {
  std::size_t first, last;
};

// The rows of one chunk in forward. Arrays of pointers have kChunk elements.
struct ForwardRows {
  const Chunk* chunk;
  std::size_t active;
  const float* source[3][kChunk];  // by Piece::Source
  const float* h_old[kChunk];      // h before dropout
  float* y[kChunk];
  float* unprojected[kChunk];
  const float* h_mask[kChunk];
  const float* c_mask[kChunk];
  float* trace[kTraces][kChunk];
  float* seen[kGates][kChunk];
  float* c;          // planes of [blocks][kChunk][kWidth]
  float* gates;      // of a block, where nothing is kept
  float* masked;     // [kChunk][R]
  float* seen_rows;  // two steps of [kChunk][seen]
  float* m_rows;     // [kChunk][padded]
  float* out;        // of projections
  float *norm_x, *norm_h, *fresh, *stats;
};

}  // namespace
}  // namespace gatewise
