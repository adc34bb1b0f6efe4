/** Queries outside the tunnel: to real servers, over real sockets (tunnel spec 12.9). */
import { assert, it } from "@effect/vitest"
import * as packet from "dns-packet"
import * as Context from "effect/Context"
import * as Effect from "effect/Effect"
import * as Layer from "effect/Layer"
import * as fs from "node:fs"
import * as http2 from "node:http2"
import * as net from "node:net"
import { beforeAll, vi } from "vitest"
import * as DnsForwarderLive from "../../../src/layers/dns/DnsForwarderLive.ts"
import * as ReadinessPollerKoffi from "../../../src/layers/poll/ReadinessPollerKoffi.ts"
import * as DnsSocketLive from "../../../src/layers/socket/DnsSocketLive.ts"
import * as SocketFactoryLinux from "../../../src/layers/socket/SocketFactoryLinux.ts"
import type { Upstream } from "../../../src/protocol/dns/upstreams.ts"
import { ip } from "../../../src/protocol/wire/address.ts"
import { DnsForwarder, type ForwardOutcome } from "../../../src/services/DnsForwarder.ts"
import { openedSince, openSockets } from "../../support/descriptors.ts"
import { type HostResolverDouble, makeHostResolverDouble } from "../../support/HostResolverDouble.ts"
import { enterPrivateNetworkNamespace, ip as ipCommand } from "../../support/netns.ts"
import { describeWith } from "../../support/requires.ts"
import { makeRouteCacheDouble } from "../../support/RouteCacheDouble.ts"
import { plainSocket, waitFor } from "../socket/support.ts"
import { dnsmasq, makeAuthority, temporaryFolder, unbound } from "./servers.ts"

const HOST = "dns.test"
const URL = `https://${HOST}/dns-query`
const doh: Upstream = { _tag: "DoH", url: URL }
const do53 = (address: string): Upstream => ({ _tag: "Do53", address: ip(address) })

const encode = (name: string, type = "A", id = 0x1234): Uint8Array =>
  Uint8Array.from(
    packet.encode({ type: "query", id, flags: packet.RECURSION_DESIRED, questions: [{ type: type as "A", name }] })
  )

const make = (hosts: HostResolverDouble = makeHostResolverDouble(), trustedRoots?: string) =>
  Effect.gen(function*() {
    const context = yield* Layer.build(
      DnsForwarderLive.layerWith({ trustedRoots }).pipe(
        Layer.provide(DnsSocketLive.layer),
        Layer.provide(SocketFactoryLinux.layer),
        Layer.provide(Layer.mergeAll(ReadinessPollerKoffi.layer, makeRouteCacheDouble().layer, hosts.layer))
      )
    )
    const outcomes = new Map<number, ForwardOutcome>()
    const forwarding = yield* Context.get(context, DnsForwarder).open((id, outcome) => {
      if (outcomes.has(id)) throw new Error(`two outcomes of ${id}`)
      outcomes.set(id, outcome)
    })
    let last = 0
    return {
      ...forwarding,
      outcomes,
      send: (upstream: Upstream, message: Uint8Array, transport: "udp" | "tcp" = "udp"): number => {
        forwarding.forward({ id: ++last, transport, upstream, message })
        if (outcomes.has(last)) throw new Error("the outcome came before the call returned")
        return last
      },
      outcome: (id: number) =>
        Effect.map(waitFor(`the outcome of ${id}`, () => outcomes.has(id)), () => outcomes.get(id) as ForwardOutcome)
    }
  })

const answersOf = (outcome: ForwardOutcome): ReadonlyArray<unknown> => {
  if (typeof outcome === "string") throw new Error(outcome)
  return (packet.decode(Buffer.from(outcome)).answers ?? []).map((answer) => (answer as packet.StringAnswer).data)
}

describeWith({ root: true, programs: ["ip", "dnsmasq"] }, "forwarding to resolvers", () => {
  beforeAll(() => {
    enterPrivateNetworkNamespace()
    for (const address of ["10.83.0.1/32", "fd83::1/128"]) ipCommand(`addr add ${address} dev lo`)
  })

  it.scopedLive.each(["10.83.0.1", "fd83::1"])("asks %s over UDP and TCP", (address) =>
    Effect.gen(function*() {
      yield* dnsmasq(address, ["--host-record=a.test,192.0.2.80", "--txt-record=large.test,".concat("x".repeat(250))])
      const forwarder = yield* make()
      const before = openSockets()
      for (const transport of ["udp", "tcp"] as const) {
        const id = forwarder.send(do53(address), encode("a.test"), transport)
        assert.deepStrictEqual(answersOf(yield* forwarder.outcome(id)), ["192.0.2.80"])
      }
      yield* waitFor("every socket to be closed", () => openedSince(before) === 0)
    }))

  it.scopedLive("asks many at once", () =>
    Effect.gen(function*() {
      yield* dnsmasq("10.83.0.1", ["--address=/many.test/192.0.2.81"])
      const forwarder = yield* make()
      const before = openSockets()
      const ids = Array.from({ length: 100 }, (_, i) =>
        forwarder.send(do53("10.83.0.1"), encode(`n${i}.many.test`, "A", i)))
      for (const [i, id] of ids.entries()) {
        const outcome = yield* forwarder.outcome(id)
        assert.deepStrictEqual(answersOf(outcome), ["192.0.2.81"])
        assert.strictEqual((outcome[0] as number) << 8 | (outcome[1] as number), i)
      }
      yield* waitFor("every socket to be closed", () =>
        openedSince(before) === 0)
    }))

  it.scopedLive("fails where nobody listens, over either transport", () =>
    Effect.gen(function*() {
      const forwarder = yield* make()
      for (const transport of ["udp", "tcp"] as const) {
        const id = forwarder.send(do53("10.83.0.99"), encode("a.test"), transport)
        assert.strictEqual(yield* forwarder.outcome(id), "failed")
      }
      const refused = forwarder.send(do53("127.0.0.1"), encode("a.test"))
      assert.strictEqual(yield* forwarder.outcome(refused), "failed")
    }))

  it.scopedLive("gives up after 5 s, forgets at a reset what is under way, and the scope ends everything", () =>
    Effect.gen(function*() {
      const silent = yield* plainSocket("10.83.0.1", 53)
      const before = openSockets()
      const forwarder = yield* make()
      vi.useFakeTimers({ toFake: ["setTimeout", "clearTimeout", "performance"] })
      yield* Effect.addFinalizer(() => Effect.sync(() => vi.useRealTimers()))
      const first = forwarder.send(do53("10.83.0.1"), encode("a.test"))
      vi.advanceTimersByTime(2000)
      const second = forwarder.send(do53("10.83.0.1"), encode("b.test"))
      vi.advanceTimersByTime(2999)
      assert.deepStrictEqual([...forwarder.outcomes], [])
      vi.advanceTimersByTime(2)
      assert.deepStrictEqual([...forwarder.outcomes], [[first, "timed-out"]])
      vi.advanceTimersByTime(2000)
      assert.strictEqual(forwarder.outcomes.get(second), "timed-out")
      forwarder.send(do53("10.83.0.1"), encode("c.test"))
      forwarder.reset()
      vi.advanceTimersByTime(10_000)
      assert.strictEqual(forwarder.outcomes.size, 2)
      vi.useRealTimers()
      yield* waitFor("three queries", () => silent.received.length === 3)
      assert.strictEqual(openedSince(before), 0)
    }))
})

/** A DoH server that does what the test says; `respond` gets the path of each request. */
const dohServer = (
  { certificate, key }: { readonly certificate: string; readonly key: string },
  respond: (stream: http2.ServerHttp2Stream, headers: http2.IncomingHttpHeaders) => void,
  port = 443
) =>
  Effect.acquireRelease(
    Effect.promise(async () => {
      const sessions = new Set<http2.ServerHttp2Session>()
      let count = 0
      const server = http2.createSecureServer({ key: fs.readFileSync(key), cert: fs.readFileSync(certificate) })
      server.on("session", (session) => {
        count += 1
        sessions.add(session)
        session.on("close", () => sessions.delete(session)).on("error", () => undefined)
      })
      server.on("stream", (stream, headers) => {
        stream.on("error", () => undefined)
        respond(stream, headers)
      })
      await new Promise<void>((resolve) => void server.listen(port, "10.84.0.1", resolve))
      return { server, sessions, count: () => count }
    }),
    ({ server, sessions }) =>
      Effect.promise(() => {
        for (const session of sessions) session.destroy()
        return new Promise<void>((resolve) => void server.close(() => resolve()))
      })
  )

/** A path to the server at `port` that can be made to lose everything. */
const interruptible = (port: number) =>
  Effect.acquireRelease(
    Effect.promise(async () => {
      const sockets: Array<net.Socket> = []
      const server = net.createServer((near) => {
        const far = net.connect(port, "10.84.0.1")
        sockets.push(near, far)
        for (const [from, to] of [[near, far], [far, near]] as const) {
          from.on("data", (bytes: Buffer) => void to.write(bytes))
          from.on("error", () => undefined)
          from.on("close", () => to.destroy())
        }
      })
      await new Promise<void>((resolve) => void server.listen(443, "10.84.0.1", resolve))
      return {
        interrupt: () => {
          for (const socket of sockets) socket.removeAllListeners("data").pause()
        },
        server,
        sockets
      }
    }),
    ({ server, sockets }) =>
      Effect.sync(() => {
        server.close()
        for (const socket of sockets) socket.destroy()
      })
  )

describeWith({ root: true, programs: ["ip", "openssl", "unbound"] }, "forwarding to DNS over HTTPS", () => {
  beforeAll(() => {
    enterPrivateNetworkNamespace()
    ipCommand("addr add 10.84.0.1/32 dev lo")
  })
  const resolvable = () => {
    const hosts = makeHostResolverDouble()
    // The first one is dead.
    hosts.addresses.set(HOST, [ip("10.84.0.9"), ip("10.84.0.1")])
    return hosts
  }
  type Forwarder = Effect.Effect.Success<ReturnType<typeof make>>
  /** Asks until there is a connection: before that a query fails at once. */
  const connected = (forwarder: Forwarder) =>
    Effect.gen(function*() {
      for (let tries = 0; tries < 500; tries++) {
        const outcome = yield* forwarder.outcome(forwarder.send(doh, encode("a.test", "A", 0)))
        if (outcome !== "failed") return outcome
        yield* Effect.sleep("10 millis")
      }
      return yield* Effect.dieMessage("there was never a connection")
    })

  it.scopedLive("asks unbound over one connection, made before the first query", () =>
    Effect.gen(function*() {
      const folder = yield* temporaryFolder
      const authority = makeAuthority(folder, HOST)
      yield* unbound(folder, "10.84.0.1", authority, [
        "a.test. 60 IN A 192.0.2.82",
        `big.test. 60 IN TXT "${"x".repeat(250)}"`
      ])
      const before = openSockets()
      const forwarder = yield* make(resolvable(), authority.root)
      forwarder.prepare([doh])
      assert.deepStrictEqual(answersOf(yield* connected(forwarder)), ["192.0.2.82"])
      const ids = Array.from({ length: 50 }, () => forwarder.send(doh, encode("a.test", "A", 0), "tcp"))
      for (const id of ids) assert.deepStrictEqual(answersOf(yield* forwarder.outcome(id)), ["192.0.2.82"])
      assert.strictEqual(openedSince(before), 1)
      const missing = yield* forwarder.outcome(forwarder.send(doh, encode("missing.test", "A", 0)))
      assert.strictEqual((missing[3] as number) & 15, 3) // NXDOMAIN is an answer
      forwarder.prepare([])
      yield* waitFor("the connection to be closed", () => openedSince(before) === 0)
    }))

  it.scopedLive("fails at once while there is no connection, and begins to make one", () =>
    Effect.gen(function*() {
      const folder = yield* temporaryFolder
      const authority = makeAuthority(folder, HOST)
      const server = yield* dohServer(authority, (stream) => {
        stream.respond({ ":status": 200, "content-type": "application/dns-message" })
        stream.end(Buffer.from([1, 2, 3]))
      })
      const forwarder = yield* make(resolvable(), authority.root)
      assert.strictEqual(yield* forwarder.outcome(forwarder.send(doh, encode("a.test"))), "failed")
      assert.deepStrictEqual(yield* connected(forwarder), Uint8Array.of(1, 2, 3)) // read by whoever asked
      assert.strictEqual(server.count(), 1)
    }))

  it.scopedLive("tries again a second after it failed, and at once after a reset", () =>
    Effect.gen(function*() {
      const hosts = makeHostResolverDouble()
      const forwarder = yield* make(hosts)
      vi.useFakeTimers({ toFake: ["performance"] })
      yield* Effect.addFinalizer(() => Effect.sync(() => vi.useRealTimers()))
      const askThrice = Effect.gen(function*() {
        for (let i = 0; i < 3; i++) {
          assert.strictEqual(yield* forwarder.outcome(forwarder.send(doh, encode("a.test"))), "failed")
        }
        return hosts.asked.length
      })
      assert.strictEqual(yield* askThrice, 1)
      vi.advanceTimersByTime(999)
      assert.strictEqual(yield* askThrice, 1)
      vi.advanceTimersByTime(1)
      assert.strictEqual(yield* askThrice, 2)
      forwarder.reset()
      assert.strictEqual(yield* askThrice, 3)
      forwarder.prepare([doh])
      assert.strictEqual(yield* askThrice, 4)
    }))

  it.scopedLive("sends what RFC 8484 says", () =>
    Effect.gen(function*() {
      const folder = yield* temporaryFolder
      const authority = makeAuthority(folder, HOST)
      const requests: Array<http2.IncomingHttpHeaders> = []
      yield* dohServer(authority, (stream, headers) => {
        requests.push(headers)
        stream.respond({ ":status": 200, "content-type": "application/dns-message" })
        stream.end(Buffer.from(encode("a.test")))
      })
      const forwarder = yield* make(resolvable(), authority.root)
      yield* connected(forwarder)
      yield* forwarder.outcome(forwarder.send(doh, encode("www.example.com", "A", 0)))
      const { ":authority": host, ":method": method, ":path": path, ":scheme": scheme, accept } = requests.at(-1) ?? {}
      assert.deepStrictEqual([method, scheme, host, path, accept], [
        "GET",
        "https",
        HOST,
        "/dns-query?dns=AAABAAABAAAAAAAAA3d3dwdleGFtcGxlA2NvbQAAAQAB",
        "application/dns-message"
      ])
    }))

  it.scopedLive("fails what is answered otherwise, and goes on", () =>
    Effect.gen(function*() {
      const folder = yield* temporaryFolder
      const authority = makeAuthority(folder, HOST)
      const right = { ":status": 200, "content-type": "application/dns-message" }
      const answers: Array<(stream: http2.ServerHttp2Stream) => void> = [
        (stream) => stream.respond({ ...right, ":status": 503 }, { endStream: true }),
        (stream) => stream.respond({ ...right, ":status": 204 }, { endStream: true }),
        (stream) => stream.respond({ ...right, "content-type": "text/html" }, { endStream: true }),
        (stream) =>
          stream.respond({ ...right, "content-type": "application/dns-message; charset=x" }, { endStream: true }),
        (stream) => stream.respond({ ":status": 200 }, { endStream: true }),
        (stream) => {
          stream.respond(right)
          stream.end(Buffer.alloc(70_000))
        },
        (stream) => {
          stream.respond(right)
          stream.write(Buffer.from(encode("a.test")), () => stream.destroy(new Error("broken")))
        },
        (stream) => stream.close(http2.constants.NGHTTP2_REFUSED_STREAM)
      ]
      let next: (typeof answers)[number] | undefined
      const server = yield* dohServer(authority, (stream) => {
        if (next !== undefined) return next(stream)
        stream.respond(right)
        stream.end(Buffer.from(encode("a.test")))
      })
      const forwarder = yield* make(resolvable(), authority.root)
      yield* connected(forwarder)
      for (const answer of answers) {
        next = answer
        assert.strictEqual(yield* forwarder.outcome(forwarder.send(doh, encode("a.test"))), "failed")
      }
      next = undefined
      assert.notStrictEqual(yield* forwarder.outcome(forwarder.send(doh, encode("a.test"))), "failed")
      assert.strictEqual(server.count(), 1)
    }))

  it.scopedLive("makes a new connection after the server closed one, or says that it will, and after a reset", () =>
    Effect.gen(function*() {
      const folder = yield* temporaryFolder
      const authority = makeAuthority(folder, HOST)
      let isSilent = false
      let unanswered = 0
      const server = yield* dohServer(authority, (stream) => {
        if (isSilent) return void unanswered++
        stream.respond({ ":status": 200, "content-type": "application/dns-message" })
        stream.end(Buffer.from(encode("a.test")))
      })
      const forwarder = yield* make(resolvable(), authority.root)
      forwarder.prepare([doh])
      yield* connected(forwarder)
      isSilent = true
      const pending = forwarder.send(doh, encode("a.test"))
      yield* waitFor("the query", () => unanswered === 1)
      for (const session of server.sessions) session.destroy()
      assert.strictEqual(yield* forwarder.outcome(pending), "failed")
      isSilent = false
      yield* connected(forwarder)
      assert.strictEqual(server.count(), 2)
      for (const session of server.sessions) session.goaway()
      yield* waitFor("the connection to be given up", () => {
        const id = forwarder.send(doh, encode("a.test"))
        return id > 0 && server.count() === 3
      })
      yield* connected(forwarder)
      const abandoned = forwarder.send(doh, encode("a.test"))
      forwarder.reset()
      yield* waitFor("a connection without a query", () => server.count() === 4)
      assert.isFalse(forwarder.outcomes.has(abandoned))
    }))

  it.scopedLive("trusts nobody without a certificate of the host under a root that it knows", () =>
    Effect.gen(function*() {
      const folder = yield* temporaryFolder
      const authority = makeAuthority(folder, "other.test")
      const server = yield* dohServer(authority, (stream) => stream.end())
      for (const roots of [authority.root, undefined]) {
        const hosts = resolvable()
        const forwarder = yield* make(hosts, roots)
        const before = openSockets()
        forwarder.prepare([doh])
        yield* waitFor("an attempt", () => hosts.asked.length === 1 && openedSince(before) === 0)
        assert.strictEqual(yield* forwarder.outcome(forwarder.send(doh, encode("a.test"))), "failed")
      }
      assert.strictEqual(server.count(), 0)
    }))

  it.scopedLive("gives up a connection that does not answer a ping within a second, and pings every 5 s", () =>
    Effect.gen(function*() {
      const folder = yield* temporaryFolder
      const authority = makeAuthority(folder, HOST)
      const server = yield* dohServer(authority, (stream) => {
        stream.respond({ ":status": 200, "content-type": "application/dns-message" })
        stream.end(Buffer.from(encode("a.test")))
      }, 8443)
      const path = yield* interruptible(8443)
      const forwarder = yield* make(resolvable(), authority.root)
      vi.useFakeTimers({ toFake: ["setInterval", "clearInterval"] })
      yield* Effect.addFinalizer(() => Effect.sync(() => vi.useRealTimers()))
      yield* connected(forwarder)
      let pings = 0
      for (const session of server.sessions) session.on("ping", () => pings++)
      for (let i = 1; i <= 3; i++) {
        vi.advanceTimersByTime(5000)
        yield* waitFor("the ping", () => pings === i)
      }
      yield* connected(forwarder)
      assert.strictEqual(server.count(), 1)
      path.interrupt()
      vi.advanceTimersByTime(5000)
      const pending = forwarder.send(doh, encode("a.test"))
      assert.strictEqual(yield* forwarder.outcome(pending), "failed")
    }))

  it.scopedLive("leaves nothing open of a server that cannot be resolved, is silent, or speaks no HTTP/2", () =>
    Effect.gen(function*() {
      const silent = yield* Effect.acquireRelease(
        Effect.promise(async () => {
          const server = net.createServer()
          await new Promise<void>((resolve) => void server.listen(443, "10.84.0.1", resolve))
          return server
        }),
        (server) => Effect.sync(() => server.close())
      )
      let accepted = 0
      silent.on("connection", (socket) => {
        accepted += 1
        socket.on("error", () => undefined)
      })
      const before = openSockets()
      const forwarder = yield* make(makeHostResolverDouble())
      forwarder.prepare([doh])
      assert.strictEqual(yield* forwarder.outcome(forwarder.send(doh, encode("a.test"))), "failed")
      const hanging = yield* make(resolvable())
      hanging.prepare([doh])
      yield* waitFor("the connection", () => accepted === 1)
      hanging.prepare([])
      yield* waitFor("everything to be closed", () => openedSince(before) <= 1) // the server's end
    }))
})
