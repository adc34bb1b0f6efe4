/**
 * NETLINK_ROUTE sockets (netlink(7)). A request is answered inside the system call, so requests are plain synchronous
 * functions; that also keeps them from overlapping on one socket, which the kernel refuses for dumps.
 */
import * as Either from "effect/Either"
import { SyscallError } from "../SyscallError.ts"
import { close, ERRNO, errno, errnoName, lastError, lazily, memoryAddress } from "./libc.ts"
import type { Envelope } from "./rtnetlinkDecode.ts"
import { decodeError, readMessages } from "./rtnetlinkDecode.ts"
import { NLM_F, NLMSG } from "./rtnetlinkLayout.ts"

const AF_NETLINK = 16
const SOCK_RAW = 3
const SOCK_CLOEXEC = 0o2000000
const NETLINK_ROUTE = 0
const MSG_DONTWAIT = 0x40
const MSG_TRUNC = 0x20
const SOL_SOCKET = 1
const SO_RCVTIMEO = 20
const SO_RCVBUFFORCE = 33
const SOL_NETLINK = 270
const NETLINK_ADD_MEMBERSHIP = 1
const NETLINK_CAP_ACK = 10
const NETLINK_EXT_ACK = 11
const NETLINK_GET_STRICT_CHK = 12
/** The kernel never makes a larger one: dumps come in pieces of at most 32 KiB. */
const BUFFER = 65536
const SOCKADDR_NL = 12
const DUMP_ATTEMPTS = 8
/** Datagrams of a few hundred bytes each: more than the receive buffer ever holds, and a bound if the kernel goes on. */
const MOST_DISCARDED = 65_536

const socket = lazily<(domain: number, type: number, protocol: number) => number>("int socket(int, int, int)")
const bind = lazily<(fd: number, address: Uint8Array, length: number) => number>(
  "int bind(int, const uint8_t *, uint32_t)"
)
const setsockopt = lazily<(fd: number, level: number, option: number, value: Uint8Array, length: number) => number>(
  "int setsockopt(int, int, int, const uint8_t *, uint32_t)"
)
const send = lazily<(fd: number, bytes: number, length: number, flags: number) => number>(
  "long send(int, int64_t, size_t, int)"
)
const recvfrom = lazily<
  (fd: number, bytes: number, length: number, flags: number, address: number, addressLength: number) => number
>("long recvfrom(int, int64_t, size_t, int, int64_t, int64_t)")

const int32 = (value: number): Uint8Array => new Uint8Array(Int32Array.of(value).buffer)
const failure = (syscall: string, code: number, hint?: string): SyscallError =>
  new SyscallError({ syscall, code, errno: errnoName(code), hint })

const openSocket = (groups: number): Either.Either<number, SyscallError> => {
  const fd = socket()(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC, NETLINK_ROUTE)
  if (fd < 0) return Either.left(lastError("socket(AF_NETLINK)"))
  const address = new Uint8Array(SOCKADDR_NL)
  new DataView(address.buffer).setUint16(0, AF_NETLINK, true)
  new DataView(address.buffer).setUint32(8, groups, true)
  if (bind()(fd, address, SOCKADDR_NL) === 0) return Either.right(fd)
  const error = lastError("bind(AF_NETLINK)")
  close()(fd)
  return Either.left(error)
}

/** Receives from the kernel only: other processes of root could write to our port as well. */
class Receiver {
  readonly bytes = new Uint8Array(BUFFER)
  readonly #bytesAt = memoryAddress(this.bytes)
  readonly #sender = new Uint8Array(SOCKADDR_NL + 4) // sockaddr_nl, then its length
  readonly #senderAt = memoryAddress(this.#sender)
  readonly #fd: number

  constructor(fd: number) {
    this.#fd = fd
  }

  /** The length received, -1 with `errno()` set, or 0 for a datagram to ignore. */
  receive(flags: number): number {
    this.#sender[SOCKADDR_NL] = SOCKADDR_NL
    const length = recvfrom()(
      this.#fd,
      this.#bytesAt,
      BUFFER,
      flags | MSG_TRUNC,
      this.#senderAt,
      this.#senderAt + SOCKADDR_NL
    )
    if (length <= 0) return length
    const fromKernel = this.#sender[4] === 0 && this.#sender[5] === 0 && this.#sender[6] === 0 && this.#sender[7] === 0
    return fromKernel ? length : 0
  }
}

/** Requests and their answers. Not closed by itself: use `close`. */
export class NetlinkRequests {
  readonly #fd: number
  readonly #receiver: Receiver
  #sequence = 0

  private constructor(fd: number) {
    this.#fd = fd
    this.#receiver = new Receiver(fd)
  }

  /** Belongs to the network namespace of the calling thread, for ever. */
  static open(): Either.Either<NetlinkRequests, SyscallError> {
    return Either.map(openSocket(0), (fd) => {
      // The answer is there when `send` returns; the time limit only keeps a surprise from hanging the process.
      setsockopt()(fd, SOL_SOCKET, SO_RCVTIMEO, new Uint8Array(BigInt64Array.of(2n, 0n).buffer), 16)
      // Errors in the kernel's own words, dumps filtered by it; old kernels refuse, and do without.
      for (const option of [NETLINK_EXT_ACK, NETLINK_CAP_ACK, NETLINK_GET_STRICT_CHK]) {
        setsockopt()(fd, SOL_NETLINK, option, int32(1), 4)
      }
      return new NetlinkRequests(fd)
    })
  }

  close(): void {
    close()(this.#fd)
  }

  /** A request that is answered by an ack. `what` names it in errors. */
  acknowledge(request: Uint8Array, what: string): Either.Either<void, SyscallError> {
    return Either.map(this.#exchange(request, what, () => undefined), () => undefined)
  }

  /** A request that is answered by one message or an error. */
  ask<A>(
    request: Uint8Array,
    what: string,
    decode: (body: Uint8Array) => A | undefined
  ): Either.Either<A, SyscallError> {
    let answer: A | undefined
    const outcome = this.#exchange(request, what, (envelope) => {
      answer = decode(envelope.body)
    })
    if (Either.isLeft(outcome)) return Either.left(outcome.left)
    return answer === undefined
      ? Either.left(failure(`${what}: answer not understood`, ERRNO.EIO))
      : Either.right(answer)
  }

  /** Every object of a dump for which `decode` gives a value; repeated while the kernel says that it was interrupted. */
  dump<A>(
    request: Uint8Array,
    what: string,
    decode: (body: Uint8Array) => A | undefined
  ): Either.Either<ReadonlyArray<A>, SyscallError> {
    for (let attempt = 0; attempt < DUMP_ATTEMPTS; attempt++) {
      const found: Array<A> = []
      const outcome = this.#exchange(request, what, (envelope) => {
        const value = decode(envelope.body)
        if (value !== undefined) found.push(value)
      })
      if (Either.isLeft(outcome)) return Either.left(outcome.left)
      if (!outcome.right.interrupted) return Either.right(found)
    }
    return Either.left(failure(`${what}: changed at every attempt to read it`, ERRNO.EBUSY))
  }

  #exchange(
    request: Uint8Array,
    what: string,
    visit: (envelope: Envelope) => void
  ): Either.Either<{ readonly interrupted: boolean }, SyscallError> {
    const sequence = this.#sequence = this.#sequence % 0x7fffffff + 1
    new DataView(request.buffer, request.byteOffset).setUint32(8, sequence, true)
    while (send()(this.#fd, memoryAddress(request), request.length, 0) < 0) {
      if (errno() !== ERRNO.EINTR) return Either.left(lastError(what))
    }
    let interrupted = false
    while (true) {
      const length = this.#receiver.receive(0)
      if (length < 0) {
        if (errno() === ERRNO.EINTR) continue
        return Either.left(lastError(what))
      }
      if (length > BUFFER) return Either.left(failure(what, ERRNO.EMSGSIZE))
      for (const envelope of readMessages(this.#receiver.bytes, length)) {
        if (envelope.sequence !== sequence) continue // of a request that was given up
        if ((envelope.flags & NLM_F.DUMP_INTR) !== 0) interrupted = true
        if (envelope.type === NLMSG.ERROR) {
          const { code, words } = decodeError(envelope)
          return code === 0 ? Either.right({ interrupted }) : Either.left(failure(what, code, words))
        }
        if (envelope.type === NLMSG.DONE) {
          const { code, words } = decodeError(envelope) // a dump that fails half-way says so here
          return code <= 0 ? Either.right({ interrupted }) : Either.left(failure(what, code, words))
        }
        if (envelope.type <= NLMSG.OVERRUN) continue
        visit(envelope)
        if ((envelope.flags & NLM_F.MULTI) === 0) return Either.right({ interrupted })
      }
    }
  }
}

/** What the kernel tells everybody about changes (host spec section 11.6). */
export class NetlinkNotifications {
  readonly fd: number
  readonly #receiver: Receiver

  private constructor(fd: number) {
    this.fd = fd
    this.#receiver = new Receiver(fd)
  }

  /** `groups` is the bit mask of the old groups, `memberships` lists those with a number above 32 bits' worth. */
  static open(options: {
    readonly groups: number
    readonly memberships: ReadonlyArray<number>
    readonly receiveBuffer: number
  }): Either.Either<NetlinkNotifications, SyscallError> {
    const opened = openSocket(options.groups)
    if (Either.isLeft(opened)) return Either.left(opened.left)
    const fd = opened.right
    // Without CAP_NET_ADMIN the buffer stays small, and overruns come sooner; they are handled.
    setsockopt()(fd, SOL_SOCKET, SO_RCVBUFFORCE, int32(options.receiveBuffer), 4)
    for (const group of options.memberships) {
      if (setsockopt()(fd, SOL_NETLINK, NETLINK_ADD_MEMBERSHIP, int32(group), 4) !== 0) {
        const error = lastError(`setsockopt(NETLINK_ADD_MEMBERSHIP, ${group})`)
        close()(fd)
        return Either.left(error)
      }
    }
    return Either.right(new NetlinkNotifications(fd))
  }

  close(): void {
    close()(this.fd)
  }

  /**
   * Visits what is queued, at most `budget` datagrams, without waiting. `overrun` means that messages were lost (and
   * some may have been visited); what is queued then is older than what was lost, so `discard` it before you read the
   * state anew.
   */
  drain(budget: number, visit: (envelope: Envelope) => void): "drained" | "overrun" | SyscallError {
    for (let received = 0; received < budget; received++) {
      const length = this.#receiver.receive(MSG_DONTWAIT)
      if (length < 0) {
        const code = errno()
        if (code === ERRNO.EAGAIN) return "drained"
        if (code === ERRNO.EINTR) continue
        return code === ERRNO.ENOBUFS ? "overrun" : lastError("recv(AF_NETLINK)")
      }
      if (length > BUFFER) return "overrun"
      for (const envelope of readMessages(this.#receiver.bytes, length)) {
        if (envelope.type === NLMSG.OVERRUN) return "overrun"
        visit(envelope)
      }
    }
    return "drained"
  }

  /** Drops what is queued. */
  discard(): void {
    let left = MOST_DISCARDED
    while (left-- > 0) {
      // ENOBUFS only says once more that something was lost.
      if (this.#receiver.receive(MSG_DONTWAIT) < 0 && errno() !== ERRNO.EINTR && errno() !== ERRNO.ENOBUFS) return
    }
  }
}
