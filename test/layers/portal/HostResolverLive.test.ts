import { assert, describe, it } from "@effect/vitest"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import * as FastCheck from "effect/FastCheck"
import * as TestClock from "effect/TestClock"
import * as fs from "node:fs"
import * as os from "node:os"
import * as path from "node:path"
import * as HostResolverLive from "../../../src/layers/portal/HostResolverLive.ts"
import { ip, type IpAddress, SocketAddress } from "../../../src/protocol/wire/address.ts"
import {
  addressRecord,
  decodeDns,
  type DnsMessage,
  encodeDns,
  nameRecord,
  RecordType,
  ResponseCode
} from "../../../src/protocol/wire/dns.ts"
import { DnsTimedOut } from "../../../src/services/DnsSocket.ts"
import { HostResolver } from "../../../src/services/HostResolver.ts"
import { type DnsQuestion, type DnsSocketDouble, makeDnsSocketDouble } from "../../support/DnsSocketDouble.ts"
import { makeSystemResolversDouble } from "../../support/SystemResolversDouble.ts"
import { waitFor } from "./support.ts"

const first = ip("192.0.2.53")
const second = ip("2001:db8::53")

const typeOf = ({ query }: DnsQuestion): number | undefined => decodeDns(query)?.questions[0]?.type

/** The answer to a query: NOERROR with these addresses of the type asked for, or another code. */
const answerTo = (question: DnsQuestion, answer: ReadonlyArray<string> | number, changes: Partial<DnsMessage> = {}) => {
  const query = decodeDns(question.query)
  const name = query?.questions[0]?.name
  assert.isDefined(query)
  assert.isDefined(name)
  const records = typeof answer === "number" ? [] : answer.map((text) => addressRecord(name, 60, ip(text)))
  const bytes = encodeDns({
    ...query,
    isResponse: true,
    responseCode: typeof answer === "number" ? answer : ResponseCode.NoError,
    answers: records.filter(({ type }) => type === typeOf(question)),
    ...changes
  })
  assert.isDefined(bytes)
  return Effect.succeed(bytes)
}

const provideResolver = <A, E>(
  body: Effect.Effect<A, E, HostResolver>,
  dns: DnsSocketDouble,
  servers: ReadonlyArray<IpAddress> = [first],
  hostsFile?: string
) =>
  Effect.provide(body, HostResolverLive.layerWith({ hostsFile })).pipe(
    Effect.provide([dns.layer, makeSystemResolversDouble(servers).layer])
  )

/** The path of a file with this text. */
const temporaryFile = (text: string) =>
  Effect.acquireRelease(
    Effect.sync(() => {
      const folder = fs.mkdtempSync(path.join(os.tmpdir(), "hosts-"))
      fs.writeFileSync(path.join(folder, "hosts"), text)
      return folder
    }),
    (folder) => Effect.sync(() => fs.rmSync(folder, { recursive: true }))
  ).pipe(Effect.map((folder) => path.join(folder, "hosts")))

const resolve = (host: string) => Effect.flatMap(HostResolver, (resolver) => resolver.resolve(host))

describe("resolve", () => {
  it.effect("asks every server for A and AAAA at once and merges, sorted and unique (host 18.35)", () =>
    Effect.gen(function*() {
      const dns = makeDnsSocketDouble()
      const all = yield* Effect.makeLatch()
      dns.answer = (question) => {
        if (dns.asked.length === 4) all.unsafeOpen()
        const answer = question.resolver.address === first
          ? ["203.0.113.9", "203.0.113.10", "2001:db8::9"]
          : ["203.0.113.10", "198.51.100.1", "2001:db8::1"]
        return Effect.zipRight(all.await, answerTo(question, answer))
      }
      assert.deepStrictEqual(yield* provideResolver(resolve("api.portal.example"), dns, [first, second]), [
        ip("198.51.100.1"),
        ip("203.0.113.9"),
        ip("203.0.113.10"),
        ip("2001:db8::1"),
        ip("2001:db8::9")
      ])
      assert.sameMembers(
        dns.asked.map((question) => `${question.transport} ${question.resolver.text} ${typeOf(question)}`),
        [
          "udp 192.0.2.53:53 1",
          "udp 192.0.2.53:53 28",
          "udp [2001:db8::53]:53 1",
          "udp [2001:db8::53]:53 28"
        ]
      )
      const ids = dns.asked.map(({ query }) => decodeDns(query)?.id)
      assert.isAbove(new Set(ids).size, 1)
    }))

  it.effect("gives a server 2 s, and takes what the others said", () =>
    Effect.gen(function*() {
      const dns = makeDnsSocketDouble()
      dns.answer = (question) =>
        question.resolver.address === first ? Effect.never : answerTo(question, ["203.0.113.9"])
      const fiber = yield* Effect.fork(provideResolver(resolve("portal.example"), dns, [first, second]))
      yield* waitFor("the queries", () => dns.asked.length === 4)
      yield* TestClock.adjust("2 seconds")
      assert.deepStrictEqual(yield* fiber, [ip("203.0.113.9")])
    }))

  const fallbacks: ReadonlyArray<
    readonly [string, (question: DnsQuestion) => ReturnType<typeof answerTo> | DnsTimedOut]
  > = [
    ["nobody answers", ({ resolver }) => new DnsTimedOut({ resolver })],
    ["answers are empty", (question) => answerTo(question, [])],
    [
      "one NXDOMAIN is among errors",
      (question) =>
        answerTo(question, typeOf(question) === RecordType.A ? ResponseCode.NameError : ResponseCode.ServerFailure)
    ],
    [
      "one NXDOMAIN is among empty answers",
      (question) => answerTo(question, typeOf(question) === RecordType.A ? ResponseCode.NameError : [])
    ],
    ["the answer is cut", (question) => answerTo(question, [], { truncated: true })],
    ["the answer is to another question", (question) =>
      answerTo(question, ["203.0.113.1"], {
        questions: [{ name: "evil.example", type: RecordType.A, class: 1 }]
      })],
    ["the answer is garbage", () => Effect.succeed(Uint8Array.from({ length: 40 }, () => 0xff))],
    ["the query comes back", (question) => Effect.succeed(question.query)]
  ]
  for (const [what, udp] of fallbacks) {
    it.effect(`asks again over TCP when ${what} (host 18.35)`, () =>
      Effect.gen(function*() {
        const dns = makeDnsSocketDouble()
        dns.answer = (question) => question.transport === "tcp" ? answerTo(question, ["203.0.113.9"]) : udp(question)
        assert.deepStrictEqual(yield* provideResolver(resolve("portal.example"), dns), [ip("203.0.113.9")])
        assert.deepStrictEqual(dns.asked.map(({ transport }) => transport), ["udp", "udp", "tcp", "tcp"])
      }))
  }

  it.effect("believes a unanimous NXDOMAIN (host 18.35)", () =>
    Effect.gen(function*() {
      const dns = makeDnsSocketDouble()
      dns.answer = (question) => answerTo(question, ResponseCode.NameError)
      const error = yield* Effect.flip(provideResolver(resolve("portal.example"), dns, [first, second]))
      assert.strictEqual(error.message, "no address for portal.example: the name does not exist")
      assert.isTrue(dns.asked.every(({ transport }) => transport === "udp"))
    }))

  it.effect("says why there is nothing", () =>
    Effect.gen(function*() {
      const dns = makeDnsSocketDouble()
      const reason = (host: string, servers: ReadonlyArray<IpAddress>) =>
        Effect.map(Effect.flip(provideResolver(resolve(host), dns, servers)), (error) => error.reason)
      assert.strictEqual(yield* reason("portal.example", []), "no DNS server is known")
      assert.strictEqual(yield* reason("portal..example", [first]), "that is no host name")
      assert.strictEqual(yield* reason("a".repeat(64), [first]), "that is no host name")
      assert.deepStrictEqual(dns.asked, [])
      assert.strictEqual(yield* reason("portal.example", [first]), "no DNS server has one")
    }))

  it.effect("takes the addresses behind a CNAME", () =>
    Effect.gen(function*() {
      const dns = makeDnsSocketDouble()
      dns.answer = (question) =>
        answerTo(question, [], {
          answers: [
            nameRecord("portal.example", RecordType.CNAME, 60, "lb.example"),
            ...(typeOf(question) === RecordType.A ? [addressRecord("lb.example", 60, ip("203.0.113.9"))] : [])
          ]
        })
      assert.deepStrictEqual(yield* provideResolver(resolve("portal.example"), dns), [ip("203.0.113.9")])
    }))

  it.scoped("appends what the hosts file has for exactly this name", () =>
    Effect.gen(function*() {
      const dns = makeDnsSocketDouble()
      dns.answer = (question) => answerTo(question, ["203.0.113.9", "2001:db8::9"])
      const hosts = yield* temporaryFile([
        "# 192.0.2.1 portal.example",
        "192.0.2.2\tother Portal.Example # portal.example",
        "203.0.113.9 portal.example",
        "192.0.2.3 sub.portal.example portal.example.com",
        "not-an-address portal.example",
        "",
        "::2 portal.example"
      ].join("\n"))
      assert.deepStrictEqual(yield* provideResolver(resolve("portal.example"), dns, [first], hosts), [
        ip("203.0.113.9"),
        ip("2001:db8::9"),
        ip("192.0.2.2"),
        ip("::2")
      ])
      dns.answer = (question) => answerTo(question, ResponseCode.NameError)
      assert.deepStrictEqual(yield* provideResolver(resolve("other"), dns, [first], hosts), [ip("192.0.2.2")])
      assert.deepStrictEqual(yield* provideResolver(resolve("other"), dns, [], hosts), [ip("192.0.2.2")])
      const missing = yield* Effect.exit(provideResolver(resolve("other"), dns, [], `${hosts}-missing`))
      assert.isTrue(Exit.isFailure(missing))
    }))

  it.effect("answers literals itself", () =>
    Effect.gen(function*() {
      const dns = makeDnsSocketDouble()
      for (
        const [host, address] of [["192.0.2.7", "192.0.2.7"], ["::1", "::1"], ["[2001:DB8::7]", "2001:db8::7"]] as const
      ) {
        assert.deepStrictEqual(yield* provideResolver(resolve(host), dns, []), [ip(address)])
      }
      assert.deepStrictEqual(dns.asked, [])
    }))

  it.effect("keeps no more addresses than can be dialled at once", () =>
    Effect.gen(function*() {
      const dns = makeDnsSocketDouble()
      const many = Array.from({ length: 100 }, (_, index) => [`203.0.113.${index}`, `2001:db8::${index + 1}`]).flat()
      dns.answer = (question) => answerTo(question, many)
      const addresses = yield* provideResolver(resolve("portal.example"), dns)
      assert.strictEqual(addresses.length, 32)
      assert.strictEqual(addresses.filter((address) => address.includes(":")).length, 16)
    }))

  it.effect.prop("ends well or not, whatever the servers send", [
    FastCheck.uint8Array({ maxLength: 80 }),
    FastCheck.boolean()
  ], ([bytes, keepHeader]) =>
    Effect.gen(function*() {
      const dns = makeDnsSocketDouble()
      dns.answer = ({ query }) => {
        const answer = Uint8Array.from([...query.subarray(0, keepHeader ? 12 : 2), ...bytes])
        if (keepHeader) answer[2] = 0x80
        return Effect.succeed(answer)
      }
      const exit = yield* Effect.exit(provideResolver(resolve("portal.example"), dns))
      assert.isTrue(Exit.isSuccess(exit) ? exit.value.length > 0 : !Exit.isInterrupted(exit))
      if (Exit.isFailure(exit)) assert.strictEqual(exit.cause._tag, "Fail")
    }), { fastCheck: { numRuns: 40 } })
})

describe("servers", () => {
  it.effect("are the system's, without our sentinels, until set", () =>
    Effect.gen(function*() {
      const dns = makeDnsSocketDouble()
      const system = [first, ip("100.100.111.1"), first, ip("fd00:2021:1111:8000:100:100:111:ff"), ip("100.100.112.1")]
      yield* provideResolver(
        Effect.gen(function*() {
          const resolver = yield* HostResolver
          const texts = Effect.map(resolver.servers, (servers) => servers.map(({ text }) => text))
          assert.deepStrictEqual(yield* texts, ["192.0.2.53:53", "100.100.112.1:53"])
          system.push(second) // read anew each time
          assert.deepStrictEqual(yield* texts, ["192.0.2.53:53", "100.100.112.1:53", "[2001:db8::53]:53"])
          const wanted = ["198.51.100.1", "100.100.111.200", "198.51.100.1"].map((text) =>
            new SocketAddress(ip(text), 5353)
          )
          yield* resolver.setServers(wanted)
          assert.deepStrictEqual(yield* texts, ["198.51.100.1:5353"])
          yield* Effect.exit(resolver.resolve("portal.example"))
          assert.strictEqual(dns.asked[0]?.resolver.text, "198.51.100.1:5353")
          yield* resolver.setServers([])
          assert.deepStrictEqual(yield* texts, [])
        }),
        dns,
        system
      )
    }))
})
