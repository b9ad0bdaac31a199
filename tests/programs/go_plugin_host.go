// A Go program with a plugin (go_plugin.go), which keeps memory of C and leaves goroutines behind, as
// the program itself does: five blocks and 7 goroutines by the plugin, 3 goroutines by the program.
// "done BYTES COUNT" is what the blocks are.
package main

import (
	"bufio"
	"fmt"
	"os"
	"plugin"
)

var never = make(chan int)

//go:noinline
func waits(begun chan bool) {
	begun <- true
	<-never
}

func main() {
	loaded, err := plugin.Open(os.Args[1])
	if err != nil {
		fmt.Println(err)
		os.Exit(81)
	}
	keep, _ := loaded.Lookup("Keep")
	stick, _ := loaded.Lookup("Stick")
	input := bufio.NewReader(os.Stdin)
	fmt.Println("ready")
	input.ReadString('\n')
	for i := 0; i < 5; i++ {
		keep.(func(int))(30001)
	}
	stick.(func(int))(7)
	begun := make(chan bool)
	for i := 0; i < 3; i++ {
		go waits(begun)
		<-begun
	}
	fmt.Println("done", 5*30001, 5)
	input.ReadString('\n')
}
