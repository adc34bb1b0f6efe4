/** What makes the gateway's host a router for its clients (tunnel spec 14.1), in this network namespace only. */
import * as Effect from "effect/Effect"
import type * as Scope from "effect/Scope"
import * as fs from "node:fs"
import { TUNNEL_RANGES } from "../../protocol/tunnel/ranges.ts"
import { familyOf, formatNetwork } from "../../protocol/wire/address.ts"
import { LabError } from "../LabError.ts"
import { must, quietly } from "../processes.ts"

const SWITCHES = ["/proc/sys/net/ipv4/ip_forward", "/proc/sys/net/ipv6/conf/all/forwarding"]
const TABLE = "inet firezone_gateway"

/**
 * A table of nftables, in one line: clients' packets leave with the address of the interface, because nothing behind it
 * knows the way back.
 */
export const masquerading = (interfaces: ReadonlyArray<string>): string => {
  const rules = TUNNEL_RANGES.map((network) =>
    `${familyOf(network.address) === 4 ? "ip" : "ip6"} saddr ${formatNetwork(network)} oifname { ${
      interfaces.map((name) => JSON.stringify(name)).join(", ")
    } } masquerade; `
  )
  return `table ${TABLE} { chain postrouting { type nat hook postrouting priority srcnat; ${rules.join("")}}; }`
}

const switchOn = (file: string): Effect.Effect<void, LabError, Scope.Scope> =>
  Effect.acquireRelease(
    Effect.try({
      try: () => {
        const before = fs.readFileSync(file, "utf8")
        fs.writeFileSync(file, "1")
        return before
      },
      catch: (error) => new LabError({ what: `cannot switch on ${file}`, why: (error as Error).message })
    }),
    (before) => Effect.sync(() => fs.writeFileSync(file, before))
  )

/** Forwards between the tunnel and `interfaces` while the scope lasts. */
export const forward = (interfaces: ReadonlyArray<string>): Effect.Effect<void, LabError, Scope.Scope> =>
  Effect.gen(function*() {
    for (const file of SWITCHES) yield* switchOn(file)
    yield* Effect.acquireRelease(
      // Declared first, so that a table which a killed gateway left can be deleted, and a missing one too.
      must("masquerading", ["nft", "-f", "-"], {
        input: `table ${TABLE}\ndelete table ${TABLE}\n${masquerading(interfaces)}\n`
      }),
      () => Effect.sync(() => quietly(["nft", "delete", "table", ...TABLE.split(" ")]))
    )
  })
