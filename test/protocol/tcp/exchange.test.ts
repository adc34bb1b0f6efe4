/** Our client asks our server over a bad link, in virtual time: every query has one answer, and it is the right one. */
import { assert, describe, it } from "@effect/vitest"
import * as FastCheck from "effect/FastCheck"
import { type DnsQuery, parseDnsQuery } from "../../../src/protocol/dns/DnsQuery.ts"
import { TcpDnsClient } from "../../../src/protocol/tcp/TcpDnsClient.ts"
import { TcpDnsServer } from "../../../src/protocol/tcp/TcpDnsServer.ts"
import type { TcpDnsConnection } from "../../../src/protocol/tcp/types.ts"
import { ip } from "../../../src/protocol/wire/address.ts"
import {
  decodeDns,
  type DnsMessage,
  encodeDns,
  encodeQuery,
  RecordType,
  type ResourceRecord,
  responseTo
} from "../../../src/protocol/wire/dns.ts"
import { Clock, type LinkFaults, parsePacket, randomBytesOf, runUntil, seeded } from "./support.ts"

const CLIENT = { 4: ip("100.64.0.9"), 6: ip("fd00:2021:1111::9") } as const
const SERVERS = [
  { address: ip("100.100.111.1"), port: 53 },
  { address: ip("fd00:2021:1111:8000:100:100:111:0"), port: 53 }
] as const

/** A name says how many bytes its answer has. */
const recordsFor = (name: string): ReadonlyArray<ResourceRecord> => {
  let left = Number(/^n\d+-(\d+)\./.exec(name)?.[1] ?? 0)
  const records: Array<ResourceRecord> = []
  for (; left > 0; left -= 200) {
    const bytes = new Uint8Array(1 + Math.min(left, 200)).fill(120)
    bytes[0] = bytes.length - 1
    records.push({ name, type: RecordType.TXT, class: 1, ttl: 60, data: { _tag: "Raw", bytes } })
  }
  return records
}

interface Result {
  readonly name: string
  readonly server: number
  readonly records: number | undefined
}

const exchange = (seed: number, faults: LinkFaults, count: number, spread: number, closes: boolean) => {
  const random = seeded(seed)
  const clock = new Clock(random, faults)
  const client = new TcpDnsClient<{ readonly name: string; readonly server: number }>(randomBytesOf(random))
  const server = new TcpDnsServer(randomBytesOf(random))
  server.listen(SERVERS.map(({ address }) => address))
  const results: Array<Result> = []
  const due: Array<{ readonly at: number; readonly connection: TcpDnsConnection; readonly message: Uint8Array }> = []
  const planned = Array.from({ length: count }, (_, i) => ({
    at: random() * spread,
    name: `n${i}-${Math.floor(random() ** 4 * 20_000)}.test`,
    server: random() < 0.5 ? 0 : 1
  })).sort((a, b) => a.at - b.at)
  const names = planned.map(({ name }) => name)

  const settle = () => {
    for (let next = planned[0]; next !== undefined && next.at <= clock.now; next = planned[0]) {
      planned.shift()
      const query = parseDnsQuery(encodeQuery(Math.floor(random() * 4), next.name, RecordType.TXT) as Uint8Array)
      const to = SERVERS[next.server] as (typeof SERVERS)[number]
      assert.isTrue(client.send(query as DnsQuery, next, CLIENT[next.server === 0 ? 4 : 6], to, clock.now))
    }
    for (const each of due.filter(({ at }) => at <= clock.now)) {
      due.splice(due.indexOf(each), 1)
      const query = decodeDns(each.message) as DnsMessage
      const answer = responseTo(query, 0, recordsFor(query.questions[0]?.name ?? ""))
      server.answer(each.connection, encodeDns(answer) as Uint8Array)
      if (closes && random() < 0.03) server.abort(each.connection)
    }
    for (let moved = true; moved;) {
      moved = false
      for (let query = server.pollQuery(clock.now); query !== undefined; query = server.pollQuery(clock.now)) {
        due.push({ ...query, at: clock.now + random() * 200 })
      }
      for (let out = server.pollPacket(clock.now); out !== undefined; out = server.pollPacket(clock.now)) {
        moved = true
        clock.send(out, (bytes, now) => assert.isTrue(client.accept(parsePacket(bytes), now)))
      }
      for (let out = client.pollPacket(); out !== undefined; out = client.pollPacket()) {
        moved = true
        clock.send(out, (bytes, now) => assert.isTrue(server.handlePacket(parsePacket(bytes), now)))
      }
    }
    for (let result = client.pollAnswer(); result !== undefined; result = client.pollAnswer()) {
      const { answer, asker, query } = result
      if (answer !== undefined) {
        assert.strictEqual(answer.message.id, query.id)
        assert.strictEqual(answer.message.questions[0]?.name, asker.name)
      }
      results.push({ name: asker.name, server: asker.server, records: answer?.message.answers.length })
    }
  }
  const plan = {
    handleTimeout: () => {},
    pollTimeout: () => Math.min(planned[0]?.at ?? Infinity, ...due.map(({ at }) => at))
  }
  runUntil(clock, [client, server, plan], settle, () => results.length === count, 600_000)
  const answeredAt = clock.now
  // Everything ends by itself.
  runUntil(clock, [client, server, plan], settle, () => false, 200_000)
  return { answeredAt, names, results, rest: [client.pollTimeout(), server.pollTimeout()] }
}

/** Runs many exchanges and returns the share of queries that failed. */
const failing = (loss: ReadonlyArray<number>, closes: boolean): number => {
  let [all, failures] = [0, 0]
  const faults: FastCheck.Arbitrary<LinkFaults> = FastCheck.record({
    loss: FastCheck.constantFrom(...loss),
    duplication: FastCheck.constantFrom(0, 0.1),
    delay: FastCheck.constantFrom(0, 20, 100),
    jitter: FastCheck.constantFrom(0, 5, 50)
  })
  const count = FastCheck.integer({ min: 1, max: 60 })
  const spread = FastCheck.constantFrom(0, 1000, 30_000)
  FastCheck.assert(
    FastCheck.property(FastCheck.nat(), faults, count, spread, (seed, faults, count, spread) => {
      const { names, rest, results } = exchange(seed, faults, count, spread, closes)
      assert.deepStrictEqual(results.map(({ name }) => name).sort(), names.toSorted())
      for (const { name, records } of results) {
        all += 1
        if (records === undefined) failures += 1
        else assert.strictEqual(records, recordsFor(name).length)
      }
      assert.deepStrictEqual(rest, [undefined, undefined], "nothing is kept for ever")
    }),
    { numRuns: 40 }
  )
  return failures / all
}

describe("every query is answered once, rightly,", () => {
  it("over any link that loses nothing, however it disturbs the order", () => {
    assert.strictEqual(failing([0], false), 0)
  })

  it("or hardly ever not at all, over one that loses packets", () => {
    assert.isBelow(failing([0.01, 0.05], false), 0.02)
  })

  it("or seldom not at all, if connections are reset now and then", () => {
    assert.isBelow(failing([0, 0.01], true), 0.1)
  })
})
