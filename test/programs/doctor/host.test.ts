/** The checks of this machine: client, system and network. */
import { assert, describe, it } from "@effect/vitest"
import * as Effect from "effect/Effect"
import * as Either from "effect/Either"
import * as Layer from "effect/Layer"
import * as Redacted from "effect/Redacted"
import * as TestClock from "effect/TestClock"
import { SOCKET_MARK, TABLES } from "../../../src/model/policyRouting.ts"
import type { Check, Session } from "../../../src/programs/doctor/check.ts"
import { clientChecks } from "../../../src/programs/doctor/client.ts"
import { networkChecks } from "../../../src/programs/doctor/network.ts"
import { systemChecks } from "../../../src/programs/doctor/system.ts"
import { ip, parseNetwork } from "../../../src/protocol/wire/address.ts"
import { ClientConfig, type ClientSettings, ConfigInvalid } from "../../../src/services/ClientConfig.ts"
import type { RouteFacts, RuleFacts } from "../../../src/services/NetworkInventory.ts"
import { TokenStore } from "../../../src/services/TokenStore.ts"
import { type HostDoubles, makeHostDoubles, processNamed, syscallError } from "../../support/HostDoubles.ts"
import { settings } from "../../support/settings.ts"
import { asRoot, asUser, find, none, running, textOf } from "./support.ts"

interface Case {
  readonly session?: Session
  readonly uid?: number
  readonly config?: Partial<ClientSettings>
  /** Of the token store; by default there is a good one. */
  readonly tokenError?: ConfigInvalid
  readonly hasTokenVariable?: boolean
  readonly host?: (host: HostDoubles) => void
}

/** The verdict and words of a check, as one text. */
const check = (
  id: string,
  { config, hasTokenVariable = false, host, session = none, tokenError, uid = 0 }: Case = {}
) => {
  const doubles = makeHostDoubles()
  host?.(doubles)
  const facts = uid === 0 ? asRoot : asUser
  const checks: ReadonlyArray<Check<ClientConfig | TokenStore | Layer.Layer.Success<HostDoubles["layer"]>>> = [
    ...clientChecks(session, { uid, hasTokenVariable }),
    ...systemChecks(session, facts),
    ...networkChecks(session, uid)
  ]
  const read = tokenError === undefined ? Effect.succeed(Redacted.make("very-secret")) : Effect.fail(tokenError)
  return Effect.map(find(checks, id), textOf).pipe(
    Effect.provide(Layer.mergeAll(
      doubles.layer,
      Layer.succeed(ClientConfig, settings({ tokenPath: "/etc/fz/token", ...config })),
      Layer.mock(TokenStore, { read })
    ))
  )
}

const route = (destination: string, index: number, rest: Partial<RouteFacts> = {}): RouteFacts => ({
  destination: parseNetwork(destination) ?? { address: ip("192.0.2.0"), bits: 24 },
  table: 254,
  interfaceIndex: index,
  metric: 0,
  ...rest
})
const link = (index: number, name: string, kind?: string) => ({
  index,
  name,
  kind,
  isUp: true,
  isLoopback: false,
  mtu: 1400
})

describe("doctor: the client", () => {
  it.effect("runs, or not", () =>
    Effect.gen(function*() {
      assert.match(yield* check("client"), /^skipped: no client answers on \/nonexistent\/control.sock/)
      assert.strictEqual(
        yield* check("client", { session: running() }),
        "ok: version 1.2.3, process 42, up 1 min, signed in"
      )
      const lost = running({ portal: { state: "disconnected", lastError: "no route" } })
      assert.match(yield* check("client", { session: lost }), /^failed: .*NOT signed in.*no route.*goes on/)
      assert.match(yield* check("client", { session: { _tag: "Hidden" } }), /^skipped: .*sudo/)
      assert.match(
        yield* check("client", { session: { _tag: "Stuck", why: "it is silent" } }),
        /^failed: .*it is silent/
      )
    }))

  it.effect("has a token, of which only age and mode are told", () =>
    Effect.gen(function*() {
      yield* TestClock.setTime(10 * 86_400_000)
      const stored = (host: HostDoubles) =>
        void host.files.set("/etc/fz/token", { mode: 0o600, modifiedAt: 86_400_000 })
      assert.strictEqual(
        yield* check("token", { host: stored }),
        "ok: /etc/fz/token, root's alone (mode 0600), written 9 d ago"
      )
      const inFolder = (folder: object) => (host: HostDoubles) => {
        stored(host)
        host.files.set("/etc/fz", { kind: "folder", mode: 0o755, ...folder })
      }
      for (const folder of [{}, { mode: 0o775 }, { mode: 0o1777 }]) {
        assert.match(yield* check("token", { host: inFolder(folder) }), /^ok/)
      }
      for (const folder of [{ mode: 0o777 }, { mode: 0o775, gid: 5 }, { uid: 1000 }, { mode: 0o1777, uid: 1000 }]) {
        assert.match(
          yield* check("token", { host: inFolder(folder) }),
          /^warning: others than root may put another token in its place: \/etc\/fz .* -> keep it in a folder that root/
        )
      }
      assert.match(yield* check("token", { hasTokenVariable: true }), /^ok: in the variable FIREZONE_TOKEN/)
      const future = (host: HostDoubles) => void host.files.set("/etc/fz/token", { modifiedAt: 11 * 86_400_000 })
      assert.match(yield* check("token", { host: future }), /^warning: .*in the future: 1970-01-12/)
      const bad = new ConfigInvalid({ what: "token file", why: "has mode 0644", next: "Run: chmod 0600" })
      assert.strictEqual(
        yield* check("token", { host: stored, tokenError: bad }),
        "failed: token file: has mode 0644 -> Run: chmod 0600"
      )
      const hidden = (host: HostDoubles) => void host.files.set("/etc/fz/token", { isUnreadable: true })
      assert.match(yield* check("token", { uid: 1000, host: hidden, tokenError: bad }), /^skipped: .*root alone.*sudo/)
      assert.match(yield* check("token", { uid: 1000, tokenError: bad }), /^failed/)
      assert.match(
        yield* check("token", { session: running(), tokenError: bad }),
        /^skipped: the running client has one/
      )
      assert.match(
        yield* check("token", { session: running(), host: stored, tokenError: bad }),
        /^warning: the running client has one.*mode 0644 -> Run: chmod 0600/
      )
      assert.match(
        yield* check("token", { uid: 1000, session: { _tag: "Hidden" }, tokenError: bad }),
        /^skipped: the running client has one/
      )
    }))

  it.effect("has folders", () =>
    Effect.gen(function*() {
      const config = { stateDir: "/var/lib/fz/config", logDir: "/var/log/fz" }
      assert.match(yield* check("folders", { config }), /^ok: .*config will be made.*; \/var\/log\/fz will be made/)
      const full = (host: HostDoubles) => void (host.freeBytes = 1000)
      assert.match(yield* check("folders", { config, host: full }), /^warning: .*0 MB free/)
      const readOnly = (host: HostDoubles) => void host.readOnly.add("/")
      assert.match(yield* check("folders", { config, host: readOnly }), /^failed: .*may not be written/)
      const inTheWay = (host: HostDoubles) => void host.files.set("/var/log", { kind: "file" })
      assert.match(yield* check("folders", { config, host: inTheWay }), /^failed: .*\/var\/log is no folder/)
    }))

  it.effect("may be a service", () =>
    Effect.gen(function*() {
      const command = "systemctl show --property=LoadState,ActiveState,SubState,Result,UnitFileState,NRestarts,"
        + "ExecMainStatus -- firezone-headless-client"
      const unit = (text: string) => (host: HostDoubles) => {
        host.files.set("/run/systemd/system", { kind: "folder" })
        host.commands.set(command, text)
      }
      assert.strictEqual(yield* check("service"), "skipped: systemd does not run here")
      const active = "LoadState=loaded\nActiveState=active\nSubState=running\nUnitFileState=enabled\nNRestarts=2\n"
      assert.strictEqual(
        yield* check("service", { host: unit(active) }),
        "ok: firezone-headless-client.service is active (running), restarted 2 times, enabled at boot"
      )
      const failed = "LoadState=loaded\nActiveState=failed\nSubState=failed\nResult=exit-code\nExecMainStatus=3\n"
      assert.match(yield* check("service", { host: unit(failed) }), /^failed: .*exit-code, exit code 3.*sign-in/)
      const crashed = failed.replace("Status=3", "Status=1")
      assert.match(yield* check("service", { host: unit(crashed) }), /^failed: .*exit code 1.*journalctl/)
      const idle = "LoadState=loaded\nActiveState=inactive\nSubState=dead\nUnitFileState=enabled\n"
      assert.match(yield* check("service", { host: unit(idle) }), /^warning: .*inactive.*systemctl start/)
      assert.match(yield* check("service", { host: unit("LoadState=not-found\n") }), /^skipped: there is no/)
    }))

  it.effect("may not be alone", () =>
    Effect.gen(function*() {
      const host = (double: HostDoubles) => void (double.processes = [processNamed("firezone-headle", 42)])
      assert.match(
        yield* check("other-clients", { host }),
        /^warning: process 42 \(firezone-headle\) -> stop all but one/
      )
      assert.match(yield* check("other-clients", { host, session: running() }), /^ok/)
      assert.match(yield* check("other-clients", { host, session: { _tag: "Hidden" } }), /^skipped: process 42.*sudo/)
      const script = "/opt/fz/dist/bin/firezone-headless-client.js"
      const fromSource = (double: HostDoubles) =>
        void (double.processes = [
          processNamed("node", 43, ["/usr/bin/node", "--v8-pool-size=1", script, "--tun-name", "fz2"])
        ])
      assert.match(yield* check("other-clients", { host: fromSource }), /^warning: process 43 \(node\)/)
      const harmless = (double: HostDoubles) =>
        void (double.processes = [
          processNamed("node", 44, ["/usr/bin/node", script, "status", "--watch"]),
          processNamed("vim", 45, ["vim", "-R", script]),
          { ...processNamed("firezone-client", 46), isElsewhere: true }
        ])
      assert.match(yield* check("other-clients", { host: harmless }), /^ok/)
    }))
})

describe("doctor: the system", () => {
  it.effect("lets the client do what it must", () =>
    Effect.gen(function*() {
      const without = (host: HostDoubles) => void (host.capabilities = 0n)
      assert.match(yield* check("privileges"), /^ok/)
      assert.match(yield* check("privileges", { host: without }), /^failed: .*lacks CAP_NET_ADMIN/)
      assert.match(yield* check("privileges", { host: without, uid: 1000 }), /^skipped: .*sudo/)
      assert.match(
        yield* check("privileges", { host: without, session: running(), uid: 1000 }),
        /^failed: the running client \(process 42\)/
      )
      const unmarked = (host: HostDoubles) =>
        void (host.sockets = { mark: Either.left(syscallError("EPERM")), segmentation: true, coalescing: true })
      assert.match(yield* check("sockets", { host: unmarked }), /^failed/)
      assert.match(yield* check("sockets", { host: unmarked, uid: 1000 }), /^skipped/)
      const old = (host: HostDoubles) =>
        void (host.sockets = { mark: Either.void, segmentation: true, coalescing: false })
      assert.match(yield* check("sockets", { host: old }), /^warning: .*only UDP segmentation/)
    }))

  it.effect("has a TUN device whose name is free", () =>
    Effect.gen(function*() {
      assert.match(yield* check("tun"), /^ok: a test interface.*tun-test is free/)
      assert.match(yield* check("tun", { session: running() }), /^ok: the client has tun-test open/)
      assert.match(
        yield* check("tun", { session: running({ interface: undefined }) }),
        /^skipped: .*waits for the portal/
      )
      const missing = (host: HostDoubles) => void host.files.delete("/dev/net/tun")
      assert.match(yield* check("tun", { host: missing }), /^warning: there is no .*will try to make it -> .*--device/)
      const forbidden = (host: HostDoubles) => {
        missing(host)
        host.capabilities = 1n << 12n
      }
      assert.match(yield* check("tun", { host: forbidden }), /^failed: there is no .*may not be made here/)
      assert.match(yield* check("tun", { uid: 1000 }), /^skipped/)
      const refused = (host: HostDoubles) =>
        void (host.tun = Either.left({ step: "make a TUN interface", cause: syscallError("EPERM") }))
      assert.match(yield* check("tun", { host: refused }), /^failed: cannot make a TUN interface.*NET_ADMIN/)
      const taken = (host: HostDoubles) => {
        host.links = [...host.links, link(9, "tun-test", "tun")]
        host.tunHolder = processNamed("other", 77)
      }
      assert.match(yield* check("tun", { host: taken }), /^failed: process 77 \(other\) has the interface tun-test/)
      const left = (host: HostDoubles) => void (host.links = [...host.links, link(9, "tun-test", "dummy")])
      assert.match(yield* check("tun", { host: left }), /^failed: .*no process has open.*ip link delete/)
    }))

  it.effect("has the client's rules", () =>
    Effect.gen(function*() {
      const rules = ([4, 6] as const).flatMap((family) =>
        Object.values(TABLES).map((each): RuleFacts => ({ ...each, family, mark: SOCKET_MARK, isInverted: true }))
      )
      const whole = (host: HostDoubles) => void (host.rules = rules)
      const cut = (host: HostDoubles) => void (host.rules = rules.slice(1))
      assert.match(yield* check("policy-routing", { session: running(), host: whole }), /^ok/)
      assert.match(
        yield* check("policy-routing", { session: running(), host: cut }),
        /^failed: the client's rule with priority 100 for IPv4 is gone/
      )
      assert.match(yield* check("policy-routing"), /^ok/)
      assert.match(yield* check("policy-routing", { host: (host) => void (host.rules = []) }), /^failed: .*no policy/)
    }))

  it.effect("filters by the reverse path, or not", () =>
    Effect.gen(function*() {
      const strict = (host: HostDoubles) => {
        host.routes = [route("0.0.0.0/0", 2)]
        host.files.set("/proc/sys/net/ipv4/conf/all/rp_filter", { text: "0\n" })
        host.files.set("/proc/sys/net/ipv4/conf/eth0/rp_filter", { text: "1\n" })
      }
      assert.match(yield* check("reverse-path", { host: strict }), /^ok: strict on eth0/)
      const full = { activateInternetResource: true }
      assert.match(yield* check("reverse-path", { host: strict, config: full }), /^failed: .*eth0.rp_filter=2/)
      const loose = (host: HostDoubles) => {
        strict(host)
        host.files.set("/proc/sys/net/ipv4/conf/all/rp_filter", { text: "2\n" })
      }
      assert.match(yield* check("reverse-path", { host: loose, config: full }), /^ok: not strict/)
    }))

  it.effect("limits socket buffers", () =>
    Effect.gen(function*() {
      assert.match(yield* check("buffers"), /^ok: .*not bound/)
      const bound = (host: HostDoubles) => void (host.capabilities = 0n)
      assert.match(yield* check("buffers", { host: bound }), /^warning: .*net.core.rmem_max=16777216/)
      const large = (host: HostDoubles) => {
        bound(host)
        for (const name of ["rmem_max", "wmem_max"]) host.files.set(`/proc/sys/net/core/${name}`, { text: "33554432" })
      }
      assert.match(yield* check("buffers", { host: large }), /^ok/)
    }))
})

describe("doctor: the network", () => {
  it.effect("leads somewhere", () =>
    Effect.gen(function*() {
      assert.match(yield* check("uplinks"), /^failed: there is no default route/)
      const host = (double: HostDoubles) =>
        void (double.routes = [route("0.0.0.0/0", 2, { nextHop: ip("192.0.2.1"), metric: 100 })])
      assert.strictEqual(yield* check("uplinks", { host }), "ok: IPv4: eth0 by way of 192.0.2.1, metric 100")
    }))

  it.effect("has other VPNs", () =>
    Effect.gen(function*() {
      const wireguard = (...routes: ReadonlyArray<RouteFacts>) => (host: HostDoubles) => {
        host.links = [...host.links, link(5, "wg0", "wireguard"), link(6, "tun-test", "tun")]
        host.routes = routes
      }
      assert.match(yield* check("vpns"), /^ok: there is no other/)
      assert.strictEqual(
        yield* check("vpns", { host: wireguard(route("10.0.0.0/8", 5)) }),
        "ok: wg0 (wireguard): 1 route"
      )
      assert.match(
        yield* check("vpns", { host: wireguard(route("0.0.0.0/1", 5), route("128.0.0.0/1", 5)) }),
        /^warning: wg0 \(wireguard\): takes ALL traffic/
      )
      const tailscale = (host: HostDoubles) => void (host.links = [...host.links, link(7, "tailscale0", "tun")])
      assert.match(yield* check("vpns", { host: tailscale }), /^warning: .*--netfilter-mode=off/)
    }))

  it.effect("uses addresses that the client needs", () =>
    Effect.gen(function*() {
      const host = (double: HostDoubles) => {
        double.routes = [
          route("0.0.0.0/0", 2),
          route("100.64.0.0/10", 2, { table: 52 }),
          route("100.100.111.0/24", 2, { table: TABLES.user.table })
        ]
      }
      assert.match(
        yield* check("reserved-ranges", { host }),
        /^warning: 100.64.0.0\/10 through eth0: 100.100.111.0\/24 is for the client's DNS servers ->/
      )
      assert.match(yield* check("reserved-ranges"), /^ok/)
    }))

  it.effect("is covered by a resource", () =>
    Effect.gen(function*() {
      const host = (double: HostDoubles) => void (double.routes = [route("10.20.0.0/24", 2), route("192.0.2.0/24", 2)])
      assert.match(
        yield* check("local-networks", { host, session: running() }),
        /^warning: the resource Office LAN \(10.20.0.0\/16\) covers 10.20.0.0\/24 on eth0/
      )
      assert.match(yield* check("local-networks", { host }), /^skipped/)
    }))

  it.effect("has rules of others before ours", () =>
    Effect.gen(function*() {
      const rule = (priority: number, mark?: number): RuleFacts => ({
        family: 4,
        priority,
        table: 52,
        mark,
        isInverted: false
      })
      const rules = (...added: ReadonlyArray<RuleFacts>) => (host: HostDoubles) =>
        void (host.rules = [...host.rules, ...added])
      assert.match(yield* check("rules", { host: rules(rule(5210), rule(32_767)) }), /^ok/)
      assert.match(
        yield* check("rules", { host: rules(rule(50, 0x123)) }),
        /^warning: IPv4, priority 50: table 52, mark 0x123/
      )
      assert.match(yield* check("rules", { host: rules(rule(1000, SOCKET_MARK)) }), /^warning/)
      const ours = { ...TABLES.user, family: 4, mark: SOCKET_MARK, isInverted: true } as const
      assert.match(yield* check("rules", { host: rules(ours) }), /^ok/)
    }))

  it.effect("has a firewall", () =>
    Effect.gen(function*() {
      const chain = { family: "inet", table: "filter", name: "out", hook: "output", policy: "drop" }
      const host = (double: HostDoubles) =>
        void double.commands.set("nft -j list chains", JSON.stringify({ nftables: [{ metainfo: {} }, { chain }] }))
      assert.match(
        yield* check("firewall", { host }),
        /^ok: output: what no rule allows is dropped \(inet filter out\)/
      )
      assert.match(yield* check("firewall"), /^skipped/)
      assert.match(yield* check("firewall", { uid: 1000 }), /^skipped: .*sudo/)
      const broken = (double: HostDoubles) => void double.commands.set("nft -j list chains", "{")
      assert.match(yield* check("firewall", { host: broken }), /^ok: nothing/)
    }))
})
