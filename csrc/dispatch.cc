#include "dispatch.h"

#include <atomic>
#include <cstdlib>
#include <stdexcept>

namespace gatewise {

// CMake writes isas.inc: GATEWISE_BUILT(name) for every instruction set it built, the best first.
#define GATEWISE_BUILT(name)    \
  namespace name {              \
  extern const Kernels kernels; \
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

std::atomic<const Kernels*> in_use{nullptr};

}  // namespace

const std::vector<const Kernels*>& available() {
  static const std::vector<const Kernels*> found = [] {
    std::vector<const Kernels*> list;
#define GATEWISE_BUILT(name) \
  if (cpu_has(#name)) list.push_back(&name::kernels);
#include "isas.inc"
#undef GATEWISE_BUILT
    return list;
  }();
  return found;
}

const Kernels& kernels_for(std::string_view isa) {
  std::string names;
  for (const Kernels* kernels : available()) {
    if (isa == kernels->isa) return *kernels;
    names += (names.empty() ? "" : ", ") + std::string(kernels->isa);
  }
  throw std::invalid_argument("instruction set '" + std::string(isa) +
                              "' is not available here (GATEWISE_ISA, or the isa argument); available: " + names + ".");
}

const Kernels& kernels_in_use() {
  if (const Kernels* chosen = in_use) return *chosen;
  const char* asked = std::getenv("GATEWISE_ISA");
  use_kernels(asked && *asked ? kernels_for(asked) : *available().front());
  return *in_use;
}

void use_kernels(const Kernels& kernels) { in_use = &kernels; }

}  // namespace gatewise
