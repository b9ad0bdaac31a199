/* Force-included by bcc before anything else, as the kernel's build does. */
#pragma once

/* bcc's helpers refuse to compile without it. */
#define CONFIG_BPF_SYSCALL 1
