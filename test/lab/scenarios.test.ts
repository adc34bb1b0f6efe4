/**
 * The lab's scenarios, with the built executable: each in a lab of its own, several at a time, because most of their time
 * is waiting for the timers that they are about.
 */
import { assert, beforeAll, it } from "@effect/vitest"
import * as Effect from "effect/Effect"
import { type Result, run } from "../support/executable.ts"
import { describeWith, missing, type Needs } from "../support/requires.ts"

const LABS_AT_ONCE = 4

const needing = (...programs: ReadonlyArray<string>): Needs => ({
  root: true,
  programs: ["ip", "nft", "conntrack", "nsenter", "unshare", "mount", "ping", "curl", ...programs]
})

/** In the order in which they are begun: those that take long come first. */
const groups: ReadonlyArray<
  { readonly name: string; readonly needs: Needs; readonly scenarios: ReadonlyArray<string> }
> = [
  {
    name: "what recovers by itself",
    needs: needing(),
    scenarios: ["fallback", "relay-silent", "gateway-restart", "gateway-loss", "relay-loss", "loss", "upgrade"]
  },
  { name: "what is allowed", needs: needing("dnsmasq", "dig"), scenarios: ["revoke", "internet", "filters"] },
  { name: "clients that reach each other", needs: needing("dig"), scenarios: ["device-pool"] },
  { name: "clients side by side", needs: needing("dnsmasq", "dig"), scenarios: ["instances"] },
  { name: "who moves", needs: needing("tcpdump"), scenarios: ["roam", "portal-restart", "roam-sighup"] },
  {
    name: "what it says of itself",
    needs: needing("setpriv", "tcpdump"),
    scenarios: ["gui-often", "status", "service", "gui", "metrics"]
  },
  {
    name: "what it keeps to itself",
    needs: needing("strace", "script", "setpriv", "perl"),
    scenarios: ["secrets", "gui-hostile"]
  },
  { name: "what it finds wrong", needs: needing("dnsmasq"), scenarios: ["doctor"] },
  { name: "what it tries", needs: needing("dnsmasq", "dig"), scenarios: ["ping"] },
  { name: "paths found inside the tunnel", needs: needing("tcpdump"), scenarios: ["path-mode", "path-mode-roam"] },
  {
    name: "names",
    needs: needing("dnsmasq", "dig"),
    scenarios: [
      "dns",
      "dns-in-tunnel",
      "dns-roam",
      "dns-upstream-down",
      "dns-portal-down",
      "dns-two-resources",
      "dns-control"
    ]
  },
  {
    name: "names by way of systemd-resolved",
    needs: { ...needing("dnsmasq", "dig", "dbus-daemon"), resolved: true },
    scenarios: ["dns-resolved"]
  },
  {
    name: "names beside NetworkManager",
    needs: needing("dnsmasq", "dig", "dbus-daemon", "NetworkManager", "nmcli"),
    scenarios: ["dns-network-manager"]
  },
  { name: "names over HTTPS", needs: needing("dnsmasq", "dig", "unbound", "openssl"), scenarios: ["doh"] },
  {
    name: "paths",
    needs: needing(),
    scenarios: ["nat", "symmetric", "relay-only", "ipv4-only", "ipv6-only", "mixed", "mixed-reverse"]
  },
  {
    name: "paths through coturn",
    needs: needing("ss", "turnserver", "turnadmin"),
    scenarios: ["symmetric-coturn", "relay-only-coturn"]
  }
]

const results = new Map<string, Promise<Result>>()

const beginAll = (): void => {
  if (results.size > 0) return
  const labs = Effect.unsafeMakeSemaphore(LABS_AT_ONCE)
  for (const { needs, scenarios } of groups) {
    if (missing(needs).length > 0) continue
    for (const name of scenarios) {
      const result = Effect.promise(() => run(["lab", "run", name, "--json"]))
      results.set(name, Effect.runPromise(labs.withPermits(1)(result)))
    }
  }
}

for (const { name, needs, scenarios } of groups) {
  describeWith(needs, `scenarios: ${name}`, () => {
    beforeAll(beginAll)
    it.each(scenarios)("%s", async (scenario) => {
      const { code, stderr, stdout } = await (results.get(scenario) as Promise<Result>)
      assert.strictEqual(code, 0, `${stderr}\n${stdout}`)
      const result = JSON.parse(stdout) as {
        scenario: string
        ok: boolean
        checks: ReadonlyArray<{ name: string; ok: boolean }>
      }
      assert.strictEqual(result.scenario, scenario)
      assert.isTrue(result.ok)
      assert.isTrue(result.checks.every(({ ok }) => ok))
      assert.isAtLeast(result.checks.length, 4)
    }, 300_000)
  })
}
