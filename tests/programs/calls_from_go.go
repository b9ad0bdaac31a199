// A Go program whose C functions keep memory: called from several goroutines, which run on any
// free thread, and from several depths of Go. "done BYTES COUNT" reports what is held.
package main

/*
#include <stdlib.h>
#include <string.h>

__attribute__((noinline)) void keep_some(size_t size) {
    char *block = malloc(size);
    memset(block, 1, size);
    __asm__ volatile("" : : "r"(block) : "memory");
}
*/
import "C"

import (
	"bufio"
	"fmt"
	"os"
)

const (
	goroutines = 6
	rounds     = 100
)

//go:noinline
func descend(depth int) int {
	if depth > 0 {
		return descend(depth-1) + 1
	}
	C.keep_some(300)
	return 0
}

//go:noinline
func name(i int) int {
	text := fmt.Sprintf("%09d", i)
	C.CString(text) // nine letters and a zero
	return len(text) + 1
}

func main() {
	input := bufio.NewReader(os.Stdin)
	fmt.Println("ready")
	input.ReadString('\n')
	results := make(chan int)
	for g := 0; g < goroutines; g++ {
		go func(g int) {
			bytes := 0
			for i := 0; i < rounds; i++ {
				descend(i % (g + 1))
				bytes += 300 + name(i)
			}
			results <- bytes
		}(g)
	}
	bytes := 0
	for g := 0; g < goroutines; g++ {
		bytes += <-results
	}
	fmt.Println("done", bytes, 2*goroutines*rounds)
	input.ReadString('\n')
}
