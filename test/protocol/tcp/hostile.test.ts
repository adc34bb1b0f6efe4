/** Whatever arrives: nothing throws, nothing goes on without end, nothing is kept for ever. */
import { assert, describe, it } from "@effect/vitest"
import * as FastCheck from "effect/FastCheck"
import { type DnsQuery, parseDnsQuery } from "../../../src/protocol/dns/DnsQuery.ts"
import { TcpDnsClient } from "../../../src/protocol/tcp/TcpDnsClient.ts"
import { TcpDnsServer } from "../../../src/protocol/tcp/TcpDnsServer.ts"
import { ip } from "../../../src/protocol/wire/address.ts"
import { encodeQuery } from "../../../src/protocol/wire/dns.ts"
import { IpPacket } from "../../../src/protocol/wire/ip.ts"
import type { TcpEnds } from "../../../src/protocol/wire/tcp.ts"
import { icmpError } from "../tunnel/packets.ts"
import { ends, parsePacket, randomBytesOf, seeded, seen, write, type Written } from "./support.ts"

const PEER = "10.0.0.53"
const US = "100.64.0.9"
const SENTINEL = "100.100.111.1"

interface Step extends Required<Omit<Written, "payload">> {
  readonly payload: Uint8Array
  /** Of a few, so that connections are hit more than once. */
  readonly port: number
  readonly wait: number
  readonly answer: number
  readonly length: number
}

/** What somebody sends who sees all that we say: numbers near those that would be right, often right. */
const step: FastCheck.Arbitrary<Step> = FastCheck.record({
  flags: FastCheck.oneof(FastCheck.constantFrom(0x02, 0x10, 0x11, 0x12, 0x18, 0x04, 0x14), FastCheck.nat(255)),
  sequence: FastCheck.oneof(FastCheck.constant(0), FastCheck.integer({ min: -2000, max: 70_000 }), FastCheck.integer()),
  acknowledgment: FastCheck.oneof(
    FastCheck.constant(0),
    FastCheck.integer({ min: -3000, max: 10 }),
    FastCheck.integer()
  ),
  window: FastCheck.oneof(FastCheck.constantFrom(0, 1, 100, 65_535), FastCheck.nat(65_535)),
  mss: FastCheck.constantFrom(0, 0, 1, 100, 1240, 65_535),
  payload: FastCheck.oneof(
    FastCheck.constant(new Uint8Array(0)),
    FastCheck.uint8Array({ maxLength: 40 }),
    FastCheck.nat(1200).map((length) => new Uint8Array(length).fill(1)),
    FastCheck.constant(Uint8Array.of(0, 12, ...new Uint8Array(12)))
  ),
  port: FastCheck.nat(2),
  wait: FastCheck.constantFrom(0, 0, 0, 1, 300, 5000, 31_000),
  answer: FastCheck.nat(3),
  length: FastCheck.constantFrom(0, 12, 12, 3000, 70_000)
})
const steps = FastCheck.array(step, { minLength: 1, maxLength: 60 })

interface Numbers {
  /** What we would take next, and what we have said last. */
  sequence: number
  acknowledgment: number
}

/** Keeps the numbers of what was seen last, by port. */
const note = (numbers: Map<number, Numbers>, bytes: Uint8Array, port: number): void => {
  const { acknowledgment, flags, payload, sequence } = seen(bytes)
  const length = payload.length + (/SYN|FIN/.test(flags) ? 1 : 0)
  numbers.set(port, { sequence: acknowledgment, acknowledgment: sequence + length })
}

const written = (from: TcpEnds, numbers: Numbers, each: Step) =>
  write(from, {
    flags: each.flags,
    sequence: numbers.sequence + each.sequence,
    acknowledgment: numbers.acknowledgment + each.acknowledgment,
    window: each.window,
    // Of a SYN only, as the largest payload leaves no room for options.
    mss: (each.flags & 2) === 0 || each.payload.length > 1000 ? 0 : each.mss,
    payload: each.payload
  })

describe("segments that are almost right", () => {
  it("do the server no harm", () => {
    FastCheck.assert(
      FastCheck.property(steps, FastCheck.nat(), (steps, seed) => {
        const random = seeded(seed)
        const server = new TcpDnsServer(randomBytesOf(random))
        server.listen([ip(SENTINEL)])
        const numbers = new Map<number, Numbers>()
        let now = 0
        const settle = (answer: number, length: number) => {
          let count = 0
          for (let moved = true; moved;) {
            moved = false
            for (let query = server.pollQuery(now); query !== undefined; query = server.pollQuery(now)) {
              moved = true
              assert.isAtLeast(query.message.length, 12)
              if (answer === 0) server.abort(query.connection)
              if (answer > 1) server.answer(query.connection, new Uint8Array(length))
            }
            for (let out = server.pollPacket(now); out !== undefined; out = server.pollPacket(now)) {
              moved = true
              assert.isBelow(count += 1, 2000)
              note(numbers, out, parsePacket(out).destinationPort)
            }
          }
        }
        for (const each of steps) {
          const port = 40_000 + each.port
          const bytes = written(
            ends(US, port, SENTINEL, 53),
            numbers.get(port) ?? { sequence: 0, acknowledgment: 0 },
            each
          )
          assert.isTrue(server.handlePacket(parsePacket(bytes), now))
          settle(each.answer, each.length)
          now += each.wait
          server.handleTimeout(now)
          settle(each.answer, each.length)
        }
        for (let at = server.pollTimeout(); at !== undefined; at = server.pollTimeout()) {
          assert.isBelow(at, now + 300_000, "a deadline that is always put off")
          server.handleTimeout(Math.max(at, now))
          settle(1, 0)
        }
      }),
      { numRuns: 300 }
    )
  })

  it("do the client no harm: every query is answered once, in time", () => {
    FastCheck.assert(
      FastCheck.property(steps, FastCheck.nat(), (steps, seed) => {
        const random = seeded(seed)
        const client = new TcpDnsClient<number>(randomBytesOf(random))
        const numbers = new Map<number, Numbers>()
        const query = parseDnsQuery(encodeQuery(1, "a.test", 1) as Uint8Array) as DnsQuery
        let now = 0
        let asked = 0
        const open = new Map<number, number>()
        let last: Uint8Array | undefined
        const settle = () => {
          let count = 0
          for (let out = client.pollPacket(); out !== undefined; out = client.pollPacket()) {
            assert.isBelow(count += 1, 2000)
            note(numbers, out, parsePacket(out).sourcePort)
            last = out
          }
          for (let answer = client.pollAnswer(); answer !== undefined; answer = client.pollAnswer()) {
            const at = open.get(answer.asker)
            assert.isDefined(at, "answered twice")
            assert.isAtMost(now - (at ?? 0), 10_000 + 31_000)
            open.delete(answer.asker)
          }
        }
        for (const each of steps) {
          if (each.answer === 0 && client.send(query, asked, ip(US), { address: ip(PEER), port: 53 }, now)) {
            open.set(asked++, now)
          }
          settle()
          const [port, at] = [...numbers][each.port] ?? [50_000, { sequence: 0, acknowledgment: 0 }]
          client.accept(parsePacket(written(ends(PEER, 53, US, port), at, each)), now)
          settle()
          if (each.answer === 3 && each.port === 0 && last !== undefined) {
            if (each.length === 0) client.refused(parsePacket(last))
            if (each.length === 3000) client.accept(parsePacket(icmpError(last)), now)
            if (each.length === 70_000) client.reset()
            settle()
          }
          now += each.wait
          client.handleTimeout(now)
          settle()
        }
        for (let at = client.pollTimeout(); at !== undefined; at = client.pollTimeout()) {
          assert.isBelow(at, now + 300_000, "a deadline that is always put off")
          client.handleTimeout(Math.max(at, now))
          settle()
        }
        assert.strictEqual(open.size, 0)
      }),
      { numRuns: 300 }
    )
  })
})

it("any packet at all is taken or left", () => {
  const server = new TcpDnsServer(randomBytesOf(seeded(1)))
  server.listen([ip(SENTINEL)])
  const client = new TcpDnsClient<number>(randomBytesOf(seeded(1)))
  const query = parseDnsQuery(encodeQuery(1, "a.test", 1) as Uint8Array) as DnsQuery
  client.send(query, 1, ip(US), { address: ip(PEER), port: 53 }, 0)
  const packet = new IpPacket()
  FastCheck.assert(
    FastCheck.property(
      FastCheck.uint8Array({ minLength: 20, maxLength: 120 }),
      FastCheck.constantFrom(1, 6, 58),
      (bytes, protocol) => {
        // Headers that the tunnel accepts, to our addresses.
        bytes.set([0x45, 0, 0, bytes.length, 0, 0, 0, 0, 64, protocol])
        bytes.set(protocol === 6 ? [100, 100, 111, 1] : [100, 64, 0, 9], 16)
        if (bytes.length > 24) bytes.set([0, 53], 22)
        if (!packet.parse(bytes, 0, bytes.length)) return
        server.handlePacket(packet, 0)
        client.accept(packet, 0)
        client.refused(packet)
      }
    ),
    { numRuns: 2000 }
  )
  assert.isUndefined(client.pollAnswer())
})
