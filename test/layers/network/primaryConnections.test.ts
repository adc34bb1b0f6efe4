/** NetworkManager's word about its primary connection: from a bus that the test plays, and over a real one. */
import { assert, describe, it } from "@effect/vitest"
import * as Effect from "effect/Effect"
import * as Layer from "effect/Layer"
import * as Stream from "effect/Stream"
import { spawnSync } from "node:child_process"
import * as fs from "node:fs"
import * as path from "node:path"
import { beforeAll } from "vitest"
import * as SystemBusLive from "../../../src/layers/bus/SystemBusLive.ts"
import * as NetworkChangesLinux from "../../../src/layers/network/NetworkChangesLinux.ts"
import { primaryConnections } from "../../../src/layers/network/primaryConnections.ts"
import * as ReadinessPollerKoffi from "../../../src/layers/poll/ReadinessPollerKoffi.ts"
import { NetworkChanges } from "../../../src/services/NetworkChanges.ts"
import { SystemBus } from "../../../src/services/SystemBus.ts"
import { joinBus, makeDirectory, returning, running, serveBus, startBusDaemon } from "../../support/bus.ts"
import { encodeMessage, PRIMARY, propertiesChanged } from "../../support/dbusMessages.ts"
import { enterPrivateNetworkNamespace } from "../../support/netns.ts"
import { describeWith } from "../../support/requires.ts"
import { makeRouteResolverDouble, routeVia } from "../../support/RouteResolverDouble.ts"
import { waitFor } from "../../support/waitFor.ts"

const MANAGER = "org.freedesktop.NetworkManager"

/** Listens at the address, and counts what comes. */
const listen = (address: string) =>
  Effect.gen(function*() {
    const heard = { count: 0 }
    const context = yield* Layer.build(SystemBusLive.layerWith({ address }))
    const bus = yield* Effect.provide(SystemBus, context)
    yield* primaryConnections(bus).pipe(
      Stream.runForEach(() => Effect.sync(() => heard.count++)),
      Effect.forkScoped
    )
    return heard
  })

describe("NetworkManager's primary connection", () => {
  it.scoped("is told of when it changes, and when listening begins", () =>
    Effect.gen(function*() {
      const bus = yield* serveBus(path.join(yield* makeDirectory, "bus"))
      const heard = yield* listen(bus.address)
      yield* waitFor("the subscription", () => heard.count === 1)
      bus.say(propertiesChanged(PRIMARY))
      yield* waitFor("a change", () => heard.count === 2)
      bus.say(
        propertiesChanged([["State", "u", 70]]),
        propertiesChanged([["PrimaryConnectionType", "s", "vpn"]], ["ActiveConnections"]),
        propertiesChanged(PRIMARY, [], { destination: ":1.2" }),
        encodeMessage({ fields: [[3, "s", "StateChanged"]], signature: "u", body: [70] }),
        propertiesChanged([["State", "u", 70]], ["PrimaryConnection"], { isBigEndian: true })
      )
      yield* waitFor("an invalidation", () => heard.count === 3)
      // All that was said before has been heard by then.
      assert.strictEqual(heard.count, 3)
    }))
})

let serial = 10
const primaryChanged = (options: { readonly isBigEndian?: boolean; readonly destination?: string } = {}) =>
  propertiesChanged(PRIMARY, [], { ...options, serial: serial++ })

describeWith({ programs: ["dbus-daemon"] }, "NetworkManager's primary connection on a real bus", () => {
  it.scoped("is told of, in either byte order, when who owns the name says so, and nobody else", () =>
    Effect.gen(function*() {
      const bus = yield* startBusDaemon(yield* makeDirectory)
      const heard = yield* listen(bus.address)
      yield* waitFor("the subscription", () => heard.count === 1)
      const manager = yield* joinBus(bus.socketPath, MANAGER)
      manager(primaryChanged())
      yield* waitFor("a change", () => heard.count === 2)
      // Ours was the first connection to this bus.
      const impostor = yield* joinBus(bus.socketPath, "org.example.NetworkManager")
      impostor(primaryChanged())
      impostor(primaryChanged({ destination: ":1.0" }))
      manager(propertiesChanged([["State", "u", 70]], [], { serial: serial++ }))
      // The bus has served all that was written before once it has named another program.
      yield* joinBus(bus.socketPath)
      manager(primaryChanged({ isBigEndian: true }))
      yield* waitFor("a change in the other byte order", () => heard.count === 3)
      assert.strictEqual(heard.count, 3)
    }))
})

describeWith({ root: true }, "roams", () => {
  beforeAll(enterPrivateNetworkNamespace)

  it.scopedLive("begin when NetworkManager speaks and the egress has moved, though the kernel told us nothing", () =>
    Effect.gen(function*() {
      let agree = (): void => {}
      const agreement = new Promise<void>((resolve) => {
        agree = resolve
      })
      const bus = yield* serveBus(
        path.join(yield* makeDirectory, "bus"),
        ({ member }, serial) => member === "Hello" ? returning(serial) : agreement.then(() => returning(serial))
      )
      const resolver = makeRouteResolverDouble()
      const seen: Array<string> = []
      const { roams } = yield* NetworkChanges.pipe(
        Effect.provide(NetworkChangesLinux.layerWith({ tunnelName: "tun-test" })),
        Effect.provide(Layer.merge(ReadinessPollerKoffi.layer, resolver.layer)),
        Effect.provide(yield* Layer.build(SystemBusLive.layerWith({ address: bus.address })))
      )
      yield* roams.pipe(Stream.runForEach(({ _tag }) => Effect.sync(() => seen.push(_tag))), Effect.forkScoped)
      const looks = (): number => [...resolver.asked.values()][0] ?? 0
      yield* waitFor("a look as the kernel is listened to", () => looks() === 1)
      agree()
      yield* waitFor("a look as the bus is listened to", () => looks() === 2)
      bus.say(propertiesChanged(PRIMARY))
      yield* waitFor("a look as NetworkManager speaks", () => looks() === 3)
      assert.deepStrictEqual(seen, [])
      resolver.answer = (to) => Effect.succeed(routeVia("wlan0", to, { interfaceIndex: 9 }))
      bus.say(propertiesChanged(PRIMARY))
      yield* waitFor("the roam", () => seen.length === 2)
      assert.deepStrictEqual(seen, ["Moving", "Moved"])
    }))
})

/** NetworkManager with two uplinks in namespaces of its own, where nothing that it does stays. */
const MANAGED = `set -e
mount -t tmpfs tmpfs /run
mount -t tmpfs tmpfs /var/lib
mount -t sysfs sysfs /sys
mount -o remount,ro,bind /sys # a writable one makes it wait for udev
mkdir /run/NetworkManager /var/lib/NetworkManager
for i in 0 1; do
  ip link add eth$i type veth peer name peer$i
  ip link set eth$i up
  ip link set peer$i up
done
exec NetworkManager --no-daemon --config="$1" --config-dir=/run/none`
const MANAGER_CONFIGURATION = `[main]
plugins=keyfile
dns=none
rc-manager=unmanaged
no-auto-default=*
auth-polkit=false
[keyfile]
path=/run/NetworkManager/system-connections
[connectivity]
enabled=false
`

describeWith(
  { root: true, programs: ["dbus-daemon", "NetworkManager", "nmcli", "unshare"] },
  "the primary connection of a real NetworkManager",
  () => {
    it.scopedLive("is told of as uplinks come and go", () =>
      Effect.gen(function*() {
        const home = yield* makeDirectory
        const bus = yield* startBusDaemon(home)
        const environment = { ...process.env, DBUS_SYSTEM_BUS_ADDRESS: bus.address }
        const configuration = path.join(home, "NetworkManager.conf")
        fs.writeFileSync(configuration, MANAGER_CONFIGURATION)
        const heard = yield* listen(bus.address)
        yield* waitFor("the subscription", () => heard.count === 1)
        yield* running("unshare", ["-m", "-n", "sh", "-c", MANAGED, "sh", configuration], environment)
        const nmcli = (args: string): number | null =>
          spawnSync("nmcli", args.split(" "), { env: environment, stdio: "ignore" }).status
        yield* waitFor("NetworkManager", () => nmcli("general status") === 0)
        for (const [i, metric] of [600, 100].entries()) {
          const addresses = `ipv4.method manual ipv4.addresses 10.60.${i}.2/24 ipv4.gateway 10.60.${i}.1`
          const options = `${addresses} ipv4.route-metric ${metric} ipv6.method disabled autoconnect no`
          assert.strictEqual(nmcli(`con add save no type ethernet ifname eth${i} con-name uplink${i} ${options}`), 0)
        }
        for (const change of ["up uplink0", "up uplink1", "down uplink1", "down uplink0"]) {
          const before = heard.count
          assert.strictEqual(nmcli(`con ${change}`), 0, change)
          yield* waitFor(change, () => heard.count > before)
        }
      }))
  }
)
