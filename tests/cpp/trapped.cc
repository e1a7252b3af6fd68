// The operation as Intel's manual has it: of each pair the upper product is added first, each with one rounding;
// numbers too small to be normal count as zero, before and after.
#include "trapped.h"

#include <cpuid.h>
#include <signal.h>
#include <ucontext.h>

#include <atomic>
#include <cmath>
#include <cstdint>
#include <cstring>

namespace trapped {
namespace {

std::atomic<unsigned long> done{0};
std::size_t upper_at[3];  // where the signal frame has bits 128 to 255, 256 to 511, and all of registers 16 to 31

constexpr unsigned kAvx = 2, kUpper = 6, kHigh = 7;  // components of the extended state

// The four parts of a register, 16 bytes each, in a signal frame.
struct Frame {
  unsigned char* state;

  unsigned char* part(unsigned reg, unsigned quarter) const {
    if (reg >= 16) return state + upper_at[2] + (reg - 16) * 64 + quarter * 16;
    if (quarter == 0) return state + 160 + reg * 16;
    if (quarter == 1) return state + upper_at[0] + reg * 16;
    return state + upper_at[1] + reg * 32 + (quarter - 2) * 16;
  }
  void read(unsigned reg, std::uint32_t (&to)[16]) const {
    for (unsigned q = 0; q < 4; ++q) std::memcpy(to + 4 * q, part(reg, q), 16);
  }
  void write(unsigned reg, const std::uint32_t (&from)[16]) const {
    for (unsigned q = 0; q < 4; ++q) std::memcpy(part(reg, q), from + 4 * q, 16);
    std::uint64_t present;
    std::memcpy(&present, state + 512, sizeof present);
    present |= 2 | 1u << kAvx | 1u << kUpper | 1u << kHigh;
    std::memcpy(state + 512, &present, sizeof present);
  }
};

float number(std::uint32_t bits) {
  if ((bits & 0x7f800000u) == 0) bits &= 0x80000000u;
  float value;
  std::memcpy(&value, &bits, sizeof value);
  return value;
}

std::uint32_t bits_of(float value) {
  std::uint32_t bits;
  std::memcpy(&bits, &value, sizeof bits);
  return (bits & 0x7f800000u) == 0 ? bits & 0x80000000u : bits;
}

void multiply(const std::uint32_t (&a)[16], const std::uint32_t (&b)[16], std::uint32_t (&sum)[16]) {
  for (unsigned i = 0; i < 16; ++i) {
    const float upper = std::fma(number(a[i] & 0xffff0000u), number(b[i] & 0xffff0000u), number(sum[i]));
    sum[i] = bits_of(std::fma(number(a[i] << 16), number(b[i] << 16), number(bits_of(upper))));
  }
}

constexpr int kRegisters[] = {REG_RAX, REG_RCX, REG_RDX, REG_RBX, REG_RSP, REG_RBP, REG_RSI, REG_RDI,
                              REG_R8,  REG_R9,  REG_R10, REG_R11, REG_R12, REG_R13, REG_R14, REG_R15};

// The address that a ModRM byte and what follows it name; `code` is moved past them. `scale` is of a short
// displacement.
const unsigned char* address(const unsigned char*& code, const greg_t* registers, unsigned rm_high, unsigned index_high,
                             long scale) {
  const unsigned modrm = *code++, mode = modrm >> 6;
  unsigned base = modrm & 7;
  long at = 0;
  bool based = true;
  if (base == 4) {
    const unsigned sib = *code++, index = (sib >> 3 & 7) | index_high;
    base = sib & 7;
    if (index != 4) at += registers[kRegisters[index]] << (sib >> 6);
    based = base != 5 || mode != 0;
  } else if (base == 5 && mode == 0) {
    return nullptr;  // relative to the instruction: not in our kernels
  }
  if (based) at += registers[kRegisters[base | rm_high]];
  if (mode == 1) at += static_cast<signed char>(*code++) * scale;
  if (mode == 2 || !based) {
    std::int32_t displacement;
    std::memcpy(&displacement, code, sizeof displacement);
    code += sizeof displacement;
    at += displacement;
  }
  return reinterpret_cast<const unsigned char*>(at);
}

// False for any other instruction.
bool compute(ucontext_t& context) {
  greg_t* const registers = context.uc_mcontext.gregs;
  const unsigned char* code = reinterpret_cast<const unsigned char*>(registers[REG_RIP]);
  const unsigned p0 = code[1], p1 = code[2], p2 = code[3];
  // EVEX, map 0F38, F3, W0, 512 bits, no mask.
  if (code[0] != 0x62 || (p0 & 0x0f) != 2 || (p1 & 0x87) != 0x06 || (p2 & 0xe7) != 0x40 || code[4] != 0x52)
    return false;
  const bool broadcast = p2 & 0x10;
  code += 5;
  const unsigned modrm = *code;
  const unsigned to = (modrm >> 3 & 7) | (p0 & 0x80 ? 0 : 8) | (p0 & 0x10 ? 0 : 16);
  const unsigned first = (~p1 >> 3 & 15) | (p2 & 0x08 ? 0 : 16);
  const Frame frame = {reinterpret_cast<unsigned char*>(context.uc_mcontext.fpregs)};
  std::uint32_t a[16], b[16], sum[16];
  frame.read(first, a);
  frame.read(to, sum);
  const unsigned rm_high = p0 & 0x20 ? 0 : 8, index_high = p0 & 0x40 ? 0 : 8;
  if (modrm >> 6 == 3) {
    frame.read((modrm & 7) | rm_high | (p0 & 0x40 ? 0 : 16), b);
    ++code;
  } else {
    const unsigned char* const from = address(code, registers, rm_high, index_high, broadcast ? 4 : 64);
    if (!from) return false;
    for (unsigned i = 0; i < 16; ++i) std::memcpy(b + i, from + (broadcast ? 0 : 4 * i), 4);
  }
  multiply(a, b, sum);
  frame.write(to, sum);
  registers[REG_RIP] = reinterpret_cast<greg_t>(code);
  done.fetch_add(1, std::memory_order_relaxed);
  return true;
}

void handle(int number, siginfo_t*, void* context) {
  if (!compute(*static_cast<ucontext_t*>(context))) signal(number, SIG_DFL);  // and so it ends the process
}

}  // namespace

bool install() {
  if (!__builtin_cpu_supports("avx512bw")) return false;
  const unsigned components[] = {kAvx, kUpper, kHigh};
  for (unsigned i = 0; i < 3; ++i) {
    unsigned size, offset, c, d;
    if (!__get_cpuid_count(0xd, components[i], &size, &offset, &c, &d) || !offset) return false;
    upper_at[i] = offset;
  }
  struct sigaction action = {};
  action.sa_sigaction = handle;
  action.sa_flags = SA_SIGINFO;
  return sigaction(SIGILL, &action, nullptr) == 0;
}

unsigned long count() { return done; }

}  // namespace trapped
