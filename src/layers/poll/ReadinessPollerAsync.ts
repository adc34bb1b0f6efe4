/**
 * Readiness from one poll(2) that blocks on a thread of koffi's pool: for a koffi without `node.poll`. Costs some 25
 * microseconds a wake-up, and one thread for all descriptors together.
 */
import * as Effect from "effect/Effect"
import * as Layer from "effect/Layer"
import {
  eventfd,
  F_GETFD,
  fcntl,
  O_CLOEXEC,
  O_NONBLOCK,
  poll,
  POLLERR,
  POLLHUP,
  POLLIN,
  POLLNVAL,
  POLLOUT,
  read,
  write
} from "../../ffi/linux/file.ts"
import { close, ERRNO, errno, errnoName, lastError, memoryAddress } from "../../ffi/linux/libc.ts"
import { SyscallError } from "../../ffi/SyscallError.ts"
import { ReadinessPoller } from "../../services/ReadinessPoller.ts"

const BROKEN = POLLERR | POLLHUP | POLLNVAL
const ERRORS_IN_A_ROW = 3
const ERROR_PAUSE_MILLIS = 50

interface Entry {
  readonly fd: number
  readonly onReady: (readable: boolean, writable: boolean) => void
  readable: boolean
  writable: boolean
  errors: number
  /** Left out of the poll for a while: in error over and over. */
  pause: ReturnType<typeof setTimeout> | undefined
}

class AsyncPoll {
  readonly #entries = new Map<number, Entry>()
  readonly #wakeFd: number
  readonly #one = new Uint8Array(BigUint64Array.of(1n).buffer)
  readonly #drained = new Uint8Array(8)
  /** `struct pollfd`s, the first for waking up. Never touched while the thread has them. */
  #pollfds = new Int32Array(2)
  #polled: Array<Entry> = []
  #blocked = false
  #closed = false
  #waiting: Array<() => void> = []

  constructor(wakeFd: number) {
    this.#wakeFd = wakeFd
  }

  add(entry: Entry): void {
    this.#entries.set(entry.fd, entry)
    this.update()
  }

  has(fd: number): boolean {
    return this.#entries.has(fd)
  }

  /** `done` runs when the kernel has let go of the descriptor, so that closing it really closes it. */
  remove(entry: Entry, done: () => void): void {
    clearTimeout(entry.pause)
    if (this.#entries.get(entry.fd) === entry) this.#entries.delete(entry.fd)
    if (!this.#blocked) return done()
    this.#waiting.push(done)
    this.wake()
  }

  update(): void {
    if (this.#blocked) this.wake()
    else this.#poll()
  }

  readonly wake = (): void => {
    if (this.#blocked) write()(this.#wakeFd, memoryAddress(this.#one), 8)
  }

  close(done: () => void): void {
    this.#closed = true
    for (const entry of this.#entries.values()) clearTimeout(entry.pause)
    this.#entries.clear()
    if (!this.#blocked) return done()
    this.#waiting.push(done)
    this.wake()
  }

  #poll(): void {
    // With nothing to watch nothing is called, so that a process that is finished can end.
    if (this.#closed || this.#entries.size === 0) return
    this.#polled = [...this.#entries.values()].filter((entry) => entry.pause === undefined)
    const count = this.#polled.length + 1
    if (this.#pollfds.length < 2 * count) this.#pollfds = new Int32Array(4 * count)
    this.#pollfds[0] = this.#wakeFd
    this.#pollfds[1] = POLLIN
    for (const [i, entry] of this.#polled.entries()) {
      this.#pollfds[2 * i + 2] = entry.fd
      this.#pollfds[2 * i + 3] = (entry.readable ? POLLIN : 0) | (entry.writable ? POLLOUT : 0)
    }
    this.#blocked = true
    const bytes = new Uint8Array(this.#pollfds.buffer)
    poll().async(memoryAddress(bytes), count, -1, (_error, ready) => this.#returned(ready))
  }

  #returned(ready: number): void {
    this.#blocked = false
    const polled = this.#polled
    const found = polled.map((_, i) => (this.#pollfds[2 * i + 3] as number) >>> 16)
    if (((this.#pollfds[1] as number) >>> 16) !== 0) read()(this.#wakeFd, memoryAddress(this.#drained), 8)
    for (const done of this.#waiting.splice(0)) done()
    try {
      for (const [i, entry] of polled.entries()) {
        // A failed poll(2) was interrupted by a signal: nothing was found.
        if (ready > 0 && found[i] !== 0 && this.#entries.get(entry.fd) === entry) {
          this.#report(entry, found[i] as number)
        }
      }
    } finally {
      this.#poll()
    }
  }

  #report(entry: Entry, found: number): void {
    entry.errors = (found & BROKEN) === 0 ? 0 : entry.errors + 1
    if (entry.errors > ERRORS_IN_A_ROW) {
      entry.pause = setTimeout(() => {
        entry.pause = undefined
        this.update()
      }, ERROR_PAUSE_MILLIS)
    }
    entry.onReady((found & (POLLIN | BROKEN)) !== 0, (found & POLLOUT) !== 0)
  }
}

const refused = (fd: number, code: number, hint: string): SyscallError =>
  new SyscallError({ syscall: `watch descriptor ${fd}`, code, errno: errnoName(code), hint })

const make = Effect.gen(function*() {
  const wakeFd = yield* Effect.acquireRelease(
    Effect.suspend(() => {
      const fd = eventfd()(0, O_NONBLOCK | O_CLOEXEC)
      return fd < 0 ? Effect.die(lastError("eventfd")) : Effect.succeed(fd)
    }),
    (fd) => Effect.sync(() => close()(fd))
  )
  const poller = yield* Effect.acquireRelease(
    Effect.sync(() => {
      const poller = new AsyncPoll(wakeFd)
      // Node joins its threads on exit: one blocked in poll(2) would keep the process for ever.
      process.on("exit", poller.wake)
      return poller
    }),
    (poller) =>
      Effect.async<void>((resume) => {
        process.off("exit", poller.wake)
        poller.close(() => resume(Effect.void))
      })
  )
  return ReadinessPoller.of({
    watch: (fd, onReady) =>
      Effect.acquireRelease(
        Effect.suspend(() => {
          if (fcntl()(fd, F_GETFD, 0) < 0) return Effect.fail(refused(fd, errno(), "it is not open"))
          if (poller.has(fd)) return Effect.fail(refused(fd, ERRNO.EEXIST, "it is being watched already"))
          const entry: Entry = { fd, onReady, readable: true, writable: false, errors: 0, pause: undefined }
          poller.add(entry)
          return Effect.succeed(entry)
        }),
        (entry) => Effect.async<void>((resume) => poller.remove(entry, () => resume(Effect.void)))
      ).pipe(Effect.map((entry) => ({
        setReadable: (wanted) => {
          if (entry.readable === wanted) return
          entry.readable = wanted
          poller.update()
        },
        setWritable: (wanted) => {
          if (entry.writable === wanted) return
          entry.writable = wanted
          poller.update()
        }
      })))
  })
})

export const layer: Layer.Layer<ReadinessPoller> = Layer.scoped(ReadinessPoller, make)
