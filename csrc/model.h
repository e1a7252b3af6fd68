// A model's blocks with their packed weights, as Python holds them: gatewise._native.Model.
#pragma once

#include <nanobind/nanobind.h>

#include <cstdint>
#include <memory>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include "dispatch.h"
#include "executor.h"

namespace gatewise {

using Address = std::uintptr_t;

// A model whose weights are packed, in memory that `owner` keeps.
class Model {
 public:
  Model() : isa_(isa_in_use()), kernels_(isa_.kernels<float>()) {}
  Model(const Model&) = delete;
  Model& operator=(const Model&) = delete;

  void add_recurrent(std::vector<Layer> layers, std::size_t directions, bool residual, bool learned, bool halved,
                     std::vector<std::size_t> kinds) {
    const std::size_t states = layers.at(0).states() * layers.size();
    const std::size_t weights = layers.size() * kinds.size() + (learned ? states : 0);
    if (!directions || layers.size() % directions) throw std::invalid_argument("layers and directions do not match.");
    executor.add(make_recurrent(kernels_, {std::move(layers), directions, residual, learned, halved, std::move(kinds)}),
                 weights);
    count_ += weights;
  }
  void add_embedding(std::size_t count, std::size_t width) { add(make_embedding(kernels_, count, width), 1); }
  void add_linear(std::size_t in, std::size_t out) { add(make_linear(kernels_, in, out), 2); }
  void add_layer_norm(std::size_t width, double eps) {
    add(make_layer_norm(kernels_, width, static_cast<float>(eps)), 2);
  }
  void add_convolution(std::size_t in, std::size_t out, std::size_t kernel, std::size_t stride, std::size_t dilation,
                       bool causal) {
    add(make_convolution(kernels_, {in, out, kernel, stride, dilation, causal}), 2);
  }
  void add_scaling(std::size_t width, bool inverse) { add(make_scaling(kernels_, width, inverse), 2); }
  void add_mixture(std::size_t candidates, std::size_t quantiles) {
    add(make_mixture(kernels_, candidates, quantiles), 0);
  }

  void pack(const std::vector<Address>& weights, Address to) const {
    if (weights.size() != count_) throw std::invalid_argument("an address for each weight.");
    std::vector<const float*> from;
    for (const Address each : weights) from.push_back(reinterpret_cast<const float*>(each));
    executor.pack(from, reinterpret_cast<float*>(to));
  }
  void bind(Address packed, nanobind::object owner) {
    packed_ = reinterpret_cast<const float*>(packed);
    owner_ = std::move(owner);
  }

  const float* packed() const {
    if (!packed_) throw std::logic_error("the weights are not packed.");
    return packed_;
  }
  std::string isa() const { return isa_.name; }

  // x [T, B, D], or tokens [T, B]; lengths [B]; reset [T, B]; candidates [T', B, K]; states as Executor has them; 0 is
  // none.
  void run(std::size_t steps, std::size_t rows, Address x, Address tokens, Address lengths, Address reset,
           std::pair<Address, std::size_t> candidates, Address states, Address y, std::size_t threads) const;

  Executor executor;

 private:
  void add(std::unique_ptr<Block> block, std::size_t weights) {
    executor.add(std::move(block), weights);
    count_ += weights;
  }

  const InstructionSet& isa_;
  const Kernels<float>& kernels_;
  std::size_t count_ = 0;
  const float* packed_ = nullptr;
  nanobind::object owner_;
};

}  // namespace gatewise
