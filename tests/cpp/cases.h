// The kinds of cases, each as a call of the engine.
#pragma once

#include <cstddef>

#include "dispatch.h"
#include "engine.h"
#include "recorded.h"

struct Way {
  const gatewise::InstructionSet& isa;
  gatewise::Keep keep;  // kNothing is forward alone, without traces
  std::size_t threads;
};

// "layer": a layer, in one or both directions of time, and its gradients; float64 where the inputs are.
void run_layer(const recorded::Case& given, const Way& way, recorded::Outputs& outputs);
// "blocks": a model's blocks on whole sequences and, where they can, its first row step by step.
void run_model(const recorded::Case& given, const Way& way, recorded::Outputs& outputs);
// "math": exp, sigmoid and tanh of many numbers.
void run_math(const recorded::Case& given, const Way& way, recorded::Outputs& outputs);

// From the words that record.py writes of a layer.
gatewise::Layer read_layer(std::istream& words);
