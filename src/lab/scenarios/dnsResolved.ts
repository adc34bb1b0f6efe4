/** The system's DNS by way of the real systemd-resolved, told over D-Bus. */
import * as Effect from "effect/Effect"
import type * as Scope from "effect/Scope"
import { dig } from "../dig.ts"
import * as dnsmasq from "../dnsmasq.ts"
import type { LabError } from "../LabError.ts"
import * as resolved from "../resolved.ts"
import { eventually, type Recorder, type Scenario } from "../scenario.ts"
import type { Lab } from "../services.ts"
import { addresses } from "../topology.ts"
import { bringUp, noViolations, TUN } from "./checks.ts"
import {
  checkAddress,
  checkNames,
  equipment,
  FILE,
  kill,
  OWN_DOMAIN,
  PUBLIC_ADDRESS,
  read,
  REPAIRED_MILLIS,
  SEARCH_DOMAIN,
  startNameServers,
  STOPPED_MILLIS
} from "./dnsControl.ts"

/** Whom every name below is asked of says which server that was. */
const ZONE = `which.${OWN_DOMAIN}`
const [FIRST, SECOND] = [
  { server: addresses.dns4, says: "203.0.113.101" },
  { server: addresses.secondRelay4, says: "203.0.113.102" }
]
/** The client is told; without that it looks every 5 s. A query to the server that was loses a second. */
const TOLD_MILLIS = 3000

/** Names that nobody has in a cache. */
let asked = 0
/** What the client's own server says, which systemd-resolved is told to ask; nothing while it is told of none. */
const answer = (lab: Lab, daemon: resolved.Resolved): Effect.Effect<string, LabError> =>
  Effect.gen(function*() {
    const told = yield* Effect.orElseSucceed(daemon.resolvectl(["dns", TUN]), () => "")
    const [server] = /100\.100\.111\.\d+|fd00:2021:1111:8000:\S+/.exec(told) ?? []
    if (server === undefined) return ""
    const { data } = yield* dig(lab.topology, "client", [`@${server}`, `n${asked++}.${ZONE}`, "+time=1"])
    return data[0] ?? ""
  })

const startSecondServer = (lab: Lab) =>
  dnsmasq.start(
    lab.topology,
    "inet",
    [`address=/${ZONE}/${SECOND.says}`, `host-record=public.${OWN_DOMAIN},${PUBLIC_ADDRESS}`, `local=/${OWN_DOMAIN}/`],
    [SECOND.server, addresses.secondRelay6]
  )

/** `resolvectl` for a client whose bus is elsewhere. */
const COMMAND = `
mkdir -p /run/by-command
real=$(command -v resolvectl)
printf '#!/bin/sh\nunset DBUS_SYSTEM_BUS_ADDRESS\nexport LD_LIBRARY_PATH="%s"\nexec "%s" "$@"\n' \
  "\${LD_LIBRARY_PATH:-}" "$real" > /run/by-command/resolvectl
chmod +x /run/by-command/resolvectl`

const run = (lab: Lab, recorder: Recorder): Effect.Effect<void, LabError, Scope.Scope> =>
  Effect.gen(function*() {
    yield* startNameServers(lab, [`address=/${ZONE}/${FIRST.says}`])
    yield* startSecondServer(lab)
    const daemon = yield* resolved.start(lab.topology)
    const uplink = (server: string) =>
      Effect.zipRight(
        daemon.resolvectl(["dns", "lan0", server]),
        daemon.resolvectl(["domain", "lan0", OWN_DOMAIN])
      )
    yield* uplink(FIRST.server)
    const stub = yield* read(lab)
    const client = yield* bringUp(lab, recorder, { dnsControl: "auto" })
    const servers = () =>
      Effect.map(
        Effect.all([daemon.resolvectl(["dns", TUN]), daemon.resolvectl(["domain", TUN])]),
        ([dns, domains]) => dns.includes("100.100.111.") && domains.includes("~.") && dns.trim()
      )
    const checkServers = (title: string) =>
      Effect.gen(function*() {
        const began = Date.now()
        const text = yield* eventually(Effect.orElseSucceed(servers(), () => false as const), REPAIRED_MILLIS)
        yield* recorder.check(
          title,
          text !== undefined,
          text === undefined ? `${TUN} has none of the client's servers` : `${text}, after ${Date.now() - began} ms`
        )
      })
    const checkUpstream = (title: string, { says, server }: typeof FIRST | typeof SECOND) =>
      Effect.gen(function*() {
        yield* daemon.resolvectl(["dns", "lan0", server])
        const began = Date.now()
        const isAsked = yield* eventually(
          Effect.map(answer(lab, daemon), (address) => address === says),
          REPAIRED_MILLIS
        )
        const millis = Date.now() - began
        yield* recorder.check(
          title,
          isAsked === true && millis < TOLD_MILLIS,
          `${server} ${isAsked === true ? "is" : "is not"} asked after ${millis} ms, of at most ${TOLD_MILLIS}`
        )
      })

    yield* checkServers("auto takes systemd-resolved")
    const domains = (yield* daemon.resolvectl(["domain", TUN])).trim()
    yield* recorder.check("all names", domains.endsWith(`${SEARCH_DOMAIN} ~.`), domains)
    const { stdout: link } = yield* lab.topology.run("client", ["resolvectl", "status", TUN], { env: daemon.env })
    yield* recorder.check(
      "all its settings",
      ["+DefaultRoute", "+LLMNR", "-DNSOverTLS", "DNSSEC=no"].every((setting) => link.includes(setting)),
      /Protocols: (.*)/.exec(link)?.[1] ?? link
    )
    yield* checkNames(lab, recorder)
    yield* recorder.check(
      "told over D-Bus",
      !client.log().includes("told by resolvectl"),
      "the client has no use for resolvectl"
    )

    yield* checkUpstream("another upstream server", SECOND)
    yield* checkUpstream("and another", FIRST)
    yield* daemon.resolvectl(["revert", TUN])
    yield* checkServers("settings that were taken away are noticed")
    yield* checkNames(lab, recorder)
    yield* daemon.restart
    yield* uplink(FIRST.server)
    yield* checkServers("a daemon that was started anew")
    yield* checkNames(lab, recorder)
    yield* checkUpstream("is followed", SECOND)
    yield* daemon.bus.restart
    yield* daemon.restart
    yield* uplink(FIRST.server)
    yield* checkServers("a bus that was started anew")
    yield* checkUpstream("is listened to", SECOND)
    yield* uplink(FIRST.server)

    yield* kill(client)
    yield* checkAddress(lab, recorder, "names after SIGKILL", `public.${OWN_DOMAIN}`)
    const after = yield* eventually(Effect.map(read(lab), (text) => text === stub && text), REPAIRED_MILLIS)
    yield* recorder.check("search domains after SIGKILL", after !== undefined, `${FILE} is byte for byte as before`)

    yield* lab.topology.must("client", ["sh", "-ec", COMMAND], { env: daemon.env })
    const other = yield* bringUp(lab, recorder, {
      dnsControl: "auto",
      env: {
        DBUS_SYSTEM_BUS_ADDRESS: "unix:path=/run/nowhere",
        PATH: `/run/by-command:${process.env["PATH"] ?? "/usr/bin:/bin"}:/usr/sbin:/sbin`
      }
    })
    yield* checkServers("without a bus by its command")
    yield* checkNames(lab, recorder)
    yield* recorder.check(
      "which the log says",
      other.log().includes("systemd-resolved is told by resolvectl"),
      other.log().split("\n").find((line) => line.includes("told by resolvectl")) ?? other.log().slice(-1000)
    )
    yield* kill(other)

    const last = yield* bringUp(lab, recorder, { dnsControl: "auto" })
    yield* checkServers("again")
    daemon.signal("SIGSTOP")
    const began = Date.now()
    last.signal("SIGTERM")
    const code = yield* last.exit
    const millis = Date.now() - began
    daemon.signal("SIGCONT")
    yield* recorder.check(
      "stops while the daemon hangs",
      code === 0 && millis < STOPPED_MILLIS,
      `exit code ${code} ${millis} ms after SIGTERM, of at most ${STOPPED_MILLIS}`
    )
    yield* checkAddress(lab, recorder, "names after that", `public.${OWN_DOMAIN}`)
    yield* noViolations(lab, recorder)
  })

export const dnsResolved: Scenario = {
  name: "dns-resolved",
  about: "names work in every program by way of the real systemd-resolved, which is told over D-Bus and may forget us",
  equipment,
  run
}
