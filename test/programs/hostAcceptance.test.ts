/**
 * Where each acceptance test of host spec section 18 is. A test says in its title which it is: `(host 18.N)`, or
 * `host spec 18, test N`. Where section 17 or docs decide otherwise than the source, the tests follow the decision.
 */
import * as fs from "node:fs"
import * as path from "node:path"
import { assert, it } from "vitest"

/** Files below `test`, or scenarios of the lab as `lab: NAME of FILE`; or why there is none. */
type Where = readonly [file: string, ...more: ReadonlyArray<string>] | { readonly none: string }

const WINDOWS = "the tunnel, its sockets and DNS control on Windows are not there yet"

const items: { readonly [item: number]: Where } = {
  1: ["programs/cli.test.ts"],
  2: ["programs/signIn.test.ts"],
  3: ["layers/config/config.test.ts"],
  4: ["programs/operator.test.ts"],
  // An id that is a UUID goes to the portal as its hash.
  5: ["layers/config/config.test.ts", "protocol/portal/loginUrl.test.ts"],
  6: ["layers/log/log.test.ts"],
  7: ["programs/main.test.ts"],
  8: ["protocol/gui/frames.test.ts"],
  9: ["model/gui.test.ts"],
  10: ["programs/tunnelService.test.ts"],
  11: ["programs/tunnelService.test.ts"],
  12: ["layers/control/GuiServerUnix.test.ts"],
  // The bytes, and that a kernel takes what makes them.
  13: ["ffi/linux/netlink.test.ts", "ffi/linux/netlinkMessages.test.ts"],
  14: ["ffi/linux/tun.test.ts"],
  15: ["layers/tun/TunDeviceLinux.test.ts"],
  16: ["layers/tun/TunInterfaceLinux.test.ts"],
  17: ["layers/tun/TunDeviceLinux.test.ts", "layers/tun/TunReader.test.ts"],
  18: ["layers/tun/TunInterfaceLinux.test.ts", "layers/tun/linkScopeCopy.test.ts"],
  19: ["layers/route/RouteResolverWindows.test.ts"],
  // The sum with the interface's metric decides, as the system's own choice does.
  20: ["layers/route/RouteResolverWindows.test.ts"],
  21: ["layers/route/RouteResolverWindows.test.ts"],
  // A failure is remembered for 250 ms, so that nobody asks for it with every packet.
  22: ["layers/route/RouteCacheLive.test.ts", "layers/route/RouteResolverWindows.test.ts"],
  // TCP asks the cache too: its connections are bound to the source that it names.
  23: ["layers/route/RouteCacheLive.test.ts", "layers/socket/sharedCache.test.ts"],
  24: ["layers/route/RouteCacheLive.test.ts"],
  25: ["layers/tunnel/TunnelLive.test.ts"],
  26: ["layers/route/RouteResolverWindows.test.ts"],
  27: ["ffi/windows/ipHelperLayout.test.ts"],
  28: ["layers/route/RouteResolverLinux.test.ts"],
  29: ["layers/network/routeCacheFollows.test.ts"],
  30: ["layers/network/NetworkChangesLinux.test.ts", "layers/route/RouteCacheInvalidation.test.ts"],
  31: { none: WINDOWS },
  32: ["layers/dns/DnsControlHost.test.ts"],
  // It is asked over the bus, whose answers have the same cases; its text is not read.
  33: ["layers/dns/resolve1.test.ts"],
  34: { none: WINDOWS },
  35: ["layers/portal/HostResolverLive.test.ts"],
  36: ["lab: service of service.ts", "programs/connect.test.ts"],
  37: ["lab: dns-control of dnsControl.ts", "layers/tunnel/TunnelLive.test.ts", "protocol/tunnel/lifecycle.test.ts"],
  38: ["lab: dns-control of dnsControl.ts"],
  39: ["lab: roam-sighup of roaming.ts"],
  // With 5, the exit code of a portal that cannot be reached.
  40: ["programs/main.test.ts"]
}

/** In a string: a comment proves nothing. */
const MARK = /["`](?:[^"`\n]*\(host 18\.(\d+)\)|host spec 18, test (\d+)\b)[^"`\n]*["`]/g

const marksIn = (file: string): ReadonlyArray<number> =>
  Array.from(fs.readFileSync(file, "utf8").matchAll(MARK), ([, short, long]) => Number(short ?? long))

const filesBelow = (folder: string, suffix: string): ReadonlyArray<string> =>
  fs.readdirSync(folder, { recursive: true, encoding: "utf8" }).filter((name) => name.endsWith(suffix)).sort()

const LAB = "src/lab/scenarios"

it("each acceptance test of host spec 18 is where this file says, or has a reason why not", () => {
  const found = new Map<number, Set<string>>()
  const note = (item: number, where: string) => found.set(item, (found.get(item) ?? new Set()).add(where))
  for (const name of filesBelow("test", ".test.ts")) {
    if (name !== path.relative("test", "test/programs/hostAcceptance.test.ts")) {
      for (const item of marksIn(path.join("test", name))) note(item, name)
    }
  }
  for (const name of filesBelow(LAB, ".ts")) for (const item of marksIn(path.join(LAB, name))) note(item, name)

  assert.deepStrictEqual(Object.keys(items).map(Number), Array.from({ length: 40 }, (_, i) => i + 1))
  // Both in the order of their numbers, as keys of an object are.
  assert.deepStrictEqual(
    Object.fromEntries(Array.from(found, ([item, files]) => [item, [...files].sort()])),
    Object.fromEntries(
      Object.entries(items).flatMap(([item, where]) =>
        "none" in where ? [] : [[item, where.map((file) => file.replace(/^lab: \S+ of /, "")).sort()]]
      )
    )
  )
})

it("the scenarios that prove one are run with the tests", () => {
  const run = fs.readFileSync("test/lab/scenarios.test.ts", "utf8")
  for (const where of Object.values(items)) {
    if ("none" in where) continue
    for (const file of where) {
      const [, name] = /^lab: (\S+) of/.exec(file) ?? []
      if (name !== undefined) assert.include(run, `"${name}"`)
    }
  }
})
