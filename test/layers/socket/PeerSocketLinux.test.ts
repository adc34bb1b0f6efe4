import { assert, it } from "@effect/vitest"
import * as Context from "effect/Context"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import * as Fiber from "effect/Fiber"
import * as Layer from "effect/Layer"
import * as Scope from "effect/Scope"
import { spawn } from "node:child_process"
import { beforeAll } from "vitest"
import { lazily } from "../../../src/ffi/linux/libc.ts"
import { setOption, SOL_SOCKET } from "../../../src/ffi/linux/socket.ts"
import * as ReadinessPollerKoffi from "../../../src/layers/poll/ReadinessPollerKoffi.ts"
import * as PeerSocketLinux from "../../../src/layers/socket/PeerSocketLinux.ts"
import * as SocketFactoryLinux from "../../../src/layers/socket/SocketFactoryLinux.ts"
import { ip, SocketAddress } from "../../../src/protocol/wire/address.ts"
import { SocketFactory } from "../../../src/services/SocketFactory.ts"
import { enterPrivateNetworkNamespace, ip as ipCommand, run } from "../../support/netns.ts"
import { describeWith } from "../../support/requires.ts"
import { makeRouteCacheDouble } from "../../support/RouteCacheDouble.ts"
import { datagram, openPeer, peerLayer, plainSocket, seedOf, waitFor } from "./support.ts"

const families = [
  { family: 4, one: "10.77.0.1", two: "10.77.0.2" },
  { family: 6, one: "fd77::1", two: "fd77::2" }
] as const

describeWith({ root: true, programs: ["ip", "tcpdump"] }, "peer sockets on Linux", () => {
  beforeAll(() => {
    enterPrivateNetworkNamespace()
    for (const { one, two } of families) {
      for (const address of [one, two]) {
        ipCommand(`addr add ${address}/${address.includes(":") ? 128 : 32} dev lo`)
      }
    }
  })

  it.scopedLive.each(families)("tells which local address an IPv$family datagram was sent to", ({ one, two }) => {
    const routes = makeRouteCacheDouble()
    return Effect.gen(function*() {
      const peer = yield* openPeer
      assert.strictEqual(peer.port4, 52625)
      assert.strictEqual(peer.port6, 52625)
      const sender = yield* plainSocket(one)
      for (let round = 0; round < 3; round++) {
        for (const address of [one, two]) yield* sender.send(peer.at(address), datagram(round, 100))
      }
      yield* waitFor("six datagrams", () => peer.received.length === 6)
      assert.deepStrictEqual(
        peer.received.map(({ local }) => local.text),
        [one, two, one, two, one, two].map((address) => peer.at(address).text)
      )
      for (const { from } of peer.received) assert.strictEqual(from.text, sender.local.text)
      // The same address is the same object.
      assert.strictEqual(peer.received[4]?.local, peer.received[0]?.local)
      assert.strictEqual(peer.received[4]?.from, peer.received[0]?.from)
      assert.isAbove(peer.batches(), 0)
    }).pipe(Effect.provide(peerLayer(routes)))
  })

  it.scopedLive.each(families)(
    "sends IPv$family from the source that the caller or the cache names",
    ({ one, two }) => {
      const routes = makeRouteCacheDouble()
      routes.source = () => ip(two)
      return Effect.gen(function*() {
        const peer = yield* openPeer
        const receiver = yield* plainSocket(one)
        for (let i = 0; i < 10; i++) {
          peer.send(peer.at(one), receiver.local, 0, datagram(i, 200), 0, 200)
          peer.send(undefined, receiver.local, 0, datagram(i, 300), 0, 300)
        }
        peer.flush()
        yield* waitFor("twenty datagrams", () => receiver.received.length === 20)
        for (const { bytes, from } of receiver.received) {
          assert.strictEqual(from.text, peer.at(bytes.length === 200 ? one : two).text)
          assert.deepStrictEqual(bytes, datagram(seedOf(bytes), bytes.length))
        }
        // Asked for each datagram whose sender named no source, and for no other.
        assert.deepStrictEqual(
          routes.asked,
          Array.from({ length: 10 }, () => ({ by: "peek" as const, destination: receiver.local.address }))
        )
        assert.strictEqual(peer.stats().sent, 20)
      }).pipe(Effect.provide(peerLayer(routes)))
    }
  )

  it.scopedLive.each(families)("carries the ECN bits over IPv$family", ({ one, two }) => {
    const routes = makeRouteCacheDouble()
    return Effect.gen(function*() {
      const receiver = yield* openPeer
      const sender = yield* openPeer // the port is taken: any other
      assert.notStrictEqual(sender.port4, 52625)
      const seen = yield* sniff("udp and port 52625", 4)
      for (const ecn of [0, 1, 2, 3]) {
        for (let i = 0; i < 3; i++) sender.send(sender.at(two), receiver.at(one), ecn, datagram(ecn, 500), 0, 500)
        sender.flush()
      }
      yield* waitFor("twelve datagrams", () => receiver.received.length === 12)
      assert.deepStrictEqual(receiver.received.map(({ ecn }) => ecn), [0, 0, 0, 1, 1, 1, 2, 2, 2, 3, 3, 3])
      for (const { bytes, ecn, from } of receiver.received) {
        assert.deepStrictEqual(bytes, datagram(ecn, 500))
        assert.strictEqual(from.text, sender.at(two).text)
      }
      // Not only by our own word.
      const text = yield* Fiber.join(seen)
      const bits = one.includes(":")
        ? [...text.matchAll(/IP6 \((?:class 0x0?([0-9a-f]+), )?/g)].map((match) => parseInt(match[1] ?? "0", 16))
        : [...text.matchAll(/tos 0x([0-9a-f]+)/g)].map((match) => parseInt(match[1] as string, 16))
      assert.deepStrictEqual(bits, [0, 1, 2, 3], text)
    }).pipe(Effect.provide(peerLayer(routes)))
  })

  const offloads = families.flatMap((family) => [{ ...family, offloads: true }, { ...family, offloads: false }])
  it.scopedLive.each(offloads)(
    "delivers bursts of mixed sizes in order per flow (IPv$family, offloads $offloads)",
    ({ offloads, one, two }) => {
      const routes = makeRouteCacheDouble()
      routes.source = () => ip(two)
      return Effect.gen(function*() {
        const receiver = yield* openPeer
        const sender = yield* openPeer
        const plain = yield* plainSocket(one)
        const flows = [
          { source: undefined, destination: receiver.at(one), ecn: 0 },
          { source: sender.at(one), destination: receiver.at(two), ecn: 1 },
          { source: sender.at(two), destination: plain.local, ecn: 2 }
        ] as const
        // Runs of equal sizes, odd ones between them; an equal destination that is another object now and then.
        const sizes = [1312, 1312, 1312, 1316, 40, 1312, 148, 1312, 1312, 1000, 1312, 1312, 92, 92, 92, 5]
        const arena = new Uint8Array(2048 * 64)
        let slot = 0
        for (let i = 0; i < 1000; i++) {
          const flow = flows[i * 7 % 3] as typeof flows[number]
          const size = sizes[Math.imul(i, 31) % 16 ^ i >> 6 & 3] as number
          const bytes = datagram(i, size)
          arena.set(bytes, slot * 2048)
          const destination = i % 11 === 0
            ? new SocketAddress(flow.destination.address, flow.destination.port)
            : flow.destination
          sender.send(flow.source, destination, flow.ecn, arena, slot * 2048, size)
          slot += 1
          if (slot < 64) continue
          slot = 0
          sender.flush()
          arena.fill(0xaa) // ours again after `flush`
          if (i % 3 === 0) yield* Effect.yieldNow()
        }
        sender.flush()
        yield* waitFor("1000 datagrams", () => receiver.received.length + plain.received.length === 1000)
        const byFlow = [
          receiver.received.filter(({ local }) => local.address === one).map(({ bytes }) => bytes),
          receiver.received.filter(({ local }) => local.address === two).map(({ bytes }) => bytes),
          plain.received.map(({ bytes }) => bytes)
        ]
        byFlow.forEach((datagrams, flow) => {
          const expected = Array.from({ length: 1000 }, (_, i) => i).filter((i) => i * 7 % 3 === flow)
          assert.deepStrictEqual(datagrams.map(seedOf), expected)
        })
        for (const bytes of byFlow.flat()) assert.deepStrictEqual(bytes, datagram(seedOf(bytes), bytes.length))
        for (const { ecn, local } of receiver.received) assert.strictEqual(ecn, local.address === one ? 0 : 1)
        assert.strictEqual(sender.stats().sent, 1000)
        assert.strictEqual(
          sender.stats().sentBytes,
          byFlow.flat().reduce((sum, bytes) => sum + bytes.length, 0)
        )
      }).pipe(Effect.provide(peerLayer(routes, { offloads })))
    }
  )

  it.scopedLive.each(families)("lets no ECN bits overtake others (IPv$family)", ({ one, two }) => {
    const routes = makeRouteCacheDouble()
    return Effect.gen(function*() {
      const receiver = yield* openPeer
      const sender = yield* openPeer
      const arena = new Uint8Array(30 * 500)
      const ecnOf = (i: number): number => i % 10 === 7 ? 3 : i < 20 ? 2 : 0
      for (let i = 0; i < 30; i++) {
        arena.set(datagram(i, 500), i * 500)
        sender.send(sender.at(two), receiver.at(one), ecnOf(i), arena, i * 500, 500)
      }
      sender.flush()
      yield* waitFor("thirty datagrams", () => receiver.received.length === 30)
      assert.deepStrictEqual(
        receiver.received.map(({ bytes, ecn }) => [seedOf(bytes), ecn]),
        Array.from({ length: 30 }, (_, i) => [i, ecnOf(i)])
      )
    }).pipe(Effect.provide(peerLayer(routes)))
  })

  it.scopedLive("lets timers and the other IP version have their turns in a flood", () => {
    const routes = makeRouteCacheDouble()
    return Effect.gen(function*() {
      const receiver = yield* openPeer
      const sender = yield* openPeer
      const flood = 6000
      const bytes = new Uint8Array(64 * 100)
      for (let i = 0; i < flood; i += 60) {
        for (let j = 0; j < 60; j++) sender.send(undefined, receiver.at("127.0.0.1"), 0, bytes, j * 100, 100)
        sender.flush()
      }
      routes.source = () => ip("::1")
      sender.sendNow(undefined, receiver.at("::1"), 0, datagram(1, 200))
      // All of it waits in the kernel by now: nothing was received while we sent.
      assert.strictEqual(receiver.received.length, 0)
      let atTimer = -1
      // Due as soon as it is made, however fast the turns are. It fires after the poll that comes next.
      const due = performance.now() + 3
      setImmediate(() => {
        setTimeout(() => {
          atTimer = receiver.received.length
        }, 1)
        while (performance.now() < due);
      })
      yield* waitFor("all datagrams", () => receiver.received.length === flood + 1)
      const atOther = receiver.received.findIndex(({ from }) => from.family === 6)
      // A turn ends with the batch of 16 messages, of 60 each, that brings it to 1024 datagrams. The timer may see two turns.
      assert.isBelow(atOther, flood / 2)
      assert.isAtLeast(atTimer, 0)
      assert.isBelow(atTimer, flood)
    }).pipe(Effect.provide(peerLayer(routes)))
  })

  it.scopedLive("sends a queue that is full by itself, and 64 datagrams in one message at most", () => {
    const routes = makeRouteCacheDouble()
    return Effect.gen(function*() {
      const receiver = yield* openPeer
      const sender = yield* openPeer
      const seen = yield* sniff("udp and port 52625", 1)
      const arena = new Uint8Array(3000 * 20)
      for (let i = 0; i < 3000; i++) arena.set(datagram(i, 20), i * 20)
      // 150 of one size, then sizes that alternate: a message each, more than the queue holds.
      for (let i = 0; i < 150; i++) sender.send(undefined, receiver.at("127.0.0.1"), 0, arena, i * 20, 20)
      for (let i = 150; i < 1000; i++) {
        sender.send(undefined, receiver.at("127.0.0.1"), 0, arena, i * 20, i % 2 === 0 ? 10 : 20)
      }
      sender.flush()
      yield* waitFor("1000 datagrams", () => receiver.received.length === 1000)
      assert.deepStrictEqual(
        receiver.received.map(({ bytes }) => seedOf(bytes)),
        Array.from({ length: 1000 }, (_, i) => i)
      )
      assert.match(yield* Fiber.join(seen), /UDP, length 1280/) // 64 of 20 bytes
    }).pipe(Effect.provide(peerLayer(routes)))
  })

  it.scopedLive.each(families)(
    "looks up the route again when the source is gone (IPv$family)",
    ({ family, one, two }) => {
      const routes = makeRouteCacheDouble()
      const bits = family === 4 ? 32 : 128
      const gone = family === 4 ? "10.77.0.99" : "fd77::99"
      return Effect.gen(function*() {
        const peer = yield* openPeer
        const receiver = yield* plainSocket(one)
        const { address } = receiver.local
        // IPv4 calls it unreachable, IPv6 an invalid argument.
        const lost = () => (peer.stats().dropped["no-route"] ?? 0) + (peer.stats().dropped["send-error"] ?? 0)
        ipCommand(`addr add ${gone}/${bits} dev lo`)
        routes.source = () => ip(gone)
        peer.sendNow(undefined, receiver.local, 0, datagram(0, 100))
        yield* waitFor("the first datagram", () => receiver.received.length === 1)
        assert.strictEqual(receiver.received[0]?.from.address, gone)
        assert.deepStrictEqual(routes.evicted, [])

        // The cache knows better as soon as it is told; a train of several datagrams.
        ipCommand(`addr del ${gone}/${bits} dev lo`)
        routes.source = () => routes.evicted.length === 0 ? ip(gone) : ip(two)
        const train = datagram(1, 500)
        for (let i = 0; i < 5; i++) peer.send(undefined, receiver.local, 0, train, i * 100, 100)
        peer.flush()
        yield* waitFor("the train", () => receiver.received.length === 6)
        assert.deepStrictEqual(routes.evicted, [{ destination: address, cause: "send-failed" }])
        for (const { from } of receiver.received.slice(1)) assert.strictEqual(from.address, ip(two))
        assert.deepStrictEqual(
          receiver.received.slice(1).flatMap(({ bytes }) => [...bytes]),
          [...train]
        )

        // The cache has to look first: the datagrams wait as copies.
        routes.evicted.length = 0
        routes.source = () => ip(gone)
        routes.unknownOnceEvicted = true
        const bytes = datagram(2, 100)
        peer.send(undefined, receiver.local, 0, bytes, 0, 100)
        peer.flush()
        bytes.fill(0)
        assert.strictEqual(routes.evicted.length, 1)
        assert.strictEqual(receiver.received.length, 6)
        routes.source = () => ip(two)
        routes.unknownOnceEvicted = false
        routes.unknown = false
        routes.settle()
        yield* waitFor("the copy", () => receiver.received.length === 7)
        assert.deepStrictEqual(receiver.received[6]?.bytes, datagram(2, 100))

        // Only once: a cache that insists loses the datagram, and nothing loops.
        routes.source = () => ip(gone)
        routes.evicted.length = 0
        peer.sendNow(undefined, receiver.local, 0, datagram(3, 100))
        assert.strictEqual(routes.evicted.length, 1)
        assert.strictEqual(lost(), 1)

        // A source that the caller named is not replaced.
        peer.sendNow(peer.at(gone), receiver.local, 0, datagram(4, 100))
        assert.strictEqual(lost(), 2)
        peer.sendNow(peer.at(one), receiver.local, 0, datagram(5, 100))
        yield* waitFor("the last", () => receiver.received.length === 8)
        assert.strictEqual(seedOf(receiver.received[7]?.bytes as Uint8Array), 5)
      }).pipe(Effect.provide(peerLayer(routes)))
    }
  )

  it.scopedLive("keeps copies of what has no route yet, in bounds and in order", () => {
    const routes = makeRouteCacheDouble()
    routes.unknown = true
    return Effect.gen(function*() {
      const peer = yield* openPeer
      const receiver = yield* plainSocket("127.0.0.1")
      const bytes = new Uint8Array(100)
      for (let i = 0; i < 40; i++) {
        bytes.set(datagram(i, 100))
        peer.sendNow(undefined, receiver.local, 0, bytes)
      }
      assert.strictEqual(routes.asked.length, 40)
      assert.strictEqual(peer.stats().dropped["queue-full"], 8) // 32 are kept
      routes.unknown = false
      // Known now, but nobody has said so yet: those that wait go first.
      peer.sendNow(undefined, receiver.local, 0, datagram(40, 100))
      yield* waitFor("33 datagrams", () => receiver.received.length === 33)
      assert.deepStrictEqual(
        receiver.received.map(({ bytes }) => seedOf(bytes)),
        [...Array.from({ length: 32 }, (_, i) => i), 40]
      )
      routes.settle()

      // 256 over all destinations.
      routes.unknown = true
      for (let i = 0; i < 20; i++) {
        const destination = new SocketAddress(ip(`127.0.1.${i}`), receiver.local.port)
        for (let j = 0; j < 16; j++) peer.send(undefined, destination, 0, bytes, 0, 100)
      }
      assert.strictEqual(peer.stats().dropped["queue-full"], 8 + 20 * 16 - 256)

      // Nobody finds a route: everything is dropped, after few questions.
      routes.unknown = false
      routes.source = () => undefined
      routes.asked.length = 0
      routes.settle()
      yield* waitFor("the end of all that waits", () => peer.stats().dropped["no-route"] === 256)
      assert.isAtMost(routes.asked.length, 16 * 3)
      // There is room again.
      routes.source = () => ip("127.0.0.1")
      routes.unknown = true
      peer.send(undefined, receiver.local, 0, datagram(50, 100), 0, 100)
      routes.unknown = false
      routes.settle()
      yield* waitFor("another datagram", () => receiver.received.length === 34)
    }).pipe(Effect.provide(peerLayer(routes)))
  })

  it.scopedLive.each(families)("is harmed by no datagram of any length (IPv$family)", ({ one }) => {
    const routes = makeRouteCacheDouble()
    return Effect.gen(function*() {
      const peer = yield* openPeer
      const sender = yield* plainSocket(one)
      for (let length = 0; length <= 2000; length++) {
        yield* sender.send(peer.at(one), datagram(length, length))
      }
      const stats = peer.stats
      yield* waitFor(
        "an end to each datagram",
        () => stats().received + (stats().dropped["oversized"] ?? 0) + (stats().dropped["empty"] ?? 0) === 2001
      )
      assert.strictEqual(stats().dropped["empty"], 1)
      assert.strictEqual(stats().dropped["oversized"], 2000 - 1316)
      peer.received.forEach(({ bytes }, i) => assert.deepStrictEqual(bytes, datagram(i + 1, i + 1)))
      assert.strictEqual(stats().receivedBytes, 1316 * 1317 / 2)
    }).pipe(Effect.provide(peerLayer(routes)))
  })

  it.scopedLive("drops what comes from port 0", () => {
    const routes = makeRouteCacheDouble()
    return Effect.gen(function*() {
      const peer = yield* openPeer
      sendFromPort0("127.0.0.1", 52625)
      yield* waitFor("the drop", () => peer.stats().dropped["source-port-0"] === 1)
      const sender = yield* plainSocket("127.0.0.1")
      yield* sender.send(peer.at("127.0.0.1"), datagram(1, 10))
      yield* waitFor("a good one", () => peer.received.length === 1)
      assert.strictEqual(peer.stats().received, 1)
    }).pipe(Effect.provide(peerLayer(routes)))
  })

  it.scopedLive("refuses what cannot be sent, with a count", () => {
    const routes = makeRouteCacheDouble()
    return Effect.gen(function*() {
      const peer = yield* openPeer
      const to = new SocketAddress(ip("127.0.0.1"), 9)
      const bytes = new Uint8Array(2000)
      peer.send(undefined, to, 0, bytes, 0, 1317)
      peer.send(undefined, to, 0, bytes, 0, 0)
      peer.send(peer.at("::1"), to, 0, bytes, 0, 10)
      peer.flush()
      const { dropped, sent } = peer.stats()
      assert.strictEqual(sent, 0)
      assert.strictEqual(dropped["oversized"], 1)
      assert.strictEqual(dropped["empty"], 1)
      assert.strictEqual(dropped["send-error"], 1)
      assert.throws(() => peer.send(undefined, to, 0, bytes, 1990, 11), RangeError)
      // Nowhere: the kernel says so.
      routes.source = () => ip("127.0.0.1")
      peer.sendNow(undefined, new SocketAddress(ip("203.0.113.1"), 9), 0, datagram(0, 10))
      const after = peer.stats().dropped
      assert.strictEqual((after["no-route"] ?? 0) + (after["send-error"] ?? 0), 2)
    }).pipe(Effect.provide(peerLayer(routes)))
  })

  it.scopedLive.each(families)(
    "does without segmentation offload when the kernel refuses it (IPv$family)",
    ({ one }) => {
      const routes = makeRouteCacheDouble()
      // The kernel refuses to segment for sockets that send no checksums.
      const withoutChecksums = Layer.map(SocketFactoryLinux.layer, (context) => {
        const real = Context.get(context, SocketFactory)
        return Context.make(SocketFactory, {
          ...real,
          udp: (local, options) =>
            Effect.tap(
              real.udp(local, options),
              (fd) => Effect.orDie(setOption(fd, SOL_SOCKET, SO_NO_CHECK, 1, "SO_NO_CHECK"))
            )
        })
      })
      const layer = PeerSocketLinux.layer.pipe(
        Layer.provideMerge(withoutChecksums),
        Layer.provideMerge(Layer.merge(ReadinessPollerKoffi.layer, routes.layer))
      )
      return Effect.gen(function*() {
        const peer = yield* openPeer
        const receiver = yield* plainSocket(one.includes(":") ? "::1" : "127.0.0.1")
        const arena = new Uint8Array(100 * 100)
        for (let i = 0; i < 100; i++) arena.set(datagram(i, 100), i * 100)
        for (let i = 0; i < 100; i++) peer.send(undefined, receiver.local, i < 70 ? 0 : 1, arena, i * 100, 100)
        peer.flush()
        // IPv6 receivers refuse datagrams without a checksum: there, what was sent has to do.
        assert.strictEqual(peer.stats().sent, 100)
        for (let i = 0; i < 100; i++) peer.send(undefined, receiver.local, 0, arena, i * 100, 100)
        peer.flush()
        assert.strictEqual(peer.stats().sent, 200)
        assert.deepStrictEqual(routes.evicted, [])
        if (one.includes(":")) return
        yield* waitFor("all datagrams", () => receiver.received.length === 200)
        receiver.received.forEach(({ bytes }, i) => assert.strictEqual(seedOf(bytes), i % 100))
      }).pipe(Effect.provide(layer))
    }
  )

  it.scopedLive("drops what the interface does not take, and only that", () => {
    const routes = makeRouteCacheDouble()
    return Effect.gen(function*() {
      ipCommand("link add small type veth peer name small2")
      yield* Effect.addFinalizer(() => Effect.sync(() => ipCommand("link del small")))
      ipCommand("link set small mtu 1000 up")
      ipCommand("link set small2 mtu 1000 up")
      ipCommand("addr add 10.78.0.1/24 dev small")
      ipCommand("neigh add 10.78.0.2 lladdr 02:00:00:00:00:02 dev small")
      routes.source = () => ip("10.78.0.1")
      const peer = yield* openPeer
      const to = new SocketAddress(ip("10.78.0.2"), 9)
      const bytes = new Uint8Array(1316)
      for (let i = 0; i < 10; i++) peer.send(undefined, to, 0, bytes, 0, 1316)
      peer.send(undefined, to, 0, bytes, 0, 900) // the last of that train, and small enough
      peer.flush()
      assert.strictEqual(peer.stats().dropped["oversized"], 10)
      assert.strictEqual(peer.stats().sent, 1)
      assert.strictEqual(routes.evicted.length, 0)
      for (let i = 0; i < 10; i++) peer.send(undefined, to, 0, bytes, 0, 900)
      peer.flush()
      assert.strictEqual(peer.stats().sent, 11)
    }).pipe(Effect.provide(peerLayer(routes)))
  })

  it.scopedLive("keeps a bounded backlog while the system's buffer is full", () => {
    const routes = makeRouteCacheDouble()
    return Effect.gen(function*() {
      ipCommand("link add slow type veth peer name slow2")
      yield* Effect.addFinalizer(() => Effect.sync(() => ipCommand("link del slow")))
      ipCommand("link set slow up")
      ipCommand("link set slow2 up")
      ipCommand("addr add 10.79.0.1/24 dev slow")
      ipCommand("neigh add 10.79.0.2 lladdr 02:00:00:00:00:02 dev slow")
      run("tc", ..."qdisc add dev slow root tbf rate 10mbit burst 20000 limit 10000000".split(" "))
      routes.source = () => ip("10.79.0.1")
      const peer = yield* openPeer
      const to = new SocketAddress(ip("10.79.0.2"), 9)
      // The system takes less than half of them, and 128 more wait: without offloads, as many as there are messages.
      const datagrams = 200
      const seen = yield* sniff("udp and port 9", datagrams, "slow2", "-x")
      const bytes = new Uint8Array(1000)
      for (let i = 0; i < datagrams; i++) {
        bytes.set(datagram(i, 1000))
        peer.sendNow(undefined, to, 0, bytes)
      }
      assert.isTrue(peer.blocked())
      assert.strictEqual(peer.stats().dropped["queue-full"], 0)
      const before = peer.stats().sent
      assert.isBelow(before, datagrams)
      yield* waitFor("the end of the backlog", () => !peer.blocked())
      assert.strictEqual(peer.unblocked(), 1)
      assert.strictEqual(peer.stats().sent, datagrams)
      const text = yield* Fiber.join(seen)
      const seeds = [...text.matchAll(/0x0010: {2}(?:[0-9a-f]{4} ){6}([0-9a-f]{4}) ([0-9a-f]{4})/g)]
        .map((match) => parseInt(`${match[1]}${match[2]}`, 16))
      assert.deepStrictEqual(seeds, Array.from({ length: datagrams }, (_, i) => i))
      // More than the backlog holds is dropped, and counted.
      for (let i = 0; i < 1000; i++) peer.sendNow(undefined, to, 0, bytes)
      const { dropped } = peer.stats()
      assert.isAbove(dropped["queue-full"] ?? 0, 500)
      assert.strictEqual(dropped["send-error"], 0)
    }).pipe(Effect.provide(peerLayer(routes, { offloads: false, sendBuffer: 100_000 })))
  })

  it.scopedLive("gives the port back when it is closed, and sends nothing afterwards", () => {
    const routes = makeRouteCacheDouble()
    return Effect.gen(function*() {
      const scope = yield* Scope.make()
      const peer = yield* Scope.extend(openPeer, scope)
      const receiver = yield* plainSocket("127.0.0.1")
      peer.send(undefined, receiver.local, 0, datagram(1, 10), 0, 10)
      yield* Scope.close(scope, Exit.void)
      peer.flush()
      peer.sendNow(undefined, receiver.local, 0, datagram(2, 10))
      assert.strictEqual(peer.stats().sent, 0)
      assert.strictEqual(peer.stats().dropped["no-socket"], 1)
      const again = yield* openPeer
      assert.strictEqual(again.port4, 52625)
      assert.strictEqual(again.port6, 52625)
      again.sendNow(undefined, receiver.local, 0, datagram(3, 10))
      yield* waitFor("a datagram", () => receiver.received.length === 1)
      assert.strictEqual(seedOf(receiver.received[0]?.bytes as Uint8Array), 3)
    }).pipe(Effect.provide(peerLayer(routes)))
  })

  it.scopedLive("serves one family where the other cannot be bound; both missing is an error", () => {
    const routes = makeRouteCacheDouble()
    const onlyFamily = (families: ReadonlyArray<number>) => {
      const factory = Layer.map(SocketFactoryLinux.layer, (context) => {
        const real = Context.get(context, SocketFactory)
        return Context.make(SocketFactory, {
          ...real,
          // An address that this host does not have stands for a family that it does not have.
          udp: (local, options) =>
            real.udp(
              families.includes(local.family)
                ? local
                : new SocketAddress(ip(local.family === 4 ? "192.0.2.9" : "2001:db8::9"), local.port),
              options
            )
        })
      })
      return PeerSocketLinux.layer.pipe(
        Layer.provide(factory),
        Layer.provide(Layer.merge(ReadinessPollerKoffi.layer, routes.layer))
      )
    }
    return Effect.gen(function*() {
      const peer = yield* Effect.provide(openPeer, onlyFamily([4]))
      assert.strictEqual(peer.port6, undefined)
      const receiver = yield* plainSocket("127.0.0.1")
      peer.sendNow(undefined, receiver.local, 0, datagram(1, 10))
      yield* waitFor("a datagram", () => receiver.received.length === 1)
      peer.sendNow(undefined, new SocketAddress(ip("::1"), 9), 0, datagram(1, 10))
      assert.strictEqual(peer.stats().dropped["no-socket"], 1)
      const error = yield* Effect.flip(Effect.provide(openPeer, onlyFamily([])))
      assert.strictEqual(error._tag, "SocketFailed")
      assert.match(error.message, /EADDRNOTAVAIL/)
    })
  })
})

const SO_NO_CHECK = 11

/** Starts tcpdump, waits until it listens, and gives what it printed about `packets` packets. */
const sniff = (filter: string, packets: number, device = "lo", ...options: ReadonlyArray<string>) =>
  Effect.gen(function*() {
    const child = yield* Effect.acquireRelease(
      Effect.sync(() =>
        spawn("tcpdump", ["-n", "-v", "-l", "-i", device, "-c", String(packets), ...options, filter], {
          stdio: ["ignore", "pipe", "pipe"]
        })
      ),
      (child) => Effect.sync(() => child.kill("SIGKILL"))
    )
    let output = ""
    let errors = ""
    child.stdout.on("data", (chunk: Buffer) => {
      output += chunk.toString()
    })
    child.stderr.on("data", (chunk: Buffer) => {
      errors += chunk.toString()
    })
    const ended = new Promise<void>((resolve) => {
      child.once("close", () => resolve())
    })
    yield* waitFor("tcpdump to listen", () => errors.includes("listening on"))
    return yield* Effect.fork(Effect.as(Effect.promise(() => ended), "").pipe(Effect.map(() => output)))
  })

const rawSocket = lazily<(family: number, type: number, protocol: number) => number>("int socket(int, int, int)")
const sendRaw = lazily<
  (fd: number, bytes: Uint8Array, length: number, flags: number, to: Uint8Array, toLength: number) => number
>("long sendto(int, const uint8_t *, size_t, int, const uint8_t *, uint32_t)")

/** A UDP header of our own making: source port 0, no checksum. */
const sendFromPort0 = (address: string, port: number): void => {
  const fd = rawSocket()(2, 3, 17)
  assert.isAbove(fd, 0)
  const bytes = Uint8Array.of(0, 0, port >> 8, port & 255, 0, 12, 0, 0, 1, 2, 3, 4)
  const to = Uint8Array.of(2, 0, 0, 0, ...address.split(".").map(Number), 0, 0, 0, 0, 0, 0, 0, 0)
  assert.strictEqual(sendRaw()(fd, bytes, bytes.length, 0, to, to.length), 12)
  closeRaw()(fd)
}
const closeRaw = lazily<(fd: number) => number>("int close(int)")
