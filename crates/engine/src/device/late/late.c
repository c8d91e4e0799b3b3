/* CUDA's functions, each looked up when it is first called.
 *
 * Linked to CUDA's libraries in the usual way, the program would not even start on a machine without an NVIDIA driver, and so
 * could not say what is missing. Here each of their functions that candle may call is a jump through a table (made by build.rs
 * out of functions.txt, in assembler). At first an entry of the table leads to t2v_late_way, with the entry's place on the
 * stack. That looks the function up, puts its address into the table and jumps there. Where the library or the function is
 * missing, the call answers with an error of that library. */
#include <dlfcn.h>
#include <stddef.h>

/* LIBRARIES: {file, error, end of its places in the table}; NAMES: the functions in the order of the table. */
#include "late_table.h"

static const struct {
  const char *file;
  int error;
  size_t end;
} libraries[] = {LIBRARIES};

static const char *const names[] = {NAMES};

#define MISSING(error) \
  static int missing_##error(void) { return error; }
MISSING(1)
MISSING(34)
MISSING(101)

/* The function of this place. Whatever thread calls it, and however often, it finds the same. */
__attribute__((visibility("hidden"), used)) void *t2v_late_look_up(size_t place) {
  size_t library = 0;
  while (place >= libraries[library].end) library++;
  void *handle = dlopen(libraries[library].file, RTLD_NOW | RTLD_GLOBAL);
  void *function = handle ? dlsym(handle, names[place]) : NULL;
  if (function) return function;
  switch (libraries[library].error) {
    case 34: return (void *)missing_34;
    case 101: return (void *)missing_101;
    default: return (void *)missing_1;
  }
}

/* All registers that may hold arguments are kept. */
__asm__(
    ".text\n"
    ".globl t2v_late_way\n"
    ".hidden t2v_late_way\n"
    ".type t2v_late_way, @function\n"
    "t2v_late_way:\n"
    "  pushq %rbp\n"
    "  movq %rsp, %rbp\n"
    "  andq $-16, %rsp\n"
    "  subq $192, %rsp\n"
    "  movq %rax, 0(%rsp)\n"
    "  movq %rdi, 8(%rsp)\n"
    "  movq %rsi, 16(%rsp)\n"
    "  movq %rdx, 24(%rsp)\n"
    "  movq %rcx, 32(%rsp)\n"
    "  movq %r8, 40(%rsp)\n"
    "  movq %r9, 48(%rsp)\n"
    "  movups %xmm0, 64(%rsp)\n"
    "  movups %xmm1, 80(%rsp)\n"
    "  movups %xmm2, 96(%rsp)\n"
    "  movups %xmm3, 112(%rsp)\n"
    "  movups %xmm4, 128(%rsp)\n"
    "  movups %xmm5, 144(%rsp)\n"
    "  movups %xmm6, 160(%rsp)\n"
    "  movups %xmm7, 176(%rsp)\n"
    "  movq 8(%rbp), %rdi\n"
    "  call t2v_late_look_up\n"
    "  movq %rax, %r11\n"
    "  leaq t2v_late_table(%rip), %r10\n"
    "  movq 8(%rbp), %rcx\n"
    "  movq %r11, (%r10,%rcx,8)\n"
    "  movq 0(%rsp), %rax\n"
    "  movq 8(%rsp), %rdi\n"
    "  movq 16(%rsp), %rsi\n"
    "  movq 24(%rsp), %rdx\n"
    "  movq 32(%rsp), %rcx\n"
    "  movq 40(%rsp), %r8\n"
    "  movq 48(%rsp), %r9\n"
    "  movups 64(%rsp), %xmm0\n"
    "  movups 80(%rsp), %xmm1\n"
    "  movups 96(%rsp), %xmm2\n"
    "  movups 112(%rsp), %xmm3\n"
    "  movups 128(%rsp), %xmm4\n"
    "  movups 144(%rsp), %xmm5\n"
    "  movups 160(%rsp), %xmm6\n"
    "  movups 176(%rsp), %xmm7\n"
    "  movq %rbp, %rsp\n"
    "  popq %rbp\n"
    "  addq $8, %rsp\n"
    "  jmp *%r11\n");
