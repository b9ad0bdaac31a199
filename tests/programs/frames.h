/* Prints the frames that the unwinder of exceptions sees, each as its module and the offset in it:
 * the same in every run, independently of addresses. Allocates nothing. */
#ifndef FRAMES_H
#define FRAMES_H

#include "scenario.h"
#include <link.h>
#include <unwind.h>

struct place {
    uintptr_t address;
    uintptr_t base;
    const char *module;
};

static int contains(struct dl_phdr_info *object, size_t size, void *argument) {
    struct place *place = (struct place *)argument;
    (void)size;
    for (int i = 0; i < object->dlpi_phnum; i++) {
        const ElfW(Phdr) *segment = &object->dlpi_phdr[i];
        uintptr_t start = object->dlpi_addr + segment->p_vaddr;
        if (segment->p_type == PT_LOAD && place->address - start < segment->p_memsz) {
            const char *slash = strrchr(object->dlpi_name, '/');
            place->module = slash != NULL ? slash + 1 : object->dlpi_name;
            place->base = object->dlpi_addr;
            return 1;
        }
    }
    return 0;
}

static void print_frame(const void *address) {
    struct place place = {(uintptr_t)address, 0, "nowhere"};
    dl_iterate_phdr(contains, &place);
    say(*place.module != '\0' ? place.module : "program");
    /* An address in no module differs between runs; 0 is where stacks end. */
    int is_known = place.base != 0 || *place.module == '\0';
    print_result("", is_known ? place.address - place.base : place.address != 0);
}

static _Unwind_Reason_Code print_context(struct _Unwind_Context *context, void *count) {
    print_frame((void *)_Unwind_GetIP(context));
    return ++*(int *)count < 50 ? _URC_NO_REASON : _URC_END_OF_STACK;
}

static inline void print_unwound(void) {
    int count = 0;
    _Unwind_Backtrace(print_context, &count);
    print_result("frames", count);
}

#ifdef __GLIBC__
#include <execinfo.h>

static inline void print_backtrace(void) {
    void *frames[50];
    int count = backtrace(frames, 50);
    for (int i = 0; i < count; i++)
        print_frame(frames[i]);
    print_result("frames", count);
}
#else
static inline void print_backtrace(void) {
    print_unwound();
}
#endif

/* The first time the unwinder may load a library, and allocate. */
static _Unwind_Reason_Code pass_over(struct _Unwind_Context *context, void *unused) {
    (void)context;
    (void)unused;
    return _URC_NO_REASON;
}

static inline void load_unwinder(void) {
    _Unwind_Backtrace(pass_over, NULL);
#ifdef __GLIBC__
    void *frames[4];
    KEEP((void *)(uintptr_t)backtrace(frames, 4));
#endif
}

#endif
