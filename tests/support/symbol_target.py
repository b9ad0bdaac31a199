"""A process whose symbols are looked up."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from pathlib import Path

from leaktrace.site import Frame
from leaktrace.symbols.symbolizer import ProcessSymbolizer

# Executes commands from standard input and answers with the relevant addresses.
TARGET = r"""
#define _GNU_SOURCE
#include <dlfcn.h>
#include <execinfo.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/auxv.h>
#include <sys/mman.h>
#include <unistd.h>

static void *library;

__attribute__((noinline)) int inner(void **pcs, int room) {
  int n = backtrace(pcs, room);
  __asm__ volatile("");
  return n;
}

__attribute__((noinline)) void outer(void) {
  void *pcs[16];
  int n = inner(pcs, 16);
  for (int i = 0; i < n; i++) printf("%p ", pcs[i]);
  printf("\n");
}

static void on_signal(int number) { (void)number; outer(); }

int main(int argc, char **argv) {
  char line[4096], *text;
  setvbuf(stdout, NULL, _IOLBF, 0);
  setvbuf(stdin, NULL, _IONBF, 0);  /* what follows an exec is for the next program */
  while ((text = fgets(line, sizeof line, stdin))) {
    line[strcspn(line, "\n")] = 0;
    if (!strcmp(line, "stack")) outer();
    else if (!strcmp(line, "signal")) { signal(SIGUSR1, on_signal); raise(SIGUSR1); }
    else if (!strncmp(line, "open ", 5)) {
      library = dlopen(line + 5, RTLD_NOW);
      printf("%p\n", library ? dlsym(library, "from_library") : NULL);
    } else if (!strcmp(line, "close")) printf("0x%x\n", dlclose(library));
    else if (!strcmp(line, "vdso")) printf("%p\n", (void *)getauxval(AT_SYSINFO_EHDR));
    else if (!strcmp(line, "heap")) printf("%p\n", malloc(100));
    else if (!strcmp(line, "code"))
      printf("%p\n", mmap(NULL, 8192, PROT_READ | PROT_EXEC, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
    else if (!strncmp(line, "map ", 4)) {
      int file = open(line + 4, O_RDONLY);
      printf("%p\n", mmap(NULL, 4096, PROT_READ | PROT_EXEC, MAP_PRIVATE, file, 0));
      close(file);
    } else if (!strncmp(line, "exec ", 5)) execl(line + 5, line + 5, NULL);
  }
  return 0;
}
"""


LIBRARY = "int from_library(int n) { return n + 1; }\n"


class Target:
    """The program above, running."""

    def __init__(self, *command: str | Path) -> None:
        self.process = subprocess.Popen(
            [str(part) for part in command],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            bufsize=0,
        )
        self.pid = self.process.pid

    def send(self, command: str) -> None:
        assert self.process.stdin
        self.process.stdin.write(command.encode() + b"\n")

    def ask(self, command: str) -> list[int]:
        self.send(command)
        assert self.process.stdout
        answer = [int(word, 16) for word in self.process.stdout.readline().split()]
        assert answer, command
        return answer

    def end(self) -> None:
        if self.process.stdin:
            self.process.stdin.close()
        self.process.wait()
        if self.process.stdout:
            self.process.stdout.close()


Run = Callable[..., Target]


def ready(target: Target) -> list[int]:
    """The target's stack, once it has passed its own start."""
    return target.ask("stack")


def physical(symbolizer: ProcessSymbolizer, addresses: list[int]) -> list[Frame]:
    return [symbolizer.symbolize(address)[-1] for address in addresses]
