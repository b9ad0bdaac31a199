"""Other kernels than the running one: fetched from the distribution, booted in an emulated machine.

`kernels` gets a kernel and `guest` boots it: the guest sees this machine's files, read-only below a
layer of memory, so that Python, leaktrace and the programs to trace are those of the host.
"""
