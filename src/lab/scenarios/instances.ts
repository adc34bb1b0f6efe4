/** Two clients side by side on one machine. */
import * as Effect from "effect/Effect"
import * as Scope from "effect/Scope"
import { dig } from "../dig.ts"
import * as dnsmasq from "../dnsmasq.ts"
import type { LabError } from "../LabError.ts"
import { eventually, type Recorder, type Scenario } from "../scenario.ts"
import { type Lab, networks } from "../services.ts"
import { addresses } from "../topology.ts"
import { bringUp, noViolations, TUN, visitor } from "./checks.ts"
import { hostRecords, named } from "./dns.ts"

const OTHER_TUN = "tun-two"
const NAME = "www.corp.test"
/** Of the first client, which has all of the network that the second one's are the end of. */
const SENTINELS = { [TUN]: "100.100.111.1", [OTHER_TUN]: "100.100.111.225" } as const
const PROXIES = { [TUN]: /^100\.96\.0\.[1-4]$/, [OTHER_TUN]: /^100\.12[4-7]\./ } as const
type Interface = keyof typeof SENTINELS

const interfaceOf = (lab: Lab, address: string): Effect.Effect<string, LabError> =>
  Effect.map(
    lab.topology.run("client", ["ip", "route", "get", address]),
    ({ stdout }) => / dev (\S+)/.exec(stdout)?.[1] ?? "none"
  )

const isUp = (lab: Lab, name: string) =>
  eventually(
    Effect.map(
      lab.topology.run("client", ["ip", "-j", "addr", "show", name]),
      ({ code, stdout }) => code === 0 && [...stdout.matchAll(/"scope":"global"/g)].length === 2
    ),
    20_000
  )

/** The name at one client's server leads through that client's interface. */
const leadsThrough = (lab: Lab, recorder: Recorder, name: Interface, when: string) =>
  Effect.gen(function*() {
    const { data: [proxy = ""], text } = yield* dig(lab.topology, "client", [`@${SENTINELS[name]}`, NAME, "A"])
    const way = proxy === "" ? "none" : yield* interfaceOf(lab, proxy)
    const came = proxy === "" ? text : yield* visitor(lab, proxy, NAME)
    yield* recorder.check(
      `${NAME} through ${name}, ${when}`,
      PROXIES[name].test(proxy) && way === name && came === "172.20.0.1",
      `${SENTINELS[name]} says ${proxy}, which is reached through ${way}; the page says that ${came} came`
    )
  })

const run = (lab: Lab, recorder: Recorder): Effect.Effect<void, LabError, Scope.Scope> =>
  Effect.gen(function*() {
    yield* dnsmasq.start(lab.topology, "inet", [])
    yield* dnsmasq.start(lab.topology, "res", [hostRecords(NAME)])
    yield* dnsmasq.forGateway(lab.topology)
    const scope = yield* Effect.scope
    const first = yield* bringUp(lab, recorder)
    const network = (when: string, expected: string) =>
      Effect.gen(function*() {
        const way = yield* interfaceOf(lab, addresses.resource4)
        const came = yield* visitor(lab, addresses.resource4)
        yield* recorder.check(
          `the network that both may reach, ${when}`,
          way === expected && came === "172.20.0.1",
          `through ${way}; the page says that ${came} came`
        )
      })
    yield* Effect.scoped(Effect.gen(function*() {
      const second = yield* lab.startClientBeside
      const up = yield* isUp(lab, OTHER_TUN)
      yield* recorder.check(
        "a second client on the same machine",
        up === true,
        up === true ? `${OTHER_TUN} has two addresses` : second.log().slice(-1500)
      )
      yield* leadsThrough(lab, recorder, TUN, "beside the other")
      yield* leadsThrough(lab, recorder, OTHER_TUN, "beside the other")
      yield* network("both running", OTHER_TUN)
      for (const name of [TUN, OTHER_TUN]) {
        const { code, stdout } = yield* lab.runClient({ args: ["status", "--json", "--tun-name", name] })
        yield* recorder.check(
          `status of ${name}`,
          code === 0 && stdout.includes(`"${name}"`),
          code === 0 ? "tells of its own interface" : `exit code ${code}`
        )
      }
      first.signal("SIGKILL")
      yield* first.exit
      yield* leadsThrough(lab, recorder, OTHER_TUN, "the other one killed")
      yield* Scope.extend(lab.startClient(), scope)
      yield* recorder.check(
        "the first one again",
        (yield* isUp(lab, TUN)) === true,
        `${TUN} has two addresses`
      )
      yield* leadsThrough(lab, recorder, TUN, "started again")
      yield* leadsThrough(lab, recorder, OTHER_TUN, "after all that")
    }))
    yield* network("the second one stopped", TUN)
    yield* leadsThrough(lab, recorder, TUN, "alone again")
    const { stdout } = yield* lab.topology.must("client", ["ip", "rule", "show"])
    const rules = [...stdout.matchAll(/^(\d+):\tnot from all fwmark/gm)].map(([, priority]) => priority)
    yield* recorder.check("the second one leaves nothing", rules.join() === "100,200,300", `rules ${rules.join(", ")}`)
    yield* noViolations(lab, recorder)
  })

export const instances: Scenario = {
  name: "instances",
  about: "two clients side by side on one machine, each with its own interface, names and DNS server",
  equipment: { resources: [...networks, named(1, NAME)], dns: { upstreamDo53: [addresses.dns4] } },
  run
}
