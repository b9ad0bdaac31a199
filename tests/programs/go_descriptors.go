// Opens files in the main goroutine and in others, and keeps them. Without C code.
package main

import (
	"bufio"
	"fmt"
	"os"
)

var kept []*os.File

//go:noinline
func keepFile() {
	file, err := os.Open("/etc/passwd")
	if err != nil {
		os.Exit(70)
	}
	kept = append(kept, file)
}

//go:noinline
func inGoroutine(done chan bool) {
	keepFile()
	done <- true
}

func main() {
	input := bufio.NewReader(os.Stdin)
	fmt.Println("ready")
	input.ReadString('\n')
	done := make(chan bool)
	for i := 0; i < 30; i++ {
		keepFile()
		go inGoroutine(done)
		<-done
		closed, _ := os.Open("/etc/passwd")
		closed.Close()
	}
	fmt.Println("done", len(kept))
	input.ReadString('\n')
}
