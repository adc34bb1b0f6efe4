/** Several resources by name that match the same names, behind different gateways. */
import * as Effect from "effect/Effect"
import type * as Scope from "effect/Scope"
import * as dnsmasq from "../dnsmasq.ts"
import type { LabError } from "../LabError.ts"
import type { ResourceConfig } from "../portal/config.ts"
import { eventually, type Recorder, type Scenario } from "../scenario.ts"
import { ids, type Lab } from "../services.ts"
import { bringUp, noViolations, visitor } from "./checks.ts"
import { asking, hostRecords, is, isProxies, named } from "./dns.ts"

const inSecondSite = (resource: ResourceConfig): ResourceConfig => ({ ...resource, sites: [ids.secondSite] })

const exact = inSecondSite(named(1, "www.corp.test"))
const oneLabel = named(2, "*.corp.test")
const anyLabels = inSecondSite(named(3, "**.corp.test"))

/** Where the web server sees visitors come from, by the gateway that let them in. */
const gateways = {
  first: ["172.20.0.1", "fd20::1"],
  second: ["172.20.1.1", "fd20:1::1"]
} as const
/** A name moves with the portal's message; then as for any connection. */
const MOVE_BOUND = 5000

const run = (lab: Lab, recorder: Recorder): Effect.Effect<void, LabError, Scope.Scope> =>
  Effect.gen(function*() {
    const { portal, topology } = lab
    yield* dnsmasq.start(topology, "inet", ["host-record=www.corp.test,203.0.113.66"])
    yield* dnsmasq.start(topology, "res", ["www", "a", "b.c"].map((name) => hostRecords(`${name}.corp.test`)))
    yield* dnsmasq.forGateway(topology)
    yield* dnsmasq.forGateway(topology, "gw2")
    yield* bringUp(lab, recorder)
    const ask = asking(lab, recorder)
    const find = (name: string) =>
      Effect.gen(function*() {
        const { data: [ipv4 = ""] } = yield* ask(`A of ${name}`, [name, "A"], isProxies)
        const { data: [ipv6 = ""] } = yield* ask(`AAAA of ${name}`, [name, "AAAA"], isProxies)
        return [ipv4, ipv6] as const
      })
    const www = yield* find("www.corp.test")
    const a = yield* find("a.corp.test")
    const deep = yield* find("b.c.corp.test")

    const isReached = (name: string, proxies: readonly [string, string], by: keyof typeof gateways, why: string) =>
      Effect.gen(function*() {
        let seen: ReadonlyArray<string> = []
        const right = yield* eventually(
          Effect.map(
            Effect.forEach(proxies, (address) => visitor(lab, address, name)),
            (found) => {
              seen = found
              return found.join() === gateways[by].join()
            }
          ),
          MOVE_BOUND
        )
        yield* recorder.check(`${name}, ${why}`, right === true, `reached through ${seen.join(" and ")}`)
      })
    yield* isReached("www.corp.test", www, "second", "by its own name before *")
    yield* isReached("a.corp.test", a, "first", "by * before **")
    yield* isReached("b.c.corp.test", deep, "second", "by ** alone")

    yield* portal.command("/resources/delete", { id: exact.id })
    yield* isReached("www.corp.test", www, "first", "handed over to *")
    yield* portal.command("/resources/put", exact)
    yield* isReached("www.corp.test", www, "second", "its own resource again")
    yield* portal.command("/resources/delete", { id: oneLabel.id })
    yield* isReached("a.corp.test", a, "second", "handed over to **")
    // Of the same gateway as the one that takes over.
    yield* portal.command("/resources/delete", { id: exact.id })
    yield* isReached("www.corp.test", www, "second", "handed over to **")
    yield* recorder.check(
      "applications do not notice",
      (yield* find("www.corp.test")).join() === www.join(),
      "the addresses of the name are the same through all of it"
    )

    yield* portal.command("/resources/delete", { id: anyLabels.id })
    yield* ask("a name of no resource", ["www.corp.test", "A"], is("NOERROR", "203.0.113.66"))
    const left = yield* eventually(
      Effect.map(
        Effect.forEach(lab.gateways, ({ state }) => state),
        (states) => states.every(({ peers }) => peers.length === 0)
      ),
      2000
    )
    yield* recorder.check("no gateway is left", left === true, "both have forgotten the client")
    yield* noViolations(lab, recorder)
  })

export const dnsTwoResources: Scenario = {
  name: "dns-two-resources",
  about:
    "names that match several resources, of two sites: the most specific one wins, and its removal hands them over",
  equipment: { secondGateway: true, secondSite: true, resources: [exact, oneLabel, anyLabels] },
  run
}
