// Goroutines in known numbers that wait for known things.
//
//	goroutines stuck N      N of each kind; on SIGUSR1 writes runtime.Stack to the file TRUTH,
//	                        with goroutines_profile.go its profile to TRUTH.pb.gz
//	goroutines leak         every 10 ms a goroutine that never ends, and ten that end after 50 ms
//	goroutines turnover     ten goroutines every 10 ms that end after 50 ms, and no leak
//	goroutines many N       N that wait for a channel
package main

import (
	"fmt"
	"net"
	"os"
	"os/signal"
	"runtime"
	"strconv"
	"sync"
	"syscall"
	"time"
)

var mutex sync.Mutex
var group sync.WaitGroup
var nilChannel chan int
var never = make(chan int)
var sink int
var kept []net.Conn
var writeProfile func(path string) // in goroutines_profile.go

const sockets = 100

//go:noinline
func receives(c chan int) { sink = <-c }

//go:noinline
func sends(c chan int) { c <- 1 }

//go:noinline
func receivesFromNil() { <-nilChannel }

//go:noinline
func selects(a, b chan int) {
	select {
	case <-a:
	case b <- 1:
	}
}

//go:noinline
func locks() { mutex.Lock(); sink++; mutex.Unlock() }

//go:noinline
func waits() { group.Wait() }

//go:noinline
func ticks() {
	ticker := time.NewTicker(time.Hour)
	for range ticker.C {
		sink++
	}
}

//go:noinline
func reads(connection net.Conn) {
	var buffer [1]byte
	connection.Read(buffer[:])
}

//go:noinline
func calls(descriptor int) {
	var buffer [1]byte
	syscall.Read(descriptor, buffer[:])
}

//go:noinline
func descends(depth int, c chan int) int {
	var room [16]int
	room[depth%16] = depth
	if depth == 0 {
		return <-c
	}
	return descends(depth-1, c) + room[(depth+1)%16]
}

type pair struct{ first, second int }

func inlined(p *pair) { receives(never); p.first++ }

func starts(n int, connections []net.Conn) {
	for i := 0; i < n; i++ {
		go receives(make(chan int))
		go sends(make(chan int))
		go receivesFromNil()
		go selects(make(chan int), make(chan int))
		go locks()
		go waits()
		go ticks()
		go reads(connections[i])
		p := &pair{}
		go func() { inlined(p) }()
	}
}

func stuck(n int) {
	mutex.Lock()
	group.Add(1)
	listener, _ := net.Listen("tcp", "127.0.0.1:0")
	var connections []net.Conn
	for i := 0; i < n; i++ {
		if i < sockets {
			client, err := net.Dial("tcp", listener.Addr().String())
			if err != nil {
				panic(err)
			}
			server, _ := listener.Accept()
			kept = append(kept, server)
			connections = append(connections, client)
		} else { // without a descriptor: in memory
			ours, theirs := net.Pipe()
			kept = append(kept, theirs)
			connections = append(connections, ours)
		}
	}
	starts(n, connections)
	for i := 0; i < 10; i++ {
		var pipe [2]int
		syscall.Pipe(pipe[:])
		go calls(pipe[0])
		go descends(20+i%2, make(chan int))
	}
}

//go:noinline
func forgotten(c chan int) { <-c }

//go:noinline
func answered() { time.Sleep(50 * time.Millisecond) }

func churn(leaks bool) {
	for {
		if leaks {
			go forgotten(make(chan int))
		}
		for i := 0; i < 10; i++ {
			go answered()
		}
		time.Sleep(10 * time.Millisecond)
	}
}

func main() {
	wanted := make(chan os.Signal, 1)
	signal.Notify(wanted, syscall.SIGUSR1)
	n := 0
	if len(os.Args) > 2 {
		n, _ = strconv.Atoi(os.Args[2])
	}
	switch os.Args[1] {
	case "stuck":
		stuck(n)
	case "leak":
		go churn(true)
	case "turnover":
		go churn(false)
	case "many":
		for i := 0; i < n; i++ {
			go receives(never)
		}
	}
	time.Sleep(100 * time.Millisecond) // they have begun
	fmt.Println(os.Getpid(), runtime.NumGoroutine())
	for range wanted {
		buffer := make([]byte, 64<<20)
		if writeProfile != nil {
			writeProfile(os.Args[3] + ".pb.gz")
		}
		os.WriteFile(os.Args[3]+".part", buffer[:runtime.Stack(buffer, true)], 0o600)
		os.Rename(os.Args[3]+".part", os.Args[3])
	}
}
