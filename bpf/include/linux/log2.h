/* Only what bcc's BPF_STACK_TRACE uses, as a constant expression. */
#pragma once

/* The smallest power of two that is not below n, for n from 1 to 2^63. */
#define roundup_pow_of_two(n) ((n) <= 1 ? 1UL : 1UL << (64 - __builtin_clzll(-1ULL + (n))))
