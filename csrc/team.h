// Threads. Where an OpenMP runtime is loaded already (torch loads libgomp), work runs on its team, because two teams
// that spin would fight for the cores; otherwise on a small team of our own.
#pragma once

#include <cstddef>

namespace gatewise {

// Calls work(data, worker, part) once for each part below `parts`, in any order, on at most `threads` threads, of which
// the caller is one; worker numbers are below `threads`. Returns when all is done. `work` must not throw. In a process
// that was forked, and when the team is busy, the caller works alone. When no part is left for the caller, it calls
// wait(waiting), unless that is null, now and then until the others have done theirs.
void run_parts(std::size_t threads, std::size_t parts, void (*work)(void*, std::size_t, std::size_t), void* data,
               void (*wait)(void*) = nullptr, void* waiting = nullptr);

// To be called once, before any other thread can be here: afterwards a process may fork at any moment.
void watch_forks();

// "libgomp" or "own"; "none" in a process that was forked.
const char* team_name();

template <class Work>
void parallel(std::size_t threads, std::size_t parts, Work& work) {
  run_parts(
      threads, parts,
      [](void* data, std::size_t worker, std::size_t part) { (*static_cast<Work*>(data))(worker, part); }, &work);
}

template <class Work, class Wait>
void parallel(std::size_t threads, std::size_t parts, Work& work, Wait& wait) {
  run_parts(
      threads, parts,
      [](void* data, std::size_t worker, std::size_t part) { (*static_cast<Work*>(data))(worker, part); }, &work,
      [](void* data) { (*static_cast<Wait*>(data))(); }, &wait);
}

}  // namespace gatewise
