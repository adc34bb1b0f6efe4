/** DNS over HTTPS (RFC 8484): one HTTP/2 connection for each server, made before it is needed. */
import * as Effect from "effect/Effect"
import type * as Runtime from "effect/Runtime"
import type { ForwardOutcome } from "../../services/DnsForwarder.ts"
import type { HostResolver } from "../../services/HostResolver.ts"
import type { SocketFactory } from "../../services/SocketFactory.ts"
import { type DohConnection, openDohConnection } from "./DohConnection.ts"

/** Connections being made at the same time. */
const MAX_CONNECTING = 10
/** After a failed attempt, before a query begins another: queries come by the hundred. */
const RETRY_AFTER_MILLIS = 1000

export interface DohClientsOptions {
  readonly factory: SocketFactory["Type"]
  readonly hosts: HostResolver["Type"]
  readonly run: <A, E>(effect: Effect.Effect<A, E>, options?: Runtime.RunCallbackOptions<A, E>) => Runtime.Cancel<A, E>
  readonly trustedRoots: string | undefined
}

/** `Connecting` holds what ends it. */
type Client =
  | { readonly _tag: "Connecting"; readonly cancel: () => void }
  | { readonly _tag: "Connected"; readonly connection: DohConnection }

export class DohClients {
  readonly #options: DohClientsOptions
  readonly #clients = new Map<string, Client>()
  #wanted: ReadonlyArray<string> = []
  /** When the last attempt failed, of servers without a connection since. */
  readonly #failedAt = new Map<string, number>()
  #closed = false

  constructor(options: DohClientsOptions) {
    this.#options = options
  }

  /** Fails if there is no connection, and begins to make one. The outcome comes after the call has returned. */
  send(url: string, query: Uint8Array, onOutcome: (outcome: ForwardOutcome) => void): () => void {
    const client = this.#clients.get(url)
    if (client?._tag === "Connected") return client.connection.send(query, onOutcome)
    if (performance.now() - (this.#failedAt.get(url) ?? Number.NEGATIVE_INFINITY) >= RETRY_AFTER_MILLIS) {
      this.#connect(url)
    }
    let isOver = false
    queueMicrotask(() => {
      if (!isOver) onOutcome("failed")
    })
    return () => {
      isOver = true
    }
  }

  /** Connects to these and closes all others. */
  retain(urls: ReadonlyArray<string>): void {
    this.#wanted = urls
    for (const url of [...this.#clients.keys(), ...this.#failedAt.keys()]) if (!urls.includes(url)) this.#drop(url)
    for (const url of urls) this.#connect(url)
  }

  reconnect(): void {
    this.#failedAt.clear()
    for (const url of this.#clients.keys()) this.#drop(url)
    for (const url of this.#wanted) this.#connect(url)
  }

  close(): void {
    this.#closed = true
    for (const url of this.#clients.keys()) this.#drop(url)
  }

  #connect(url: string): void {
    if (this.#closed || this.#clients.has(url)) return
    const connecting = [...this.#clients.values()].filter(({ _tag }) => _tag === "Connecting").length
    if (connecting >= MAX_CONNECTING) return
    const { factory, hosts, run, trustedRoots } = this.#options
    let cancel = (): void => undefined
    // Of this attempt, to tell it from a later one of the same server.
    let client: Client = { _tag: "Connecting", cancel: () => cancel() }
    this.#clients.set(url, client)
    const forget = (): void => {
      if (this.#clients.get(url) === client) this.#clients.delete(url)
    }
    const attempt = openDohConnection({ factory, hosts, url, trustedRoots, onClosed: forget }).pipe(
      Effect.tapError(({ reason }) => {
        // Once, until there is a connection again.
        const log = this.#failedAt.has(url) ? Effect.logDebug : Effect.logWarning
        this.#failedAt.set(url, performance.now())
        return log("no connection to the DNS-over-HTTPS server").pipe(Effect.annotateLogs("reason", reason))
      })
    )
    cancel = run(attempt, {
      onExit: (exit) => {
        if (exit._tag === "Failure") return forget()
        if (this.#clients.get(url) !== client) return exit.value.close()
        this.#failedAt.delete(url)
        client = { _tag: "Connected", connection: exit.value }
        this.#clients.set(url, client)
      }
    })
  }

  #drop(url: string): void {
    const client = this.#clients.get(url)
    this.#clients.delete(url)
    this.#failedAt.delete(url)
    if (client?._tag === "Connecting") client.cancel()
    else client?.connection.close()
  }
}
