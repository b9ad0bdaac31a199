// A Go program whose C code keeps memory, called by many paths of Go code: deep ones, on stacks that
// grow and are copied, on goroutines that move between threads, in callbacks from C. For each path
// the file that is named first gets a line: bytes, blocks, and the functions of Go as
// runtime.Callers sees them, from the one that calls C on. "done BYTES COUNT" is the sum.
package main

/*
#include <stdlib.h>
#include <string.h>

extern void keepInCallback(int size, int times);

static __attribute__((noinline)) void keep_some(size_t size) {
    char *block = malloc(size);
    memset(block, 1, size);
    __asm__ volatile("" : : "r"(block) : "memory");
}

// Its frame is found by rbp, which Go has saved.
static __attribute__((noinline)) void call_back(int size, int times) {
    char *some = __builtin_alloca(16 * times + 16);
    __asm__ volatile("" : : "r"(some) : "memory");
    keepInCallback(size, times);
    __asm__ volatile("" : : "r"(some) : "memory");
}
*/
import "C"

import (
	"bufio"
	"fmt"
	"os"
	"runtime"
	"strings"
	"sync"
)

type account struct{ bytes, count int }

var (
	lock  sync.Mutex
	paths = map[string]*account{}
	sink  byte
)

//go:noinline
func note(size int) {
	var pcs [2000]uintptr
	frames := runtime.CallersFrames(pcs[:runtime.Callers(2, pcs[:])])
	var names []string
	for {
		frame, more := frames.Next()
		names = append(names, frame.Function)
		if !more {
			break
		}
	}
	path := strings.Join(names, "<")
	lock.Lock()
	defer lock.Unlock()
	if paths[path] == nil {
		paths[path] = &account{}
	}
	paths[path].bytes += size
	paths[path].count++
}

//go:noinline
func keep(size int) {
	note(size)
	C.keep_some(C.size_t(size))
}

//go:noinline
func descend(depth, size int) int {
	if depth == 0 {
		keep(size)
		return 0
	}
	return descend(depth-1, size) + 1
}

// Its frame is larger than the stack of a new goroutine.
//
//go:noinline
func grow(depth int) int {
	var large [1000]byte
	large[depth%1000] = 1
	if depth > 0 {
		return grow(depth-1) + int(large[0])
	}
	sink = large[1]
	return 0
}

//go:noinline
func onGrowingStack() {
	for i := 0; i < 5; i++ {
		keep(501)
		grow(10 << i)
		runtime.GC() // may shrink it again
	}
}

type keeper interface{ run(size int) }

type service struct{ times int }

//go:noinline
func (s *service) run(size int) {
	for i := 0; i < s.times; i++ {
		keep(size)
	}
}

//go:noinline
func generic[T any](value T, size int) T {
	keep(size)
	return value
}

//go:noinline
func deferred() {
	defer func() { keep(601) }()
}

//go:noinline
//export keepInCallback
func keepInCallback(size, times C.int) {
	if times > 1 {
		C.call_back(size, times-1)
	} else {
		keep(int(size))
	}
}

//go:noinline
func throughCallback() {
	C.call_back(701, 1)
	descendIntoC(3)
}

//go:noinline
func descendIntoC(times int) {
	grow(100)
	C.call_back(801, C.int(times))
}

func together(count int, work func()) {
	var all sync.WaitGroup
	for i := 0; i < count; i++ {
		all.Add(1)
		go func() {
			defer all.Done()
			work()
		}()
	}
	all.Wait()
}

//go:noinline
func moving() {
	for i := 0; i < 100; i++ {
		keep(101)
		runtime.Gosched()
	}
}

//go:noinline
func locked() {
	runtime.LockOSThread()
	keep(201)
}

func main() {
	runtime.GOMAXPROCS(4)
	input := bufio.NewReader(os.Stdin)
	fmt.Println("ready")
	input.ReadString('\n')
	keep(1)
	for _, depth := range []int{1, 20, 60} {
		descend(depth, 301)
	}
	descend(1000, 401)
	together(8, moving)
	together(3, locked)
	together(2, onGrowingStack)
	var one keeper = &service{7}
	one.run(11)
	generic(1, 13)
	deferred()
	throughCallback()
	together(2, throughCallback)
	file, _ := os.Create(os.Args[1])
	sum := account{}
	for path, one := range paths {
		fmt.Fprintln(file, one.bytes, one.count, path)
		sum.bytes += one.bytes
		sum.count += one.count
	}
	file.Close()
	fmt.Println("done", sum.bytes, sum.count)
	input.ReadString('\n')
}
