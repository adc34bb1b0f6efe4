/** Every kind of socket of ours over the one real cache; only the system's answers are the test's. */
import { assert, it } from "@effect/vitest"
import * as Effect from "effect/Effect"
import * as Layer from "effect/Layer"
import * as net from "node:net"
import { beforeAll } from "vitest"
import * as ReadinessPollerKoffi from "../../../src/layers/poll/ReadinessPollerKoffi.ts"
import * as RouteCacheLive from "../../../src/layers/route/RouteCacheLive.ts"
import * as DnsSocketLive from "../../../src/layers/socket/DnsSocketLive.ts"
import * as PeerSocketLinux from "../../../src/layers/socket/PeerSocketLinux.ts"
import * as SocketFactoryLinux from "../../../src/layers/socket/SocketFactoryLinux.ts"
import { ip, SocketAddress } from "../../../src/protocol/wire/address.ts"
import { DnsSocket } from "../../../src/services/DnsSocket.ts"
import { RouteCache } from "../../../src/services/RouteCache.ts"
import { SocketFactory } from "../../../src/services/SocketFactory.ts"
import { enterPrivateNetworkNamespace } from "../../support/netns.ts"
import { describeWith } from "../../support/requires.ts"
import { makeRouteResolverDouble, routeVia } from "../../support/RouteResolverDouble.ts"
import { datagram, openPeer, plainSocket, waitFor } from "./support.ts"

const HERE = ip("127.0.0.1")
/** From where everything is sent, which nobody would choose without being told. */
const SOURCE = ip("127.0.0.7")

describeWith({ root: true, programs: ["ip"] }, "one route cache", () => {
  beforeAll(enterPrivateNetworkNamespace)

  it.scopedLive("serves every socket, and a hit costs no call of the system (host 18.23)", () => {
    const resolver = makeRouteResolverDouble((destination) =>
      Effect.succeed(routeVia("lo", destination, { source: SOURCE }))
    )
    const layer = Layer.mergeAll(DnsSocketLive.layer, PeerSocketLinux.layer).pipe(
      Layer.provideMerge(SocketFactoryLinux.layer),
      Layer.provideMerge(Layer.merge(ReadinessPollerKoffi.layer, RouteCacheLive.layer)),
      Layer.provide(resolver.layer)
    )
    return Effect.gen(function*() {
      const receiver = yield* plainSocket(HERE)
      const peer = yield* openPeer
      for (let i = 0; i < 3; i++) {
        peer.sendNow(undefined, receiver.local, 0, datagram(i, 100))
        yield* waitFor("the datagram", () => receiver.received.length === i + 1)
      }

      const dns = yield* DnsSocket
      const query = Uint8Array.of(0, 7, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0, 1, 0x78, 0, 0, 1, 0, 1) // A of `x`
      for (let i = 0; i < 2; i++) {
        const answer = yield* Effect.fork(dns.udp(query, receiver.local))
        yield* waitFor("the query", () => receiver.received.length === 4 + i)
        const { bytes, from } = receiver.received[3 + i] ?? assert.fail("no query")
        yield* receiver.send(from, bytes)
        yield* answer
      }
      assert.deepStrictEqual(receiver.received.map(({ from }) => from.address), Array.from({ length: 5 }, () => SOURCE))
      // Each query has a port of its own.
      assert.strictEqual(new Set(receiver.received.map(({ from }) => from.port)).size, 3)

      const clients: Array<string | undefined> = []
      const server = yield* Effect.acquireRelease(
        Effect.promise(() =>
          new Promise<net.Server>((resolve) => {
            const server = net.createServer((socket) => {
              clients.push(socket.remoteAddress)
              socket.destroy()
            }).listen(0, HERE, () => resolve(server))
          })
        ),
        (server) => Effect.sync(() => server.close())
      )
      const { port } = server.address() as net.AddressInfo
      const socket = yield* (yield* SocketFactory).tcp(new SocketAddress(HERE, port))
      socket.on("error", () => undefined)
      yield* waitFor("the connection", () => clients.length === 1)
      socket.destroy()
      assert.deepStrictEqual(clients, [SOURCE])

      assert.deepStrictEqual([...resolver.asked], [[HERE, 1]])
      const cache = yield* RouteCache
      yield* cache.invalidateAll("test")
      peer.sendNow(undefined, receiver.local, 0, datagram(9, 100))
      yield* waitFor("the last datagram", () => receiver.received.length === 6)
      assert.deepStrictEqual([...resolver.asked], [[HERE, 2]])
    }).pipe(Effect.provide(layer))
  })
})
