// A Go library for programs of C (-buildmode=c-shared, -buildmode=c-archive), or with a main function of
// its own (see go_library_main.go): its functions keep memory of C, and goroutines that wait for what
// never comes.
package main

/*
#include <stdlib.h>
#include <string.h>

typedef void (*callback)(int size);

static __attribute__((noinline)) void keep_some(size_t size) {
    char *block = malloc(size);
    memset(block, 1, size);
    __asm__ volatile("" : : "r"(block) : "memory");
}

// Its frame is found by rbp, which Go has saved.
static __attribute__((noinline)) void call_back(callback to, int size) {
    char *some = __builtin_alloca(16 * size % 64 + 16);
    __asm__ volatile("" : : "r"(some) : "memory");
    to(size);
    __asm__ volatile("" : : "r"(some) : "memory");
}
*/
import "C"

var never = make(chan int)

//go:noinline
func keep(size C.int) { C.keep_some(C.size_t(size)) }

// GoKeep: C calls Go, which calls C, which allocates.
//
//export GoKeep
func GoKeep(size, times C.int) {
	for i := C.int(0); i < times; i++ {
		keep(size)
	}
}

// GoCallBack: C calls Go, which calls a function of the caller, which may allocate, or call Go again.
//
//export GoCallBack
func GoCallBack(to C.callback, size C.int) { C.call_back(to, size) }

//go:noinline
func keepInGoroutine(size C.int, done chan bool) {
	keep(size)
	done <- true
}

// GoKeepElsewhere: the same on a thread of the Go runtime.
//
//export GoKeepElsewhere
func GoKeepElsewhere(size C.int) {
	done := make(chan bool)
	go keepInGoroutine(size, done)
	<-done
}

//go:noinline
func stuck(begun chan bool) {
	begun <- true
	<-never
}

// GoStick: so many goroutines that never end.
//
//export GoStick
func GoStick(count C.int) {
	begun := make(chan bool)
	for i := C.int(0); i < count; i++ {
		go stuck(begun)
		<-begun
	}
}

func main() {}
