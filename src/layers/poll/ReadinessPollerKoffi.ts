/** Readiness from libuv through `koffi.node.poll`, with the checks that this young API lacks. */
import * as Effect from "effect/Effect"
import * as Layer from "effect/Layer"
import koffi, { type node } from "koffi"
import * as fs from "node:fs"
import { errnoName } from "../../ffi/linux/libc.ts"
import { SyscallError } from "../../ffi/SyscallError.ts"
import { ReadinessPoller } from "../../services/ReadinessPoller.ts"
import * as ReadinessPollerAsync from "./ReadinessPollerAsync.ts"

type OnReady = (readable: boolean, writable: boolean) => void
type PollHandle = node.PollHandle
/** koffi 3.3 types the callback as `(events)`, but calls it with libuv's status in front. */
type OnPoll = (status: number, events: node.PollEvents) => void
type Poll = (fd: number, options: node.PollOptions, callback: OnPoll) => PollHandle

const nativePoll = (): Poll | undefined => (koffi.node as { poll?: unknown } | undefined)?.poll as Poll | undefined

/** Every open watch of the process by descriptor: a handle that nobody references is collected and stops silently. */
const watches = new Map<number, NativeWatch>()

/** So many error wake-ups in a row and the descriptor waits a while before it is watched again. */
const ERRORS_IN_A_ROW = 3
const ERROR_PAUSE_MILLIS = 50

class NativeWatch {
  readonly #fd: number
  readonly #onReady: OnReady
  readonly #handle: PollHandle
  readonly #onPoll: OnPoll
  #readable = true
  #writable = false
  #errors = 0
  #pause: ReturnType<typeof setTimeout> | undefined
  #closed = false

  constructor(poll: Poll, fd: number, onReady: OnReady) {
    this.#fd = fd
    this.#onReady = onReady
    this.#onPoll = (status, events) => {
      if (status < 0) return this.#failed()
      this.#errors = 0
      onReady(events.readable, events.writable)
    }
    this.#handle = poll(fd, { readable: true, writable: false }, this.#onPoll)
    watches.set(fd, this)
  }

  setReadable(wanted: boolean): void {
    if (this.#closed || wanted === this.#readable) return
    this.#readable = wanted
    if (this.#pause === undefined) this.#start()
  }

  setWritable(wanted: boolean): void {
    if (this.#closed || wanted === this.#writable) return
    this.#writable = wanted
    if (this.#pause === undefined) this.#start()
  }

  close(): void {
    if (this.#closed) return
    this.#closed = true
    clearTimeout(this.#pause)
    watches.delete(this.#fd)
    this.#handle.close() // any call on the handle after this one would crash the process
  }

  /**
   * libuv stops watching a descriptor with POLLERR: a lost netlink message, a refused datagram, a deleted device. The
   * owner finds the error by reading, and then the watch goes on.
   */
  #failed(): void {
    this.#errors += 1
    this.#onReady(true, this.#writable)
    if (this.#closed) return
    if (this.#errors <= ERRORS_IN_A_ROW) return this.#start()
    this.#pause = setTimeout(() => {
      this.#pause = undefined
      this.#start()
    }, ERROR_PAUSE_MILLIS)
  }

  #start(): void {
    if (!this.#readable && !this.#writable) return this.#handle.stop()
    // Typed with the events alone, called with the status before them, as the callback of `poll` is.
    this.#handle.start(
      { readable: this.#readable, writable: this.#writable },
      this.#onPoll as unknown as () => void
    )
  }
}

/** `koffi.node.poll` aborts the process when libuv refuses a descriptor, so what libuv refuses is refused here. */
const refusal = (fd: number): SyscallError | undefined => {
  const refused = (code: number, hint: string) =>
    new SyscallError({ syscall: `watch descriptor ${fd}`, code, errno: errnoName(code), hint })
  if (watches.has(fd)) return refused(koffi.os.errno["EEXIST"] as number, "it is being watched already")
  if (process.platform === "win32") return undefined // sockets, not descriptors
  try {
    const stat = fs.fstatSync(fd)
    if (stat.isFile() || stat.isDirectory()) {
      return refused(koffi.os.errno["EPERM"] as number, "files are always ready and cannot be watched")
    }
    return undefined
  } catch {
    return refused(koffi.os.errno["EBADF"] as number, "it is not open")
  }
}

const make = (poll: Poll) =>
  ReadinessPoller.of({
    watch: (fd, onReady) =>
      Effect.acquireRelease(
        Effect.suspend(() => {
          const error = refusal(fd)
          return error === undefined ? Effect.sync(() => new NativeWatch(poll, fd, onReady)) : Effect.fail(error)
        }),
        (watch) => Effect.sync(() => watch.close())
      )
  })

/** Over `koffi.node.poll`; a defect where koffi has none. A descriptor that Node itself watches must not be given. */
export const layerNative: Layer.Layer<ReadinessPoller> = Layer.effect(
  ReadinessPoller,
  Effect.suspend(() => {
    const poll = nativePoll()
    return poll === undefined ? Effect.dieMessage("this koffi has no node.poll") : Effect.succeed(make(poll))
  })
)

/** `koffi.node.poll` where there is one, else an asynchronous poll(2). */
export const layer: Layer.Layer<ReadinessPoller> = Layer.suspend(() =>
  nativePoll() === undefined ? ReadinessPollerAsync.layer : layerNative
)
