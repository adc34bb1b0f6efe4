/** Against the kernel, in network namespaces: what comes back to an echo request, and what only looks like it. */
import { assert, it } from "@effect/vitest"
import * as Effect from "effect/Effect"
import * as Either from "effect/Either"
import * as Layer from "effect/Layer"
import type * as Scope from "effect/Scope"
import * as dgram from "node:dgram"
import * as fs from "node:fs"
import { beforeAll } from "vitest"
import { openIcmpSocket } from "../../../src/ffi/linux/icmpSocket.ts"
import {
  AF_INET,
  closeSocket,
  connectSocket,
  DatagramReader,
  encodeSockaddr,
  sendDatagram
} from "../../../src/ffi/linux/socket.ts"
import * as ReadinessPollerKoffi from "../../../src/layers/poll/ReadinessPollerKoffi.ts"
import { layerFor } from "../../../src/layers/probe/ResourceProbeHost.ts"
import * as ResourceProbeLinux from "../../../src/layers/probe/ResourceProbeLinux.ts"
import { ip, ipToBytes } from "../../../src/protocol/wire/address.ts"
import { addressRecord, decodeDns, encodeDns, responseTo } from "../../../src/protocol/wire/dns.ts"
import { behindIpv4Header } from "../../../src/protocol/wire/echo.ts"
import { ResourceProbe } from "../../../src/services/ResourceProbe.ts"
import { openedSince, openSockets } from "../../support/descriptors.ts"
import { enterPrivateNetworkNamespace, ip as ipCommand, makeNamespace } from "../../support/netns.ts"
import { describeWith } from "../../support/requires.ts"

const layer = Layer.provide(ResourceProbeLinux.layer, ReadinessPollerKoffi.layer)
const LONG = 10_000
const SHORT = 300

const allow = (groups: string): void => fs.writeFileSync("/proc/sys/net/ipv4/ping_group_range", groups)
const raw = "1 0"
const datagrams = "0 0"

const echo = (address: string, patienceMillis = LONG, sequence = 1) =>
  Effect.scoped(Effect.gen(function*() {
    const { echo, source } = yield* (yield* ResourceProbe).open(ip(address))
    return { source, outcome: yield* echo(sequence, patienceMillis) }
  }))

/** A router behind a link, with routes that refuse. */
const router: Effect.Effect<void, never, Scope.Scope> = Effect.gen(function*() {
  const peer = yield* makeNamespace("probe")
  ipCommand(`link add up0 type veth peer name down0 netns ${peer.name}`)
  yield* Effect.addFinalizer(() => Effect.sync(() => ipCommand("link del up0")))
  ipCommand("addr add 192.0.2.1/24 dev up0")
  ipCommand("addr add 2001:db8::1/64 dev up0 nodad")
  ipCommand("link set up0 up")
  for (
    const args of [
      "addr add 192.0.2.2/24 dev down0",
      "addr add 2001:db8::2/64 dev down0 nodad",
      "link set down0 up",
      "route add prohibit 198.51.100.0/25",
      "route add unreachable 198.51.100.128/25",
      "route add prohibit 2001:db8:1::/64",
      "route add blackhole 203.0.113.0/24"
    ]
  ) peer.run("ip", ...args.split(" "))
  peer.run("sh", "-c", "echo 1 > /proc/sys/net/ipv4/ip_forward; echo 1 > /proc/sys/net/ipv6/conf/all/forwarding")
  for (const network of ["198.51.100.0/24", "203.0.113.0/24"]) ipCommand(`route add ${network} via 192.0.2.2`)
  ipCommand("route add 2001:db8:1::/64 via 2001:db8::2")
})

describeWith({ root: true, programs: ["ip"] }, "echo requests through the kernel", () => {
  beforeAll(enterPrivateNetworkNamespace)

  for (const [kind, groups] of [["a raw socket", raw], ["a datagram socket", datagrams]] as const) {
    it.live(`are answered, over ${kind}`, () =>
      Effect.gen(function*() {
        allow(groups)
        for (const address of ["127.0.0.1", "::1"]) {
          const { outcome, source } = yield* echo(address)
          assert.strictEqual(source, address)
          assert.strictEqual(outcome._tag, "Answered")
          assert.isAbove(outcome._tag === "Answered" ? outcome.millis : 0, 0)
        }
      }).pipe(Effect.provide(layer)))

    it.live(`are refused by whoever says so, or met with silence, over ${kind}`, () =>
      Effect.gen(function*() {
        allow(groups)
        yield* router
        const cases = [
          ["198.51.100.1", "192.0.2.2", true],
          ["198.51.100.129", "192.0.2.2", false],
          ["2001:db8:1::1", "2001:db8::2", true]
        ] as const
        for (const [address, from, isProhibited] of cases) {
          const { outcome } = yield* echo(address)
          assert.strictEqual(outcome._tag, "Refused", address)
          assert.deepInclude(outcome, { from: ip(from), isProhibited })
        }
        const silent = yield* echo("203.0.113.1", SHORT)
        assert.deepStrictEqual(silent.outcome, { _tag: "Silent" })
      }).pipe(Effect.scoped, Effect.provide(layer)))
  }

  it.live("do not mix, however many are under way, and leave no descriptor", () =>
    Effect.gen(function*() {
      allow(raw)
      yield* router
      const before = openSockets()
      yield* Effect.scoped(Effect.gen(function*() {
        const probe = yield* ResourceProbe
        const near = yield* probe.open(ip("192.0.2.2"))
        const refused = yield* probe.open(ip("198.51.100.1"))
        const outcomes = yield* Effect.forEach(
          Array.from({ length: 60 }, (_, index) => index),
          (index) => (index % 2 === 0 ? near : refused).echo(index, 2000),
          { concurrency: "unbounded" }
        )
        const even = outcomes.filter((_, index) => index % 2 === 0)
        assert.isTrue(even.every(({ _tag }) => _tag === "Answered"))
        // Linux sends errors to one destination at a limited rate (icmp(7)): what it does not say is silence.
        const odd = outcomes.filter((_, index) => index % 2 === 1).map(({ _tag }) => _tag)
        assert.include(odd, "Refused")
        assert.notInclude(odd, "Answered")
      }))
      assert.strictEqual(openedSince(before), 0)
    }).pipe(Effect.scoped, Effect.provide(layer)))

  it.live("are not answered by what only looks like an answer", () =>
    Effect.gen(function*() {
      allow(raw)
      fs.writeFileSync("/proc/sys/net/ipv4/icmp_echo_ignore_all", "1")
      yield* Effect.addFinalizer(() =>
        Effect.sync(() => fs.writeFileSync("/proc/sys/net/ipv4/icmp_echo_ignore_all", "0"))
      )
      const liar = Either.getOrThrow(openIcmpSocket(AF_INET))
      yield* Effect.addFinalizer(() => Effect.sync(() => closeSocket(liar.fd)))
      Either.getOrThrow(connectSocket(liar.fd, encodeSockaddr(ipToBytes(ip("127.0.0.1")), 0)))
      const reader = new DatagramReader(2048)
      const { echo } = yield* (yield* ResourceProbe).open(ip("127.0.0.1"))
      const lies: ReadonlyArray<(request: Uint8Array) => Uint8Array | undefined> = [
        (bytes) => bytes.with(4, (bytes[4] ?? 0) ^ 1),
        (bytes) => bytes.with(7, (bytes[7] ?? 0) ^ 1),
        (bytes) => bytes.with(bytes.length - 1, (bytes.at(-1) ?? 0) ^ 1),
        (bytes) => bytes.subarray(0, bytes.length - 1),
        (bytes) => Uint8Array.of(...bytes, 0),
        (bytes) => bytes.with(1, 1),
        (bytes) => bytes.subarray(0, 4)
      ]
      /** Whether the truth was told, after every lie. */
      const lie = (truth: boolean) => {
        for (;;) {
          const length = Either.getOrThrow(reader.receive(liar.fd))
          if (length === undefined) return false
          const request = behindIpv4Header(reader.bytes.slice(0, length))
          if (request?.[0] !== 8) continue
          const reply = request.with(0, 0)
          for (const each of [...lies.map((make) => make(reply)), ...(truth ? [reply] : [])]) {
            if (each !== undefined) Either.getOrThrow(sendDatagram(liar.fd, summed(each)))
          }
          return true
        }
      }
      const lieOnce = (truth: boolean) =>
        Effect.repeat(Effect.delay(Effect.sync(() => lie(truth)), 2), { until: (done) => done })
      const [deceived] = yield* Effect.all([echo(1, SHORT), lieOnce(false)], { concurrency: 2 })
      assert.deepStrictEqual(deceived, { _tag: "Silent" })
      const [told] = yield* Effect.all([echo(2, LONG), lieOnce(true)], { concurrency: 2 })
      assert.strictEqual(told._tag, "Answered")
    }).pipe(Effect.scoped, Effect.provide(layer)))
})

/** With its checksum right again. */
const summed = (message: Uint8Array): Uint8Array => {
  const bytes = message.slice()
  let sum = 0
  bytes.fill(0, 2, 4)
  for (let at = 0; at < bytes.length; at += 2) sum += (bytes[at] ?? 0) << 8 | (bytes[at + 1] ?? 0)
  while (sum > 0xffff) sum = (sum & 0xffff) + (sum >>> 16)
  bytes[2] = ~sum >>> 8 & 0xff
  bytes[3] = ~sum & 0xff
  return bytes
}

/** Answers queries on port 53 of an address with what `answer` makes of one. */
const server = (address: string, answer: (query: Uint8Array) => ReadonlyArray<Uint8Array>) =>
  Effect.acquireRelease(
    Effect.async<{ readonly socket: dgram.Socket; count: number }>((resume) => {
      const socket = dgram.createSocket("udp4")
      const state = { socket, count: 0 }
      socket.on("message", (query, from) => {
        state.count += 1
        for (const reply of answer(query)) socket.send(reply, from.port, from.address)
      })
      socket.bind(53, address, () => resume(Effect.succeed(state)))
    }),
    ({ socket }) => Effect.sync(() => socket.close())
  )

describeWith({ root: true, programs: ["ip"] }, "names asked at the client's own server", () => {
  beforeAll(enterPrivateNetworkNamespace)
  const own = ip("127.0.0.1")
  const lookUp = (at: string, source = own, patienceMillis = LONG) =>
    Effect.flatMap(ResourceProbe, ({ lookUp }) => lookUp("www.corp.test", 4, ip(at), source, patienceMillis))
  const reply = (query: Uint8Array, code = 0, address = "100.96.0.1"): Uint8Array => {
    const message = decodeDns(query)
    const record = addressRecord("www.corp.test", 1, ip(address))
    return (message && encodeDns(responseTo(message, code, code === 0 ? [record] : []))) ?? new Uint8Array()
  }

  it.live("take the one answer that is to the question", () =>
    Effect.gen(function*() {
      yield* server("127.0.0.1", (query) => {
        const wrongId = reply(query, 0, "192.0.2.66")
        wrongId[0] = (wrongId[0] ?? 0) ^ 1
        const other = reply(query, 0, "192.0.2.66")
        other[13] = 0x78 // xww.corp.test
        return [new Uint8Array(), query, wrongId, other, reply(query).subarray(0, 20), reply(query)]
      })
      assert.deepStrictEqual(yield* lookUp("127.0.0.1"), { _tag: "Addresses", addresses: [ip("100.96.0.1")] })
    }).pipe(Effect.scoped, Effect.provide(layer)))

  it.live("say what the server says, or that it says nothing", () =>
    Effect.gen(function*() {
      yield* server("127.0.0.1", (query) => [reply(query, 3)])
      assert.deepStrictEqual(yield* lookUp("127.0.0.1"), { _tag: "Refused", responseCode: 3 })
      yield* server("127.0.0.2", () => [])
      assert.deepStrictEqual(yield* lookUp("127.0.0.2", own, SHORT), { _tag: "Silent" })
    }).pipe(Effect.scoped, Effect.provide(layer)))

  it.live("are told to nobody where packets would leave from another address", () =>
    Effect.gen(function*() {
      const { count } = yield* server("127.0.0.1", (query) => [reply(query)])
      const error = yield* Effect.flip(lookUp("127.0.0.1", ip("100.64.0.2")))
      assert.strictEqual(error._tag, "OutsideTunnel")
      assert.include(error.message, "127.0.0.1")
      assert.strictEqual(count, 0)
    }).pipe(Effect.scoped, Effect.provide(layer)))
})

it.live("another system says that it cannot", () =>
  Effect.gen(function*() {
    const error = yield* Effect.flip(Effect.scoped((yield* ResourceProbe).open(ip("127.0.0.1"))))
    assert.strictEqual(error._tag, "UnsupportedPlatform")
  }).pipe(Effect.provide(Layer.provide(layerFor("win32"), ReadinessPollerKoffi.layer))))
