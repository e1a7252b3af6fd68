// Runs recorded cases on instruction sets and compares every result to the bit with what was recorded.
//
//   bits FILE [ISA...]     without names all that this processor has; ISA+bfloat16 must have products of bfloat16
//                          (those of AVX-512 are computed one by one where only they are missing: trapped.h)
//   bits unguarded ISA     calls a kernel without asking whether the processor can; to see an emulator refuse it
//
// Instruction sets that multiply and add in one rounding are one family, "fused"; "baseline" is another. Products of
// bfloat16, "narrow", are rounded by each processor in its own way: there the bits are not compared, but the numbers.
#include <chrono>
#include <cstdio>
#include <cstring>
#include <exception>
#include <fstream>
#include <string>
#include <vector>

#include "cases.h"
#include "modes.h"

#if defined(__x86_64__)
#include "trapped.h"
#endif

#define GATEWISE_BUILT(name)           \
  namespace gatewise::name {           \
  extern const Kernels<float> kernels; \
  }
#define GATEWISE_BUILT_NARROW(name)      \
  namespace gatewise::name##_narrow {    \
    extern const Kernels<float> kernels; \
  }
#include "isas.inc"
#undef GATEWISE_BUILT
#undef GATEWISE_BUILT_NARROW

using namespace gatewise;
using recorded::Case;
using recorded::Outputs;

namespace {

// An instruction set of this processor, with products of bfloat16 where nothing else is missing.
InstructionSet completed(InstructionSet isa) {
#if defined(__x86_64__)
  const std::string own = isa.name;
#define GATEWISE_BUILT(set)
#define GATEWISE_BUILT_NARROW(set) \
  if (own == "avx512" && own == #set && !isa.narrow && trapped::install()) isa.narrow = &set##_narrow::kernels;
#include "isas.inc"
#undef GATEWISE_BUILT
#undef GATEWISE_BUILT_NARROW
#endif
  return isa;
}

std::string family(const InstructionSet& isa) { return std::strcmp(isa.name, "baseline") ? "fused" : "baseline"; }

Outputs run(const Case& given, const Way& way) {
  Outputs outputs(given, given.arrays.count("narrow") ? "narrow" : family(way.isa));
  if (given.arrays.count("layer"))
    run_layer(given, way, outputs);
  else if (given.arrays.count("blocks"))
    run_model(given, way, outputs);
  else
    run_math(given, way, outputs);
  return outputs;
}

constexpr const char* kKeeps[] = {"nothing", "states", "all"};

std::size_t report(const Case& given, const Way& way, const std::vector<std::string>& lines) {
  for (const std::string& line : lines)
    std::printf("%s: %s (keeping %s, %zu threads): %s\n", way.isa.name, given.title.c_str(),
                kKeeps[static_cast<int>(way.keep)], way.threads, line.c_str());
  return lines.size();
}

struct Counts {
  std::size_t arrays = 0, narrow = 0, wrong = 0;
};

// All threads treat the smallest numbers as the caller does, who finds its modes as they were.
void check_modes(const Case& given, const InstructionSet& isa, Counts& counts) {
  const FlushToZero flush;
  const Way alone = {isa, Keep::kAll, 1}, team = {isa, Keep::kAll, 3};
  const Outputs expected = run(given, alone);
  if (expected.differences().empty())
    counts.wrong += report(given, alone, {"flushing the smallest numbers changes nothing"});
  if (!run(given, team).same_as(expected))
    counts.wrong += report(given, team, {"threads flush otherwise than their caller"});
  if (!flush.stays()) counts.wrong += report(given, team, {"the caller's modes have changed"});
}

void check(const Case& given, const InstructionSet& isa, Counts& counts) {
  const bool narrow = given.arrays.count("narrow");
  if (narrow && !isa.narrow) return;
  const double tolerance = narrow ? std::stod(given.text("narrow")) : 0;
  for (const std::size_t threads : {1, 3})
    for (const Keep keep : {Keep::kNothing, Keep::kStates, Keep::kAll}) {
      if (keep != Keep::kNothing && (narrow || !given.arrays.count("layer"))) continue;
      const Way way = {isa, keep, threads};
      const Outputs outputs = run(given, way);
      counts.arrays += outputs.count();
      counts.narrow += narrow * outputs.count();
      counts.wrong += report(given, way, outputs.differences(tolerance));
    }
  if (given.arrays.count("flushes")) check_modes(given, isa, counts);
}

bool check_all(const char* path, const InstructionSet& isa, bool needs_narrow = false) {
  std::ifstream file(path, std::ios::binary);
  if (!file) throw std::runtime_error(std::string("cannot read ") + path + ".");
  const auto begin = std::chrono::steady_clock::now();
  std::size_t cases = 0;
  Counts counts;
  for (Case given; recorded::read(file, given); ++cases) check(given, isa, counts);
  const std::chrono::duration<double> seconds = std::chrono::steady_clock::now() - begin;
  std::printf("%s: %zu of %zu arrays differ in %zu cases; %zu of products of bfloat16 (%.1f s)\n", isa.name,
              counts.wrong, counts.arrays, cases, counts.narrow, seconds.count());
  std::fflush(stdout);
  if (needs_narrow && !counts.narrow) std::printf("%s: no products of bfloat16 were tried\n", isa.name);
  return counts.arrays && !counts.wrong && (counts.narrow || !needs_narrow);
}

int unguarded(const std::string& isa) {
  const float x = 1.0f;
  float y = 0.0f;
#define GATEWISE_BUILT_NARROW(name)
#define GATEWISE_BUILT(name) \
  if (isa == #name) name::kernels.math.exp(&x, &y, 1);
#include "isas.inc"
#undef GATEWISE_BUILT
#undef GATEWISE_BUILT_NARROW
  std::printf("%s computes exp(1) = %g\n", isa.c_str(), static_cast<double>(y));
  return y > 2.7f ? 0 : 1;
}

}  // namespace

int main(int count, char** words) try {
  if (count == 3 && std::string(words[1]) == "unguarded") return unguarded(words[2]);
  if (count < 2) {
    std::fputs("bits FILE [ISA...]\n", stderr);
    return 2;
  }
  bool good = true;
  if (count == 2)
    for (const InstructionSet& isa : available()) good &= check_all(words[1], completed(isa));
  for (int i = 2; i < count; ++i) {
    const std::string word = words[i], isa = word.substr(0, word.find('+'));
    good &= check_all(words[1], completed(isa_named(isa)), isa != word);
  }
#if defined(__x86_64__)
  if (trapped::count()) std::printf("%lu instructions were computed for this processor\n", trapped::count());
#endif
  return good ? 0 : 1;
} catch (const std::exception& error) {
  std::fprintf(stderr, "bits: %s\n", error.what());
  return 2;
}
