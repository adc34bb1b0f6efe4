/** Resolvers that are link-local: each means something only on its link (RFC 4007). */
import { assert, it } from "@effect/vitest"
import * as packet from "dns-packet"
import * as Effect from "effect/Effect"
import * as Layer from "effect/Layer"
import { beforeAll } from "vitest"
import { nameserversOf } from "../../../src/layers/dns/resolvConfText.ts"
import * as ReadinessPollerKoffi from "../../../src/layers/poll/ReadinessPollerKoffi.ts"
import * as RouteCacheLive from "../../../src/layers/route/RouteCacheLive.ts"
import * as RouteResolverLinux from "../../../src/layers/route/RouteResolverLinux.ts"
import * as DnsSocketLive from "../../../src/layers/socket/DnsSocketLive.ts"
import * as SocketFactoryLinux from "../../../src/layers/socket/SocketFactoryLinux.ts"
import { SocketAddress } from "../../../src/protocol/wire/address.ts"
import { DnsSocket } from "../../../src/services/DnsSocket.ts"
import { RouteCache } from "../../../src/services/RouteCache.ts"
import { enterPrivateNetworkNamespace, ip as ipCommand, makeNamespace } from "../../support/netns.ts"
import { describeWith } from "../../support/requires.ts"
import { dnsmasqOn } from "./servers.ts"

/** The same on every link, as routers have it. */
const SERVER = "fe80::53"

const layer = DnsSocketLive.layer.pipe(
  Layer.provide(SocketFactoryLinux.layer),
  Layer.provide(ReadinessPollerKoffi.layer),
  Layer.provideMerge(RouteCacheLive.layer),
  Layer.provide(RouteResolverLinux.layer)
)

const query = Uint8Array.from(
  packet.encode({ type: "query", id: 7, flags: packet.RECURSION_DESIRED, questions: [{ type: "A", name: "a.test" }] })
)
const addressesIn = (message: Uint8Array) =>
  (packet.decode(Buffer.from(message)).answers ?? []).map((answer) => (answer as packet.StringAnswer).data)

/** A link to `there`, where a server has the address and answers with `answer`. */
const makeLink = (there: Effect.Effect.Success<ReturnType<typeof makeNamespace>>, name: string, answer: string) =>
  Effect.gen(function*() {
    ipCommand(`link add ${name} type veth peer name ${name} netns ${there.name}`)
    ipCommand(`link set ${name} up`)
    there.run("ip", "link", "set", name, "up")
    there.run("ip", "addr", "add", `${SERVER}/64`, "dev", name, "nodad")
    yield* dnsmasqOn(there.prefix, name, [`--host-record=a.test,${answer}`])
  })

describeWith({ root: true, programs: ["ip", "dnsmasq"] }, "link-local resolvers", () => {
  beforeAll(() => enterPrivateNetworkNamespace())

  it.scopedLive("are asked on the link that resolv.conf names, by its name or index, over UDP and TCP", () =>
    Effect.gen(function*() {
      const there = yield* makeNamespace("resolvers")
      yield* makeLink(there, "red", "192.0.2.80")
      yield* makeLink(there, "blue", "192.0.2.81")
      const index = JSON.parse(ipCommand("-json link show dev blue"))[0].ifindex as number
      const sockets = yield* DnsSocket
      const routes = yield* RouteCache
      const cases = [["red", "192.0.2.80"], ["blue", "192.0.2.81"], [String(index), "192.0.2.81"]] as const
      for (const [zone, answer] of cases) {
        const [resolver] = nameserversOf(`nameserver ${SERVER}%${zone}\n`)
        if (resolver === undefined) throw new Error("the line was not read")
        const at = new SocketAddress(resolver, 53)
        assert.strictEqual(at.text, `[${SERVER}%${zone}]:53`)
        assert.deepStrictEqual(addressesIn(yield* sockets.udp(query, at)), [answer])
        assert.deepStrictEqual(addressesIn(yield* sockets.tcp(query, at)), [answer])
        const { interfaceName, source } = yield* routes.get(resolver)
        assert.strictEqual(interfaceName, zone === "red" ? "red" : "blue")
        assert.isTrue(source.startsWith("fe80::") && source.endsWith(`%${zone}`), source)
      }
      const [lost] = nameserversOf(`nameserver ${SERVER}%green`)
      const failure = yield* Effect.flip(routes.get(lost!))
      assert.include(failure.message, "there is no interface green")
    }).pipe(Effect.provide(layer)))
})
