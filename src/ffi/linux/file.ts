/** Descriptors: open, read, write, fcntl, poll. Buffers are addresses from `memoryAddress`, for calls per packet. */
import { lazily } from "./libc.ts"

// fcntl.h and sys/stat.h, the same on x86-64 and arm64
export const O_RDWR = 2
export const O_NONBLOCK = 0o4000
export const O_CLOEXEC = 0o2000000
export const F_GETFD = 1
export const F_GETFL = 3
export const F_SETFL = 4
export const S_IFCHR = 0o020000

export const POLLIN = 0x01
export const POLLOUT = 0x04
export const POLLERR = 0x08
export const POLLHUP = 0x10
export const POLLNVAL = 0x20

/** open(2). The variadic third argument is passed like a fixed one by the Linux ABIs of x86-64 and arm64. */
export const open = lazily<(path: string, flags: number, mode: number) => number>(
  "int open(const char *path, int flags, int mode)"
)
export const LOCK_EX = 2
export const LOCK_NB = 4
/** flock(2): a lock of the open file, which ends with its last descriptor however the process ends. */
export const flock = lazily<(fd: number, operation: number) => number>("int flock(int fd, int operation)")

/** read(2): bytes read, 0 at the end, -1 with errno. */
export const read = lazily<(fd: number, buffer: number, length: number) => number>(
  "long read(int fd, int64_t buffer, size_t length)"
)
export const write = lazily<(fd: number, buffer: number, length: number) => number>(
  "long write(int fd, int64_t buffer, size_t length)"
)
/** writev(2) of `count` 16-byte `struct iovec`s at `vectors`: address, then length, both 64 bits. */
export const writev = lazily<(fd: number, vectors: number, count: number) => number>(
  "long writev(int fd, int64_t vectors, int count)"
)
export const fcntl = lazily<(fd: number, command: number, argument: number) => number>(
  "int fcntl(int fd, int command, long argument)"
)
/** mknod(2); `device` is `makedev(major, minor)`. */
export const mknod = lazily<(path: string, mode: number, device: number) => number>(
  "int mknod(const char *path, uint32_t mode, uint64_t device)"
)
/** eventfd(2): a counter that wakes whoever polls it. */
export const eventfd = lazily<(initial: number, flags: number) => number>(
  "int eventfd(unsigned int initial, int flags)"
)
/** poll(2) of `count` 8-byte `struct pollfd`s at `entries`: descriptor, then 16 bits wanted, 16 bits found. */
export const poll = lazily<Poll>("int poll(int64_t entries, unsigned long count, int timeout)")

export interface Poll {
  (entries: number, count: number, timeout: number): number
  /** On a thread of koffi's pool; `errno` does not come back. A call still blocked holds up the end of the process. */
  async(entries: number, count: number, timeout: number, done: (error: unknown, ready: number) => void): void
}
