// Everything that is compiled once per instruction set and type, as a table of functions. None of them allocates or
// throws. All sizes are in Reals.
#pragma once

#include <atomic>
#include <chrono>
#include <cstddef>
#include <thread>

#include "layer.h"
#include "schedule.h"

namespace gatewise {

class Meeting;

// Asks the caller of a long call now and then whether to go on. The caller's thread asks; all threads stop.
struct Interrupt {
  void (*poll)(void*) = nullptr;  // may set stop
  void* data = nullptr;
  std::thread::id caller = std::this_thread::get_id();
  std::atomic<bool> stop{false};
  std::chrono::steady_clock::time_point asked = std::chrono::steady_clock::now();
};

// A thread's view of it, looked at before every step.
struct Watch {
  Interrupt* interrupt = nullptr;
  bool asks = false;

  [[gnu::always_inline]] bool stopped() const {
    // Once is enough: another signal waits for the interpreter.
    if (interrupt->stop.load(std::memory_order_relaxed)) return true;
    if (asks) {
      const auto now = std::chrono::steady_clock::now();
      if (now - interrupt->asked > std::chrono::milliseconds(50)) {
        interrupt->asked = now;
        interrupt->poll(interrupt->data);
      }
    }
    return interrupt->stop.load(std::memory_order_relaxed);
  }
};

// What forward keeps for backward, each array indexed by row-step. The window arrays may hold some steps only; where a
// chunk's step s lies there says Job::place. [·] is what one row-step takes; blocks and lines are those of layout.h.
template <class Real>
struct Saved {
  // History, of all steps.
  Real* cells = nullptr;  // c, and n and m for the exponential update, `plane` apart: [blocks][kWidth]
  std::size_t plane = 0;
  Real* seen = nullptr;  // [seen gates][H]
  // Window.
  Real* gates = nullptr;        // [blocks][line]; the gradients of the pre-activations after backward
  Real* unprojected = nullptr;  // [padded H]
  Real* norm_x = nullptr;       // as gates: normalised products; their gradients after backward
  Real* norm_h = nullptr;
  Real* scale = nullptr;  // [5]: factors of the gradients of the products with x and h; scale, 1/std and mean of c
};

// Some chunks, for some steps, by one thread.
template <class Real>
struct Job {
  const Layer* layer = nullptr;
  const Sequence<Real>* sequence = nullptr;
  const Real* packed = nullptr;
  // Of a call with one row-step, whose weights are not packed: the weights as they are. Else null.
  const Real* const* weights = nullptr;
  // Of one step of one row, of a cell without options, peepholes and projections: the packed weights in half the
  // memory, in the place of `packed`. Else null.
  const Bfloat* halved = nullptr;
  const Chunk* const* chunks = nullptr;
  std::size_t count = 0;
  const std::ptrdiff_t* place = nullptr;  // by chunk index: row-step (chunk, s) lies at place + offset(s) in a window
  std::size_t first = 0, last = 0;        // steps
  bool again = false;                     // forward has been here: y and the history are read and stay as they are
  Saved<Real> saved;
  Real* scratch = nullptr;
  // Of a chunk that several workers share, each with blocks of its own: where they meet after every step, this one's
  // seat, and the scratch of the first of them. Else null.
  Meeting* meeting = nullptr;
  std::size_t seat = 0;
  Real* common = nullptr;
  Watch watch;
};

// The same steps, from the last to the first. `packed` holds the weights for forward, of which this reads peepholes and
// gains.
template <class Real>
struct BackwardJob : Job<Real> {
  const Gradients<Real>* gradients = nullptr;
  const Real* packed_backward = nullptr;
  Real* state = nullptr;  // by chunk index, state size each: the gradients of the states between windows
  bool begins = false;    // this is the last window: gradients start from those of the final states
  // By chunk index: [blocks][Layout::sums]. What a window adds up is added to the totals, and zero again: two short
  // sums are more exact than a long one.
  Real* sums = nullptr;
  Real* totals = nullptr;
  bool by_row = false;  // sums and totals are by the caller's row instead
  // By row-step of the window, written here for reduce: where x, h of the step before and the gates seen stand.
  const Real** x_rows = nullptr;
  const Real** h_rows = nullptr;
  const Real** seen_rows = nullptr;
  Real* masked = nullptr;       // [R]: h after dropout
  Real* dprojected = nullptr;   // [P + N]: gradients of the projections' outputs
  Real* start_seen = nullptr;   // by chunk index: two rows of gates seen for each row, at the start and after resets
  const Real* zeros = nullptr;  // as many as the widest state
};

// Where a row of the caller's is.
struct RowPlace {
  const Chunk* chunk;
  std::size_t row;  // of the chunk
};

// The products of a window that give gradients of weights, for some blocks of packed weights.
template <class Real>
struct ReduceJob {
  const Layer* layer = nullptr;
  const Chunk* chunks = nullptr;
  std::size_t chunk_count = 0;
  // Sums over these rows only, one after the other; or null for all, chunk by chunk and step by step.
  const RowPlace* rows = nullptr;
  std::size_t row_count = 0;
  const std::ptrdiff_t* place = nullptr;
  std::size_t first = 0, last = 0;
  Saved<Real> saved;
  const Real* const* x_rows = nullptr;
  const Real* const* h_rows = nullptr;
  const Real* const* seen_rows = nullptr;
  const Real* dprojected = nullptr;
  Real* dpacked = nullptr;  // added to, or if this begins written
  // Of a call with one row-step: the gradients of the weights themselves, in the place of dpacked. Else null.
  Real* const* dweights = nullptr;
  bool begins = false;
  Real* scratch = nullptr;
  Watch watch;
  std::size_t first_block = 0, last_block = 0;  // of the gates
  std::size_t first_panel = 0, last_panel = 0;  // of the projections
};

template <class Real>
struct MathArrays {
  void (*exp)(const Real* from, Real* to, std::size_t count);
  void (*sigmoid)(const Real* from, Real* to, std::size_t count);
  void (*tanh)(const Real* from, Real* to, std::size_t count);
};

struct Sizes {
  std::size_t packed_forward = 0, packed_backward = 0, packed_gradient = 0;
  std::size_t gates = 0, cells = 0, unprojected = 0;  // per row-step; cells is that of one plane
  std::size_t seen = 0;
  std::size_t sums = 0;                                   // per chunk
  std::size_t state = 0;                                  // per chunk, of backward
  std::size_t forward_scratch = 0, backward_scratch = 0;  // per chunk of a job, and once more
  std::size_t blocks = 0, panels = 0;                     // of gates and of projections, to share out
  std::size_t reduce_scratch = 0;
  bool unpacked = false;  // whether forward and, without projections, backward take Job::weights
};

// Packed forward weights in half the memory, each the nearest bfloat16, and back.
struct Halving {
  void (*halve)(const Layer& layer, const float* packed, Bfloat* halved);
  void (*widen)(const Layer& layer, const Bfloat* halved, float* packed);
};

// Numbers that lie one after the other: bfloat16 as float32, and float32 rounded to the nearest bfloat16, ties to even;
// what is larger becomes infinite, NaN stays.
struct Rounding {
  void (*widen)(const Bfloat* from, std::size_t count, float* to);
  void (*round)(const float* from, std::size_t count, Bfloat* to);
  void (*round_in_place)(float* values, std::size_t count);
};

// The blocks of a model that are no recurrent layers, for dense rows one after the other.
struct Dense {
  // W [out, in] and its bias [out] or null, packed into so many floats; y = W x + b.
  std::size_t (*size)(std::size_t in, std::size_t out);
  void (*pack)(std::size_t in, std::size_t out, const float* weight, const float* bias, float* packed);
  void (*multiply)(std::size_t in, std::size_t out, const float* packed, const float* x, std::size_t x_row, float* y,
                   std::size_t y_row, std::size_t rows);
  // Layer normalisation; scratch of width + kPadding floats.
  void (*norm)(std::size_t width, float eps, const float* gain, const float* shift, const float* x, float* y,
               std::size_t rows, float* scratch);
  // (x - mean) / std, or x std + mean.
  void (*standardise)(std::size_t width, const float* mean, const float* std, bool inverse, const float* x, float* y,
                      std::size_t rows);
  // y_q = x_q + sum_k softmax(the last K of x)_k given_k; scratch of candidates + kPadding floats.
  void (*mix)(std::size_t candidates, std::size_t quantiles, const float* x, const float* given, float* y,
              std::size_t rows, float* scratch);
};
constexpr std::size_t kPadding = 16;

// Of a narrow build sizes, pack_forward and forward only, of calls that keep nothing; the others are null.
template <class Real>
struct Kernels {
  Sizes (*sizes)(const Layer& layer, const Sequence<Real>& sequence) = nullptr;
  // One of `parts` parts of the whole; with no parts only what backward needs of it: peepholes, gains, projections.
  void (*pack_forward)(const Layer& layer, const Weights<Real>& weights, Real* packed, std::size_t part,
                       std::size_t parts) = nullptr;
  void (*pack_backward)(const Layer& layer, const Weights<Real>& weights, bool with_dx, Real* packed, std::size_t part,
                        std::size_t parts) = nullptr;
  void (*forward)(const Job<Real>& job) = nullptr;
  void (*backward)(const BackwardJob<Real>& job) = nullptr;
  void (*reduce)(const ReduceJob<Real>& job) = nullptr;
  // Turns packed gradients and the sums of all chunks into the gradients of the weights.
  void (*unpack)(const Layer& layer, const Real* dpacked, const Real* sums, std::size_t chunks, Real* const* dweights,
                 std::size_t part, std::size_t parts) = nullptr;
  MathArrays<Real> math = {};
  // Of float32 only, else null.
  const Halving* halving = nullptr;
  const Rounding* rounding = nullptr;
  const Dense* dense = nullptr;
};

}  // namespace gatewise
