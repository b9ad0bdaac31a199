"""leaktrace: find memory leaks of a running process with eBPF."""

__version__ = "0.1.0"
