/** A forwarder that keeps what it is asked; the test answers. */
import * as Effect from "effect/Effect"
import * as Layer from "effect/Layer"
import type { Upstream } from "../../src/protocol/dns/upstreams.ts"
import type { OutsideQuery } from "../../src/protocol/tunnel/ClientDns.ts"
import { DnsForwarder, type ForwardOutcome } from "../../src/services/DnsForwarder.ts"

export interface DnsForwarderDouble {
  readonly queries: Array<OutsideQuery>
  /** What connections were last wanted to. */
  prepared: ReadonlyArray<Upstream>
  resets: number
  isOpen: boolean
  /** What becomes of a query. */
  readonly answer: (id: number, outcome: ForwardOutcome) => void
  readonly layer: Layer.Layer<DnsForwarder>
}

export const makeDnsForwarderDouble = (): DnsForwarderDouble => {
  let onOutcome: (id: number, outcome: ForwardOutcome) => void = () => undefined
  const double: DnsForwarderDouble = {
    queries: [],
    prepared: [],
    resets: 0,
    isOpen: false,
    answer: (id, outcome) => onOutcome(id, outcome),
    layer: Layer.sync(DnsForwarder, () =>
      DnsForwarder.of({
        open: (handler) =>
          Effect.acquireRelease(
            Effect.sync(() => {
              onOutcome = handler
              double.isOpen = true
              return {
                forward: (query: OutsideQuery) => void double.queries.push(query),
                prepare: (upstreams: ReadonlyArray<Upstream>) => {
                  double.prepared = upstreams
                },
                reset: () => {
                  double.resets += 1
                }
              }
            }),
            () =>
              Effect.sync(() => {
                double.isOpen = false
              })
          )
      }))
  }
  return double
}
