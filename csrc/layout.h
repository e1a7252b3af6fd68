// Where things lie in packed weights and in kept states: sizes that depend on the width of a vector.
//
// A block is kWidth hidden units, the last one padded with zeros; `line` is what it takes for one row of a block, the
// vectors of its learned gates side by side.
#pragma once

#include "narrow.h"
#include "schedule.h"

namespace gatewise {
namespace GATEWISE_ISA {

constexpr std::size_t kMiddleBytes = std::size_t{512} << 10;  // what a second-level cache holds
constexpr std::size_t kPanel = 3;  // the most vectors of a panel of outputs: four rows of them fill the registers

// With vectors of 64 bytes four of a line lie in two parts, so that a tile which takes two of them reads all that lies
// there: from behind the first-level cache that is 1.1 to 1.18 times as fast as to leave out every second pair.
constexpr std::size_t kPart = sizeof(Floats) == 64 ? 2 : kGates;

inline std::size_t vectors(std::size_t width) { return (width + kWidth - 1) / kWidth; }
inline std::size_t lanes_of(std::size_t block, std::size_t width) {
  const std::size_t left = width - block * kWidth;
  return left < kWidth ? left : kWidth;
}

// A matrix cut into panels of nearly equal width, at most kPanel vectors of outputs, each [depth][vectors][kWidth].
struct Panels {
  std::size_t vectors = 0, depth = 0;
  std::size_t size() const { return vectors * depth * kWidth; }
  std::size_t count() const { return (vectors + kPanel - 1) / kPanel; }
  std::size_t first(std::size_t panel) const { return panel * vectors / count(); }
  std::size_t vectors_of(std::size_t panel) const { return first(panel + 1) - first(panel); }
  std::size_t at(std::size_t panel) const { return first(panel) * depth * kWidth; }
  std::size_t panel_of(std::size_t vector) const { return ((vector + 1) * count() - 1) / vectors; }
};

struct Layout {
  explicit Layout(const Layer& layer)
      : blocks(vectors(layer.hidden)),
        padded(blocks * kWidth),
        line(layer.gates() * kWidth),
        part(layer.gates() == kGates ? kPart : layer.gates()),
        seen_depth(layer.seen_count * layer.hidden) {
    for (std::size_t i = 0; i < layer.seen_count; ++i) {
      const std::size_t end = layer.row.slot(layer.seen[i]) + 1;
      if (end > seen_vectors) seen_vectors = end;
    }
    // Fewer vectors are worth a kernel of their own for fgr only, whose candidate sees nothing.
    if (layer.seen_count && !(layer.gates() == 4 && seen_vectors == 3)) seen_vectors = layer.gates();
    block = seen_at(layer) + words(seen_depth) * seen_vectors * kWidth;
    projection = {vectors(layer.projected) + vectors(layer.beside), words(layer.hidden)};
    dh = {vectors(layer.recurrent()), layer.hidden * layer.gates()};
    dx = {vectors(layer.inputs), layer.hidden * layer.gates()};
    dseen = {layer.seen_count * blocks, layer.hidden * seen_vectors};
    dm = {blocks, layer.projected ? layer.width() : 0};
  }

  // Packed for forward: for each block [bias | x | h | seen], each [parts of a line][words][vectors of a part], the
  // bias [line]; then the vectors below; then the projections.
  std::size_t blocks, padded, line;
  std::size_t part;  // vectors of a part, the last of which may have fewer
  std::size_t seen_depth;
  std::size_t seen_vectors = 0;  // gates of a block that the gates of the step before reach
  std::size_t block = 0;
  std::size_t x_at() const { return line; }
  std::size_t h_at(const Layer& layer) const { return line * (1 + words(layer.inputs)); }
  std::size_t seen_at(const Layer& layer) const { return h_at(layer) + line * words(layer.recurrent()); }
  // Where vector v begins among `count` words of lines of `width` vectors, and how far the next word's is.
  std::size_t vector_at(std::size_t v, std::size_t count) const {
    return (v / part * part * count + v % part) * kWidth;
  }
  std::size_t vector_line(std::size_t v, std::size_t width) const {
    const std::size_t left = width - v / part * part;
    return (left < part ? left : part) * kWidth;
  }
  std::size_t peep_at(Gate gate) const { return blocks * block + gate * padded; }
  std::size_t gain_at(bool recurrent) const { return blocks * block + kGates * padded + recurrent * blocks * line; }
  std::size_t cell_gain_at(bool bias) const { return gain_at(true) + blocks * line + bias * padded; }
  std::size_t projection_at() const { return cell_gain_at(true) + padded; }
  Panels projection;
  std::size_t forward_size() const { return projection_at() + projection.size(); }

  // Packed for backward: gradients of h, x, the gates seen, and the cell's output before projection. Depth runs over
  // (unit, gate); for dm over the outputs.
  Panels dh, dx, dseen, dm;
  std::size_t dx_at() const { return dh.size(); }
  std::size_t dseen_at() const { return dx_at() + dx.size(); }
  std::size_t dm_at() const { return dseen_at() + dseen.size(); }
  std::size_t backward_size() const { return dm_at() + dm.size(); }

  // Sums that backward forms over row-steps besides the products, for each chunk and block: biases, peepholes, gains.
  std::size_t sums(const Layer& layer) const {
    return line + kGates * kWidth + (layer.layer_norm ? 2 * line + 2 * kWidth : 0);
  }

  // Packed gradients of the weights: for each block [D + R + seen][line]; then the projections'.
  std::size_t gradient_depth(const Layer& layer) const { return layer.inputs + layer.recurrent() + seen_depth; }
  std::size_t gradient_size(const Layer& layer) const {
    return blocks * line * gradient_depth(layer) + projection.size();
  }
};

}  // namespace GATEWISE_ISA
}  // namespace gatewise
