"""Facts about this machine and its processes: GPUs, memory allocator, parent process, sockets."""
