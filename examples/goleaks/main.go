// A service that leaks in one of three ways:
//
//	goleaks ticker    goroutines wait for ever on the channel of a ticker that was stopped
//	goleaks c         C code that is called through cgo keeps what it allocates
//	goleaks heap      the heap is never collected (as with GOGC=off)
package main

/*
#include <stdlib.h>
#include <string.h>

char *parsed;

__attribute__((noinline)) void parse_header(const char *text) {
    parsed = strdup(text); // the one before is forgotten
}
*/
import "C"

import (
	"fmt"
	"os"
	"runtime/debug"
	"strings"
	"time"
	"unsafe"
)

var kept []byte

// Stop doesn't close the channel: this loop never ends.
func watch(ticker *time.Ticker) {
	for range ticker.C {
	}
}

func request() {
	ticker := time.NewTicker(time.Minute)
	go watch(ticker)
	ticker.Stop()
}

func parse() {
	text := C.CString(strings.Repeat("x", 2999))
	C.parse_header(text)
	C.free(unsafe.Pointer(text))
}

func conf() {
	kept = make([]byte, 64<<10)
}

func task() {
	kept = make([]byte, 128<<10)
}

func main() {
	if len(os.Args) != 2 {
		fmt.Fprintln(os.Stderr, "usage: goleaks ticker|c|heap")
		os.Exit(2)
	}
	if os.Args[1] == "heap" {
		debug.SetGCPercent(-1)
	}
	fmt.Println("ready")
	for {
		switch os.Args[1] {
		case "ticker":
			request()
		case "c":
			parse()
		case "heap":
			conf()
			task()
		}
		time.Sleep(10 * time.Millisecond)
	}
}
