/** Echo requests from a connected ICMP socket: route, source address and errors are what an application meets. */
import * as Effect from "effect/Effect"
import * as Either from "effect/Either"
import * as Layer from "effect/Layer"
import { randomBytes } from "node:crypto"
import { ErrorQueueReader, type IcmpSocket, openIcmpSocket, type QueuedError } from "../../ffi/linux/icmpSocket.ts"
import { ERRNO } from "../../ffi/linux/libc.ts"
import {
  AF_INET,
  AF_INET6,
  closeSocket,
  connectSocket,
  DatagramReader,
  encodeSockaddr,
  localSockaddr,
  sendDatagram
} from "../../ffi/linux/socket.ts"
import type { SyscallError } from "../../ffi/SyscallError.ts"
import { type Family, familyOf, type IpAddress, ipFromBytes, ipToBytes } from "../../protocol/wire/address.ts"
import {
  behindIpv4Header,
  decodeEchoReply,
  ECHO_HEADER_LENGTH,
  encodeEchoRequest,
  isProhibition,
  quotedEcho
} from "../../protocol/wire/echo.ts"
import { ReadinessPoller } from "../../services/ReadinessPoller.ts"
import { type Echoes, type EchoOutcome, ProbeFailed, ResourceProbe } from "../../services/ResourceProbe.ts"
import { lookUp } from "./lookUp.ts"

/** As much as ping(8) sends. */
const PAYLOAD = 56
/** A packet through the tunnel has at most 1280. */
const MAX_MESSAGE = 2048
/** In one turn: whoever floods the socket must not keep the loop from turning. */
const READS_PER_TURN = 64

interface Waiting {
  readonly sentAt: number
  readonly payload: Uint8Array
  readonly resume: (outcome: EchoOutcome) => void
}

/** The requests of one socket that have no outcome yet, by sequence number. */
class Requests {
  readonly #family: Family
  readonly #socket: IcmpSocket
  readonly #identifier: number
  readonly #waiting = new Map<number, Waiting>()
  readonly #reader = new DatagramReader(MAX_MESSAGE)
  readonly #errors = new ErrorQueueReader()

  constructor(family: Family, socket: IcmpSocket, identifier: number) {
    this.#family = family
    this.#socket = socket
    this.#identifier = identifier
  }

  /** Returns what ends the wait. */
  send(sequence: number, resume: (outcome: EchoOutcome) => void): Either.Either<() => void, SyscallError> {
    const payload = randomBytes(PAYLOAD)
    const message = encodeEchoRequest(this.#family, { identifier: this.#identifier, sequence }, payload)
    this.#waiting.set(sequence, { sentAt: performance.now(), payload, resume })
    const forget = (): void => void this.#waiting.delete(sequence)
    let sent = sendDatagram(this.#socket.fd, message)
    // The error of an earlier request is told to whoever calls next.
    if (Either.isLeft(sent) && this.drain() > 0) sent = sendDatagram(this.#socket.fd, message)
    if (Either.isRight(sent)) return Either.right(forget)
    const { code, errno } = sent.left
    if (code !== ERRNO.ENETUNREACH && code !== ERRNO.EHOSTUNREACH && code !== ERRNO.EACCES) {
      forget()
      return Either.left(sent.left)
    }
    this.#settle(sequence, () => ({ _tag: "Refused", from: undefined, isProhibited: false, errno }))
    return Either.right(forget)
  }

  /** Takes what has come; returns how much of it was errors. */
  drain(): number {
    let errors = 0
    for (let reads = 0; reads < READS_PER_TURN; reads++) {
      const error = this.#errors.receive(this.#socket.fd)
      if (Either.isLeft(error) || error.right === undefined) break
      errors += 1
      this.#handleError(error.right)
    }
    for (let reads = 0; reads < READS_PER_TURN; reads++) {
      const length = this.#reader.receive(this.#socket.fd)
      if (Either.isLeft(length)) continue // told by the queue
      if (length.right === undefined) break
      this.#handleMessage(this.#reader.bytes.subarray(0, length.right))
    }
    return errors
  }

  #settle(sequence: number, outcome: (waiting: Waiting) => Unfinished | undefined): void {
    const waiting = this.#waiting.get(sequence)
    if (waiting === undefined) return
    const unfinished = outcome(waiting)
    if (unfinished === undefined) return
    this.#waiting.delete(sequence)
    waiting.resume({ ...unfinished, millis: performance.now() - waiting.sentAt })
  }

  /** Only the very bytes that were sent are an answer; the kernel lets pass what comes from the destination alone. */
  #handleMessage(bytes: Uint8Array): void {
    const message = this.#socket.isRaw && this.#family === 4 ? behindIpv4Header(bytes) : bytes
    if (message === undefined) return
    const ids = decodeEchoReply(this.#family, message)
    if (ids === undefined || ids.identifier !== this.#identifier) return
    this.#settle(
      ids.sequence,
      ({ payload }) =>
        Buffer.compare(message.subarray(ECHO_HEADER_LENGTH), payload) === 0 ? { _tag: "Answered" } : undefined
    )
  }

  #handleError({ errno, icmp, quoted }: QueuedError): void {
    const ids = quotedEcho(this.#family, quoted)
    if (ids === undefined || ids.identifier !== this.#identifier) return
    this.#settle(ids.sequence, () => ({
      _tag: "Refused",
      from: icmp?.from === undefined ? undefined : ipFromBytes(icmp.from, 0, icmp.from.length === 4 ? 4 : 6),
      isProhibited: icmp !== undefined && isProhibition(this.#family, icmp.type, icmp.code),
      errno
    }))
  }
}

type WithoutMillis<A> = A extends unknown ? Omit<A, "millis"> : never
type Unfinished = WithoutMillis<Exclude<EchoOutcome, { readonly _tag: "Silent" }>>

const attempt = <A>(what: string, call: () => Either.Either<A, SyscallError>): Effect.Effect<A, ProbeFailed> =>
  Effect.mapError(Effect.suspend(call), (cause) => new ProbeFailed({ what, cause }))

const make = Effect.gen(function*() {
  const poller = yield* ReadinessPoller

  const open = Effect.fn("ResourceProbe.open")(function*(destination: IpAddress) {
    const family = familyOf(destination)
    const what = `echo to ${destination}`
    const socket = yield* Effect.acquireRelease(
      attempt(what, () => openIcmpSocket(family === 4 ? AF_INET : AF_INET6)),
      ({ fd }) => Effect.sync(() => closeSocket(fd))
    )
    yield* attempt(what, () => connectSocket(socket.fd, encodeSockaddr(ipToBytes(destination), 0)))
    const local = yield* attempt(what, () => localSockaddr(socket.fd))
    // A datagram socket's port is the identifier that the kernel writes.
    const requests = new Requests(family, socket, socket.isRaw ? randomBytes(2).readUInt16BE() : local.port)
    yield* poller.watch(socket.fd, () => void requests.drain()).pipe(
      Effect.mapError((cause) => new ProbeFailed({ what, cause }))
    )
    const echo = (sequence: number, patienceMillis: number) =>
      Effect.async<EchoOutcome, ProbeFailed>((resume) => {
        const forget = requests.send(sequence & 0xffff, (outcome) => resume(Effect.succeed(outcome)))
        if (Either.isLeft(forget)) return resume(new ProbeFailed({ what, cause: forget.left }))
        return Effect.sync(forget.right)
      }).pipe(Effect.timeoutTo({
        duration: patienceMillis,
        onSuccess: (outcome): EchoOutcome => outcome,
        onTimeout: (): EchoOutcome => ({ _tag: "Silent" })
      }))
    const echoes: Echoes = { source: ipFromBytes(local.address, 0, family), echo }
    return echoes
  })
  return ResourceProbe.of({ lookUp, open })
})

export const layer: Layer.Layer<ResourceProbe, never, ReadinessPoller> = Layer.effect(ResourceProbe, make)
