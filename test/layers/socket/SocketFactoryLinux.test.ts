import { assert, it } from "@effect/vitest"
import * as Effect from "effect/Effect"
import * as Either from "effect/Either"
import * as Fiber from "effect/Fiber"
import * as Layer from "effect/Layer"
import type * as Scope from "effect/Scope"
import * as TestClock from "effect/TestClock"
import * as fs from "node:fs"
import * as net from "node:net"
import { beforeAll } from "vitest"
import { lazily } from "../../../src/ffi/linux/libc.ts"
import {
  connectSocket,
  encodeSockaddr,
  getOption,
  IPV6_V6ONLY,
  localSockaddr,
  sendDatagram,
  SO_RCVBUF,
  SO_SNDBUF,
  SOL_IPV6,
  SOL_SOCKET,
  SOL_TCP,
  TCP_NODELAY
} from "../../../src/ffi/linux/socket.ts"
import * as ReadinessPollerKoffi from "../../../src/layers/poll/ReadinessPollerKoffi.ts"
import * as SocketFactoryLinux from "../../../src/layers/socket/SocketFactoryLinux.ts"
import { SOCKET_MARK } from "../../../src/model/policyRouting.ts"
import { ip, ipFromBytes, ipToBytes, SocketAddress } from "../../../src/protocol/wire/address.ts"
import { RoutingLoopPreventionFailed, SocketFactory } from "../../../src/services/SocketFactory.ts"
import { openedSince, openSockets } from "../../support/descriptors.ts"
import { enterPrivateNetworkNamespace, ip as ipCommand, makeNamespace } from "../../support/netns.ts"
import { describeWith } from "../../support/requires.ts"
import { makeRouteCacheDouble, type RouteCacheDouble } from "../../support/RouteCacheDouble.ts"
import { datagram, plainSocket, waitFor } from "./support.ts"

const layer = (routes: RouteCacheDouble) =>
  SocketFactoryLinux.layer.pipe(Layer.provide(Layer.merge(ReadinessPollerKoffi.layer, routes.layer)))
const unmarked = (routes: RouteCacheDouble) =>
  SocketFactoryLinux.layerWith({ mark: undefined }).pipe(
    Layer.provide(Layer.merge(ReadinessPollerKoffi.layer, routes.layer))
  )

const any = (family: 4 | 6) => new SocketAddress(ip(family === 4 ? "0.0.0.0" : "::"), 0)
const sockaddr = (address: SocketAddress) => encodeSockaddr(ipToBytes(address.address), address.port)
const localOf = (fd: number): SocketAddress => {
  const { address, port } = Either.getOrThrow(localSockaddr(fd))
  return new SocketAddress(ipFromBytes(address, 0, address.length === 4 ? 4 : 6), port)
}

interface Server {
  readonly at: SocketAddress
  /** The addresses that connections came from. */
  readonly clients: Array<SocketAddress>
  /** Those that the other side ended. */
  readonly ended: Array<SocketAddress>
}

/** A server of Node's own, which sends back what it gets. */
const echoServer = (address: string): Effect.Effect<Server, never, Scope.Scope> =>
  Effect.acquireRelease(
    Effect.promise(async () => {
      const clients: Array<SocketAddress> = []
      const ended: Array<SocketAddress> = []
      const server = net.createServer((socket) => {
        const client = new SocketAddress(ip(socket.remoteAddress ?? ""), socket.remotePort ?? 0)
        clients.push(client)
        socket.on("error", () => undefined).on("close", () => ended.push(client)).pipe(socket)
      })
      await new Promise<void>((resolve) => void server.listen(0, address, resolve))
      const { port } = server.address() as net.AddressInfo
      return { server, at: new SocketAddress(ip(address), port), clients, ended }
    }),
    ({ server }) => Effect.sync(() => server.close())
  )

/** What comes back for `text`; the socket is destroyed. */
const echo = (socket: net.Socket, text: string): Effect.Effect<string> =>
  Effect.promise(() =>
    new Promise<string>((resolve, reject) => {
      let received = ""
      socket.on("error", reject)
      socket.on("data", (chunk: Buffer) => {
        received += chunk.toString()
        if (received.length < text.length) return
        socket.destroy()
        resolve(received)
      })
      socket.write(text)
    })
  )

const families = [
  { family: 4, local: "10.81.0.1", other: "10.81.0.5", peer: "10.81.0.2", silent: "10.81.0.99", far: "203.0.113.7" },
  { family: 6, local: "fd81::1", other: "fd81::5", peer: "fd81::2", silent: "fd81::99", far: "2001:db8:7::7" }
] as const

/** A link to a host behind which everything else is. */
const network = Effect.gen(function*() {
  const host = yield* makeNamespace("sockets")
  ipCommand(`link add near type veth peer name far netns ${host.name}`)
  yield* Effect.addFinalizer(() => Effect.sync(() => ipCommand("link del near")))
  for (const { family, far, local, other, peer, silent } of families) {
    const bits = family === 4 ? 24 : 64
    const nodad = family === 4 ? "" : " nodad"
    for (const address of [local, other]) ipCommand(`addr add ${address}/${bits} dev near${nodad}`)
    ipCommand("link set near up")
    host.run("ip", ..."link set far up".split(" "))
    host.run("ip", ...`addr add ${peer}/${bits} dev far${nodad}`.split(" "))
    host.run("ip", ...`addr add ${far}/${family === 4 ? 32 : 128} dev lo${nodad}`.split(" "))
    ipCommand(`neigh add ${silent} lladdr 02:00:00:00:00:99 dev near`)
    ipCommand(`-${family} route add default via ${peer} dev near`)
  }
  return host
})

/** What policy routing does to packets without our mark while a tunnel is up, in its simplest form: they do not pass. */
const refuseUnmarked = Effect.acquireRelease(
  Effect.sync(() => {
    for (const family of [4, 6]) {
      ipCommand(`-${family} route add unreachable default table 77`)
      ipCommand(`-${family} rule add not fwmark ${SOCKET_MARK} lookup 77 priority 77`)
    }
  }),
  () =>
    Effect.sync(() => {
      for (const family of [4, 6]) {
        ipCommand(`-${family} rule del priority 77`)
        ipCommand(`-${family} route flush table 77`)
      }
    })
)

describeWith({ root: true, programs: ["ip"] }, "sockets on Linux", () => {
  beforeAll(enterPrivateNetworkNamespace)

  it.scopedLive.each(families)(
    "IPv$family datagrams pass policy rules by their mark, others do not",
    ({ family, far }) => {
      const routes = makeRouteCacheDouble()
      return Effect.gen(function*() {
        const host = yield* network
        const receiver = yield* host.inside(plainSocket(far))
        yield* refuseUnmarked
        const factory = yield* Effect.provide(SocketFactory, layer(routes))
        const fd = yield* factory.udp(any(family))
        yield* connectSocket(fd, sockaddr(receiver.local))
        yield* sendDatagram(fd, datagram(1, 100))
        yield* waitFor("the datagram", () => receiver.received.length === 1)
        assert.strictEqual(receiver.received[0]?.from.port, localOf(fd).port)

        const plain = yield* Effect.provide(SocketFactory, unmarked(routes))
        const error = yield* Effect.flip(connectSocket(yield* plain.udp(any(family)), sockaddr(receiver.local)))
        assert.match(error.errno, /^E(HOST|NET)UNREACH$/)
      })
    }
  )

  it.scopedLive.each(families)(
    "IPv$family connections pass policy rules by their mark, from the source that the cache names",
    ({ far, local, other }) => {
      const routes = makeRouteCacheDouble()
      return Effect.gen(function*() {
        const host = yield* network
        const server = yield* host.inside(echoServer(far))
        yield* refuseUnmarked
        const before = openSockets()
        const factory = yield* Effect.provide(SocketFactory, layer(routes))
        for (const source of [local, other]) {
          routes.source = () => ip(source)
          assert.strictEqual(yield* factory.sourceFor(ip(far)), ip(source))
          const socket = yield* factory.tcp(server.at)
          const { fd } = (socket as unknown as { _handle: { fd: number } })._handle
          assert.strictEqual(Either.getOrThrow(getOption(fd, SOL_TCP, TCP_NODELAY, "TCP_NODELAY")), 1)
          assert.strictEqual(socket.remotePort, server.at.port)
          assert.strictEqual(yield* echo(socket, "through the rules"), "through the rules")
          assert.strictEqual(server.clients.at(-1)?.address, ip(source))
        }
        const plain = yield* Effect.provide(SocketFactory, unmarked(routes))
        const error = yield* Effect.flip(plain.tcp(server.at))
        assert.strictEqual(error._tag, "SocketFailed")
        assert.match(error.message, /^connect to .*: connect: E(HOST|NET)UNREACH/)
        yield* waitFor("every socket to be closed", () => openedSince(before) === 0)
      })
    }
  )

  it.scoped("says what it takes to mark a socket, and leaves none open", () => {
    const routes = makeRouteCacheDouble()
    return Effect.gen(function*() {
      const factory = yield* Effect.provide(SocketFactory, layer(routes))
      const before = openSockets()
      const attempts: ReadonlyArray<Effect.Effect<unknown, { readonly message: string }, Scope.Scope>> = [
        factory.udp(any(4)),
        factory.udp(any(6)),
        factory.tcp(new SocketAddress(ip("127.0.0.1"), 9))
      ]
      for (const attempt of attempts) {
        const error = yield* withoutNetworkCapabilities(Effect.flip(attempt))
        assert.instanceOf(error, RoutingLoopPreventionFailed)
        assert.match(error.message, /setsockopt\(SO_MARK\): EPERM \(1\); .*root or the capability CAP_NET_ADMIN/)
      }
      assert.strictEqual(openedSince(before), 0)
      yield* factory.udp(any(4)) // it was that
    })
  })

  it.scoped("IPv6 sockets leave IPv4 to others, and prefer an address that stays", () => {
    const routes = makeRouteCacheDouble()
    return Effect.gen(function*() {
      const host = yield* network
      const factory = yield* Effect.provide(SocketFactory, layer(routes))
      const v6 = yield* factory.udp(any(6))
      assert.strictEqual(Either.getOrThrow(getOption(v6, SOL_IPV6, IPV6_V6ONLY, "IPV6_V6ONLY")), 1)
      const { port } = localOf(v6)
      yield* factory.udp(new SocketAddress(ip("0.0.0.0"), port)) // the same port, and not in use

      fs.writeFileSync("/proc/sys/net/ipv6/conf/near/use_tempaddr", "2")
      ipCommand("addr add 2001:db8:5::1/64 dev near nodad mngtmpaddr")
      host.run("ip", ..."addr add 2001:db8:5::2/64 dev far nodad".split(" "))
      const receiver = yield* host.inside(plainSocket("2001:db8:5::2"))
      const sender = yield* plainSocket("::")
      yield* sender.send(receiver.local, datagram(0, 10))
      yield* waitFor("the datagram of a socket without preferences", () => receiver.received.length === 1)
      assert.notStrictEqual(receiver.received[0]?.from.address, ip("2001:db8:5::1")) // the kernel does prefer the other
      yield* connectSocket(v6, sockaddr(receiver.local))
      assert.strictEqual(localOf(v6).address, ip("2001:db8:5::1"))
    })
  })

  it.scoped("asks for buffers beyond the system's limit, and can do with less", () => {
    const routes = makeRouteCacheDouble()
    return Effect.gen(function*() {
      const factory = yield* Effect.provide(SocketFactory, layer(routes))
      const size = (fd: number, option: number) => Either.getOrThrow(getOption(fd, SOL_SOCKET, option, "buffer"))
      const plain = yield* factory.udp(any(4))
      const large = yield* factory.udp(any(4), { sendBuffer: 8 << 20, receiveBuffer: 16 << 20 })
      // The kernel says twice what was asked, for its own overhead (socket(7)).
      assert.strictEqual(size(large, SO_SNDBUF), 16 << 20)
      assert.strictEqual(size(large, SO_RCVBUF), 32 << 20)
      const one = yield* factory.udp(any(4), { receiveBuffer: 1 << 20 })
      assert.strictEqual(size(one, SO_SNDBUF), size(plain, SO_SNDBUF))
      // Without the capability the kernel clamps; that is no reason to fail.
      const unmarkedFactory = yield* Effect.provide(SocketFactory, unmarked(routes))
      const clamped = yield* withoutNetworkCapabilities(unmarkedFactory.udp(any(4), { sendBuffer: 1 << 30 }))
      assert.isBelow(size(clamped, SO_SNDBUF), 1 << 30)
    })
  })

  it.scoped("an address in use is an error of that socket, which is closed", () => {
    const routes = makeRouteCacheDouble()
    return Effect.gen(function*() {
      const factory = yield* Effect.provide(SocketFactory, layer(routes))
      const taken = localOf(yield* factory.udp(any(4)))
      const before = openSockets()
      const error = yield* Effect.flip(factory.udp(taken))
      assert.strictEqual(error.message, `bind ${taken.text}: bind: EADDRINUSE (98)`)
      assert.strictEqual(openedSince(before), 0)
    })
  })

  it.scoped.each(families)("IPv$family connections that are refused leave nothing open", ({ local, peer }) => {
    const routes = makeRouteCacheDouble()
    routes.source = () => ip(local)
    return Effect.gen(function*() {
      yield* network
      const factory = yield* Effect.provide(SocketFactory, layer(routes))
      const before = openSockets()
      const error = yield* Effect.flip(factory.tcp(new SocketAddress(ip(peer), 9)))
      assert.strictEqual(error._tag, "SocketFailed")
      assert.match(error.message, /ECONNREFUSED/)
      yield* waitFor("the socket to be closed", () => openedSince(before) === 0)
    })
  })

  it.scoped.each(families)("IPv$family connections are given up after 5 s", ({ local, silent }) => {
    const routes = makeRouteCacheDouble()
    routes.source = () => ip(local)
    return Effect.gen(function*() {
      yield* network
      const factory = yield* Effect.provide(SocketFactory, layer(routes))
      const before = openSockets()
      const attempt = yield* Effect.fork(Effect.flip(factory.tcp(new SocketAddress(ip(silent), 9))))
      yield* waitFor("the attempt to begin", () => openedSince(before) === 1)
      yield* TestClock.adjust("4999 millis")
      assert.strictEqual(openedSince(before), 1)
      yield* TestClock.adjust("1 millis")
      const error = yield* Fiber.join(attempt)
      assert.strictEqual(error._tag, "ConnectTimedOut")
      assert.include(error.message, "no answer from")
      yield* waitFor("the socket to be closed", () => openedSince(before) === 0)
    })
  })

  it.scoped("an attempt that is interrupted leaves nothing open, also inside `acquireRelease`", () => {
    const routes = makeRouteCacheDouble()
    routes.source = () => ip("10.81.0.1")
    return Effect.gen(function*() {
      yield* network
      const factory = yield* Effect.provide(SocketFactory, layer(routes))
      const before = openSockets()
      const connect = factory.tcp(new SocketAddress(ip("10.81.0.99"), 9))
      for (const attempt of [connect, Effect.scoped(Effect.acquireRelease(connect, () => Effect.void))]) {
        const fiber = yield* Effect.fork(attempt)
        yield* waitFor("the attempt to begin", () => openedSince(before) === 1)
        yield* Fiber.interrupt(fiber)
        yield* waitFor("the socket to be closed", () => openedSince(before) === 0)
      }
    })
  })

  it.scoped("looks the route up again when its source is gone, once", () => {
    const routes = makeRouteCacheDouble()
    return Effect.gen(function*() {
      const host = yield* network
      const server = yield* host.inside(echoServer("10.81.0.2"))
      const factory = yield* Effect.provide(SocketFactory, layer(routes))
      routes.source = () => ip(routes.evicted.length === 0 ? "10.81.0.77" : "10.81.0.5")
      const socket = yield* factory.tcp(server.at)
      assert.strictEqual(yield* echo(socket, "hello"), "hello")
      assert.strictEqual(server.clients[0]?.address, ip("10.81.0.5"))
      assert.deepStrictEqual(routes.evicted, [{ destination: server.at.address, cause: "connect-failed" }])

      routes.source = () => ip("10.81.0.77")
      const error = yield* Effect.flip(factory.tcp(server.at))
      assert.match(error.message, /^bind 10\.81\.0\.77:0: bind: EADDRNOTAVAIL/)
      assert.lengthOf(routes.evicted, 2)
    })
  })

  it.scopedLive.each(families)(
    "IPv$family connections that the routes have left are given up without a word",
    ({ local, other, peer }) => {
      const routes = makeRouteCacheDouble()
      return Effect.gen(function*() {
        const host = yield* network
        const server = yield* host.inside(echoServer(peer))
        const factory = yield* Effect.provide(SocketFactory, layer(routes))
        const before = openSockets()
        routes.source = () => ip(local)
        const sockets = [yield* factory.tcp(server.at), yield* factory.tcp(server.at), yield* factory.tcp(server.at)]
        const [stays, stranded, unreachable] = sockets as [net.Socket, net.Socket, net.Socket]
        yield* waitFor("the connections", () => server.clients.length === 3)
        const mine = openedSince(before)
        assert.isFalse(yield* factory.abandonStranded(stays))
        routes.source = () => ip(other)
        assert.isTrue(yield* factory.abandonStranded(stranded))
        assert.isFalse(yield* factory.abandonStranded(stranded))
        routes.source = () => undefined
        assert.isTrue(yield* factory.abandonStranded(unreachable))
        yield* waitFor("the sockets to be closed", () => openedSince(before) === mine - 2)
        assert.isFalse(stays.destroyed)
        assert.strictEqual(yield* echo(stays, "still here"), "still here")
        // What the others had sent would have arrived before that.
        yield* waitFor("the end of the one that said goodbye", () => server.ended.length === 1)
        assert.strictEqual(server.ended[0]?.port, server.clients[0]?.port)
      })
    }
  )

  it.scoped("without a route opens nothing", () => {
    const routes = makeRouteCacheDouble()
    routes.source = () => undefined
    return Effect.gen(function*() {
      const factory = yield* Effect.provide(SocketFactory, layer(routes))
      const before = openSockets()
      const error = yield* Effect.flip(factory.tcp(new SocketAddress(ip("192.0.2.1"), 443)))
      assert.strictEqual(error._tag, "NoRoute")
      assert.strictEqual(openedSince(before), 0)
    })
  })
})

const capget = lazily<(header: Uint8Array, data: Uint8Array) => number>("int capget(void *, _Out_ void *)")
const capset = lazily<(header: Uint8Array, data: Uint8Array) => number>("int capset(void *, const void *)")

/**
 * Runs the effect, which must not be asynchronous, with this thread as a user would be who may not mark sockets: without
 * the effective capabilities CAP_NET_ADMIN and CAP_NET_RAW (capabilities(7)).
 */
const withoutNetworkCapabilities = <A, E, R>(effect: Effect.Effect<A, E, R>): Effect.Effect<A, E, R> => {
  const header = new Uint8Array(Uint32Array.of(0x20080522, 0).buffer)
  const data = new Uint32Array(6) // effective, permitted, inheritable; then the same for capabilities above 31
  const bytes = new Uint8Array(data.buffer)
  return Effect.acquireUseRelease(
    Effect.sync(() => {
      assert.strictEqual(capget()(header, bytes), 0)
      const all = data[0] as number
      data[0] = all & ~(1 << 12 | 1 << 13)
      assert.strictEqual(capset()(header, bytes), 0)
      return all
    }),
    () => effect,
    (all) =>
      Effect.sync(() => {
        data[0] = all
        assert.strictEqual(capset()(header, bytes), 0)
      })
  )
}
