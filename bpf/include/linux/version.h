/*
 * bcc's helpers compare versions to choose between their own definitions. Our programs test for
 * features, never for versions, so one recent value serves every kernel. Kernels before 5.0 also
 * compare it when they load a kprobe program: for them bcc has BCC_LINUX_VERSION_CODE.
 */
#pragma once

#define KERNEL_VERSION(major, minor, patch) (((major) << 16) + ((minor) << 8) + (patch))
#define LINUX_VERSION_CODE KERNEL_VERSION(6, 1, 0)
