/** Two connected sockets that keep the bounds of what is written, in place of a device and its kernel. */
import * as fs from "node:fs"
import { close, lastError, lazily, memoryAddress } from "../../../src/ffi/linux/libc.ts"

const AF_UNIX = 1
const SOCK_SEQPACKET = 5
const SOCK_NONBLOCK = 0o4000
const SOL_SOCKET = 1
const SO_SNDBUFFORCE = 32

const socketpair = lazily<(family: number, type: number, protocol: number, pair: number) => number>(
  "int socketpair(int, int, int, int64_t)"
)
const setsockopt = lazily<(fd: number, level: number, option: number, value: Uint8Array, length: number) => number>(
  "int setsockopt(int, int, int, const uint8_t *, uint32_t)"
)
export const dup2 = lazily<(from: number, to: number) => number>("int dup2(int, int)")

export interface SocketPair {
  /** For the code that is tested. */
  readonly device: number
  readonly kernel: number
  readonly send: (bytes: Uint8Array) => void
  /** What was written to `device`, one array for each call. */
  readonly received: () => ReadonlyArray<Uint8Array>
  readonly closeKernel: () => void
  readonly close: () => void
}

export const makeSocketPair = (): SocketPair => {
  const pair = new Uint8Array(8)
  if (socketpair()(AF_UNIX, SOCK_SEQPACKET | SOCK_NONBLOCK, 0, memoryAddress(pair)) !== 0) throw lastError("socketpair")
  const [device = -1, kernel = -1] = new Int32Array(pair.buffer)
  const size = new Uint8Array(Int32Array.of(8 << 20).buffer)
  for (const fd of [device, kernel]) setsockopt()(fd, SOL_SOCKET, SO_SNDBUFFORCE, size, 4)
  const opened = new Set([device, kernel])
  const closeOnce = (fd: number): void => {
    if (opened.delete(fd)) close()(fd)
  }
  return {
    device,
    kernel,
    send: (bytes) => {
      if (fs.writeSync(kernel, bytes) !== bytes.length) throw new Error("written in part")
    },
    received: () => {
      const found: Array<Uint8Array> = []
      const buffer = new Uint8Array(70_000)
      while (true) {
        try {
          found.push(buffer.slice(0, fs.readSync(kernel, buffer)))
        } catch (error) {
          if ((error as NodeJS.ErrnoException).code === "EAGAIN") return found
          throw error
        }
      }
    },
    closeKernel: () => closeOnce(kernel),
    close: () => {
      for (const fd of [device, kernel]) closeOnce(fd)
    }
  }
}
