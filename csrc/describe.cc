#include "describe.h"

#include <stdexcept>

#include "words.h"

namespace gatewise {
namespace {

constexpr const char* kUpdates[] = {"recurrent", "additive", "exponential"};
constexpr const char* kKinds[] = {"absent", "open", "learned", "coupled"};
constexpr const char* kPeeps[] = {"none", "before", "after"};
constexpr const char* kSquashes[] = {"sigmoid", "tanh", "relu", "identity", "wide_sigmoid", "centred_sigmoid", "exp"};
constexpr const char* kGateNames[] = {"i", "f", "o", "g"};

}  // namespace

Layer make_layer(std::size_t inputs, std::size_t hidden, const std::string& update,
                 const std::vector<std::vector<std::string>>& gates, const std::string& output,
                 const std::vector<std::string>& seen, bool bias, bool layer_norm, std::optional<double> clip,
                 std::size_t projected, std::size_t beside) {
  Layer layer;
  layer.inputs = inputs;
  layer.hidden = hidden;
  layer.projected = projected;
  layer.beside = beside;
  layer.bias = bias;
  layer.layer_norm = layer_norm;
  layer.clips = clip.has_value();
  if (clip) layer.clip = *clip;
  layer.row.update = word<Update>(kUpdates, update);
  layer.row.output = word<Squash>(kSquashes, output);
  std::uint8_t learned = 0, peeping = 0;
  for (const auto& words : gates) {
    if (words.size() != 4) throw std::invalid_argument("a gate is four words.");
    const Gate gate = word<Gate>(kGateNames, words[0]);
    layer.row.gates[gate] = {word<Kind>(kKinds, words[1]), word<Squash>(kSquashes, words[2]),
                             word<Peep>(kPeeps, words[3])};
    if (layer.row.learned(gate)) layer.order[gate] = learned++;
    if (layer.row.gates[gate].peep != Peep::kNone) layer.peep_order[gate] = peeping++;
  }
  if (seen.size() > kGates) throw std::invalid_argument("a cell sees at most four gates.");
  for (const std::string& name : seen) layer.seen[layer.seen_count++] = word<Gate>(kGateNames, name);
  return layer;
}

}  // namespace gatewise
