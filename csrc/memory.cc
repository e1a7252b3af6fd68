#include "memory.h"

#include <pthread.h>
#include <sys/mman.h>

#include <algorithm>
#include <mutex>
#include <new>
#include <vector>

namespace gatewise {
namespace {

constexpr std::size_t kCacheLine = 64, kHugePage = std::size_t{2} << 20;

// Large pieces begin a huge page: walked through in strides of a step, small ones are more than a core remembers.
std::align_val_t alignment(std::size_t bytes) { return std::align_val_t{bytes < kHugePage ? kCacheLine : kHugePage}; }

void* allocated(std::size_t bytes) {
  void* const data = ::operator new(bytes, alignment(bytes), std::nothrow);
#if defined(MADV_HUGEPAGE)
  // Where the system has none to give, ordinary ones do.
  if (data && bytes >= kHugePage) madvise(data, bytes, MADV_HUGEPAGE);
#endif
  return data;
}

void release(void* data, std::size_t bytes) { ::operator delete(data, alignment(bytes)); }

struct Piece {
  void* data;
  std::size_t bytes;
};

// A little more than asked for, so that calls of nearly the same size can use each other's memory.
std::size_t rounded(std::size_t bytes) {
  std::size_t step = 64;
  while (step * 16 < bytes) step *= 2;
  return (bytes + step - 1) / step * step;
}

class Store {
 public:
  void lock() { mutex_.lock(); }
  void unlock() { mutex_.unlock(); }

  Piece take(std::size_t bytes) {
    const std::lock_guard<std::mutex> lock(mutex_);
    auto best = kept_.end();
    for (auto piece = kept_.begin(); piece != kept_.end(); ++piece)
      if (piece->bytes >= bytes && piece->bytes <= 2 * bytes && (best == kept_.end() || piece->bytes < best->bytes))
        best = piece;
    if (best != kept_.end()) {
      const Piece found = *best;
      kept_.erase(best);
      kept_bytes_ -= found.bytes;
      used_bytes_ += found.bytes;
      return found;
    }
    const Piece fresh = {allocate(bytes), bytes};
    used_bytes_ += bytes;
    most_ = std::max(most_, used_bytes_);
    trim();
    return fresh;
  }

  void give(Piece piece) noexcept {
    const std::lock_guard<std::mutex> lock(mutex_);
    used_bytes_ -= piece.bytes;
    try {
      kept_.push_back(piece);
    } catch (const std::bad_alloc&) {
      release(piece.data, piece.bytes);
      return;
    }
    kept_bytes_ += piece.bytes;
    trim();
  }

 private:
  // What is kept is not needed more than this.
  void* allocate(std::size_t bytes) {
    void* data = allocated(bytes);
    if (!data) {
      most_ = 0;
      trim();
      data = allocated(bytes);
    }
    return data ? data : throw std::bad_alloc();
  }

  // Lets the oldest pieces go.
  void trim() {
    while (!kept_.empty() && (!most_ || kept_bytes_ + used_bytes_ > most_ + most_ / 4)) {
      kept_bytes_ -= kept_.front().bytes;
      release(kept_.front().data, kept_.front().bytes);
      kept_.erase(kept_.begin());
    }
  }

  std::mutex mutex_;
  std::vector<Piece> kept_;
  std::size_t kept_bytes_ = 0, used_bytes_ = 0, most_ = 0;
};

// Never destroyed: buffers may come back while the process ends.
Store& store() {
  static Store* const only = new Store;
  return *only;
}

}  // namespace

void keep_memory_across_forks() {
  store();
  // A fork in the middle of take() or give() must not leave the child with a lock that nobody will open.
  pthread_atfork([] { store().lock(); }, [] { store().unlock(); }, [] { store().unlock(); });
}

Memory::Memory(std::size_t bytes) {
  if (!bytes) return;
  const Piece piece = store().take(rounded(bytes));
  data_ = piece.data;
  bytes_ = piece.bytes;
}

Memory::~Memory() {
  if (data_) store().give({data_, bytes_});
}

}  // namespace gatewise
