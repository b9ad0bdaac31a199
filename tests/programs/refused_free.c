/* An allocator whose free begins with a load of the stack segment: an instruction that the kernel
 * refuses to probe, with a special errno (insn_masking_exception). It is never called. */
#include "scenario.h"

static char arena[1 << 16];
static size_t used;

__attribute__((noinline, noclone)) void *malloc(size_t size) {
    void *block = arena + used;
    used += (size + 15) & ~(size_t)15;
    KEEP(block);
    return block;
}

__asm__(".globl free\n"
        ".type free, @function\n"
        "free: .cfi_startproc\n"
        "mov %eax, %ss\n"
        "ret\n"
        ".cfi_endproc\n"
        ".size free, . - free\n");
