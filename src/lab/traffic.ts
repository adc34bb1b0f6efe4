/**
 * The tunnel's data on the Internet of the lab, counted by its kernel where the ports of clients and gateways come in.
 * Counts WireGuard data messages alone: checks and keep-alives of paths that are not in use have to go on.
 */
import * as Effect from "effect/Effect"
import type { LabError } from "./LabError.ts"
import { addresses, ports, type Topology } from "./topology.ts"

export interface Counter {
  /** A burst that the sender's kernel has not yet cut into datagrams is one. */
  readonly packets: number
  readonly bytes: number
}

export interface Traffic {
  /** Between clients and gateways, both directions. */
  readonly direct: Counter
  /** From clients and gateways to the relays; what these send on is not counted again. */
  readonly relays: readonly [Counter, Counter]
}

const sides4 = [
  addresses.wifiRouter4,
  addresses.clientRouter4,
  addresses.gatewayRouter4,
  addresses.secondGateway4
].join(", ")
const sides6 = ["2001:db8:10::/64", "2001:db8:20::/64", "2001:db8:30::/64", addresses.secondGateway6].join(", ")

/** A data message behind the UDP header, or behind that and the one of a TURN channel. */
const DATA = "@th,64,32 0x04000000"
const DATA_ON_CHANNEL = "@th,96,32 0x04000000"

const rules = `table netdev traffic {
  counter direct { }
  counter relay { }
  counter relay2 { }
  chain arriving {
    type filter hook ingress devices = { ${ports.join(", ")} } priority filter; policy accept;
    ip saddr { ${sides4} } ip daddr { ${sides4} } meta l4proto udp ${DATA} counter name direct
    ip6 saddr { ${sides6} } ip6 daddr { ${sides6} } meta l4proto udp ${DATA} counter name direct
    ${
  ([
    ["relay", addresses.relay4, addresses.relay6],
    ["relay2", addresses.secondRelay4, addresses.secondRelay6]
  ] as const).flatMap(([name, ipv4, ipv6]) =>
    [`ip daddr ${ipv4}`, `ip6 daddr ${ipv6}`].flatMap((to) => [
      `${to} udp dport 3478 ${DATA_ON_CHANNEL} counter name ${name}`,
      `${to} udp dport != 3478 ${DATA} counter name ${name}`
    ])
  ).join("\n    ")
}
  }
}
`

/** Starts to count; once in a lab. */
export const observe = (topology: Topology): Effect.Effect<void, LabError> =>
  Effect.asVoid(topology.must("inet", ["nft", "-f", "-"], { input: rules }))

export const read = (topology: Topology): Effect.Effect<Traffic, LabError> =>
  Effect.map(topology.must("inet", ["nft", "-j", "list", "counters", "table", "netdev", "traffic"]), ({ stdout }) => {
    const { nftables } = JSON.parse(stdout) as {
      nftables: ReadonlyArray<{ counter?: { name: string; packets: number; bytes: number } }>
    }
    const counter = (name: string): Counter => {
      const { bytes, packets } = nftables.find((each) => each.counter?.name === name)?.counter ??
        { bytes: 0, packets: 0 }
      return { bytes, packets }
    }
    return { direct: counter("direct"), relays: [counter("relay"), counter("relay2")] }
  })

const less = (after: Counter, before: Counter): Counter => ({
  packets: after.packets - before.packets,
  bytes: after.bytes - before.bytes
})

/** What crossed while `effect` ran, and its result. */
export const during = <A, R>(
  topology: Topology,
  effect: Effect.Effect<A, LabError, R>
): Effect.Effect<readonly [A, Traffic], LabError, R> =>
  Effect.gen(function*() {
    const before = yield* read(topology)
    const value = yield* effect
    const after = yield* read(topology)
    return [value, {
      direct: less(after.direct, before.direct),
      relays: [less(after.relays[0], before.relays[0]), less(after.relays[1], before.relays[1])]
    }]
  })
