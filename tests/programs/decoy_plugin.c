/* A plugin for stack_plugins.c that allocates as soon as it is loaded, before its unwind table can
 * be known, and whose frames misled a walk by frame pointers: while it calls malloc, rbp points at
 * two words on the stack that look like the frame of a call made by decoy_never_called.
 *
 *   decoy_loaded (a constructor) -> decoy_middle -> decoy_inner -> malloc(SIZE_WHEN_LOADED)
 *   plugin_entry(size) -> decoy_outer -> decoy_middle -> decoy_inner -> malloc(size)
 *
 * The unwind table takes a while: there are FILLERS more functions, all with other rows. */
#include "scenario.h"

#ifndef FILLERS
#define FILLERS 20000
#endif
#define SIZE_WHEN_LOADED 77
#define TEXT_(number) #number
#define TEXT(number) TEXT_(number)

/* clang-format off */
__asm__(".text\n"
        ".type decoy_never_called, @function\n"
        "decoy_never_called:\n"
        "  .cfi_startproc\n"
        "  sub $8, %rsp\n"
        "  .cfi_def_cfa_offset 16\n"
        "  call decoy_inner\n"
        "decoy_return:\n"
        "  add $8, %rsp\n"
        "  .cfi_def_cfa_offset 8\n"
        "  ret\n"
        "  .cfi_endproc\n"
        ".size decoy_never_called, . - decoy_never_called\n"
        /* decoy_inner(size): below its saved rbp are two words, a rbp of 0 and a return address. */
        ".type decoy_inner, @function\n"
        "decoy_inner:\n"
        "  .cfi_startproc\n"
        "  push %rbp\n"
        "  .cfi_def_cfa_offset 16\n"
        "  .cfi_offset %rbp, -16\n"
        "  sub $32, %rsp\n"
        "  .cfi_def_cfa_offset 48\n"
        "  lea decoy_return(%rip), %rax\n"
        "  movq $0, 8(%rsp)\n"
        "  mov %rax, 16(%rsp)\n"
        "  lea 8(%rsp), %rbp\n"
        "  call malloc@plt\n"
        "  add $32, %rsp\n"
        "  .cfi_def_cfa_offset 16\n"
        "  pop %rbp\n"
        "  .cfi_def_cfa_offset 8\n"
        "  ret\n"
        "  .cfi_endproc\n"
        ".size decoy_inner, . - decoy_inner\n"
        ".altmacro\n"
        ".macro filler number\n"
        "  .cfi_startproc\n"
        "  sub $8 * (\\number % 4000 + 1), %rsp\n"
        "  .cfi_def_cfa_offset 8 * (\\number % 4000 + 2)\n"
        "  ret\n"
        "  .cfi_endproc\n"
        ".endm\n"
        ".set filler_number, 0\n"
        ".rept " TEXT(FILLERS) "\n"
        "  filler %filler_number\n"
        "  .set filler_number, filler_number + 1\n"
        ".endr\n");
/* clang-format on */

void *decoy_inner(size_t size);

SCENARIO decoy_middle(size_t size) {
    KEEP(decoy_inner(size));
    KEEP(size);
}

SCENARIO decoy_outer(size_t size) {
    decoy_middle(size);
    KEEP(size);
}

__attribute__((constructor)) static void decoy_loaded(void) {
    decoy_middle(opaque(SIZE_WHEN_LOADED));
    __asm__ volatile("");
}

__attribute__((visibility("default"))) void plugin_entry(size_t size) {
    decoy_outer(size);
    KEEP(size);
}
