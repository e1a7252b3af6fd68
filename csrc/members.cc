#include "members.h"

#include <exception>
#include <mutex>

#include "plan.h"

namespace gatewise {
namespace {

// Calls run(member, threads) for each.
template <class Real, class Run>
void each_member(const Layer& layer, std::span<const Member<Real>> members, std::size_t threads, Interrupt& interrupt,
                 Run run) {
  const std::size_t count = members.size();
  double work = 0;
  for (const Member<Real>& member : members) work += static_cast<double>(member.sequence.steps * member.sequence.rows);
  work *= static_cast<double>(layer.gates() * layer.hidden) * static_cast<double>(layer.inputs + layer.recurrent());
  if (count < 2 || count < threads || work < kWorthATeam) {
    for (std::size_t i = 0; i < count; ++i) run(i, threads);
    return;
  }
  std::mutex mutex;
  std::exception_ptr thrown;
  auto part = [&](std::size_t, std::size_t i) {
    try {
      run(i, std::size_t{1});
    } catch (...) {
      const std::lock_guard<std::mutex> lock(mutex);
      thrown = std::current_exception();
    }
  };
  Poll poll(interrupt);
  parallel(threads, count, part, poll);
  if (thrown) std::rethrow_exception(thrown);
}

}  // namespace

template <class Real>
std::vector<std::unique_ptr<Tape<Real>>> forward_members(const Kernels<Real>& kernels, const Layer& layer,
                                                         std::span<const Member<Real>> members, Keep keep,
                                                         std::size_t threads, Interrupt& interrupt) {
  std::vector<std::unique_ptr<Tape<Real>>> tapes(members.size());
  each_member(layer, members, threads, interrupt, [&](std::size_t i, std::size_t own_threads) {
    tapes[i] = forward(kernels, layer, members[i].weights, members[i].sequence, keep, own_threads, interrupt);
  });
  return tapes;
}

template <class Real>
void backward_members(const Layer& layer, std::span<const Member<Real>> members, std::size_t threads,
                      Interrupt& interrupt) {
  each_member(layer, members, threads, interrupt, [&](std::size_t i, std::size_t own_threads) {
    const Member<Real>& member = members[i];
    backward(layer, member.weights, member.sequence, member.gradients, *member.tape, own_threads, interrupt);
  });
}

#define GATEWISE_OF(Real)                                                                                \
  template std::vector<std::unique_ptr<Tape<Real>>> forward_members(                                     \
      const Kernels<Real>&, const Layer&, std::span<const Member<Real>>, Keep, std::size_t, Interrupt&); \
  template void backward_members(const Layer&, std::span<const Member<Real>>, std::size_t, Interrupt&);
GATEWISE_OF(float)
GATEWISE_OF(double)

}  // namespace gatewise
