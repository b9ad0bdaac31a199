/* bcc gives ring buffers their size in pages (BPF_RINGBUF_OUTPUT). */
#pragma once

/*
 * aarch64 kernels are built with pages of 4, 16 or 64 KiB: the loader passes the real size with
 * -DPAGE_SIZE=… where it isn't 4 KiB.
 */
#ifndef PAGE_SIZE
#define PAGE_SIZE 4096UL
#endif
