#include "schedule.h"

#include <algorithm>
#include <numeric>

namespace gatewise {

Schedule::Schedule(std::size_t steps, std::size_t rows, const std::int64_t* lengths) {
  const auto length = [&](std::size_t row) { return lengths ? static_cast<std::size_t>(lengths[row]) : steps; };
  std::vector<std::size_t> order(rows);
  std::iota(order.begin(), order.end(), std::size_t{0});
  if (lengths)
    std::stable_sort(order.begin(), order.end(), [&](std::size_t a, std::size_t b) { return length(a) > length(b); });
  chunks_.resize((rows + kChunk - 1) / kChunk);
  for (std::size_t i = 0; i < rows; ++i) {
    Chunk& chunk = chunks_[i / kChunk];
    chunk.index = i / kChunk;
    chunk.row[chunk.rows] = order[i];
    chunk.length[chunk.rows++] = length(order[i]);
  }
  std::size_t count = 0;
  if (lengths)
    for (const Chunk& chunk : chunks_) count += chunk.steps() + 1;
  offsets_.reserve(count);
  for (Chunk& chunk : chunks_) {
    chunk.base = row_steps_;
    if (lengths) {
      chunk.offsets = offsets_.data() + offsets_.size();
      std::size_t sum = 0, active = chunk.rows;
      for (std::size_t s = 0; s <= chunk.steps(); ++s) {
        offsets_.push_back(sum);
        while (active && chunk.length[active - 1] <= s) --active;
        sum += active;
      }
    }
    row_steps_ += chunk.offset(chunk.steps());
  }
}

}  // namespace gatewise
