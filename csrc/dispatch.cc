#include "dispatch.h"

#include <atomic>
#include <cstdlib>
#include <stdexcept>

namespace gatewise {

// CMake writes isas.inc: GATEWISE_BUILT(name) for every instruction set it built, the best first.
#define GATEWISE_BUILT(name)              \
  namespace name {                        \
  extern const Kernels<float> kernels;    \
  }                                       \
  namespace name##_double {               \
    extern const Kernels<double> kernels; \
  }
#include "isas.inc"
#undef GATEWISE_BUILT

namespace {

bool cpu_has(std::string_view isa) {
#if defined(__x86_64__) || defined(__i386__)
  __builtin_cpu_init();
  const bool avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
  if (isa == "avx512") return avx2 && __builtin_cpu_supports("avx512f");
  if (isa == "avx2" || isa == "wide") return avx2;
#endif
  // The baseline and NEON come with the architecture they are built for.
  return isa == "baseline" || isa == "neon";
}

std::atomic<const InstructionSet*> in_use{nullptr};

}  // namespace

const std::vector<InstructionSet>& available() {
  static const std::vector<InstructionSet> found = [] {
    std::vector<InstructionSet> list;
#define GATEWISE_BUILT(name) \
  if (cpu_has(#name)) list.push_back({#name, &name::kernels, &name##_double::kernels});
#include "isas.inc"
#undef GATEWISE_BUILT
    return list;
  }();
  return found;
}

const InstructionSet& isa_named(std::string_view name) {
  std::string names;
  for (const InstructionSet& isa : available()) {
    if (name == isa.name) return isa;
    names += (names.empty() ? "" : ", ") + std::string(isa.name);
  }
  throw std::invalid_argument("instruction set '" + std::string(name) +
                              "' is not available here (GATEWISE_ISA, or the isa argument); available: " + names + ".");
}

const InstructionSet& isa_in_use() {
  if (const InstructionSet* chosen = in_use) return *chosen;
  const char* asked = std::getenv("GATEWISE_ISA");
  use_isa(asked && *asked ? isa_named(asked) : available().front());
  return *in_use;
}

void use_isa(const InstructionSet& isa) { in_use = &isa; }

}  // namespace gatewise
