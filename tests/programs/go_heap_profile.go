package main

import (
	"os"
	"runtime/pprof"
)

func init() {
	writeProfile = func(path string) {
		write := func(name, path string, debug int) {
			file, _ := os.Create(path)
			pprof.Lookup(name).WriteTo(file, debug)
			file.Close()
		}
		write("heap", path, 1)
		write("heap", path+".pb.gz", 0)
		write("goroutine", path+".goroutine.pb.gz", 0)
	}
}
