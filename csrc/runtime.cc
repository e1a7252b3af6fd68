#include "runtime.h"

#include <nanobind/stl/optional.h>
#include <nanobind/stl/string.h>

#include <optional>

#include "casters.h"
#include "model.h"
#include "python.h"

namespace nb = nanobind;

namespace gatewise {

void Model::run(std::size_t steps, std::size_t rows, Address x, Address tokens, Address lengths, Address reset,
                std::pair<Address, std::size_t> candidates, Address states, Address y, std::size_t threads) const {
  Flow flow;
  flow.steps = steps;
  flow.rows = rows;
  flow.data = reinterpret_cast<const float*>(x);
  flow.tokens = reinterpret_cast<const std::int64_t*>(tokens);
  if (lengths) {
    const auto* const from = reinterpret_cast<const std::int64_t*>(lengths);
    flow.lengths.assign(from, from + rows);
  }
  flow.reset = reinterpret_cast<const std::uint8_t*>(reset);
  flow.candidates = reinterpret_cast<const float*>(candidates.first);
  flow.candidate_steps = candidates.second;
  const States of = {reinterpret_cast<float*>(states), rows, nullptr};
  const float* const weights = packed();
  interruptible([&](Interrupt& interrupt) {
    executor.check(flow);
    executor.run(weights, std::move(flow), of, reinterpret_cast<float*>(y), {threads, &interrupt});
  });
}

void bind_runtime(nb::module_& m) {
  using namespace nb::literals;
  nb::class_<Model>(m, "Model")
      .def(nb::init<>())
      .def("add_recurrent", &Model::add_recurrent, "layers"_a, "directions"_a, "residual"_a, "learned"_a, "halved"_a,
           "kinds"_a)
      .def("add_embedding", &Model::add_embedding, "count"_a, "width"_a)
      .def("add_linear", &Model::add_linear, "inputs"_a, "outputs"_a)
      .def("add_layer_norm", &Model::add_layer_norm, "width"_a, "eps"_a)
      .def("add_convolution", &Model::add_convolution, "inputs"_a, "outputs"_a, "kernel"_a, "stride"_a, "dilation"_a,
           "causal"_a)
      .def("add_scaling", &Model::add_scaling, "width"_a, "inverse"_a)
      .def("add_mixture", &Model::add_mixture, "candidates"_a, "quantiles"_a)
      .def("pack", &Model::pack, "weights"_a, "to"_a)
      .def("bind", &Model::bind, "packed"_a, "owner"_a)
      .def_prop_ro("isa", &Model::isa)
      .def_prop_ro("packed_size", [](const Model& model) { return model.executor.packed_size(); })
      .def_prop_ro("state_size", [](const Model& model) { return model.executor.state_size(); })
      .def_prop_ro("whole_only",
                   [](const Model& model) -> std::optional<std::string> {
                     const char* const why = model.executor.whole_only();
                     return why ? std::optional<std::string>(why) : std::nullopt;
                   })
      .def("begin",
           [](const Model& model, Address states, std::size_t rows) {
             for (std::size_t b = 0; b < rows; ++b)
               model.executor.begin(model.packed(), {reinterpret_cast<float*>(states), rows, nullptr}, b);
           })
      .def("run", [](const Model& model, std::size_t steps, std::size_t rows, Address x, Address tokens,
                     Address lengths, Address reset, Address candidates, std::size_t candidate_steps, Address states,
                     Address y, std::size_t threads) {
        model.run(steps, rows, x, tokens, lengths, reset, {candidates, candidate_steps}, states, y, threads);
      });
  bind_streams(m);
}

}  // namespace gatewise
