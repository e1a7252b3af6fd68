#include "team.h"

#include <dlfcn.h>
#include <pthread.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <condition_variable>
#include <cstdint>
#include <cstring>
#include <exception>
#include <mutex>
#include <new>
#include <string>
#include <thread>
#include <vector>

#if defined(__linux__)
#include <link.h>
#endif
#if defined(__SSE__)
#include <xmmintrin.h>
#endif

namespace gatewise {
namespace {

#if defined(__SSE__)
std::uint64_t current_modes() { return _mm_getcsr(); }
void set_modes(std::uint64_t modes) { _mm_setcsr(static_cast<unsigned>(modes)); }
#elif defined(__aarch64__)
std::uint64_t current_modes() {
  std::uint64_t modes;
  asm volatile("mrs %0, fpcr" : "=r"(modes));
  return modes;
}
void set_modes(std::uint64_t modes) { asm volatile("msr fpcr, %0" : : "r"(modes)); }
#else
std::uint64_t current_modes() { return 0; }
void set_modes(std::uint64_t) {}
#endif

// What one call shares out.
struct Work {
  void (*run)(void*, std::size_t, std::size_t);
  void* data;
  std::size_t parts;
  void (*wait)(void*);
  void* waiting;
  std::atomic<std::size_t> next_part{0}, next_worker{0}, done{0};
  const std::thread::id caller = std::this_thread::get_id();

  // Rounding and the treatment of the smallest numbers are each thread's own setting; all compute with the caller's.
  const std::uint64_t modes = current_modes();

  // Most waits are short, and sleeping is not. By the clock: where others want the core, each turn takes milliseconds.
  void wait_for_others() {
    const auto begin = std::chrono::steady_clock::now();
    while (done < parts) {
      if (std::chrono::steady_clock::now() - begin < std::chrono::milliseconds(1)) {
        std::this_thread::yield();
        continue;
      }
      wait(waiting);
      std::this_thread::sleep_for(std::chrono::microseconds(100));
    }
  }

  static void take_part(void* self) {
    Work& work = *static_cast<Work*>(self);
    const std::uint64_t own = current_modes();
    set_modes(work.modes);
    const std::size_t worker = work.next_worker++;
    for (std::size_t part = work.next_part++; part < work.parts; part = work.next_part++) {
      work.run(work.data, worker, part);
      ++work.done;
    }
    set_modes(own);
    if (work.wait && std::this_thread::get_id() == work.caller) work.wait_for_others();
  }
};

std::atomic<bool> forked{false};

using GompParallel = void (*)(void (*)(void*), void*, unsigned, unsigned);

#if defined(__linux__)
// Notes the OpenMP runtimes among the loaded libraries; the loader is locked meanwhile, so they are opened afterwards.
// No exception may pass the loader: returns 1, and looks no further, without memory.
int note(dl_phdr_info* info, std::size_t, void* names) try {
  if (info->dlpi_name && std::strstr(info->dlpi_name, "libgomp"))
    static_cast<std::vector<std::string>*>(names)->emplace_back(info->dlpi_name);
  return 0;
} catch (const std::bad_alloc&) {
  return 1;
}

void* parallel_of(const std::string& library) {
  void* const opened = dlopen(library.c_str(), RTLD_LAZY | RTLD_NOLOAD);
  return opened ? dlsym(opened, "GOMP_parallel") : nullptr;
}

// torch's runtime if there are several.
void* find_parallel() {
  std::vector<std::string> names;
  if (dl_iterate_phdr(note, &names) != 0) throw std::bad_alloc();
  std::stable_sort(names.begin(), names.end(), [](const std::string& a, const std::string& b) {
    return a.find("torch") != std::string::npos && b.find("torch") == std::string::npos;
  });
  for (const std::string& name : names)
    if (void* found = parallel_of(name)) return found;
  return nullptr;
}

int count_loaded(dl_phdr_info* info, std::size_t, void* loaded) {
  *static_cast<unsigned long long*>(loaded) = info->dlpi_adds;
  return 1;
}
#endif

// Looked for again whenever libraries have been loaded since, until it is there.
GompParallel gomp() {
#if defined(__linux__)
  static std::atomic<void*> known{nullptr};
  static std::atomic<unsigned long long> looked{0};
  if (void* found = known) return reinterpret_cast<GompParallel>(found);
  unsigned long long loaded = 0;
  dl_iterate_phdr(count_loaded, &loaded);
  if (loaded == looked) return nullptr;
  void* const found = find_parallel();
  known = found;
  looked = loaded;
  return reinterpret_cast<GompParallel>(found);
#else
  return nullptr;
#endif
}

// Threads of our own, which wait for work: at first spinning, then asleep.
class OwnTeam {
 public:
  // Returns false, with nothing done, if another thread is using the team.
  bool run(std::size_t threads, Work& work) {
    // A signal handler may call from within a call.
    thread_local bool inside = false;
    if (inside) return false;
    const std::unique_lock<std::mutex> use(in_use_, std::try_to_lock);
    if (!use) return false;
    inside = true;
    grow(threads - 1);
    {
      const std::lock_guard<std::mutex> lock(mutex_);
      work_ = &work;
      wanted_ = threads - 1 < size_ ? threads - 1 : size_;
      ++round_;
    }
    wake_.notify_all();
    Work::take_part(&work);
    std::unique_lock<std::mutex> lock(mutex_);
    wanted_ = 0;  // who has not begun need not
    done_.wait(lock, [&] { return busy_ == 0; });
    work_ = nullptr;
    inside = false;
    return true;
  }

 private:
  void grow(std::size_t size) {
    while (size_ < size) {
      try {
        std::thread([this] { serve(); }).detach();
      } catch (const std::exception&) {  // no thread, or no memory for one: there are fewer then
        return;
      }
      ++size_;
    }
  }

  void serve() {
    std::size_t seen = 0;
    while (true) {
      const auto begin = std::chrono::steady_clock::now();
      while (round_ == seen && std::chrono::steady_clock::now() - begin < std::chrono::microseconds(50)) {
      }
      std::unique_lock<std::mutex> lock(mutex_);
      wake_.wait(lock, [&] { return round_ != seen; });
      seen = round_;
      if (!wanted_) continue;
      --wanted_;
      ++busy_;
      Work& work = *work_;
      lock.unlock();
      Work::take_part(&work);
      lock.lock();
      if (--busy_ == 0) done_.notify_one();
    }
  }

  std::mutex in_use_, mutex_;
  std::condition_variable wake_, done_;
  std::atomic<std::size_t> round_{0};
  std::size_t size_ = 0, wanted_ = 0, busy_ = 0;
  Work* work_ = nullptr;
};

// Never destroyed: its threads outlive main().
OwnTeam& own_team() {
  static OwnTeam* const only = new OwnTeam;
  return *only;
}

}  // namespace

void run_parts(std::size_t threads, std::size_t parts, void (*run)(void*, std::size_t, std::size_t), void* data,
               void (*wait)(void*), void* waiting) {
  Work work = {run, data, parts, wait, waiting};
  if (threads > parts) threads = parts;
  if (threads > 1 && !forked) {
    if (const GompParallel parallel = gomp())
      return parallel(Work::take_part, &work, static_cast<unsigned>(threads), 0);
    if (own_team().run(threads, work)) return;
  }
  Work::take_part(&work);
}

void watch_forks() {
  // A fork copies no threads but the caller's, and neither team would notice.
  pthread_atfork(nullptr, nullptr, [] { forked = true; });
}

const char* team_name() { return forked ? "none" : gomp() ? "libgomp" : "own"; }

}  // namespace gatewise
