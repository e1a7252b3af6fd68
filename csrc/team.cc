#include "team.h"

#include <dlfcn.h>
#include <pthread.h>

#include <atomic>
#include <chrono>
#include <condition_variable>
#include <cstring>
#include <mutex>
#include <new>
#include <system_error>
#include <thread>
#include <vector>

#if defined(__linux__)
#include <link.h>
#endif

namespace gatewise {
namespace {

// What one call shares out.
struct Work {
  void (*run)(void*, std::size_t, std::size_t);
  void* data;
  std::size_t parts;
  std::atomic<std::size_t> next_part{0}, next_worker{0};

  static void take_part(void* self) {
    Work& work = *static_cast<Work*>(self);
    const std::size_t worker = work.next_worker++;
    for (std::size_t part = work.next_part++; part < work.parts; part = work.next_part++)
      work.run(work.data, worker, part);
  }
};

std::atomic<bool> forked{false};

using GompParallel = void (*)(void (*)(void*), void*, unsigned, unsigned);

#if defined(__linux__)
// The OpenMP runtime among the loaded libraries, if there is one.
int look_at(dl_phdr_info* info, std::size_t, void* found) {
  if (!info->dlpi_name || !std::strstr(info->dlpi_name, "libgomp")) return 0;
  void* library = dlopen(info->dlpi_name, RTLD_LAZY | RTLD_NOLOAD);
  if (!library) return 0;
  *static_cast<void**>(found) = dlsym(library, "GOMP_parallel");
  return *static_cast<void**>(found) != nullptr;
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
  void* found = nullptr;
  dl_iterate_phdr(look_at, &found);
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
    const std::unique_lock<std::mutex> use(in_use_, std::try_to_lock);
    if (!use) return false;
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
    return true;
  }

 private:
  void grow(std::size_t size) {
    while (size_ < size) {
      try {
        std::thread([this] { serve(); }).detach();
      } catch (const std::system_error&) {
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

void run_parts(std::size_t threads, std::size_t parts, void (*run)(void*, std::size_t, std::size_t), void* data) {
  Work work = {run, data, parts};
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

const char* team_name() { return gomp() ? "libgomp" : "own"; }

}  // namespace gatewise
