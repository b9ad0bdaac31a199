// A plugin of a Go program (go_plugin_host.go): its C code keeps memory, and it leaves goroutines that
// never end. It has no runtime of its own.
package main

/*
#include <stdlib.h>
#include <string.h>

static __attribute__((noinline)) void keep_some(size_t size) {
    char *block = malloc(size);
    memset(block, 1, size);
    __asm__ volatile("" : : "r"(block) : "memory");
}
*/
import "C"

var never = make(chan int)

//go:noinline
func keepOne(size int) { C.keep_some(C.size_t(size)) }

// Keep keeps a block of C.
//
//go:noinline
func Keep(size int) { keepOne(size) }

//go:noinline
func stuck(begun chan bool) {
	begun <- true
	<-never
}

// Stick leaves goroutines behind.
//
//go:noinline
func Stick(count int) {
	begun := make(chan bool)
	for i := 0; i < count; i++ {
		go stuck(begun)
		<-begun
	}
}
