// A Go program that leaks in one of three ways, or in all of them: goroutines that wait for ever,
// memory of C, and a heap that is never collected.
package main

/*
#include <stdlib.h>
#include <string.h>

__attribute__((noinline)) void *keep(size_t size) {
    void *block = malloc(size);
    memset(block, 1, size);
    return block;
}
*/
import "C"

import (
	"fmt"
	"os"
	"runtime/debug"
	"strings"
	"time"
)

var (
	kept []byte
	c    = make(chan int)
)

//go:noinline
func stuck() { <-c }

//go:noinline
func serve() { go stuck() }

func main() {
	ways := os.Args[1]
	if strings.Contains(ways, "heap") {
		debug.SetGCPercent(-1)
	}
	fmt.Println("ready")
	for count := 0; ; count++ {
		if strings.Contains(ways, "goroutines") {
			serve()
		}
		if strings.Contains(ways, "C") {
			C.keep(3000)
		}
		if strings.Contains(ways, "heap") {
			kept = make([]byte, 20000)
		}
		time.Sleep(5 * time.Millisecond)
	}
}
