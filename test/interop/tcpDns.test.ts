/** Our TCP against that of the kernel: dig, dnsperf and plain sockets ask us; we ask dnsmasq and unbound. */
import { assert, it } from "@effect/vitest"
import * as Effect from "effect/Effect"
import type * as Scope from "effect/Scope"
import * as fs from "node:fs"
import * as net from "node:net"
import * as os from "node:os"
import * as path from "node:path"
import { beforeAll } from "vitest"
import { parseDnsQuery } from "../../src/protocol/dns/DnsQuery.ts"
import type { TcpDnsQuery } from "../../src/protocol/tcp/types.ts"
import { ip } from "../../src/protocol/wire/address.ts"
import {
  addressRecord,
  decodeDns,
  type DnsMessage,
  encodeDns,
  encodeQuery,
  RecordType,
  type ResourceRecord,
  responseTo
} from "../../src/protocol/wire/dns.ts"
import { bareDeviceLayer } from "../layers/tun/support.ts"
import { enterPrivateNetworkNamespace, run } from "../support/netns.ts"
import { describeWith } from "../support/requires.ts"
import { waitFor } from "../support/waitFor.ts"
import { daemon, runBeside } from "./programs.ts"
import { KERNEL, openWire, OURS, SENTINELS, type Wire } from "./TcpDnsWire.ts"

/** `big-N.test` has N TXT records of 200 bytes, every other name an address. */
const recordsFor = (name: string): ReadonlyArray<ResourceRecord> => {
  const count = Number(/^big-(\d+)\./.exec(name)?.[1] ?? 0)
  if (count === 0) return [addressRecord(name, 60, ip("192.0.2.7"))]
  return Array.from({ length: count }, (_, i) => {
    const bytes = new Uint8Array(201).fill(97 + i % 26)
    bytes[0] = 200
    return { name, type: RecordType.TXT, class: 1, ttl: 60, data: { _tag: "Raw", bytes } }
  })
}

const answerTo = (message: Uint8Array): Uint8Array => {
  const query = decodeDns(message) as DnsMessage
  return encodeDns(responseTo(query, 0, recordsFor(query.questions[0]?.name ?? ""))) as Uint8Array
}

const answerAll = (wire: Wire): void => {
  wire.onQuery = ({ connection, message }) => wire.server.answer(connection, answerTo(message))
}

const framed = (message: Uint8Array): Buffer =>
  Buffer.concat([Buffer.of(message.length >> 8, message.length & 255), message])

const queryFor = (id: number, name: string, type: number = RecordType.A): Buffer =>
  framed(encodeQuery(id, name, type) as Uint8Array)

interface Talk {
  readonly socket: net.Socket
  readonly messages: Array<DnsMessage>
  readonly isClosed: () => boolean
  readonly error: () => string | undefined
}

/** A socket of the kernel, connected to a sentinel. */
const connect = (options: { readonly host?: string } = {}): Effect.Effect<Talk, never, Scope.Scope> =>
  Effect.acquireRelease(
    Effect.async<Talk>((resume) => {
      const socket = net.connect({ host: options.host ?? SENTINELS[4], port: 53, allowHalfOpen: true })
      const messages: Array<DnsMessage> = []
      let isClosed = false
      let error: string | undefined
      let pending = Buffer.alloc(0)
      socket.on("data", (chunk: Buffer) => {
        pending = Buffer.concat([pending, chunk])
        while (pending.length >= 2 && pending.length >= 2 + pending.readUInt16BE()) {
          const end = 2 + pending.readUInt16BE()
          messages.push(decodeDns(new Uint8Array(pending.subarray(2, end))) as DnsMessage)
          pending = pending.subarray(end)
        }
      })
      socket.on("end", () => (isClosed = true))
      socket.on("close", () => (isClosed = true))
      socket.on("error", (problem: NodeJS.ErrnoException) => (error = problem.code))
      socket.once(
        "connect",
        () => resume(Effect.succeed({ socket, messages, isClosed: () => isClosed, error: () => error }))
      )
    }),
    ({ socket }) => Effect.sync(() => socket.destroy())
  )

const temporary = Effect.acquireRelease(
  Effect.sync(() => fs.mkdtempSync(path.join(os.tmpdir(), "tcp-dns-"))),
  (name) => Effect.sync(() => fs.rmSync(name, { recursive: true }))
)

/** How many connections the kernel has with port 53, by state, such as `ESTAB`. */
const kernelStates = (): ReadonlyArray<string> =>
  run("ss", "-Htan").split("\n").filter((line) => line.includes(":53 ") || line.includes("]:53")).map((line) =>
    line.split(" ")[0] ?? ""
  ).filter((state) => state !== "LISTEN")

describeWith(
  { root: true, programs: ["ip", "ss", "dig", "dnsperf", "dnsmasq", "unbound"] },
  "TCP of the kernel",
  () => {
    beforeAll(enterPrivateNetworkNamespace)

    const scoped = (name: string, body: (wire: Wire) => Effect.Effect<void, never, Scope.Scope>, millis = 30_000) =>
      it.scopedLive(
        name,
        () => Effect.flatMap(openWire, body).pipe(Effect.provide(bareDeviceLayer), Effect.orDie),
        millis
      )

    scoped(
      "lets dig ask, in both families, for small and large answers, one after the other on one connection",
      (wire) =>
        Effect.gen(function*() {
          answerAll(wire)
          const dig = (...args: ReadonlyArray<string>) =>
            runBeside(["dig", "+tcp", "+tries=1", "+noall", "+answer", ...args])
          for (const sentinel of [SENTINELS[4], SENTINELS[6]]) {
            const small = yield* dig(`@${sentinel}`, "www.test")
            assert.include(small.stdout, "192.0.2.7", small.stdout + small.stderr)
            const large = yield* dig(`@${sentinel}`, "big-250.test", "TXT")
            assert.strictEqual(large.stdout.split("\n").filter((line) => line.includes("TXT")).length, 250)
            const several = yield* dig(`@${sentinel}`, "+keepopen", "a.test", "b.test", "c.test")
            assert.strictEqual(several.stdout.match(/192\.0\.2\.7/g)?.length, 3, several.stdout + several.stderr)
          }
        })
    )

    scoped("serves dnsperf on many connections", (wire) =>
      Effect.gen(function*() {
        answerAll(wire)
        const directory = yield* temporary
        const file = path.join(directory, "queries")
        fs.writeFileSync(
          file,
          Array.from({ length: 200 }, (_, i) => `${i % 20 === 0 ? "big-5" : `n${i}`}.test A`).join("\n")
        )
        const { code, stderr, stdout } = yield* runBeside(
          ["dnsperf", "-s", SENTINELS[4], "-d", file, "-m", "tcp", "-n", "40", "-c", "20", "-q", "200", "-t", "5"]
        )
        assert.strictEqual(code, 0, stderr)
        assert.match(stdout, /Queries completed:\s+8000 \(100\.00%\)/, stdout)
        assert.match(stdout, /NOERROR 8000 \(100\.00%\)/, stdout)
      }))

    scoped("takes a query in pieces, several in one piece, and answers in any order", (wire) =>
      Effect.gen(function*() {
        const held: Array<TcpDnsQuery> = []
        wire.onQuery = (query) => held.push(query)
        const talk = yield* connect()
        talk.socket.setNoDelay(true)
        const first = queryFor(1, "a.test")
        for (const byte of first.subarray(0, 5)) {
          talk.socket.write(Buffer.of(byte))
          yield* Effect.sleep("5 millis")
        }
        const third = queryFor(3, "big-40.test", RecordType.TXT)
        talk.socket.write(Buffer.concat([first.subarray(5), queryFor(2, "b.test"), third]))
        yield* waitFor("three queries", () => held.length === 3)
        for (const { connection, message } of held.toReversed()) wire.server.answer(connection, answerTo(message))
        wire.settle()
        yield* waitFor("three answers", () => talk.messages.length === 3)
        assert.deepStrictEqual(talk.messages.map(({ answers, id }) => [id, answers.length]), [[3, 40], [2, 1], [1, 1]])
        assert.deepStrictEqual(
          held.map(({ connection: { local, remote } }) => [local.text, remote.text]),
          Array.from({ length: 3 }, () => [`${SENTINELS[4]}:53`, `${KERNEL[4]}:${talk.socket.localPort}`])
        )
      }))

    scoped("answers whoever has closed its half, and then ends the connection", (wire) =>
      Effect.gen(function*() {
        const held: Array<TcpDnsQuery> = []
        wire.onQuery = (query) => held.push(query)
        const talk = yield* connect({ host: SENTINELS[6] })
        talk.socket.end(queryFor(7, "a.test"))
        yield* waitFor("the query", () => held.length === 1)
        assert.isFalse(talk.isClosed())
        for (const { connection, message } of held) wire.server.answer(connection, answerTo(message))
        wire.settle()
        yield* waitFor("the end", talk.isClosed)
        assert.deepStrictEqual(talk.messages.map(({ id }) => id), [7])
        yield* waitFor("nothing but TIME-WAIT", () => kernelStates().every((state) => state === "TIME-WAIT"))
        assert.isUndefined(talk.error())
      }))

    scoped(
      "waits for an application that does not read, and asks whether it does again",
      (wire) =>
        Effect.gen(function*() {
          // So many answers of 18 kB each are more than the kernel takes in.
          const count = 200
          let asked = 0
          wire.onQuery = ({ connection, message }) => {
            asked += 1
            wire.server.answer(connection, answerTo(message))
          }
          const talk = yield* connect()
          talk.socket.pause()
          for (let id = 0; id < count; id++) talk.socket.write(queryFor(id, "big-85.test", RecordType.TXT))
          yield* waitFor("some queries", () => asked > 3)
          // So long that it has asked more than once whether the window has opened.
          yield* Effect.sleep("1500 millis")
          assert.isBelow(asked, count)
          talk.socket.resume()
          yield* waitFor("all answers", () => talk.messages.length === count)
          assert.isTrue(talk.messages.every(({ answers, id }, i) => answers.length === 85 && id === i))
        })
    )

    scoped("refuses what is no message with a reset, and goes on with others", (wire) =>
      Effect.gen(function*() {
        answerAll(wire)
        const bad = yield* connect()
        const good = yield* connect()
        bad.socket.write(Buffer.of(0, 3, 1, 2, 3))
        yield* waitFor("the reset", () => bad.error() !== undefined)
        assert.strictEqual(bad.error(), "ECONNRESET")
        good.socket.write(queryFor(1, "a.test"))
        yield* waitFor("an answer", () => good.messages.length === 1)
      }))

    scoped(
      "refuses an application's connection that vanished when the addresses changed",
      (wire) =>
        Effect.gen(function*() {
          answerAll(wire)
          const talk = yield* connect()
          wire.server.listen([ip(SENTINELS[4])])
          talk.socket.write(queryFor(1, "a.test"))
          yield* waitFor("the reset", () => talk.error() !== undefined)
          assert.strictEqual(talk.error(), "ECONNRESET")
          const other = yield* connect()
          other.socket.write(queryFor(1, "a.test"))
          yield* waitFor("an answer", () => other.messages.length === 1)
        })
    )

    scoped(
      "takes more connections than it keeps: those that are idle for longest are reset",
      (wire) =>
        Effect.gen(function*() {
          answerAll(wire)
          const talks: Array<Talk> = []
          for (let i = 0; i < 150; i++) {
            const talk = yield* connect()
            talk.socket.write(queryFor(i, "a.test"))
            yield* waitFor("an answer", () => talk.messages.length === 1)
            talks.push(talk)
          }
          yield* waitFor("22 resets", () => talks.filter((talk) => talk.error() === "ECONNRESET").length === 22)
          assert.isTrue(talks.slice(22).every((talk) => talk.error() === undefined && !talk.isClosed()))
        })
    )

    scoped("forgets whoever ends with a reset", (wire) =>
      Effect.gen(function*() {
        answerAll(wire)
        for (let i = 0; i < 5; i++) {
          const talk = yield* connect()
          talk.socket.write(queryFor(i, "a.test"))
          yield* waitFor("an answer", () => talk.messages.length === 1)
          talk.socket.resetAndDestroy()
        }
        yield* waitFor("no deadline", () => {
          wire.settle()
          return wire.server.pollTimeout() === undefined
        })
      }))

    scoped("is served over a link that loses packets", (wire) =>
      Effect.gen(function*() {
        answerAll(wire)
        wire.loss = 0.04
        const talks = yield* Effect.all(Array.from({ length: 4 }, () => connect()), { concurrency: "unbounded" })
        for (const [i, { socket }] of talks.entries()) {
          for (let id = 0; id < 20; id++) {
            socket.write(queryFor(id, id % 10 === i ? "big-60.test" : "a.test", RecordType.TXT))
          }
        }
        for (const talk of talks) {
          yield* waitFor("20 answers", () => talk.messages.length === 20)
          assert.deepStrictEqual(talk.messages.map(({ id }) => id), Array.from({ length: 20 }, (_, id) => id))
          assert.isUndefined(talk.error())
        }
      }))

    scoped("is asked by us: dnsmasq, which ends a connection after some queries", (wire) =>
      Effect.gen(function*() {
        const directory = yield* temporary
        const listen = ["-a", `${KERNEL[4]},${KERNEL[6]}`, "--address=/wild.test/192.0.2.9"]
        yield* daemon(["dnsmasq", "-d", "-R", "-h", "-z", "-u", "root", `--pid-file=${directory}/pid`, ...listen])
        yield* waitFor("dnsmasq", () => run("ss", "-Htln").includes(`${KERNEL[4]}:53`))
        for (const family of [4, 6] as const) {
          yield* ask(wire, family, Array.from({ length: 250 }, (_, i) => [`n${i}.wild.test`, RecordType.A] as const))
          assert.isTrue(wire.answers.every(({ answer }) => answer?.message.answers.length === 1))
          // Undivided, it serves one connection until that ends.
          wire.skip(10_000)
          yield* waitFor("the end of our idle connection", () => !kernelStates().includes("ESTAB"))
        }
      }))

    scoped(
      "is asked by us: unbound, many queries at once, large answers, a lossy link",
      (wire) =>
        Effect.gen(function*() {
          const directory = yield* temporary
          fs.writeFileSync(path.join(directory, "unbound.conf"), unboundConfig)
          yield* daemon(["unbound", "-d", "-c", path.join(directory, "unbound.conf")])
          yield* waitFor("unbound", () => run("ss", "-Htln").includes(`${KERNEL[4]}:53`))
          const names = Array.from(
            { length: 100 },
            (_, i) => [i % 10 === 0 ? "large.test" : "small.test", RecordType.A] as const
          )
          for (const family of [4, 6] as const) {
            for (const loss of [0, 0.05]) {
              wire.loss = loss
              yield* ask(wire, family, names)
              assert.strictEqual(answered(wire, "large.test").length, 200)
              assert.strictEqual(answered(wire, "small.test").length, 1)
            }
          }
          const connections = run("ss", "-Htn", "state", "established").split("\n").filter((line) =>
            line.includes(":53 ")
          )
          assert.strictEqual(connections.length, 2, "one connection for a server")
        }),
      60_000
    )

    scoped("tells us at once that nobody listens", (wire) =>
      Effect.gen(function*() {
        const query = parseDnsQuery(encodeQuery(1, "a.test", RecordType.A) as Uint8Array)
        assert.isTrue(query !== undefined && wire.client.send(query, 1, ip(OURS[4]), resolver(4), wire.now))
        const start = wire.now
        wire.settle()
        yield* waitFor("a failure", () => wire.answers.length === 1)
        assert.isUndefined(wire.answers[0]?.answer)
        assert.isBelow(wire.now - start, 5000)
      }))
  }
)

const resolver = (family: 4 | 6) => ({ address: ip(KERNEL[family]), port: 53 })

/** Asks all at once, and waits for the answers. */
const ask = (wire: Wire, family: 4 | 6, names: ReadonlyArray<readonly [string, number]>) =>
  Effect.gen(function*() {
    wire.answers.length = 0
    for (const [i, [name, type]] of names.entries()) {
      // Applications choose their ids as they like.
      const query = parseDnsQuery(encodeQuery(i % 3, name, type) as Uint8Array)
      assert.isTrue(query !== undefined && wire.client.send(query, i, ip(OURS[family]), resolver(family), wire.now))
    }
    wire.settle()
    yield* waitFor("all answers", () => wire.answers.length === names.length)
    for (const { answer, asker, query } of wire.answers) {
      assert.strictEqual(answer?.message.questions[0]?.name, names[asker]?.[0])
      assert.strictEqual(answer?.message.id, query.id)
      assert.strictEqual((answer?.bytes[0] ?? 0) << 8 | (answer?.bytes[1] ?? 0), query.id)
    }
  })

const answered = (wire: Wire, name: string): ReadonlyArray<ResourceRecord> =>
  wire.answers.find(({ query }) => query.name === name)?.answer?.message.answers ?? []

const unboundConfig = `
server:
  interface: ${KERNEL[4]}
  interface: ${KERNEL[6]}
  access-control: 0.0.0.0/0 allow
  access-control: ::/0 allow
  do-daemonize: no
  chroot: ""
  username: ""
  use-syslog: no
  pidfile: ""
  module-config: "iterator"
  local-zone: "test." static
  local-data: "small.test. 60 IN A 192.0.2.8"
  ${Array.from({ length: 200 }, (_, i) => `local-data: "large.test. 60 IN A 10.0.${i >> 4}.${i & 15}"`).join("\n  ")}
remote-control:
  control-enable: no
`
