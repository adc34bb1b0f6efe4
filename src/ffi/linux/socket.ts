/** Internet sockets: calls, constants, `sockaddr_in` and `sockaddr_in6` (ip(7), ipv6(7), udp(7), linux/in6.h). */
import * as Either from "effect/Either"
import { SyscallError } from "../SyscallError.ts"
import { close, ERRNO, errno, errnoName, lastError, lazily, memoryAddress } from "./libc.ts"

export const AF_INET = 2
export const AF_INET6 = 10
export const SOCK_STREAM = 1
export const SOCK_DGRAM = 2
const SOCK_NONBLOCK = 0o4000
const SOCK_CLOEXEC = 0o2000000

export const SOL_IP = 0
export const SOL_SOCKET = 1
export const SOL_TCP = 6
export const SOL_UDP = 17
export const SOL_IPV6 = 41

const SO_ERROR = 4
export const SO_SNDBUF = 7
export const SO_RCVBUF = 8
export const SO_SNDBUFFORCE = 32
export const SO_RCVBUFFORCE = 33
export const SO_MARK = 36

export const TCP_NODELAY = 1
export const TCP_REPAIR = 19

export const IP_TOS = 1
export const IP_PKTINFO = 8
export const IP_MTU_DISCOVER = 10
export const IP_RECVTOS = 13
/** Of a connected socket: what is known of its path. */
export const IP_MTU = 14
/** Sets DF and ignores what path MTU discovery learnt: only the interface's MTU limits. The same for both families. */
export const PMTUDISC_PROBE = 3

export const IPV6_MTU_DISCOVER = 23
export const IPV6_MTU = 24
export const IPV6_V6ONLY = 26
export const IPV6_RECVPKTINFO = 49
export const IPV6_PKTINFO = 50
export const IPV6_DONTFRAG = 62
export const IPV6_RECVTCLASS = 66
export const IPV6_TCLASS = 67
export const IPV6_ADDR_PREFERENCES = 72
export const IPV6_PREFER_SRC_PUBLIC = 2

export const UDP_SEGMENT = 103
export const UDP_GRO = 104

export type AddressFamily = typeof AF_INET | typeof AF_INET6

const callSocket = lazily<(family: number, type: number, protocol: number) => number>("int socket(int, int, int)")
const callBind = lazily<(fd: number, address: number, length: number) => number>("int bind(int, int64_t, uint32_t)")
const callConnect = lazily<(fd: number, address: number, length: number) => number>(
  "int connect(int, int64_t, uint32_t)"
)
const callGetsockname = lazily<(fd: number, address: number, length: number) => number>(
  "int getsockname(int, int64_t, int64_t)"
)
const callSetsockopt = lazily<(fd: number, level: number, option: number, value: number, length: number) => number>(
  "int setsockopt(int, int, int, int64_t, uint32_t)"
)
const callGetsockopt = lazily<(fd: number, level: number, option: number, value: number, length: number) => number>(
  "int getsockopt(int, int, int, int64_t, int64_t)"
)
const callSendto = lazily<
  (fd: number, bytes: number, length: number, flags: number, address: number, addressLength: number) => number
>("long sendto(int, int64_t, size_t, int, int64_t, uint32_t)")
const callRecvfrom = lazily<
  (fd: number, bytes: number, length: number, flags: number, address: number, addressLength: number) => number
>("long recvfrom(int, int64_t, size_t, int, int64_t, int64_t)")

export const SOCKADDR_IN = 16
export const SOCKADDR_IN6 = 28

/** A `sockaddr_in` for 4 bytes of address, a `sockaddr_in6` for 16; `scope` is an interface's index, of link-local ones. */
export const encodeSockaddr = (address: Uint8Array, port: number, scope = 0): Uint8Array<ArrayBuffer> => {
  const v4 = address.length === 4
  const bytes = new Uint8Array(v4 ? SOCKADDR_IN : SOCKADDR_IN6)
  const view = new DataView(bytes.buffer)
  view.setUint16(0, v4 ? AF_INET : AF_INET6, true) // host order: all our platforms are little-endian
  view.setUint16(2, port)
  bytes.set(address, v4 ? 4 : 8)
  if (!v4) view.setUint32(24, scope, true)
  return bytes
}

interface Sockaddr {
  /** 4 or 16 bytes, network order. */
  readonly address: Uint8Array
  readonly port: number
}

/** Reads what the kernel wrote; `undefined` for other families and for what is cut short. */
const decodeSockaddr = (bytes: Uint8Array, length: number): Sockaddr | undefined => {
  if (length < 4 || length > bytes.length) return undefined
  const view = new DataView(bytes.buffer, bytes.byteOffset, length)
  const family = view.getUint16(0, true)
  const port = view.getUint16(2)
  if (family === AF_INET && length >= SOCKADDR_IN) return { address: bytes.slice(4, 8), port }
  if (family === AF_INET6 && length >= SOCKADDR_IN6) return { address: bytes.slice(8, 24), port }
  return undefined
}

const failure = (syscall: string, code: number, hint?: string): SyscallError =>
  new SyscallError({ syscall, code, errno: errnoName(code), hint })
const done: Either.Either<void, never> = Either.right(undefined)
const outcome = (result: number, syscall: string): Either.Either<void, SyscallError> =>
  result < 0 ? Either.left(lastError(syscall)) : done

/** Non-blocking and close-on-exec. It belongs to the network namespace of the calling thread, for ever. */
export const openSocket = (family: AddressFamily, type: number): Either.Either<number, SyscallError> => {
  const fd = callSocket()(family, type | SOCK_NONBLOCK | SOCK_CLOEXEC, 0)
  return fd < 0 ? Either.left(lastError("socket")) : Either.right(fd)
}

export const closeSocket = (fd: number): void => {
  close()(fd)
}

export const bindSocket = (fd: number, sockaddr: Uint8Array): Either.Either<void, SyscallError> =>
  outcome(callBind()(fd, memoryAddress(sockaddr), sockaddr.length), "bind")

/** Returns whether the connection (or the choice of a UDP peer) is complete; if not, it is under way. */
export const connectSocket = (fd: number, sockaddr: Uint8Array): Either.Either<boolean, SyscallError> => {
  if (callConnect()(fd, memoryAddress(sockaddr), sockaddr.length) === 0) return Either.right(true)
  const code = errno()
  return code === ERRNO.EINPROGRESS ? Either.right(false) : Either.left(failure("connect", code))
}

// For calls that need memory: `sockaddr` at 0, a length or an integer at 32. Calls are synchronous, so one is enough.
const scratch = new Uint8Array(40)
const scratchView = new DataView(scratch.buffer)
const WORD = 32
let scratchMemory: number | undefined
const scratchAddress = (): number => scratchMemory ??= memoryAddress(scratch)

/** The address and port that the socket is bound to. */
export const localSockaddr = (fd: number): Either.Either<Sockaddr, SyscallError> => {
  scratchView.setUint32(WORD, SOCKADDR_IN6, true)
  if (callGetsockname()(fd, scratchAddress(), scratchAddress() + WORD) < 0) return Either.left(lastError("getsockname"))
  const sockaddr = decodeSockaddr(scratch, Math.min(scratchView.getUint32(WORD, true), SOCKADDR_IN6))
  return sockaddr === undefined
    ? Either.left(failure("getsockname: no Internet address", ERRNO.EAFNOSUPPORT))
    : Either.right(sockaddr)
}

/** Sets an `int` option. */
export const setOption = (
  fd: number,
  level: number,
  option: number,
  value: number,
  name: string
): Either.Either<void, SyscallError> => {
  scratchView.setInt32(WORD, value | 0, true)
  return outcome(callSetsockopt()(fd, level, option, scratchAddress() + WORD, 4), `setsockopt(${name})`)
}

/** Reads an `int` option. */
export const getOption = (
  fd: number,
  level: number,
  option: number,
  name: string
): Either.Either<number, SyscallError> => {
  scratchView.setUint32(0, 4, true)
  return callGetsockopt()(fd, level, option, scratchAddress() + WORD, scratchAddress()) < 0
    ? Either.left(lastError(`getsockopt(${name})`))
    : Either.right(scratchView.getInt32(WORD, true))
}

/** The error that a connection attempt ended with; reading clears it. */
export const takeSocketError = (fd: number, syscall: string): Either.Either<void, SyscallError> =>
  Either.flatMap(
    getOption(fd, SOL_SOCKET, SO_ERROR, "SO_ERROR"),
    (code) => code === 0 ? done : Either.left(failure(syscall, code))
  )

/** One datagram to the address that the socket is connected to. */
export const sendDatagram = (fd: number, bytes: Uint8Array): Either.Either<void, SyscallError> =>
  outcome(callSendto()(fd, memoryAddress(bytes), bytes.length, 0, 0, 0), "sendto")

/** Receives single datagrams into one buffer that is used again and again; for sockets that are not busy. */
export class DatagramReader {
  /** What was received last; longer datagrams are cut. */
  readonly bytes: Uint8Array
  readonly #address: number
  readonly #sender = new Uint8Array(WORD + 4)
  readonly #senderView = new DataView(this.#sender.buffer)
  readonly #senderAddress = memoryAddress(this.#sender)

  constructor(length: number) {
    this.bytes = new Uint8Array(length)
    this.#address = memoryAddress(this.bytes)
  }

  /** The length received, or `undefined` if there is nothing to receive. */
  receive(fd: number): Either.Either<number | undefined, SyscallError> {
    while (true) {
      this.#senderView.setUint32(WORD, SOCKADDR_IN6, true)
      const sender = this.#senderAddress
      const length = callRecvfrom()(fd, this.#address, this.bytes.length, 0, sender, sender + WORD)
      if (length >= 0) return Either.right(length)
      const code = errno()
      if (code === ERRNO.EAGAIN) return Either.right(undefined)
      if (code !== ERRNO.EINTR) return Either.left(failure("recvfrom", code))
    }
  }

  /** Who sent the datagram received last. */
  sender(): Sockaddr | undefined {
    return decodeSockaddr(this.#sender, Math.min(this.#senderView.getUint32(WORD, true), SOCKADDR_IN6))
  }
}
