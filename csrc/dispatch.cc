#include "dispatch.h"

#include <atomic>
#include <cstdlib>
#include <stdexcept>

#if defined(__aarch64__) && defined(__linux__)
#include <sys/auxv.h>
#elif defined(__aarch64__) && defined(__APPLE__)
#include <sys/sysctl.h>
#endif

namespace gatewise {

// CMake writes isas.inc: GATEWISE_BUILT(name) for every instruction set it built, the best first, and after it
// GATEWISE_BUILT_NARROW(name) if there are its products of bfloat16.
#define GATEWISE_BUILT(name)              \
  namespace name {                        \
  extern const Kernels<float> kernels;    \
  }                                       \
  namespace name##_double {               \
    extern const Kernels<double> kernels; \
  }
#define GATEWISE_BUILT_NARROW(name)      \
  namespace name##_narrow {              \
    extern const Kernels<float> kernels; \
  }
#include "isas.inc"
#undef GATEWISE_BUILT
#undef GATEWISE_BUILT_NARROW

namespace {

bool cpu_has(std::string_view isa) {
#if defined(__x86_64__) || defined(__i386__)
  __builtin_cpu_init();
  const bool avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
  // Compilers write some of AVX-512F's instructions in short forms of VL.
  if (isa == "avx512") return avx2 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512vl");
  if (isa == "avx2" || isa == "wide") return avx2;
#endif
  // The baseline and NEON come with the architecture they are built for.
  return isa == "baseline" || isa == "neon";
}

// Whether there is an instruction for products of bfloat16 that is worth taking. Intel's cores start one in the time of
// four fused multiply-adds, and it is worth two.
bool cpu_multiplies_bfloat16(std::string_view isa) {
#if defined(__x86_64__) || defined(__i386__)
  if (isa == "avx512")
    return __builtin_cpu_supports("avx512bf16") && __builtin_cpu_supports("avx512bw") && !__builtin_cpu_is("intel");
#elif defined(__linux__) && defined(__aarch64__)
  constexpr unsigned long kBf16 = 1ul << 14;  // HWCAP2_BF16, which older headers lack
  if (isa == "neon") return getauxval(AT_HWCAP2) & kBf16;
#elif defined(__APPLE__) && defined(__aarch64__)
  int has = 0;
  std::size_t size = sizeof has;
  if (isa == "neon") return !sysctlbyname("hw.optional.arm.FEAT_BF16", &has, &size, nullptr, 0) && has;
#endif
  return isa == "wide";  // which is for tests, and adds them up by other instructions
}

std::atomic<const InstructionSet*> in_use{nullptr};

}  // namespace

const std::vector<InstructionSet>& available() {
  static const std::vector<InstructionSet> found = [] {
    std::vector<InstructionSet> list;
#define GATEWISE_BUILT(name) \
  if (cpu_has(#name)) list.push_back({#name, &name::kernels, &name##_double::kernels, nullptr});
#define GATEWISE_BUILT_NARROW(name) \
  if (cpu_has(#name) && cpu_multiplies_bfloat16(#name)) list.back().narrow = &name##_narrow::kernels;
#include "isas.inc"
#undef GATEWISE_BUILT
#undef GATEWISE_BUILT_NARROW
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
