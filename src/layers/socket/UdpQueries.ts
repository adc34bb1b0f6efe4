/** DNS queries over UDP without a fiber for each: sockets that live for one answer, all watched as one. */
import * as Effect from "effect/Effect"
import * as Either from "effect/Either"
import * as Exit from "effect/Exit"
import type { EpollSet } from "../../ffi/linux/epoll.ts"
import { closeSocket, connectSocket, type DatagramReader, sendDatagram } from "../../ffi/linux/socket.ts"
import type { SyscallError } from "../../ffi/SyscallError.ts"
import { type IpAddress, ipFromBytes, SocketAddress, withoutZone } from "../../protocol/wire/address.ts"
import { repeatsQuestion } from "../../protocol/wire/dns.ts"
import { DnsMalformed, type DnsSocketError } from "../../services/DnsSocket.ts"
import type { RouteCache } from "../../services/RouteCache.ts"
import { type SocketFactory, SocketFailed } from "../../services/SocketFactory.ts"
import { isSourceGone } from "./isSourceGone.ts"
import { sockaddrOf } from "./sockaddrOf.ts"

/** The shortest DNS message (RFC 1035 section 4.1.1). */
export const DNS_HEADER = 12

/** Datagrams read from one socket in one turn: whoever floods it must not keep the loop from turning. */
const READS_PER_TURN = 16

export type UdpOutcome = Either.Either<Uint8Array, DnsSocketError>

interface Query {
  readonly bytes: Uint8Array
  readonly resolver: SocketAddress
  readonly onOutcome: (outcome: UdpOutcome) => void
  /** Whether the route was looked up anew after its source turned out to be gone. */
  isRetry: boolean
  fd: number | undefined
  isOver: boolean
}

export const idOf = (message: Uint8Array): number => (message[0] as number) << 8 | message[1] as number

export class UdpQueries {
  readonly #routes: RouteCache["Type"]
  readonly #sockets: SocketFactory["Type"]
  readonly #ready: EpollSet
  readonly #reader: DatagramReader
  readonly #byDescriptor = new Map<number, Query>()

  constructor(
    routes: RouteCache["Type"],
    sockets: SocketFactory["Type"],
    ready: EpollSet,
    reader: DatagramReader
  ) {
    this.#routes = routes
    this.#sockets = sockets
    this.#ready = ready
    this.#reader = reader
  }

  /** The outcome comes once and later, unless what is returned is called before: it ends the query. */
  send(
    bytes: Uint8Array,
    resolver: SocketAddress,
    onOutcome: (outcome: UdpOutcome) => void
  ): () => void {
    const query: Query = { bytes, resolver, onOutcome, isRetry: false, fd: undefined, isOver: false }
    this.#start(query)
    return () => this.#end(query)
  }

  /** Some of the sockets are readable. */
  onReady(): void {
    const tokens = this.#ready.poll()
    // There is nothing to be done about a set that cannot be polled; its queries run out of time.
    if (Either.isLeft(tokens)) return
    for (const fd of tokens.right) {
      const query = this.#byDescriptor.get(fd)
      if (query !== undefined) this.#receive(query, fd)
    }
  }

  closeAll(): void {
    for (const query of [...this.#byDescriptor.values()]) this.#end(query)
  }

  #start(query: Query): void {
    const route = this.#routes.peek(query.resolver.address)
    if (route !== undefined) return this.#sendFrom(query, route.source)
    Effect.runCallback(this.#routes.get(query.resolver.address), {
      onExit: (exit) => {
        if (query.isOver) return
        if (Exit.isSuccess(exit)) return this.#sendFrom(query, exit.value.source)
        if (exit.cause._tag === "Fail") return this.#finishLater(query, exit.cause.error)
        throw new Error("the route cache failed", { cause: exit.cause })
      }
    })
  }

  #sendFrom(query: Query, source: IpAddress): void {
    const opened = this.#sockets.unsafeUdp(new SocketAddress(source, 0))
    if (Either.isLeft(opened)) return this.#failed(query, opened.left)
    query.fd = opened.right
    this.#byDescriptor.set(query.fd, query)
    const sent = this.#connectAndSend(query, opened.right)
    if (Either.isLeft(sent)) this.#failed(query, socketFailed(query, sent.left))
  }

  /** Connected, the system lets only the resolver's datagrams in and tells when nobody listens there. */
  #connectAndSend({ bytes, resolver }: Query, fd: number): Either.Either<void, SyscallError> {
    const connected = connectSocket(fd, sockaddrOf(resolver))
    if (Either.isLeft(connected)) return Either.left(connected.left)
    const watched = this.#ready.add(fd, fd)
    return Either.isLeft(watched) ? watched : sendDatagram(fd, bytes)
  }

  #receive(query: Query, fd: number): void {
    const reader = this.#reader
    for (let i = 0; i < READS_PER_TURN; i++) {
      const received = reader.receive(fd)
      if (Either.isLeft(received)) return this.#finish(query, Either.left(socketFailed(query, received.left)))
      const length = received.right
      if (length === undefined) return
      if (length < 2 || idOf(reader.bytes) !== idOf(query.bytes) || !this.#isFromResolver(query)) continue
      if (length < DNS_HEADER) return this.#finish(query, Either.left(new DnsMalformed({ resolver: query.resolver })))
      const answer = reader.bytes.slice(0, length)
      if (repeatsQuestion(answer, query.bytes)) return this.#finish(query, Either.right(answer))
    }
  }

  /** What came before the socket was connected may be from anybody. */
  #isFromResolver({ resolver }: Query): boolean {
    const sender = this.#reader.sender()
    return sender !== undefined && sender.port === resolver.port &&
      ipFromBytes(sender.address, 0, sender.address.length === 4 ? 4 : 6) === withoutZone(resolver.address)
  }

  #failed(query: Query, error: DnsSocketError): void {
    const isRoute = error._tag === "SocketFailed" && isSourceGone(error.cause.code)
    if (!isRoute || query.isRetry) return this.#finishLater(query, error)
    this.#close(query)
    query.isRetry = true
    this.#routes.evict(query.resolver.address, "send-failed")
    this.#start(query)
  }

  /** It may be known before `send` has returned. */
  #finishLater(query: Query, error: DnsSocketError): void {
    this.#close(query)
    queueMicrotask(() => this.#finish(query, Either.left(error)))
  }

  #finish(query: Query, outcome: UdpOutcome): void {
    if (query.isOver) return
    this.#end(query)
    query.onOutcome(outcome)
  }

  #end(query: Query): void {
    query.isOver = true
    this.#close(query)
  }

  #close(query: Query): void {
    if (query.fd === undefined) return
    this.#byDescriptor.delete(query.fd)
    closeSocket(query.fd)
    query.fd = undefined
  }
}

const socketFailed = ({ resolver }: Query, cause: SyscallError): SocketFailed =>
  new SocketFailed({ operation: `query ${resolver.text}`, cause })
