// Preloaded by test_native_allocations.py: lets allocations of the core, or new threads, fail as a test says.
//
// Only what the core itself asks for counts: the caller's address must lie in its library.
#include <dlfcn.h>
#include <link.h>
#include <pthread.h>

#include <atomic>
#include <cerrno>
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <new>

namespace {

std::atomic<long> first_to_fail{0}, last_to_fail{0}, counted{0}, live{0}, threads_to_fail{0};
std::atomic<bool> counts{false};
std::atomic<std::uintptr_t> core_begin{0}, core_end{0};

int find_core(dl_phdr_info* info, std::size_t, void*) {
  if (!info->dlpi_name || !std::strstr(info->dlpi_name, "_native")) return 0;
  std::uintptr_t begin = UINTPTR_MAX, end = 0;
  for (int i = 0; i < info->dlpi_phnum; ++i) {
    if (info->dlpi_phdr[i].p_type != PT_LOAD) continue;
    const std::uintptr_t at = info->dlpi_addr + info->dlpi_phdr[i].p_vaddr;
    if (at < begin) begin = at;
    if (at + info->dlpi_phdr[i].p_memsz > end) end = at + info->dlpi_phdr[i].p_memsz;
  }
  core_begin = begin;
  core_end = end;
  return 1;
}

bool fails(const void* caller) {
  if (!counts) return false;
  const auto at = reinterpret_cast<std::uintptr_t>(caller);
  if (at < core_begin || at >= core_end) return false;
  const long number = ++counted;
  return number >= first_to_fail && number <= last_to_fail;
}

void* allocated(std::size_t bytes, std::size_t alignment) {
  void* data = nullptr;
  if (alignment < sizeof(void*)) alignment = sizeof(void*);
  if (posix_memalign(&data, alignment, bytes ? bytes : 1) != 0) return nullptr;
  ++live;
  return data;
}

void released(void* data) {
  live -= data != nullptr;
  std::free(data);
}

void* needed(std::size_t bytes, std::size_t alignment, const void* caller) {
  void* const data = fails(caller) ? nullptr : allocated(bytes, alignment);
  if (!data) throw std::bad_alloc();
  return data;
}

constexpr std::size_t kPlain = alignof(std::max_align_t);

}  // namespace

// From now on the allocations numbered `first` to `last` fail, the next one being 1. None fails if `first` is 0.
extern "C" __attribute__((visibility("default"))) void begin_counting(long first, long last) {
  dl_iterate_phdr(find_core, nullptr);
  counted = 0;
  first_to_fail = first ? first : -1;
  last_to_fail = first ? last : -2;
  counts = true;
}

// The allocations since then.
extern "C" __attribute__((visibility("default"))) long end_counting() {
  counts = false;
  return counted;
}

// The blocks that have not been released, whoever asked for them.
extern "C" __attribute__((visibility("default"))) long live_blocks() { return live; }

// So many of the next threads cannot be created.
extern "C" __attribute__((visibility("default"))) void fail_threads(long count) { threads_to_fail = count; }

extern "C" __attribute__((visibility("default"))) int pthread_create(pthread_t* thread,
                                                                     const pthread_attr_t* attributes,
                                                                     void* (*run)(void*), void* data) {
  using Create = int (*)(pthread_t*, const pthread_attr_t*, void* (*)(void*), void*);
  static const Create next = reinterpret_cast<Create>(dlsym(RTLD_NEXT, "pthread_create"));
  if (threads_to_fail > 0) {
    --threads_to_fail;
    return EAGAIN;
  }
  return next(thread, attributes, run, data);
}

#define CALLER __builtin_return_address(0)
void* operator new(std::size_t n) { return needed(n, kPlain, CALLER); }
void* operator new[](std::size_t n) { return needed(n, kPlain, CALLER); }
void* operator new(std::size_t n, std::align_val_t a) { return needed(n, static_cast<std::size_t>(a), CALLER); }
void* operator new[](std::size_t n, std::align_val_t a) { return needed(n, static_cast<std::size_t>(a), CALLER); }
void* operator new(std::size_t n, const std::nothrow_t&) noexcept {
  return fails(CALLER) ? nullptr : allocated(n, kPlain);
}
void* operator new[](std::size_t n, const std::nothrow_t&) noexcept {
  return fails(CALLER) ? nullptr : allocated(n, kPlain);
}
void* operator new(std::size_t n, std::align_val_t a, const std::nothrow_t&) noexcept {
  return fails(CALLER) ? nullptr : allocated(n, static_cast<std::size_t>(a));
}
void* operator new[](std::size_t n, std::align_val_t a, const std::nothrow_t&) noexcept {
  return fails(CALLER) ? nullptr : allocated(n, static_cast<std::size_t>(a));
}
void operator delete(void* data) noexcept { released(data); }
void operator delete[](void* data) noexcept { released(data); }
void operator delete(void* data, std::size_t) noexcept { released(data); }
void operator delete[](void* data, std::size_t) noexcept { released(data); }
void operator delete(void* data, std::align_val_t) noexcept { released(data); }
void operator delete[](void* data, std::align_val_t) noexcept { released(data); }
void operator delete(void* data, std::size_t, std::align_val_t) noexcept { released(data); }
void operator delete[](void* data, std::size_t, std::align_val_t) noexcept { released(data); }
void operator delete(void* data, const std::nothrow_t&) noexcept { released(data); }
void operator delete[](void* data, const std::nothrow_t&) noexcept { released(data); }
void operator delete(void* data, std::align_val_t, const std::nothrow_t&) noexcept { released(data); }
void operator delete[](void* data, std::align_val_t, const std::nothrow_t&) noexcept { released(data); }
