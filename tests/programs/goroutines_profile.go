package main

import (
	"os"
	"runtime/pprof"
)

func init() {
	writeProfile = func(path string) {
		file, _ := os.Create(path)
		pprof.Lookup("goroutine").WriteTo(file, 0)
		file.Close()
	}
}
