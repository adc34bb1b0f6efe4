import * as Effect from "effect/Effect"
import * as Either from "effect/Either"
import * as Layer from "effect/Layer"
import * as Runtime from "effect/Runtime"
import type { OutsideQuery } from "../../protocol/tunnel/ClientDns.ts"
import { SocketAddress } from "../../protocol/wire/address.ts"
import { DnsForwarder, type ForwardOutcome } from "../../services/DnsForwarder.ts"
import { DnsSocket, type DnsSocketError } from "../../services/DnsSocket.ts"
import { HostResolver } from "../../services/HostResolver.ts"
import { SocketFactory } from "../../services/SocketFactory.ts"
import { DohClients } from "./DohClients.ts"

const DNS_PORT = 53
const TIMEOUT_MILLIS = 5000

interface UnderWay {
  readonly deadline: number
  readonly cancel: () => void
}

export interface DnsForwarderOptions {
  /** PEM of the roots that DNS over HTTPS trusts instead of the bundled ones. */
  readonly trustedRoots?: string | undefined
}

const make = (options: DnsForwarderOptions) =>
  Effect.gen(function*() {
    const sockets = yield* DnsSocket
    const factory = yield* SocketFactory
    const hosts = yield* HostResolver
    const runtime = yield* Effect.runtime<never>()
    const run = Runtime.runCallback(runtime)

    const open = Effect.fnUntraced(function*(onOutcome: (id: number, outcome: ForwardOutcome) => void) {
      /** Oldest first: all have the same time. */
      const underWay = new Map<number, UnderWay>()
      let timer: NodeJS.Timeout | undefined
      const clients = new DohClients({ factory, hosts, run, trustedRoots: options.trustedRoots })

      const finish = (id: number, outcome: ForwardOutcome): void => {
        if (underWay.delete(id)) onOutcome(id, outcome)
      }
      const expire = (): void => {
        timer = undefined
        const now = performance.now()
        for (const [id, { cancel, deadline }] of underWay) {
          if (deadline > now) break
          cancel()
          finish(id, "timed-out")
        }
        arm()
      }
      const arm = (): void => {
        if (timer !== undefined) return
        for (const { deadline } of underWay.values()) {
          timer = setTimeout(expire, Math.max(1, Math.ceil(deadline - performance.now())))
          return
        }
      }
      const settle = (id: number, outcome: Either.Either<Uint8Array, DnsSocketError>): void =>
        finish(id, Either.isRight(outcome) ? outcome.right : outcomeOf(outcome.left))

      const start = ({ id, message, transport, upstream }: OutsideQuery): () => void => {
        if (upstream._tag === "DoH") return clients.send(upstream.url, message, (outcome) => finish(id, outcome))
        const resolver = new SocketAddress(upstream.address, DNS_PORT)
        if (transport === "udp") return sockets.unsafeUdp(message, resolver, (outcome) => settle(id, outcome))
        return run(Effect.either(sockets.tcp(message, resolver, TIMEOUT_MILLIS)), {
          // It may be over at once.
          onExit: (exit) =>
            queueMicrotask(() => exit._tag === "Success" ? settle(id, exit.value) : finish(id, "failed"))
        })
      }
      const abandon = (): void => {
        const queries = [...underWay.values()]
        underWay.clear()
        for (const { cancel } of queries) cancel()
      }

      yield* Effect.addFinalizer(() =>
        Effect.sync(() => {
          clearTimeout(timer)
          abandon()
          clients.close()
        })
      )
      return {
        forward: (query: OutsideQuery) => {
          underWay.set(query.id, { deadline: performance.now() + TIMEOUT_MILLIS, cancel: start(query) })
          arm()
        },
        prepare: (upstreams) => clients.retain(upstreams.flatMap((each) => each._tag === "DoH" ? [each.url] : [])),
        reset: () => {
          abandon()
          clients.reconnect()
        }
      } satisfies Effect.Effect.Success<ReturnType<DnsForwarder["Type"]["open"]>>
    })
    return DnsForwarder.of({ open })
  })

const outcomeOf = (error: DnsSocketError): ForwardOutcome =>
  error._tag === "DnsTimedOut" || error._tag === "ConnectTimedOut" ? "timed-out" : "failed"

export const layerWith = (
  options: DnsForwarderOptions
): Layer.Layer<DnsForwarder, never, DnsSocket | SocketFactory | HostResolver> =>
  Layer.effect(DnsForwarder, make(options))

export const layer = layerWith({})
