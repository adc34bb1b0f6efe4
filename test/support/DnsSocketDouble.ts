/** A DNS socket whose answers the test sets; records what it was asked. */
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import * as Layer from "effect/Layer"
import type { SocketAddress } from "../../src/model/Route.ts"
import { DnsSocket, type DnsSocketError, DnsTimedOut } from "../../src/services/DnsSocket.ts"

const FOREVER = 2 ** 31 - 1

export interface DnsQuestion {
  readonly query: Uint8Array
  readonly resolver: SocketAddress
  readonly transport: "udp" | "tcp"
}

export interface DnsSocketDouble {
  readonly asked: Array<DnsQuestion>
  /** Settable; by default no resolver answers, and that is known at once. Interrupted after the query's time limit. */
  answer: (question: DnsQuestion) => Effect.Effect<Uint8Array, DnsSocketError>
  readonly layer: Layer.Layer<DnsSocket>
}

export const makeDnsSocketDouble = (): DnsSocketDouble => {
  const exchange =
    (transport: "udp" | "tcp") => (query: Uint8Array, resolver: SocketAddress, timeoutMillis: number = 5000) =>
      Effect.suspend(() => {
        const question: DnsQuestion = { query: query.slice(), resolver, transport }
        double.asked.push(question)
        return Effect.timeoutFail(double.answer(question), {
          duration: timeoutMillis,
          onTimeout: () => new DnsTimedOut({ resolver })
        })
      })
  const double: DnsSocketDouble = {
    asked: [],
    answer: ({ resolver }) => new DnsTimedOut({ resolver }),
    layer: Layer.sync(DnsSocket, () =>
      DnsSocket.of({
        udp: exchange("udp"),
        tcp: exchange("tcp"),
        unsafeUdp: (query, resolver, onOutcome) =>
          Effect.runCallback(Effect.either(exchange("udp")(query, resolver, FOREVER)), {
            onExit: (exit) => {
              if (Exit.isSuccess(exit)) onOutcome(exit.value)
            }
          })
      }))
  }
  return double
}
