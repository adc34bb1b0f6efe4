import { assert, it } from "@effect/vitest"
import * as Cause from "effect/Cause"
import * as Context from "effect/Context"
import * as Effect from "effect/Effect"
import * as Either from "effect/Either"
import * as Exit from "effect/Exit"
import * as Fiber from "effect/Fiber"
import * as Layer from "effect/Layer"
import * as Scope from "effect/Scope"
import * as TestClock from "effect/TestClock"
import { spawn } from "node:child_process"
import * as net from "node:net"
import { beforeAll } from "vitest"
import * as ReadinessPollerKoffi from "../../../src/layers/poll/ReadinessPollerKoffi.ts"
import * as DnsSocketLive from "../../../src/layers/socket/DnsSocketLive.ts"
import * as SocketFactoryLinux from "../../../src/layers/socket/SocketFactoryLinux.ts"
import { ip, SocketAddress } from "../../../src/protocol/wire/address.ts"
import { decodeDns, encodeQuery, RecordType } from "../../../src/protocol/wire/dns.ts"
import { DnsSocket, type DnsSocketError } from "../../../src/services/DnsSocket.ts"
import { openedSince, openSockets } from "../../support/descriptors.ts"
import { enterPrivateNetworkNamespace, ip as ipCommand } from "../../support/netns.ts"
import { describeWith } from "../../support/requires.ts"
import { makeRouteCacheDouble, type RouteCacheDouble } from "../../support/RouteCacheDouble.ts"
import { plainSocket, waitFor } from "./support.ts"

const dnsSocket = (routes: RouteCacheDouble) =>
  DnsSocketLive.layer.pipe(
    Layer.provide(SocketFactoryLinux.layer),
    Layer.provide(Layer.merge(ReadinessPollerKoffi.layer, routes.layer)),
    Layer.build,
    Effect.map(Context.get(DnsSocket))
  )

const query = (id: number, name = "example.test", type: number = RecordType.A): Uint8Array => {
  const bytes = encodeQuery(id, name, type)
  if (bytes === undefined) throw new Error(`no query for ${name}`)
  return bytes
}

/** An answer that is recognised by its last byte. */
const answer = (id: number, mark: number): Uint8Array => {
  const bytes = query(id)
  bytes[2] = 0x80
  return Uint8Array.of(...bytes, mark)
}

interface TcpResolver {
  readonly at: SocketAddress
  /** The queries that came, with their lengths in front. */
  readonly received: Array<Uint8Array>
  readonly clients: Array<{ readonly address: string; readonly port: number }>
}

/** A server that does `respond` once a whole query is there. */
const tcpResolver = (
  respond: (socket: net.Socket) => void,
  address = "127.0.0.1"
): Effect.Effect<TcpResolver, never, Scope.Scope> =>
  Effect.acquireRelease(
    Effect.promise(async () => {
      const received: Array<Uint8Array> = []
      const clients: TcpResolver["clients"] = []
      const server = net.createServer((socket) => {
        clients.push({ address: socket.remoteAddress ?? "", port: socket.remotePort ?? 0 })
        let bytes = Buffer.alloc(0)
        socket.setNoDelay(true).on("error", () => undefined).on("data", (chunk: Buffer) => {
          bytes = Buffer.concat([bytes, chunk])
          if (bytes.length < 2 || bytes.length < 2 + bytes.readUInt16BE()) return
          received.push(Uint8Array.from(bytes))
          respond(socket)
        })
      })
      await new Promise<void>((resolve) => void server.listen(0, address, resolve))
      const { port } = server.address() as net.AddressInfo
      return { server, received, clients, at: new SocketAddress(ip(address), port) }
    }),
    ({ server }) => Effect.sync(() => server.close())
  )

const framed = (message: Uint8Array): Uint8Array => Uint8Array.of(message.length >> 8, message.length & 255, ...message)

const allClosed = (before: ReadonlySet<string>) => waitFor("every socket to be closed", () => openedSince(before) === 0)

describeWith({ root: true, programs: ["ip"] }, "DNS over UDP", () => {
  beforeAll(() => {
    enterPrivateNetworkNamespace()
    for (const address of ["10.82.0.1/32", "10.82.0.2/32", "fd82::1/128", "fd82::2/128"]) {
      ipCommand(`addr add ${address} dev lo`)
    }
  })

  it.scoped.each([["10.82.0.1", "10.82.0.2"], ["fd82::1", "fd82::2"]] as const)(
    "asks %s from the source that the cache names, asked each time, and from a port of its own each",
    ([server, source]) => {
      const routes = makeRouteCacheDouble()
      routes.source = () => ip(source)
      return Effect.gen(function*() {
        const dns = yield* dnsSocket(routes)
        const resolver = yield* plainSocket(server)
        const before = openSockets()
        const queries = Array.from({ length: 40 }, (_, i) => query(i))
        const asking = yield* Effect.fork(
          Effect.forEach(queries, (query) => dns.udp(query, resolver.local), { concurrency: "unbounded" })
        )
        yield* waitFor("all queries", () => resolver.received.length === queries.length)
        // All at once, so that no port can have been used again.
        assert.strictEqual(new Set(resolver.received.map(({ from }) => from.port)).size, queries.length)
        for (const { bytes, from } of resolver.received.toReversed()) {
          assert.strictEqual(from.address, ip(source))
          yield* resolver.send(from, answer(bytes[1] as number, bytes[1] as number))
        }
        const answers = yield* Fiber.join(asking)
        assert.deepStrictEqual(answers.map((bytes) => bytes.at(-1)), queries.map((_, i) => i))
        assert.deepStrictEqual(resolver.received.map(({ bytes }) => bytes), queries)
        assert.deepStrictEqual(
          routes.asked,
          queries.map(() => ({ by: "peek" as const, destination: ip(server) }))
        )
        yield* allClosed(before)
      })
    }
  )

  it.scoped("ignores what others send, other ids and what is too short to have one", () => {
    const routes = makeRouteCacheDouble()
    return Effect.gen(function*() {
      const dns = yield* dnsSocket(routes)
      const resolver = yield* plainSocket("127.0.0.1")
      const samePort = yield* plainSocket("10.82.0.1", resolver.local.port)
      const otherPort = yield* plainSocket("127.0.0.1")
      const asking = yield* Effect.fork(dns.udp(query(0x1234), resolver.local))
      yield* waitFor("the query", () => resolver.received.length === 1)
      const { from } = resolver.received[0] as { from: SocketAddress }
      for (const impostor of [samePort, otherPort]) yield* impostor.send(from, answer(0x1234, 66))
      yield* resolver.send(from, answer(0x1235, 66))
      yield* resolver.send(from, answer(0x3412, 66))
      for (const wrong of [query(0x1234, "example.test", RecordType.TXT), query(0x1234, "example.com")]) {
        wrong[2] = 0x80
        yield* resolver.send(from, wrong)
      }
      yield* resolver.send(from, Uint8Array.of())
      yield* resolver.send(from, Uint8Array.of(0x12))
      for (let i = 0; i < 50; i++) yield* resolver.send(from, answer(i, 66)) // more than are read in one turn
      yield* resolver.send(from, answer(0x1234, 1))
      yield* resolver.send(from, answer(0x1234, 66)) // the first one counts
      assert.strictEqual((yield* Fiber.join(asking)).at(-1), 1)
    })
  })

  it.scoped("takes an answer of any size, and one without a header for none", () => {
    const routes = makeRouteCacheDouble()
    return Effect.gen(function*() {
      const dns = yield* dnsSocket(routes)
      const resolver = yield* plainSocket("127.0.0.1")
      const reply = (bytes: Uint8Array) =>
        Effect.gen(function*() {
          resolver.received.length = 0
          const asking = yield* Effect.fork(Effect.either(dns.udp(query(7), resolver.local)))
          yield* waitFor("the query", () => resolver.received.length === 1)
          yield* resolver.send((resolver.received[0] as { from: SocketAddress }).from, bytes)
          return yield* Fiber.join(asking)
        })
      const large = new Uint8Array(60_000).fill(0xab)
      large.set(query(7))
      assert.deepStrictEqual(yield* reply(large), Either.right(large))
      for (const length of [2, 11]) {
        assert.deepInclude(yield* Effect.flip(yield* reply(Uint8Array.of(0, 7, ...new Uint8Array(length - 2)))), {
          _tag: "DnsMalformed"
        })
      }
    })
  })

  it.scoped("gives up after 5 s, or the time that the caller allows, and closes the socket", () => {
    const routes = makeRouteCacheDouble()
    return Effect.gen(function*() {
      const dns = yield* dnsSocket(routes)
      const resolver = yield* plainSocket("127.0.0.1")
      const before = openSockets()
      for (const [millis, asked] of [[5000, undefined], [1000, 1000]] as const) {
        resolver.received.length = 0
        const asking = yield* Effect.fork(Effect.flip(dns.udp(query(1), resolver.local, asked)))
        yield* waitFor("the query", () => resolver.received.length === 1)
        yield* TestClock.adjust(millis - 1)
        assert.strictEqual(openedSince(before), 1)
        yield* TestClock.adjust(1)
        assert.deepInclude(yield* Fiber.join(asking), { _tag: "DnsTimedOut", resolver: resolver.local })
        yield* allClosed(before)
        assert.lengthOf(resolver.received, 1) // sent once
      }
    })
  })

  it.scoped("knows at once that nobody listens; an interrupted query leaves nothing open", () => {
    const routes = makeRouteCacheDouble()
    return Effect.gen(function*() {
      const dns = yield* dnsSocket(routes)
      const before = openSockets()
      const error = yield* Effect.flip(dns.udp(query(1), new SocketAddress(ip("127.0.0.1"), 9)))
      assert.strictEqual(error._tag, "SocketFailed")
      assert.match(error.message, /^query 127\.0\.0\.1:9: .*ECONNREFUSED/)
      yield* allClosed(before)
      const resolver = yield* plainSocket("127.0.0.1")
      const withResolver = openSockets()
      const asking = yield* Effect.fork(dns.udp(query(1), resolver.local))
      yield* waitFor("the query", () => resolver.received.length === 1)
      yield* Fiber.interrupt(asking)
      yield* allClosed(withResolver)
    })
  })

  it.scoped("looks the route up again when its source is gone, once; without a route sends nothing", () => {
    const routes = makeRouteCacheDouble()
    return Effect.gen(function*() {
      const dns = yield* dnsSocket(routes)
      const resolver = yield* plainSocket("10.82.0.1")
      routes.source = () => ip(routes.evicted.length === 0 ? "10.82.0.77" : "10.82.0.2")
      const asking = yield* Effect.fork(dns.udp(query(1), resolver.local))
      yield* waitFor("the query", () => resolver.received.length === 1)
      const { from } = resolver.received[0] as { from: SocketAddress }
      assert.strictEqual(from.address, ip("10.82.0.2"))
      yield* resolver.send(from, answer(1, 1))
      yield* Fiber.join(asking)
      assert.deepStrictEqual(routes.evicted, [{ destination: ip("10.82.0.1"), cause: "send-failed" }])
      routes.source = () => ip("10.82.0.77")
      assert.match((yield* Effect.flip(dns.udp(query(2), resolver.local))).message, /EADDRNOTAVAIL/)
      routes.source = () => undefined
      assert.strictEqual((yield* Effect.flip(dns.udp(query(3), resolver.local)))._tag, "NoRoute")
      assert.lengthOf(resolver.received, 1)
    })
  })

  it.scoped("without a fiber tells the outcome once, after the call, and nothing once it was ended", () => {
    const routes = makeRouteCacheDouble()
    return Effect.gen(function*() {
      const dns = yield* dnsSocket(routes)
      const resolver = yield* plainSocket("127.0.0.1")
      const before = openSockets()
      const outcomes: Array<Either.Either<Uint8Array, DnsSocketError>> = []
      const send = (to: SocketAddress) => {
        const { length } = outcomes
        const end = dns.unsafeUdp(query(5), to, (outcome) => outcomes.push(outcome))
        assert.lengthOf(outcomes, length)
        return end
      }
      const closed = new SocketAddress(ip("127.0.0.1"), 9)
      send(resolver.local)
      send(closed)
      yield* waitFor("the query", () => resolver.received.length === 1)
      const { from } = resolver.received[0] as { from: SocketAddress }
      yield* resolver.send(from, answer(5, 1))
      yield* resolver.send(from, answer(5, 2))
      yield* waitFor("both outcomes", () => outcomes.length === 2)
      assert.deepStrictEqual(outcomes.filter(Either.isRight).map(({ right }) => right.at(-1)), [1])
      // Known at once, but told later; and not to whoever has left by then.
      for (const failing of [() => ip("10.82.0.77"), () => undefined]) {
        routes.source = failing
        send(resolver.local)()
        send(resolver.local)
        const { length } = outcomes
        yield* waitFor("the failure", () => outcomes.length === length + 1)
      }
      assert.deepStrictEqual(outcomes.slice(2).map((outcome) => Either.isLeft(outcome) && outcome.left._tag), [
        "SocketFailed",
        "NoRoute"
      ])
      routes.source = () => ip("127.0.0.1")
      const end = send(resolver.local)
      yield* waitFor("the query", () => resolver.received.length === 2)
      end()
      end()
      yield* allClosed(before)
      assert.lengthOf(outcomes, 4)
    })
  })

  it.scoped("waits for as many answers as there are ports, and its end closes every socket", () => {
    const routes = makeRouteCacheDouble()
    return Effect.gen(function*() {
      const resolver = yield* plainSocket("127.0.0.1")
      const before = openSockets()
      const scope = yield* Scope.make()
      const dns = yield* Scope.extend(dnsSocket(routes), scope)
      const answered = new Set<number>()
      for (let id = 0; id < 300; id++) {
        dns.unsafeUdp(query(id), resolver.local, (outcome) => {
          if (Either.isRight(outcome)) answered.add((outcome.right[0] as number) << 8 | (outcome.right[1] as number))
        })
      }
      yield* waitFor("the queries", () => resolver.received.length === 300)
      // More are readable at once than one look shows.
      for (const { bytes, from } of resolver.received.slice(0, 200)) {
        const reply = bytes.slice()
        reply[2] = 0x80
        yield* resolver.send(from, reply)
      }
      yield* waitFor("the answers", () => answered.size === 200)
      assert.isAtLeast(openedSince(before), 100)
      yield* Scope.close(scope, Exit.void)
      yield* allClosed(before)
      assert.strictEqual(answered.size, 200)
    })
  })

  it.scoped("takes a query that is none for a bug", () => {
    const routes = makeRouteCacheDouble()
    return Effect.gen(function*() {
      const dns = yield* dnsSocket(routes)
      for (const length of [0, 11, 65_536]) {
        for (const exchange of [dns.udp, dns.tcp]) {
          const exit = yield* Effect.exit(exchange(new Uint8Array(length), new SocketAddress(ip("127.0.0.1"), 9)))
          assert.isTrue(Exit.isFailure(exit) && Cause.isDie(exit.cause))
        }
      }
      assert.deepStrictEqual(routes.asked, [])
    })
  })
})

describeWith({ root: true, programs: ["ip"] }, "DNS over TCP", () => {
  beforeAll(enterPrivateNetworkNamespace)

  it.scoped("frames the query with its length, on a connection of its own, from the cache's source", () => {
    const routes = makeRouteCacheDouble()
    routes.source = () => ip("127.0.0.5")
    return Effect.gen(function*() {
      const dns = yield* dnsSocket(routes)
      const resolver = yield* tcpResolver((socket) => socket.write(framed(answer(3, 1))))
      const before = openSockets()
      for (let i = 0; i < 3; i++) assert.deepStrictEqual(yield* dns.tcp(query(3), resolver.at), answer(3, 1))
      assert.deepStrictEqual(resolver.received, [1, 2, 3].map(() => framed(query(3))))
      assert.strictEqual(new Set(resolver.clients.map(({ port }) => port)).size, 3)
      for (const { address } of resolver.clients) assert.strictEqual(address, "127.0.0.5")
      assert.deepStrictEqual(routes.asked, [1, 2, 3].map(() => ({ by: "get" as const, destination: ip("127.0.0.1") })))
      yield* allClosed(before)
    })
  })

  const large = new Uint8Array(65_535).fill(0xcd)
  large.set(answer(3, 1))
  const splits: ReadonlyArray<readonly [string, ReadonlyArray<Uint8Array>, Uint8Array]> = [
    ["byte by byte", [...framed(answer(3, 1))].map((byte) => Uint8Array.of(byte)), answer(3, 1)],
    ["between length and message", [framed(answer(3, 1)).subarray(0, 2), answer(3, 1)], answer(3, 1)],
    ["at the largest size", [framed(large).subarray(0, 30_000), framed(large).subarray(30_000)], large],
    ["with more behind it", [Uint8Array.of(...framed(answer(3, 1)), ...framed(answer(3, 2)))], answer(3, 1)]
  ]
  it.scoped.each(splits)("puts an answer together that comes %s", ([, pieces, whole]) => {
    const routes = makeRouteCacheDouble()
    return Effect.gen(function*() {
      const dns = yield* dnsSocket(routes)
      const resolver = yield* tcpResolver(async (socket) => {
        for (const piece of pieces) {
          socket.write(piece)
          await new Promise((resolve) => setImmediate(resolve))
        }
      })
      assert.deepStrictEqual(yield* dns.tcp(query(3), resolver.at), whole)
    })
  })

  const noAnswers: ReadonlyArray<readonly [string, Uint8Array]> = [
    ["nothing", Uint8Array.of()],
    ["half a length", Uint8Array.of(0)],
    ["a message cut short", framed(answer(3, 1)).subarray(0, 20)],
    ["a length without room for a header", Uint8Array.of(0, 11, ...new Uint8Array(11))],
    ["another id", framed(answer(4, 1))]
  ]
  it.scoped.each(noAnswers)("does not take %s for an answer", ([, bytes]) => {
    const routes = makeRouteCacheDouble()
    return Effect.gen(function*() {
      const dns = yield* dnsSocket(routes)
      const resolver = yield* tcpResolver((socket) => socket.end(bytes))
      const before = openSockets()
      const error = yield* Effect.flip(dns.tcp(query(3), resolver.at))
      assert.deepInclude(error, { _tag: "DnsMalformed", resolver: resolver.at })
      yield* allClosed(before)
    })
  })

  it.scoped("tells a reset, a refusal and silence apart, and closes the connection", () => {
    const routes = makeRouteCacheDouble()
    return Effect.gen(function*() {
      const dns = yield* dnsSocket(routes)
      const resetting = yield* tcpResolver((socket) => socket.resetAndDestroy())
      const silent = yield* tcpResolver(() => undefined)
      const before = openSockets()
      assert.match((yield* Effect.flip(dns.tcp(query(3), resetting.at))).message, /ECONNRESET/)
      assert.match(
        (yield* Effect.flip(dns.tcp(query(3), new SocketAddress(ip("127.0.0.1"), 9)))).message,
        /^connect to 127\.0\.0\.1:9: connect: ECONNREFUSED/
      )
      yield* allClosed(before)
      const asking = yield* Effect.fork(Effect.flip(dns.tcp(query(3), silent.at)))
      yield* waitFor("the query", () => silent.received.length === 1)
      yield* TestClock.adjust("5 seconds")
      assert.deepInclude(yield* Fiber.join(asking), { _tag: "DnsTimedOut" })
      yield* allClosed(before)
    })
  })
})

describeWith({ root: true, programs: ["ip", "dnsmasq"] }, "DNS with dnsmasq", () => {
  beforeAll(enterPrivateNetworkNamespace)

  it.scoped("resolves over UDP, and over TCP what does not fit", () => {
    const routes = makeRouteCacheDouble()
    const texts = Array.from({ length: 10 }, (_, i) => `${i}`.repeat(200))
    const resolver = new SocketAddress(ip("127.0.0.1"), 5300)
    return Effect.gen(function*() {
      yield* dnsmasq([
        "--port=5300",
        "--listen-address=127.0.0.1",
        "--address=/small.test/192.0.2.80",
        ...texts.map((text) => `--txt-record=large.test,${text}`)
      ])
      const dns = yield* dnsSocket(routes)
      const ask = (transport: "udp" | "tcp", name: string, type: number) =>
        Effect.map(dns[transport](query(0x4242, name, type), resolver), (bytes) => {
          const message = decodeDns(bytes)
          if (message === undefined) throw new Error("no DNS message")
          assert.strictEqual(message.id, 0x4242)
          return message
        })
      for (const transport of ["udp", "tcp"] as const) {
        const { answers } = yield* ask(transport, "small.test", RecordType.A)
        assert.deepStrictEqual(answers.map(({ data }) => data), [{ _tag: "Address", address: ip("192.0.2.80") }])
      }
      const cut = yield* ask("udp", "large.test", RecordType.TXT)
      assert.isTrue(cut.truncated)
      const whole = yield* ask("tcp", "large.test", RecordType.TXT)
      assert.isFalse(whole.truncated)
      assert.lengthOf(whole.answers, texts.length)
    })
  })
})

/** dnsmasq in this process's namespace, once it listens. */
const dnsmasq = (options: ReadonlyArray<string>) =>
  Effect.acquireRelease(
    Effect.sync(() =>
      spawn(
        "dnsmasq",
        [
          "--keep-in-foreground",
          "--conf-file=/dev/null",
          "--no-resolv",
          "--no-hosts",
          "--log-facility=-",
          "--pid-file=",
          "--user=root",
          ...options
        ],
        { stdio: ["ignore", "ignore", "pipe"] }
      )
    ),
    (child) => Effect.sync(() => child.kill("SIGKILL"))
  ).pipe(Effect.tap((child) => {
    let log = ""
    child.stderr.on("data", (chunk: Buffer) => {
      log += chunk.toString()
    })
    return waitFor("dnsmasq to start", () => log.includes("started"))
  }))
