#include <memory>
#include <optional>
#include <sstream>
#include <string>
#include <type_traits>

#include "cases.h"
#include "describe.h"

using namespace gatewise;
using recorded::Case;
using recorded::Outputs;

Layer read_layer(std::istream& words) {
  std::size_t inputs = 0, hidden = 0, projected = 0, beside = 0, count = 0;
  bool bias = false, layer_norm = false;
  std::string update, output, clip;
  words >> inputs >> hidden >> projected >> beside >> bias >> layer_norm >> clip >> update >> output >> count;
  std::vector<std::string> seen(count);
  for (std::string& gate : seen) words >> gate;
  words >> count;
  std::vector<std::vector<std::string>> gates(count, std::vector<std::string>(4));
  for (auto& gate : gates)
    for (std::string& word : gate) words >> word;
  const std::optional<double> bound = clip == "none" ? std::nullopt : std::optional<double>(std::stod(clip));
  return make_layer(inputs, hidden, update, gates, output, seen, bias, layer_norm, bound, projected, beside);
}

namespace {

std::ptrdiff_t stride(std::size_t width) { return static_cast<std::ptrdiff_t>(width); }

// One direction of time. Names begin with its number.
template <class Real>
class Direction {
 public:
  Direction(const Case& given, Outputs& outputs, const Layer& layer, std::size_t number)
      : given_(given), outputs_(outputs), layer_(layer), number_(number), own_(std::to_string(number) + ".") {
    const auto& shape = given.at("x").shape;
    s_.steps = shape[0];
    s_.rows = shape[1];
    const std::string directions = given.text("directions");
    s_.reverse = directions[number] == 'b';
    across_ = layer.width() * directions.size();
    s_.x = {given.find<Real>("x"), stride(s_.rows * layer.inputs), stride(layer.inputs)};
    s_.lengths = given.find<std::int64_t>("lengths");
    s_.reset = given.find<std::uint8_t>("reset");
    s_.recurrent_mask = given.find<Real>(own_ + "noise.recurrent");
    s_.h_mask = given.find<Real>(own_ + "noise.h");
    s_.c_mask = given.find<Real>(own_ + "noise.c");
    for (std::size_t i = 0; i < layer.states(); ++i) {
      s_.state[i] = given.find<Real>(name("state", i));
      s_.start[i] = given.find<Real>(name("start", i));
    }
    for (std::size_t i = 0; i < kWeightKinds; ++i) weights_[i] = given.find<Real>(name("weight", i));
  }

  void forward(const Way& way, Real* y) {
    s_.y = {y + number_ * layer_.width(), stride(s_.rows * across_), stride(across_)};
    for (std::size_t i = 0; i < layer_.states(); ++i) s_.final[i] = outputs_.out<Real>(name("state", i));
    if (way.keep != Keep::kNothing)
      for (std::size_t i = 0; i < kTraces; ++i) s_.trace[i] = outputs_.out<Real>(name("trace", i));
    Interrupt never;
    tape_ = gatewise::forward<Real>(kernels(way.isa), layer_, weights_, s_, way.keep, way.threads, never);
  }

  void backward(const Way& way, Real* dx) {
    Gradients<Real> g;
    g.dy = {given_.find<Real>("cotangent y") + number_ * layer_.width(), stride(s_.rows * across_), stride(across_)};
    g.dx = {dx, stride(s_.rows * layer_.inputs), stride(layer_.inputs)};
    g.add_dx = number_ > 0;
    for (std::size_t i = 0; i < layer_.states(); ++i) {
      g.dfinal[i] = given_.find<Real>("cotangent " + name("state", i));
      g.dstate[i] = outputs_.out<Real>("d " + name("state", i));
      g.dstart[i] = outputs_.out<Real>("d " + name("start", i));
      if (g.dstart[i]) std::fill_n(g.dstart[i], s_.rows * layer_.state_width(i), Real{0});
    }
    for (std::size_t i = 0; i < kTraces; ++i) g.dtrace[i] = given_.find<Real>("cotangent " + name("trace", i));
    for (std::size_t i = 0; i < kWeightKinds; ++i) g.dweights[i] = outputs_.out<Real>("d " + name("weight", i));
    Interrupt never;
    gatewise::backward<Real>(layer_, weights_, s_, g, *tape_, way.threads, never);
  }

 private:
  const Kernels<Real>& kernels(const InstructionSet& isa) const {
    if constexpr (std::is_same_v<Real, float>)
      if (given_.arrays.count("narrow")) return *isa.narrow;
    return isa.kernels<Real>();
  }

  std::string name(const char* kind, std::size_t i) const { return own_ + kind + "." + std::to_string(i); }

  const Case& given_;
  Outputs& outputs_;
  const Layer& layer_;
  const std::size_t number_;
  const std::string own_;
  std::size_t across_ = 0;
  Sequence<Real> s_;
  const Real* weights_[kWeightKinds] = {};
  std::unique_ptr<Tape<Real>> tape_;
};

template <class Real>
void run(const Case& given, const Way& way, Outputs& outputs) {
  std::istringstream words(given.text("layer"));
  const Layer layer = read_layer(words);
  std::vector<std::unique_ptr<Direction<Real>>> directions;
  for (std::size_t i = 0; i < given.text("directions").size(); ++i)
    directions.push_back(std::make_unique<Direction<Real>>(given, outputs, layer, i));
  Real* const y = outputs.out<Real>("y");
  for (const auto& direction : directions) direction->forward(way, y);
  if (way.keep == Keep::kNothing) return;
  Real* const dx = outputs.out<Real>("d x");
  for (const auto& direction : directions) direction->backward(way, dx);
}

}  // namespace

void run_layer(const Case& given, const Way& way, Outputs& outputs) {
  given.at("x").kind == 'd' ? run<double>(given, way, outputs) : run<float>(given, way, outputs);
}
