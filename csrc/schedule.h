// Which rows run together, and when: the same for every instruction set and any number of threads.
//
// Rows are sorted by length, the longest first, and cut into chunks of kChunk. Each row counts steps of its own: step s
// is time s, or in reverse time length - 1 - s. So the rows of a chunk that are still running are always its first
// ones, and what is kept for backward has a place for each step that is really taken, and none for padding.
#pragma once

#include <cstddef>
#include <vector>

#include "layer.h"

namespace gatewise {

// Sums of gradients over rows are formed chunk by chunk, which makes them independent of the number of threads.
constexpr std::size_t kChunk = 8;

struct Chunk {
  std::size_t index = 0;  // among all chunks
  std::size_t rows = 0;
  std::size_t row[kChunk] = {};          // the caller's row
  std::size_t length[kChunk] = {};       // descending
  std::size_t base = 0;                  // row-steps of the chunks before
  const std::size_t* offsets = nullptr;  // null where all lengths are equal

  std::size_t steps() const { return rows ? length[0] : 0; }
  // Row-steps of this chunk before step s, and the rows that take step s.
  std::size_t offset(std::size_t s) const { return offsets ? offsets[s] : s * rows; }
  std::size_t active(std::size_t s) const { return offset(s + 1) - offset(s); }
  std::size_t time(std::size_t r, std::size_t s, bool reverse) const { return reverse ? length[r] - 1 - s : s; }
};

class Schedule {
 public:
  // `lengths` [rows] as in Sequence.
  Schedule(std::size_t steps, std::size_t rows, const std::int64_t* lengths);
  Schedule(const Schedule&) = delete;
  Schedule& operator=(const Schedule&) = delete;

  const std::vector<Chunk>& chunks() const { return chunks_; }
  std::size_t row_steps() const { return row_steps_; }
  std::size_t steps() const { return chunks_.empty() ? 0 : chunks_.front().steps(); }

 private:
  std::vector<Chunk> chunks_;
  std::vector<std::size_t> offsets_;
  std::size_t row_steps_ = 0;
};

// Whether row r of a chunk restarts before its step s. A piece between resets is the same in both directions of time.
template <class Real>
bool restarts(const Sequence<Real>& sequence, const Chunk& chunk, std::size_t r, std::size_t s) {
  if (!sequence.reverse) return sequence.reset[s * sequence.rows + chunk.row[r]] != 0;
  return s > 0 && sequence.reset[(chunk.length[r] - s) * sequence.rows + chunk.row[r]] != 0;
}

}  // namespace gatewise
