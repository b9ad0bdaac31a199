// A Go program without C code, which keeps memory of Go's own heap.
package main

import (
	"bufio"
	"fmt"
	"os"
)

const (
	blocks    = 300
	blockSize = 100_000
)

var kept [][]byte

//go:noinline
func keepPages() {
	block := make([]byte, blockSize)
	for i := range block {
		block[i] = 1
	}
	kept = append(kept, block)
}

//go:noinline
func serve() {
	for i := 0; i < blocks; i++ {
		keepPages()
	}
}

func main() {
	input := bufio.NewReader(os.Stdin)
	fmt.Println("ready")
	input.ReadString('\n')
	ended := make(chan bool)
	go func() {
		serve()
		ended <- true
	}()
	<-ended
	fmt.Println("done", blocks*blockSize, blocks)
	input.ReadString('\n')
}
