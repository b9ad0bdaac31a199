// sums N: calls add of libadd.so N times from main, and N times from a goroutine.
package main

/*
#cgo CFLAGS: -I${SRCDIR}/libadd
#cgo LDFLAGS: -L${SRCDIR}/libadd -ladd -Wl,-rpath,${SRCDIR}/libadd
#include "add.h"
*/
import "C"

import (
	"fmt"
	"os"
	"strconv"
)

//go:noinline
func work(times int) int {
	sum := 0
	for i := 0; i < times; i++ {
		sum = int(C.add(C.int(sum), 1))
	}
	return sum
}

func main() {
	times, err := strconv.Atoi(os.Args[1])
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(2)
	}
	sums := make(chan int)
	go func() { sums <- work(times) }()
	fmt.Println(work(times) + <-sums)
}
