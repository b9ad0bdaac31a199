// A Go program that knows what it allocates.
//
//	go_refills small TRUTH     1 KiB by conf, and twice as often by task, in random order
//	go_refills turns TRUTH     96 bytes by conf and 192 by task, in turns
//	go_refills large TRUTH     64 KiB by conf and 128 KiB by task, in turns
//	go_refills workers TRUTH   as "small", by eight goroutines at once
//	go_refills deep TRUTH      as "small", by new goroutines whose stacks grow before each, while
//	                           garbage is collected all the time
//	go_refills busy MICROS     as "small", for ever, with a pause after each 64 rounds of 16 objects;
//	                           prints how many rounds it has made each time
//
// It prints its pid. On each SIGUSR1 it allocates for about two seconds, then writes to TRUTH, as
// JSON, how many bytes each function has allocated meanwhile, and by how much TotalAlloc of
// runtime.MemStats has grown. On SIGUSR2 it does the same as fast as it can. On SIGHUP it executes
// itself.
package main

import (
	"encoding/json"
	"fmt"
	"math/rand"
	"os"
	"os/signal"
	"runtime"
	"strconv"
	"sync"
	"sync/atomic"
	"syscall"
	"time"
)

const workers = 8

var (
	byConf, byTask int64
	sinks          [workers + 1][]byte
	depth          int64
)

//go:noinline
func conf(worker, size int) {
	sinks[worker] = make([]byte, size)
	atomic.AddInt64(&byConf, int64(size))
}

//go:noinline
func task(worker, size int) {
	sinks[worker] = make([]byte, size)
	atomic.AddInt64(&byTask, int64(size))
}

func random(source *rand.Rand, worker int) {
	if source.Intn(3) == 0 {
		conf(worker, 1<<10)
	} else {
		task(worker, 1<<10)
	}
}

// The stack is copied to a larger one, again and again, on the way down.
//
//go:noinline
func deeper(left int, source *rand.Rand, worker int) int {
	var room [200]byte
	room[left%200] = byte(left)
	random(source, worker)
	if left > 0 {
		return deeper(left-1, source, worker) + int(room[left%200])
	}
	return 1
}

func round(mode string, source *rand.Rand, worker int) {
	for i := 0; i < 16; i++ {
		switch mode {
		case "turns":
			conf(worker, 96)
			task(worker, 192)
		case "large":
			if i%8 == 0 {
				conf(worker, 64<<10)
				task(worker, 128<<10)
			}
		case "deep":
			if i == 0 {
				atomic.AddInt64(&depth, int64(deeper(100, source, worker)))
			}
		default:
			random(source, worker)
		}
	}
}

func work(mode string, worker, rounds int, pause time.Duration) {
	source := rand.New(rand.NewSource(int64(worker)))
	for i := 0; i < rounds; i++ {
		if mode == "deep" {
			done := make(chan bool)
			go func() { round(mode, source, worker); close(done) }()
			<-done
		} else {
			round(mode, source, worker)
		}
		if i%10 == 0 && pause > 0 {
			time.Sleep(pause)
		}
	}
}

func total() uint64 {
	var told runtime.MemStats
	runtime.ReadMemStats(&told)
	return told.TotalAlloc
}

func burst(mode string, pause time.Duration) map[string]int64 {
	runtime.GC() // nothing is left in the processors' spans
	before, confs, tasks := total(), byConf, byTask
	switch mode {
	case "workers":
		var all sync.WaitGroup
		for i := 0; i < workers; i++ {
			all.Add(1)
			go func(i int) { defer all.Done(); work(mode, 1+i, 600, pause*4) }(i)
		}
		all.Wait()
	case "deep":
		work(mode, 0, 500, pause)
	default:
		work(mode, 0, 4000, pause)
	}
	return map[string]int64{
		"conf": byConf - confs, "task": byTask - tasks, "total": int64(total() - before),
	}
}

func main() {
	mode := os.Args[1]
	asked := make(chan os.Signal, 1)
	signal.Notify(asked, syscall.SIGUSR1, syscall.SIGUSR2, syscall.SIGHUP)
	fmt.Println(os.Getpid())
	if mode == "busy" {
		micros, _ := strconv.Atoi(os.Args[2])
		source := rand.New(rand.NewSource(1))
		shown := time.Now()
		for rounds := 1; ; rounds++ {
			round("small", source, 0)
			if rounds%64 == 0 {
				if micros > 0 {
					time.Sleep(time.Duration(micros) * time.Microsecond)
				}
				if time.Since(shown) > 100*time.Millisecond {
					shown = time.Now()
					fmt.Println(rounds)
				}
			}
		}
	}
	for one := range asked {
		if one == syscall.SIGHUP {
			syscall.Exec("/proc/self/exe", os.Args, os.Environ())
		}
		pause := 5 * time.Millisecond
		if one == syscall.SIGUSR2 {
			pause = 0
		}
		truth := burst(mode, pause)
		data, _ := json.Marshal(truth)
		os.WriteFile(os.Args[2]+".part", data, 0o600)
		os.Rename(os.Args[2]+".part", os.Args[2])
	}
}
