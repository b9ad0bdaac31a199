// A Go program with a known heap.
//
//	keep COUNT TRUTH  keeps COUNT sessions, some nodes, large blocks and garbage, and waits
//	grow              keeps twice as much by task as by conf, for ever
//	churn             keeps nothing
//
// It prints its pid once all is there. On SIGUSR1, "keep" writes what the runtime says about itself
// to TRUTH (runtime.MemStats as JSON), and together with go_heap_profile.go its profiles to
// TRUTH.profile, TRUTH.profile.pb.gz and TRUTH.profile.goroutine.pb.gz.
package main

import (
	"encoding/json"
	"fmt"
	"os"
	"os/signal"
	"runtime"
	"strconv"
	"syscall"
	"time"
)

type Node struct { // 48 bytes: no type header
	next    *Node
	name    string
	a, b, c int
}

type Session struct { // takes 4 KiB, with the header that Go has put before it since 1.22
	user *Node
	data [4000]byte
}

type Large struct { // a span of its own
	first *Node
	data  [100000]byte
}

var (
	nodes        *Node
	sessions     []*Session
	larges       []*Large
	blobs        [][]byte
	confs, tasks [][]byte
	garbage      []byte
	writeProfile func(path string) // in go_heap_profile.go
)

//go:noinline
func keepNode(i int) { nodes = &Node{next: nodes, name: strconv.Itoa(i), a: i} }

//go:noinline
func keepSession() { sessions = append(sessions, &Session{user: nodes}) }

//go:noinline
func keepLarge() { larges = append(larges, &Large{first: nodes}) }

//go:noinline
func keepBlob() { blobs = append(blobs, make([]byte, 10000)) }

func inlined(size int) []byte { return make([]byte, size) }

//go:noinline
func conf() { confs = append(confs, inlined(64<<10)) }

//go:noinline
func task() { tasks = append(tasks, inlined(128<<10)) }

func keep(count int, truth string) {
	sessions = make([]*Session, 0, count)
	for i := 0; i < count; i++ {
		keepNode(i)
		keepSession()
		if i%200 == 0 {
			keepLarge()
			keepBlob()
		}
		garbage = make([]byte, 300+i%2000)
	}
	garbage = nil
	runtime.GC()
	runtime.GC() // the profile is that of the last but one
	asked := make(chan os.Signal, 1)
	signal.Notify(asked, syscall.SIGUSR1)
	fmt.Println(os.Getpid())
	for range asked {
		write(truth)
	}
}

func write(truth string) {
	if writeProfile != nil {
		writeProfile(truth + ".profile")
	}
	var told runtime.MemStats
	runtime.ReadMemStats(&told)
	data, _ := json.Marshal(told)
	os.WriteFile(truth+".part", data, 0o600)
	os.Rename(truth+".part", truth)
}

func main() {
	if os.Args[1] == "keep" {
		count, _ := strconv.Atoi(os.Args[2])
		keep(count, os.Args[3])
	}
	for i := 0; ; i++ {
		if os.Args[1] == "grow" {
			conf()
			task()
		} else {
			garbage = inlined(256 << 10)
		}
		if i == 20 {
			fmt.Println(os.Getpid())
		}
		time.Sleep(5 * time.Millisecond)
	}
}
