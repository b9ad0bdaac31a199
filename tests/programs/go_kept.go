// A Go program whose heap is collected again and again. It prints its pid once it has settled.
//
//	leak FILE   keeps 20,000 bytes of each 5 ms for ever, amid garbage; writes how much to FILE
//	cache       keeps 20 MB of entries, each of which is replaced after a while
//	batches     collects blocks for a second, then drops all of them
package main

import (
	"fmt"
	"os"
	"time"
)

const entries = 2000

var (
	kept    [][]byte
	garbage []byte
)

//go:noinline
func remember() { kept = append(kept, make([]byte, 20000)) }

//go:noinline
func replace(i int) { kept[i%entries] = make([]byte, 10000) }

//go:noinline
func discard() { garbage = make([]byte, 500000) }

func main() {
	var account *os.File
	switch os.Args[1] {
	case "leak":
		account, _ = os.Create(os.Args[2])
	case "cache":
		kept = make([][]byte, entries)
		for i := 0; i < entries; i++ {
			replace(i)
		}
	}
	fmt.Println(os.Getpid())
	for i := 0; ; i++ {
		switch os.Args[1] {
		case "leak":
			remember()
			if i%20 == 0 {
				fmt.Fprintln(account, time.Now().UnixNano(), len(kept)*20000)
			}
		case "cache":
			for one := 0; one < 20; one++ {
				replace(20*i + one)
			}
		case "batches":
			remember()
			if i%200 == 0 {
				kept = nil
			}
		}
		discard()
		time.Sleep(5 * time.Millisecond)
	}
}
