/* Fibers that allocate from several depths, on stacks without a caller: fibers KIND [ROUNDS].
 *
 *   ucontext   made by makecontext(3), without uc_link
 *   linked     the same with uc_link
 *   assembly   by hand: the address of code without unwind information is put on the new stack, as
 *              boost's make_fcontext does
 *
 * Without ROUNDS they go round three times; 0: until the end. What they hold is reported at the
 * end. */
#include "scenario.h"
#include <ucontext.h>

enum { FIBERS = 4, STACK_BYTES = 1 << 16, BLOCK_BYTES = 250 };

static ucontext_t scheduler, contexts[FIBERS];
static void *fiber_sp[FIBERS], *scheduler_sp;
static unsigned long long blocks;
static int by_hand;

/* switch_stacks(&from, to): what a call preserves is kept on the stack that is left. */
void switch_stacks(void **from, void *to);
void fiber_entered(void);
void fiber_ended(void);
__asm__(".text\n"
        ".globl switch_stacks, fiber_entered, fiber_ended\n"
        ".type switch_stacks, @function\n"
        ".type fiber_entered, @function\n"
        "switch_stacks:\n"
        "    push %rbp\n"
        "    push %rbx\n"
        "    push %r12\n"
        "    push %r13\n"
        "    push %r14\n"
        "    push %r15\n"
        "    mov %rsp, (%rdi)\n"
        "    mov %rsi, %rsp\n"
        "    pop %r15\n"
        "    pop %r14\n"
        "    pop %r13\n"
        "    pop %r12\n"
        "    pop %rbx\n"
        "    pop %rbp\n"
        "    ret\n"
        ".size switch_stacks, . - switch_stacks\n"
        ".p2align 4\n"
        "fiber_entered:\n" /* rbx: the function, r12: its argument, rbp: what it returns to */
        "    mov %r12, %rdi\n"
        "    push %rbp\n"
        "    jmp *%rbx\n"
        "fiber_ended:\n"
        "    xor %edi, %edi\n"
        "    call _exit@PLT\n"
        "    hlt\n"
        ".size fiber_entered, . - fiber_entered\n");

static void leave(int me) {
    if (by_hand)
        switch_stacks(&fiber_sp[me], scheduler_sp);
    else
        swapcontext(&contexts[me], &scheduler);
}

SCENARIO fiber_keep(void) {
    KEEP(malloc(BLOCK_BYTES));
    blocks++;
}

SCENARIO fiber_deep(int levels) {
    if (levels > 0)
        fiber_deep(levels - 1);
    else
        fiber_keep();
    KEEP(levels);
}

SCENARIO fiber_body(int me) {
    for (;;) {
        fiber_deep(me);
        leave(me);
    }
}

static void make(int me, int linked) {
    char *stack = malloc(STACK_BYTES);
    memset(stack, 0x5a, STACK_BYTES); /* after the outermost frame is no zero */
    if (by_hand) {
        void **top = (void **)(((uintptr_t)stack + STACK_BYTES - 64) & ~(uintptr_t)15);
        void *saved[] = {NULL,
                         NULL,
                         NULL,
                         (void *)(intptr_t)me,
                         (void *)fiber_body,
                         (void *)fiber_ended,
                         (void *)fiber_entered};
        fiber_sp[me] = memcpy(top - 7, saved, sizeof saved);
        return;
    }
    if (getcontext(&contexts[me]) != 0)
        _exit(70);
    contexts[me].uc_stack.ss_sp = stack;
    contexts[me].uc_stack.ss_size = STACK_BYTES;
    contexts[me].uc_link = linked ? &scheduler : NULL;
    makecontext(&contexts[me], (void (*)(void))fiber_body, 1, me);
}

int main(int argc, char **argv) {
    const char *kind = argc > 1 ? argv[1] : "ucontext";
    unsigned long rounds = argc > 2 ? strtoul(argv[2], NULL, 10) : 3;
    by_hand = strcmp(kind, "assembly") == 0;
    for (int me = 0; me < FIBERS; me++)
        make(me, strcmp(kind, "linked") == 0);
    await_go();
    for (unsigned long round = 0; rounds == 0 || round < rounds; round++)
        for (int me = 0; me < FIBERS; me++) {
            if (by_hand)
                switch_stacks(&scheduler_sp, fiber_sp[me]);
            else
                swapcontext(&scheduler, &contexts[me]);
        }
    done_with_account(blocks * BLOCK_BYTES, blocks);
    return 0;
}
