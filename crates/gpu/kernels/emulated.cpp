// The kernels for the CPU, and what runs them: block after block, every thread of a block a fiber with a stack of its own. What
// would hang or be undefined on a card ends the program with a line that names the kernel.

// The checked longjmp takes another stack for a mistake.
#undef _FORTIFY_SOURCE

#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <ucontext.h>
#include <unistd.h>

#if __has_include("all.cu")
#include "all.cu"
#endif
#include "selftest.cu"

namespace emulated {

// As many as the kernels are compiled for on cards.
const unsigned MOST_THREADS = 128;
const unsigned WARP = 32;
// What a block may have on every card that kernels are compiled for: the least is that of compute capability 8.9.
const unsigned MOST_SHARED_BYTES = 99 << 10;
const size_t STACK_BYTES = 64 << 10;
// Beside shared memory, to see whether it was written to.
const size_t GUARD_BYTES = 4096;
// No number as f16, bf16 and f32, and far outside as an index.
const uint16_t PATTERN = 0x7fbf;

struct Warp {
  // How many wait for the others of the warp, and in what.
  unsigned waiting;
  Collective collective;
  // How many wait for the block, and how many have ended.
  unsigned meeting, ended;
};

// All that one launch needs. It is made once for every launch that runs at the same time, and used again.
struct Runner {
  const Kernel *kernel;
  alignas(64) unsigned char arguments[4096];
  Block block;
  unsigned shared_bytes;
  Thread threads[MOST_THREADS];
  jmp_buf contexts[MOST_THREADS];
  bool ready[MOST_THREADS];
  Warp warps[MOST_THREADS / WARP];
  unsigned meeting, ended;
  bool backwards;
  // Where the launch goes on.
  jmp_buf outside;
  Runner *next;
  alignas(64) unsigned char shared[GUARD_BYTES + MOST_SHARED_BYTES + GUARD_BYTES];
};

static const Kernel *kernels;
static Runner *unused;
static pthread_mutex_t unused_lock = PTHREAD_MUTEX_INITIALIZER;
static __thread Runner *runner;

Kernel::Kernel(const char *name, size_t arguments_bytes, void (*run)(const void *))
    : name(name), arguments_bytes(arguments_bytes), run(run), next(kernels) {
  kernels = this;
}

static const Kernel *find(const char *name) {
  const Kernel *kernel = kernels;
  while (kernel && strcmp(kernel->name, name) != 0) {
    kernel = kernel->next;
  }
  return kernel;
}

__attribute__((noreturn, format(printf, 1, 2))) static void fail(const char *format, ...) {
  fprintf(stderr, "kernel %s, block (%u, %u), thread %u: ", runner->kernel->name, runner->block.x, runner->block.y,
          self->index);
  va_list arguments;
  va_start(arguments, format);
  vfprintf(stderr, format, arguments);
  va_end(arguments);
  fputc('\n', stderr);
  abort();
}

static const char *name_of(Collective collective) {
  switch (collective) {
  case Collective::Exchange:
    return "exchange";
  case Collective::MultiplyAddHalf:
    return "multiply_add<half>";
  case Collective::MultiplyAddBfloat16:
    return "multiply_add<bfloat16>";
  case Collective::LoadMatrices:
    return "load_matrices";
  case Collective::LoadMatricesTurned:
    return "load_matrices_turned";
  }
  return "";
}

// Lets the next thread run that can, and the launch go on where there is none. Returns when this one may run again. Not inlined:
// a fiber that has ended is woken by whichever of the host's threads launches next, and `self` lies elsewhere there.
__attribute__((noinline)) static void suspend() {
  unsigned index = self->index, threads = runner->block.threads;
  if (_setjmp(runner->contexts[index]) != 0) {
    return;
  }
  for (unsigned other = index;;) {
    other = runner->backwards ? (other == 0 ? threads : other) - 1 : other + 1 == threads ? 0 : other + 1;
    if (runner->ready[other]) {
      self = &runner->threads[other];
      _longjmp(runner->contexts[other], 1);
    }
    if (other == index) {
      _longjmp(runner->outside, 1);
    }
  }
}

__attribute__((noinline)) static void meet() {
  Warp &warp = runner->warps[self->index / WARP];
  if (runner->ended != 0) {
    fail("it waits in meet, and other threads of the block have ended");
  }
  if (warp.waiting != 0) {
    fail("it waits in meet, and other threads of the warp in %s", name_of(warp.collective));
  }
  warp.meeting += 1;
  runner->meeting += 1;
  if (runner->meeting < runner->block.threads) {
    runner->ready[self->index] = false;
    suspend();
    return;
  }
  runner->meeting = 0;
  for (Warp &warp : runner->warps) {
    warp.meeting = 0;
  }
  for (unsigned index = 0; index < runner->block.threads; index++) {
    runner->ready[index] = true;
  }
}

static void exchange_all(Thread *warp) {
  float values[WARP];
  for (unsigned lane = 0; lane < WARP; lane++) {
    values[lane] = warp[lane].operands.value;
    if (warp[lane].operands.bits != warp[0].operands.bits || warp[lane].operands.bits >= WARP) {
      fail("exchange of %u and of %u", warp[0].operands.bits, warp[lane].operands.bits);
    }
  }
  for (unsigned lane = 0; lane < WARP; lane++) {
    warp[lane].operands.value = values[lane ^ warp[lane].operands.bits];
  }
}

// The first or second number of a word.
template <typename T> static float part(uint32_t word, unsigned which) {
  return to_float(T{static_cast<uint16_t>(word >> 16 * which)});
}

// Adds in f32, in order of depth. A card adds the same products in an order of its own.
template <typename T> static void multiply_add_all(Thread *warp) {
  float a[16][16], b[16][8];
  for (unsigned lane = 0; lane < WARP; lane++) {
    const Operands &operands = warp[lane].operands;
    unsigned group = lane / 4, pair = 2 * (lane % 4);
    for (unsigned which = 0; which < 2; which++) {
      a[group][pair + which] = part<T>(operands.a[0], which);
      a[group + 8][pair + which] = part<T>(operands.a[1], which);
      a[group][pair + 8 + which] = part<T>(operands.a[2], which);
      a[group + 8][pair + 8 + which] = part<T>(operands.a[3], which);
      b[pair + which][group] = part<T>(operands.b[0], which);
      b[pair + 8 + which][group] = part<T>(operands.b[1], which);
    }
  }
  for (unsigned row = 0; row < 16; row++) {
    float sums[8];
    for (unsigned column = 0; column < 8; column++) {
      sums[column] = warp[row % 8 * 4 + column / 2].operands.sums[row / 8 * 2 + column % 2];
    }
    for (unsigned depth = 0; depth < 16; depth++) {
      for (unsigned column = 0; column < 8; column++) {
        sums[column] += a[row][depth] * b[depth][column];
      }
    }
    for (unsigned column = 0; column < 8; column++) {
      warp[row % 8 * 4 + column / 2].operands.sums[row / 8 * 2 + column % 2] = sums[column];
    }
  }
}

static void load_all(Thread *warp, bool turned) {
  uint16_t matrices[4][8][8];
  for (unsigned lane = 0; lane < WARP; lane++) {
    const unsigned char *row = static_cast<const unsigned char *>(warp[lane].operands.row);
    if (reinterpret_cast<uintptr_t>(row) % 16 != 0) {
      fail("the row that thread %u of the warp names is not at a multiple of 16", lane);
    }
    if (row < runner->block.shared || row + 16 > runner->block.shared + runner->shared_bytes) {
      fail("the row that thread %u of the warp names is not in shared memory", lane);
    }
    memcpy(matrices[lane / 8][lane % 8], row, 16);
  }
  for (unsigned lane = 0; lane < WARP; lane++) {
    unsigned group = lane / 4, pair = 2 * (lane % 4);
    for (unsigned matrix = 0; matrix < 4; matrix++) {
      auto &rows = matrices[matrix];
      uint16_t low = turned ? rows[pair][group] : rows[group][pair];
      uint16_t high = turned ? rows[pair + 1][group] : rows[group][pair + 1];
      warp[lane].operands.to[matrix] = low | static_cast<uint32_t>(high) << 16;
    }
  }
}

// The last one to come does it for all.
__attribute__((noinline)) static void join(Collective collective) {
  Warp &warp = runner->warps[self->index / WARP];
  if (warp.ended != 0 || warp.meeting != 0) {
    fail("it waits in %s, and other threads of the warp %s", name_of(collective), warp.ended ? "have ended" : "in meet");
  }
  if (warp.waiting != 0 && warp.collective != collective) {
    fail("it waits in %s, and other threads of the warp in %s", name_of(collective), name_of(warp.collective));
  }
  warp.collective = collective;
  warp.waiting += 1;
  if (warp.waiting < WARP) {
    runner->ready[self->index] = false;
    suspend();
    return;
  }
  warp.waiting = 0;
  unsigned first = self->index / WARP * WARP;
  Thread *threads = &runner->threads[first];
  switch (collective) {
  case Collective::Exchange:
    exchange_all(threads);
    break;
  case Collective::MultiplyAddHalf:
    multiply_add_all<half>(threads);
    break;
  case Collective::MultiplyAddBfloat16:
    multiply_add_all<bfloat16>(threads);
    break;
  case Collective::LoadMatrices:
  case Collective::LoadMatricesTurned:
    load_all(threads, collective == Collective::LoadMatricesTurned);
    break;
  }
  memset(&runner->ready[first], true, WARP);
}

__attribute__((noinline)) static void run_thread() {
  runner->kernel->run(runner->arguments);
  Warp &warp = runner->warps[self->index / WARP];
  if (warp.waiting != 0) {
    fail("it ends, and other threads of the warp wait in %s", name_of(warp.collective));
  }
  if (runner->meeting != 0) {
    fail("it ends, and other threads of the block wait in meet");
  }
  warp.ended += 1;
  runner->ended += 1;
  runner->ready[self->index] = false;
}

static void fiber() {
  for (;;) {
    suspend();
    run_thread();
  }
}

// Lets threads run until none can. `start`, if any, begins a fiber; else the first or last thread goes on.
__attribute__((noinline)) static void enter(const ucontext_t *start) {
  if (_setjmp(runner->outside) != 0) {
    return;
  }
  if (start) {
    setcontext(start);
  }
  _longjmp(runner->contexts[self->index], 1);
}

// With a fiber for each thread, which waits for its first block. None of them is ready meanwhile.
static void make_runner() {
  size_t page = static_cast<size_t>(sysconf(_SC_PAGESIZE));
  void *stacks = mmap(nullptr, STACK_BYTES * MOST_THREADS, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  runner = static_cast<Runner *>(aligned_alloc(64, sizeof(Runner)));
  if (stacks == MAP_FAILED || !runner) {
    fputs("no memory for the stacks of threads\n", stderr);
    abort();
  }
  memset(runner, 0, sizeof(Runner));
  runner->block.threads = MOST_THREADS;
  for (unsigned index = 0; index < MOST_THREADS; index++) {
    unsigned char *stack = static_cast<unsigned char *>(stacks) + index * STACK_BYTES;
    mprotect(stack, page, PROT_NONE); // what overflows ends there
    self = &runner->threads[index];
    self->index = index;
    self->block = &runner->block;
    ucontext_t context;
    getcontext(&context);
    context.uc_stack.ss_sp = stack + page;
    context.uc_stack.ss_size = STACK_BYTES - page;
    context.uc_link = nullptr;
    makecontext(&context, fiber, 0);
    enter(&context);
  }
}

static void fill(unsigned char *from, const unsigned char *end) {
  for (; from < end; from += sizeof PATTERN) {
    memcpy(from, &PATTERN, sizeof PATTERN);
  }
}

static bool is_filled(const unsigned char *from, const unsigned char *end) {
  uint16_t different = 0, word;
  for (; from < end; from += sizeof PATTERN) {
    memcpy(&word, from, sizeof PATTERN);
    different |= word ^ PATTERN;
  }
  return different == 0;
}

static void run_block() {
  unsigned char *end = runner->block.shared + runner->shared_bytes;
  fill(runner->shared, end + GUARD_BYTES);
  memset(runner->warps, 0, sizeof runner->warps);
  runner->meeting = runner->ended = 0;
  memset(runner->ready, true, runner->block.threads);
  // In both orders, as a missing meet may show in one of them only.
  runner->backwards = (runner->block.x + runner->block.y) % 2 != 0;
  self = &runner->threads[runner->backwards ? runner->block.threads - 1 : 0];
  enter(nullptr);
  if (runner->ended != runner->block.threads) {
    fail("no thread can go on");
  }
  if (!is_filled(runner->shared, runner->block.shared) || !is_filled(end, end + GUARD_BYTES)) {
    fail("the block wrote outside of its %u bytes of shared memory", runner->shared_bytes);
  }
}

static int launch(const char *name, unsigned blocks_x, unsigned blocks_y, unsigned threads, unsigned shared_bytes,
                  const void *arguments) {
  const Kernel *kernel = find(name);
  if (!kernel) {
    return 1;
  }
  if (blocks_x - 1 >= 0x7fffffff || blocks_y - 1 >= 65535 || threads - 1 >= MOST_THREADS || threads % WARP != 0 ||
      shared_bytes > MOST_SHARED_BYTES) {
    return 2;
  }
  pthread_mutex_lock(&unused_lock);
  runner = unused;
  if (runner) {
    unused = runner->next;
  }
  pthread_mutex_unlock(&unused_lock);
  if (!runner) {
    make_runner();
  }
  runner->kernel = kernel;
  memcpy(runner->arguments, arguments, kernel->arguments_bytes);
  runner->shared_bytes = shared_bytes;
  runner->block.threads = threads;
  runner->block.shared = runner->shared + GUARD_BYTES;
  for (unsigned y = 0; y < blocks_y; y++) {
    for (unsigned x = 0; x < blocks_x; x++) {
      runner->block.x = x;
      runner->block.y = y;
      run_block();
    }
  }
  pthread_mutex_lock(&unused_lock);
  runner->next = unused;
  unused = runner;
  pthread_mutex_unlock(&unused_lock);
  return 0;
}

} // namespace emulated

// Bytes of a kernel's argument, or 0 for an unknown one.
extern "C" size_t t2v_emulated_arguments(const char *name) {
  const emulated::Kernel *kernel = emulated::find(name);
  return kernel ? kernel->arguments_bytes : 0;
}

// Runs a kernel to its end: 0. An unknown one: 1. A launch that no card would take: 2.
extern "C" int t2v_emulated_launch(const char *name, unsigned blocks_x, unsigned blocks_y, unsigned threads,
                                   unsigned shared_bytes, const void *arguments) {
  return emulated::launch(name, blocks_x, blocks_y, threads, shared_bytes, arguments);
}
