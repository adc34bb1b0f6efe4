/** One descriptor that stands for many (epoll(7)): for sockets that live so shortly that watching each costs too much. */
import * as Either from "effect/Either"
import type { SyscallError } from "../SyscallError.ts"
import { close, ERRNO, errno, lastError, lazily, memoryAddress } from "./libc.ts"

const EPOLL_CLOEXEC = 0o2000000
const EPOLL_CTL_ADD = 1
const EPOLLIN = 0x001

// `struct epoll_event` is packed on x64 only (sys/epoll.h).
const EVENT_LENGTH = process.arch === "x64" ? 12 : 16
const DATA_OFFSET = process.arch === "x64" ? 4 : 8
/** For one turn; the rest is still ready at the next. */
const EVENTS = 64

const callCreate = lazily<(flags: number) => number>("int epoll_create1(int)")
const callControl = lazily<(epoll: number, operation: number, fd: number, event: number) => number>(
  "int epoll_ctl(int, int, int, int64_t)"
)
const callWait = lazily<(epoll: number, events: number, capacity: number, timeout: number) => number>(
  "int epoll_wait(int, int64_t, int, int)"
)

/** Level-triggered, for reading. A descriptor that is closed leaves by itself. */
export class EpollSet {
  /** Readable while any of the set is; watch it, and then `poll`. */
  readonly fd: number
  readonly #events = new Uint8Array(EVENT_LENGTH * EVENTS)
  readonly #view = new DataView(this.#events.buffer)
  readonly #address = memoryAddress(this.#events)

  private constructor(fd: number) {
    this.fd = fd
  }

  static open(): Either.Either<EpollSet, SyscallError> {
    const fd = callCreate()(EPOLL_CLOEXEC)
    return fd < 0 ? Either.left(lastError("epoll_create1")) : Either.right(new EpollSet(fd))
  }

  /** `token`, an unsigned 32-bit integer, is what `poll` names the descriptor by. */
  add(fd: number, token: number): Either.Either<void, SyscallError> {
    this.#view.setUint32(0, EPOLLIN, true)
    this.#view.setUint32(DATA_OFFSET, token, true)
    this.#view.setUint32(DATA_OFFSET + 4, 0, true)
    return callControl()(this.fd, EPOLL_CTL_ADD, fd, this.#address) < 0
      ? Either.left(lastError("epoll_ctl"))
      : Either.void
  }

  /** The tokens of those that are readable now or have failed; at most 64 of them. */
  poll(): Either.Either<ReadonlyArray<number>, SyscallError> {
    while (true) {
      const count = callWait()(this.fd, this.#address, EVENTS, 0)
      if (count >= 0) {
        return Either.right(
          Array.from({ length: count }, (_, i) => this.#view.getUint32(i * EVENT_LENGTH + DATA_OFFSET, true))
        )
      }
      if (errno() !== ERRNO.EINTR) return Either.left(lastError("epoll_wait"))
    }
  }

  close(): void {
    close()(this.fd)
  }
}
