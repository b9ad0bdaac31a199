/* Leaf functions with data in their red zone: the 128 bytes below the stack pointer, theirs without
 * moving it (System V psABI for x86-64, 3.2.2). Each fills all of it, executes a nop of five bytes,
 * and counts the words that have changed.
 *
 *   call NAME COUNT    "done WRONG COUNT": words found changed in COUNT calls
 *   fork NAME COUNT    "done WRONG COUNT": the same in a child; WRONG is 0 or 1, or larger when it
 *                      was killed
 *
 * red_zone_middle: the nop is at the symbol red_zone_middle_nop. red_zone_entry: the nop is the
 * first instruction of the symbol red_zone_entry, which red_zone_before falls into with its red
 * zone in use, as hand-written code may; the kernel doesn't emulate the instructions after it.
 */
#include "scenario.h"

#include <sys/wait.h>

long red_zone_middle(long seed);
long red_zone_before(long seed);

/* clang-format off */
__asm__(
    ".macro fill\n"
    "    .set slot, 8\n"
    "    .rept 16\n"
    "    lea slot(%rdi), %rdx\n"
    "    mov %rdx, -slot(%rsp)\n"
    "    .set slot, slot + 8\n"
    "    .endr\n"
    ".endm\n"
    ".macro check\n"
    "    xor %eax, %eax\n"
    "    .set slot, 8\n"
    "    .rept 16\n"
    "    lea slot(%rdi), %rdx\n"
    "    xor %ecx, %ecx\n"
    "    cmp %rdx, -slot(%rsp)\n"
    "    setne %cl\n"
    "    add %rcx, %rax\n"
    "    .set slot, slot + 8\n"
    "    .endr\n"
    "    ret\n"
    ".endm\n"
    "    .text\n"
    "    .p2align 4\n" /* never across the end of a page: the kernel doesn't replace such a nop */
    "    .globl red_zone_middle, red_zone_middle_nop\n"
    "    .type red_zone_middle, @function\n"
    "    .type red_zone_middle_nop, @function\n"
    "red_zone_middle:\n"
    "    fill\n"
    "    .p2align 4\n"
    "red_zone_middle_nop:\n"
    "    .byte 0x0f, 0x1f, 0x44, 0x00, 0x00\n"
    "    check\n"
    "    .size red_zone_middle, . - red_zone_middle\n"
    "    .size red_zone_middle_nop, . - red_zone_middle_nop\n"
    "    .p2align 4\n"
    "    .globl red_zone_before, red_zone_entry\n"
    "    .type red_zone_before, @function\n"
    "    .type red_zone_entry, @function\n"
    "red_zone_before:\n"
    "    fill\n"
    "    .p2align 4\n"
    "red_zone_entry:\n"
    "    .byte 0x0f, 0x1f, 0x44, 0x00, 0x00\n"
    "    mov %rdi, %rax\n"
    "    check\n"
    "    .size red_zone_before, . - red_zone_before\n"
    "    .size red_zone_entry, . - red_zone_entry\n");
/* clang-format on */

static unsigned long wrong_words(long (*function)(long), unsigned long calls) {
    unsigned long wrong = 0;
    for (unsigned long i = 0; i < calls; i++)
        wrong += (unsigned long)function((long)(i * 1000003));
    return wrong;
}

/* The child's count, or all ones when it was killed. */
static unsigned long in_a_child(long (*function)(long), unsigned long calls) {
    int status;
    pid_t child = fork();
    if (child == 0)
        _exit(wrong_words(function, calls) > 0);
    if (child < 0 || waitpid(child, &status, 0) != child || !WIFEXITED(status))
        return ~0UL;
    return (unsigned long)WEXITSTATUS(status);
}

int main(void) {
    char line[64];
    say("ready\n");
    while (read_line(line, sizeof line)) {
        long (*function)(long) = strstr(line, "middle") ? red_zone_middle : red_zone_before;
        unsigned long count = strtoul(strrchr(line, ' '), NULL, 10);
        unsigned long wrong =
            line[0] == 'f' ? in_a_child(function, count) : wrong_words(function, count);
        char answer[80] = "done ";
        char *end = put_number(answer + 5, wrong);
        *end++ = ' ';
        end = put_number(end, count);
        memcpy(end, "\n", 2);
        say(answer);
    }
    return 0;
}
