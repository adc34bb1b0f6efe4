/** Datagrams to Unix sockets, which Node does not have (unix(7)). */
import * as Either from "effect/Either"
import type { SyscallError } from "../SyscallError.ts"
import { lastError, lazily, memoryAddress } from "./libc.ts"
import { SOCK_DGRAM } from "./socket.ts"

const AF_UNIX = 1
const SOCK_NONBLOCK = 0o4000
const SOCK_CLOEXEC = 0o2000000
/** A peer that is gone is an error, not a signal. */
const MSG_NOSIGNAL = 0x4000
/** `sun_path` of `sockaddr_un`. */
const MAX_NAME = 108

const callSocket = lazily<(family: number, type: number, protocol: number) => number>("int socket(int, int, int)")
const callSendto = lazily<
  (fd: number, bytes: number, length: number, flags: number, address: number, addressLength: number) => number
>("long sendto(int, int64_t, size_t, int, int64_t, uint32_t)")

/**
 * The `sockaddr_un` of a path, or of an abstract name written with `@` in front: its first byte is 0, and it ends where the
 * address ends. `undefined` if it is too long, or neither.
 */
export const encodeSockaddrUn = (name: string): Uint8Array<ArrayBuffer> | undefined => {
  const isAbstract = name.startsWith("@")
  if (!isAbstract && !name.startsWith("/") || name.length < 2) return undefined
  const text = new TextEncoder().encode(isAbstract ? `\0${name.slice(1)}` : `${name}\0`)
  if (text.length > MAX_NAME || text.indexOf(0, 1) !== (isAbstract ? -1 : text.length - 1)) return undefined
  const bytes = new Uint8Array(2 + text.length)
  new DataView(bytes.buffer).setUint16(0, AF_UNIX, true) // host order: all our platforms are little-endian
  bytes.set(text, 2)
  return bytes
}

/** Non-blocking, close-on-exec and without a name. */
export const openUnixDatagram = (): Either.Either<number, SyscallError> => {
  const fd = callSocket()(AF_UNIX, SOCK_DGRAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0)
  return fd < 0 ? Either.left(lastError("socket(AF_UNIX)")) : Either.right(fd)
}

/** EAGAIN while the receiver has too many waiting. */
export const sendToUnix = (
  fd: number,
  sockaddr: Uint8Array,
  bytes: Uint8Array
): Either.Either<void, SyscallError> =>
  callSendto()(fd, memoryAddress(bytes), bytes.length, MSG_NOSIGNAL, memoryAddress(sockaddr), sockaddr.length) < 0
    ? Either.left(lastError("sendto(AF_UNIX)"))
    : Either.right(undefined)
