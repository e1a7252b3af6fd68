#include <sstream>
#include <stdexcept>
#include <string>

#include "cases.h"
#include "executor.h"

using namespace gatewise;
using recorded::Case;
using recorded::Outputs;

namespace {

std::unique_ptr<Block> read_block(const Kernels<float>& kernels, std::istream& words) {
  std::string kind;
  words >> kind;
  if (kind == "recurrent") {
    RecurrentShape shape;
    std::size_t layers = 0, kinds = 0;
    words >> shape.directions >> shape.residual >> shape.learned_state >> shape.halved >> kinds;
    shape.kinds.resize(kinds);
    for (std::size_t& each : shape.kinds) words >> each;
    words >> layers;
    for (std::size_t i = 0; i < layers; ++i) shape.layers.push_back(read_layer(words));
    return make_recurrent(kernels, std::move(shape));
  }
  if (kind == "convolution") {
    ConvolutionShape shape;
    words >> shape.in >> shape.out >> shape.kernel >> shape.stride >> shape.dilation >> shape.causal;
    return make_convolution(kernels, shape);
  }
  std::size_t first = 0;
  double second = 0;
  words >> first >> second;
  const auto whole = static_cast<std::size_t>(second);
  if (kind == "embedding") return make_embedding(kernels, first, whole);
  if (kind == "linear") return make_linear(kernels, first, whole);
  if (kind == "layer_norm") return make_layer_norm(kernels, first, static_cast<float>(second));
  if (kind == "scaling") return make_scaling(kernels, first, whole != 0);
  if (kind == "mixture") return make_mixture(kernels, first, whole);
  throw std::runtime_error("no block '" + kind + "'.");
}

// Some steps of some rows, from the beginning of what is recorded.
Flow flow_of(const Case& given) {
  Flow flow;
  flow.data = given.find<float>("x");
  flow.tokens = given.find<std::int64_t>("tokens");
  const auto& shape = given.at(flow.data ? "x" : "tokens").shape;
  flow.steps = shape[0];
  flow.rows = shape[1];
  if (const auto* const lengths = given.find<std::int64_t>("lengths")) flow.lengths.assign(lengths, lengths + shape[1]);
  flow.reset = given.find<std::uint8_t>("reset");
  flow.candidates = given.find<float>("candidates");
  if (flow.candidates) flow.candidate_steps = given.at("candidates").shape[0];
  return flow;
}

// The first row alone, one step after the other.
void stream(const Executor& executor, const Case& given, const float* packed, float* y) {
  const Buffer<float> values(std::max<std::size_t>(executor.state_size(), 1)), scratch(executor.step_scratch());
  const States states = {values.data(), 1, nullptr};
  executor.begin(packed, states, 0);
  const Flow whole = flow_of(given);
  const std::size_t width = whole.data ? given.at("x").shape[2] : 0;
  for (std::size_t t = 0; t < whole.steps; ++t, y += executor.output_width()) {
    Flow one;
    one.steps = one.rows = 1;
    if (whole.data)
      one.data = whole.data + t * whole.rows * width;
    else
      one.tokens = whole.tokens + t * whole.rows;
    executor.step(packed, std::move(one), states, y, scratch.data());
  }
}

}  // namespace

void run_model(const Case& given, const Way& way, Outputs& outputs) {
  Executor executor;
  std::istringstream words(given.text("blocks"));
  std::vector<const float*> weights;
  std::size_t blocks = 0, count = 0;
  words >> blocks;
  while (blocks--) {
    auto block = read_block(way.isa.kernels<float>(), words);
    words >> count;
    for (std::size_t i = 0; i < count; ++i)
      weights.push_back(given.find<float>("weight." + std::to_string(weights.size())));
    executor.add(std::move(block), count);
  }
  const Buffer<float> packed(std::max<std::size_t>(executor.packed_size(), 1));
  executor.pack(weights, packed.data());
  Flow flow = flow_of(given);
  const Buffer<float> values(std::max<std::size_t>(flow.rows * executor.state_size(), 1));
  const States states = {values.data(), flow.rows, nullptr};
  for (std::size_t b = 0; b < flow.rows; ++b) executor.begin(packed.data(), states, b);
  Interrupt never;
  executor.check(flow);
  executor.run(packed.data(), std::move(flow), states, outputs.out<float>("y"), {way.threads, &never});
  if (float* const y = outputs.out<float>("stream")) stream(executor, given, packed.data(), y);
}

namespace {

template <class Real>
void run(const Case& given, const Way& way, Outputs& outputs) {
  const Real* const x = given.find<Real>("x");
  const MathArrays<Real>& math = way.isa.kernels<Real>().math;
  math.exp(x, outputs.out<Real>("exp"), given.at("x").count());
  math.sigmoid(x, outputs.out<Real>("sigmoid"), given.at("x").count());
  math.tanh(x, outputs.out<Real>("tanh"), given.at("x").count());
}

}  // namespace

void run_math(const Case& given, const Way& way, Outputs& outputs) {
  given.at("x").kind == 'd' ? run<double>(given, way, outputs) : run<float>(given, way, outputs);
}
