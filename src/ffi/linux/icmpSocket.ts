/** Sockets for ICMP echo, and the queue of errors that they get (icmp(7), raw(7), ip(7), recvmsg(2), linux/errqueue.h). */
import * as Either from "effect/Either"
import { SyscallError } from "../SyscallError.ts"
import { ERRNO, errno, errnoName, lastError, lazily, memoryAddress } from "./libc.ts"
import {
  type AddressFamily,
  AF_INET,
  AF_INET6,
  closeSocket,
  setOption,
  SOCK_DGRAM,
  SOL_IP,
  SOL_IPV6
} from "./socket.ts"

const SOCK_RAW = 3
const SOCK_NONBLOCK = 0o4000
const SOCK_CLOEXEC = 0o2000000
const IPPROTO_ICMP = 1
const IPPROTO_ICMPV6 = 58
const IP_RECVERR = 11
const IPV6_RECVERR = 25
const MSG_ERRQUEUE = 0x2000

const callSocket = lazily<(family: number, type: number, protocol: number) => number>("int socket(int, int, int)")
const callRecvmsg = lazily<(fd: number, message: number, flags: number) => number>("long recvmsg(int, int64_t, int)")

export interface IcmpSocket {
  readonly fd: number
  /** With a raw one we choose the identifier, sum up, and see the IPv4 header; else the kernel does all that. */
  readonly isRaw: boolean
}

/**
 * Non-blocking and close-on-exec, with a queue of errors. A datagram socket where `net.ipv4.ping_group_range` lets us, else a
 * raw one, which needs CAP_NET_RAW.
 */
export const openIcmpSocket = (family: AddressFamily): Either.Either<IcmpSocket, SyscallError> => {
  const protocol = family === AF_INET ? IPPROTO_ICMP : IPPROTO_ICMPV6
  const open = (type: number): number => callSocket()(family, type | SOCK_NONBLOCK | SOCK_CLOEXEC, protocol)
  const datagram = open(SOCK_DGRAM)
  const fd = datagram >= 0 ? datagram : open(SOCK_RAW)
  if (fd < 0) {
    return Either.left(lastError("socket(ICMP)", "run it as root, or let its group: sysctl net.ipv4.ping_group_range"))
  }
  const queue = family === AF_INET
    ? setOption(fd, SOL_IP, IP_RECVERR, 1, "IP_RECVERR")
    : setOption(fd, SOL_IPV6, IPV6_RECVERR, 1, "IPV6_RECVERR")
  if (Either.isRight(queue)) return Either.right({ fd, isRaw: datagram < 0 })
  closeSocket(fd)
  return Either.left(queue.left)
}

export interface QueuedError {
  readonly code: number
  readonly errno: string
  /** Of the ICMP error; absent if this machine's kernel made it. */
  readonly icmp?: {
    readonly type: number
    readonly code: number
    /** Who sent it, 4 or 16 bytes. */
    readonly from: Uint8Array | undefined
  } | undefined
  /** What was quoted of the message that failed, from its ICMP header on. */
  readonly quoted: Uint8Array
}

const MSGHDR = 56
const IOVEC = MSGHDR
const NAME = 80
const CONTROL = 112
const CONTROL_LENGTH = 128
const QUOTED = CONTROL + CONTROL_LENGTH
const QUOTED_LENGTH = 128
const CMSGHDR = 16
const EXTENDED_ERROR = 16
const ORIGIN_ICMP = 2
const ORIGIN_ICMP6 = 3

/** Reads the queue of errors, oldest first; for sockets that are not busy. */
export class ErrorQueueReader {
  readonly #bytes = new Uint8Array(QUOTED + QUOTED_LENGTH)
  readonly #view = new DataView(this.#bytes.buffer)
  readonly #memory = memoryAddress(this.#bytes)

  /** `undefined` when the queue is empty. */
  receive(fd: number): Either.Either<QueuedError | undefined, SyscallError> {
    const view = this.#view
    const pointer = (at: number, target: number): void => view.setBigUint64(at, BigInt(this.#memory + target), true)
    this.#bytes.fill(0)
    pointer(0, NAME)
    view.setUint32(8, CONTROL - NAME, true)
    pointer(16, IOVEC)
    view.setBigUint64(24, 1n, true)
    pointer(32, CONTROL)
    view.setBigUint64(40, BigInt(CONTROL_LENGTH), true)
    pointer(IOVEC, QUOTED)
    view.setBigUint64(IOVEC + 8, BigInt(QUOTED_LENGTH), true)
    const length = callRecvmsg()(fd, this.#memory, MSG_ERRQUEUE)
    if (length < 0) {
      const code = errno()
      return code === ERRNO.EAGAIN
        ? Either.right(undefined)
        : Either.left(new SyscallError({ syscall: "recvmsg(MSG_ERRQUEUE)", code, errno: errnoName(code) }))
    }
    const quoted = this.#bytes.slice(QUOTED, QUOTED + Math.min(length, QUOTED_LENGTH))
    return Either.right({ ...this.#extendedError(), quoted })
  }

  #extendedError(): Omit<QueuedError, "quoted"> {
    const view = this.#view
    const end = CONTROL + Math.min(Number(view.getBigUint64(40, true)), CONTROL_LENGTH)
    for (let at = CONTROL; at + CMSGHDR + EXTENDED_ERROR <= end;) {
      const length = Number(view.getBigUint64(at, true))
      const level = view.getInt32(at + 8, true)
      const type = view.getInt32(at + 12, true)
      if (level === SOL_IP && type === IP_RECVERR || level === SOL_IPV6 && type === IPV6_RECVERR) {
        const error = at + CMSGHDR
        const code = view.getUint32(error, true)
        const origin = view.getUint8(error + 4)
        const isIcmp = origin === ORIGIN_ICMP || origin === ORIGIN_ICMP6
        return {
          code,
          errno: errnoName(code),
          icmp: isIcmp
            ? {
              type: view.getUint8(error + 5),
              code: view.getUint8(error + 6),
              from: this.#offender(error + EXTENDED_ERROR, end)
            }
            : undefined
        }
      }
      if (length < CMSGHDR) break
      at += length + 7 & ~7
    }
    return { code: 0, errno: errnoName(0) }
  }

  /** A `sockaddr` right behind the error. */
  #offender(at: number, end: number): Uint8Array | undefined {
    if (at + 8 > end) return undefined
    const family = this.#view.getUint16(at, true)
    if (family === AF_INET) return this.#bytes.slice(at + 4, at + 8)
    return family === AF_INET6 && at + 24 <= end ? this.#bytes.slice(at + 8, at + 24) : undefined
  }
}
