import type { SocketAddress } from "../wire/address.ts"
import { MAX_MESSAGE, MIN_MESSAGE, takeMessage, writeMessage } from "./framing.ts"
import type { TcpConnection } from "./TcpConnection.ts"
import type { TcpDnsConnection } from "./types.ts"

/** Queries of one connection that wait for answers. More stay unread, until TCP stops the application. */
const MAX_OUTSTANDING = 128
/** Bytes of answers that wait for the application, before it may ask more. */
const MAX_UNREAD = 65_535
/** The same, before it is cut off: answers to all that it has asked may be large. */
const MAX_BACKLOG = 512 * 1024
/** A query that has no answer by now gets none: nothing that we ask takes longer. */
const QUERY_LIFETIME = 15_000
/** Without a query (RFC 7766 section 6.2.3). */
const IDLE_TIMEOUT = 30_000

/** A connection of an application to a sentinel, and what it has asked. */
export class ServerConnection implements TcpDnsConnection {
  readonly tcp: TcpConnection
  readonly local: SocketAddress
  readonly remote: SocketAddress
  /** When the queries came that have no answer; oldest first. */
  readonly #outstanding: Array<number> = []
  #activeAt: number
  #hasAnswered = false

  constructor(tcp: TcpConnection, local: SocketAddress, remote: SocketAddress, now: number) {
    this.tcp = tcp
    this.local = local
    this.remote = remote
    this.#activeAt = now
  }

  /** When an answer was last given, or a query came. */
  get activeAt(): number {
    return this.#activeAt
  }

  get isBusy(): boolean {
    return this.#outstanding.length > 0
  }

  /** The next query, if there is one and the application takes its answers. If not, the end of the connection may be due. */
  takeQuery(now: number): Uint8Array | undefined {
    if (this.#hasAnswered) this.#activeAt = now
    this.#hasAnswered = false
    this.#expire(now)
    if (!this.#isOpen || this.#outstanding.length >= MAX_OUTSTANDING || this.tcp.unacknowledged > MAX_UNREAD) {
      return undefined
    }
    const message = takeMessage(this.tcp)
    if (message === undefined) {
      if (this.tcp.isPeerFinished && !this.isBusy) this.tcp.close()
      return undefined
    }
    if (message.length < MIN_MESSAGE) {
      this.tcp.abort()
      return undefined
    }
    this.#activeAt = now
    this.#outstanding.push(now)
    return message
  }

  answer(message: Uint8Array): void {
    this.#outstanding.shift()
    this.#hasAnswered = true
    if (!this.#isOpen || message.length > MAX_MESSAGE) return
    if (this.tcp.unacknowledged + message.length > MAX_BACKLOG) this.tcp.abort()
    else writeMessage(this.tcp, message)
  }

  handleTimeout(now: number): void {
    this.tcp.handleTimeout(now)
    this.#expire(now)
    if (!this.#isIdle || now < this.#activeAt + IDLE_TIMEOUT) return
    // Half a query will not be read any more, and the application shall know.
    if (this.tcp.readable > 0) this.tcp.abort()
    else this.tcp.close()
  }

  pollTimeout(): number {
    const tcp = this.tcp.pollTimeout() ?? Number.POSITIVE_INFINITY
    const [oldest] = this.#outstanding
    if (oldest !== undefined) return Math.min(tcp, oldest + QUERY_LIFETIME)
    return this.#isIdle ? Math.min(tcp, this.#activeAt + IDLE_TIMEOUT) : tcp
  }

  /** Answers can still be given. */
  get #isOpen(): boolean {
    return this.tcp.state === "established" || this.tcp.state === "close-wait"
  }

  get #isIdle(): boolean {
    return this.#isOpen && !this.isBusy && this.tcp.unacknowledged === 0
  }

  #expire(now: number): void {
    while (this.isBusy && now >= (this.#outstanding[0] as number) + QUERY_LIFETIME) this.#outstanding.shift()
  }
}
