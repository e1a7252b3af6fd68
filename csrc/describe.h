// A layer from the words of gatewise.spec.
#pragma once

#include <cstddef>
#include <optional>
#include <string>
#include <vector>

#include "layer.h"

namespace gatewise {

// Gates in the order of their rows, each as name, kind, squash and peep. Throws std::invalid_argument for a word that
// there is not.
Layer make_layer(std::size_t inputs, std::size_t hidden, const std::string& update,
                 const std::vector<std::vector<std::string>>& gates, const std::string& output,
                 const std::vector<std::string>& seen, bool bias, bool layer_norm, std::optional<double> clip,
                 std::size_t projected, std::size_t beside);

}  // namespace gatewise
