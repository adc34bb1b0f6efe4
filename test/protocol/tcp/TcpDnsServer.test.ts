/** The sentinels' server: connections of its own TCP, and segments that no connection would send. */
import { assert, describe, it } from "@effect/vitest"
import { TcpConnection } from "../../../src/protocol/tcp/TcpConnection.ts"
import { TcpDnsServer } from "../../../src/protocol/tcp/TcpDnsServer.ts"
import type { TcpDnsQuery } from "../../../src/protocol/tcp/types.ts"
import { ip } from "../../../src/protocol/wire/address.ts"
import type { TcpEnds } from "../../../src/protocol/wire/tcp.ts"
import { udp } from "../tunnel/packets.ts"
import {
  Ack,
  ends,
  Fin,
  parsePacket,
  parseSegment,
  randomBytesOf,
  Rst,
  seeded,
  seen,
  Syn,
  write,
  type Written
} from "./support.ts"

const HOST = "100.64.0.5"
const HOST6 = "fd00:2021:1111::5"
const SENTINEL = "100.100.111.1"
const OTHER = "100.100.111.2"
const SENTINEL6 = "fd00:2021:1111:8000:100:100:111:0"

/** An application's end, by our own TCP. */
class Application {
  readonly tcp: TcpConnection
  readonly ends: TcpEnds
  readonly #world: World
  constructor(world: World, of: TcpEnds) {
    this.#world = world
    this.ends = of
    this.tcp = TcpConnection.connect(of, 77)
    world.applications.push(this)
    world.settle()
  }
  /** Behind their lengths, or what lengths are claimed. */
  ask(...messages: ReadonlyArray<Uint8Array>): void {
    for (const message of messages) {
      this.tcp.write(Uint8Array.of(message.length >> 8, message.length & 255))
      this.tcp.write(message)
    }
    this.#world.settle()
  }
  /** All that was answered, behind the lengths. */
  read(): ReadonlyArray<Uint8Array> {
    const messages: Array<Uint8Array> = []
    while (this.tcp.readable >= 2) {
      const end = 2 + (this.tcp.at(0) << 8 | this.tcp.at(1))
      if (this.tcp.readable < end) break
      messages.push(this.tcp.read(2, end))
    }
    this.#world.settle()
    return messages
  }
}

class World {
  readonly server = new TcpDnsServer(randomBytesOf(seeded(1)))
  readonly applications: Array<Application> = []
  readonly queries: Array<TcpDnsQuery> = []
  /** What came out for nobody that we know. */
  readonly strays: Array<Uint8Array> = []
  /** Answers a query in the same turn. */
  respond: ((query: TcpDnsQuery) => Uint8Array) | undefined
  now = 1000

  constructor(addresses: ReadonlyArray<string> = [SENTINEL, SENTINEL6]) {
    this.server.listen(addresses.map(ip))
  }

  connect(port = 40_000, sentinel = SENTINEL): Application {
    return new Application(this, ends(sentinel.includes(":") ? HOST6 : HOST, port, sentinel, 53))
  }

  raw(bytes: Uint8Array): boolean {
    const isTaken = this.server.handlePacket(parsePacket(bytes), this.now)
    this.settle()
    return isTaken
  }

  tell(from: TcpEnds, written: Written): boolean {
    return this.raw(write(from, written))
  }

  /** Until nobody has anything to say. */
  settle(): void {
    for (let moved = true; moved;) {
      moved = false
      for (const { ends: of, tcp } of this.applications) {
        for (let packet = tcp.pollPacket(this.now); packet !== undefined; packet = tcp.pollPacket(this.now)) {
          moved = true
          assert.isTrue(this.server.handlePacket(parsePacket(packet), this.now), String(of.sourcePort))
        }
      }
      for (let query = this.server.pollQuery(this.now); query !== undefined; query = this.server.pollQuery(this.now)) {
        moved = true
        this.queries.push(query)
        if (this.respond !== undefined) this.server.answer(query.connection, this.respond(query))
      }
      for (let out = this.server.pollPacket(this.now); out !== undefined; out = this.server.pollPacket(this.now)) {
        moved = true
        const packet = parsePacket(out)
        const to = this.applications.find(({ ends: { source, sourcePort } }) =>
          sourcePort === packet.destinationPort && source.length === (packet.version === 4 ? 4 : 16)
        )
        if (to === undefined) this.strays.push(out)
        else to.tcp.handleSegment(parseSegment(out), this.now)
      }
    }
  }

  pass(millis: number): void {
    const end = this.now + millis
    while (true) {
      const next = Math.min(
        this.server.pollTimeout() ?? Infinity,
        ...this.applications.map(({ tcp }) => tcp.pollTimeout() ?? Infinity)
      )
      if (next > end) break
      this.now = Math.max(this.now, next)
      this.server.handleTimeout(this.now)
      for (const { tcp } of this.applications) tcp.handleTimeout(this.now)
      this.settle()
    }
    this.now = end
  }
}

/** At least as long as a DNS header, and not like another one. */
const message = (mark: number, length = 12): Uint8Array => new Uint8Array(length).fill(mark)

const marks = (messages: ReadonlyArray<Uint8Array>): ReadonlyArray<number | undefined> => messages.map(([mark]) => mark)

describe("the server", () => {
  it("hands out whole messages with their connection, and takes answers in any order", () => {
    for (const sentinel of [SENTINEL, SENTINEL6]) {
      const world = new World()
      const application = world.connect(40_000, sentinel)
      application.ask(message(1), message(2, 600), message(3))
      assert.deepStrictEqual(world.queries.map((query) => query.message), [message(1), message(2, 600), message(3)])
      const [first, second, third] = world.queries.map(({ connection }) => connection)
      assert.isTrue(first !== undefined && first === second && second === third)
      const [host, server] = sentinel === SENTINEL ? [HOST, SENTINEL] : [`[${HOST6}]`, `[${SENTINEL6}]`]
      assert.deepStrictEqual([first?.local.text, first?.remote.text], [`${server}:53`, `${host}:40000`])
      for (const mark of [3, 1, 2]) if (first !== undefined) world.server.answer(first, message(mark, 20))
      world.settle()
      assert.deepStrictEqual(application.read(), [message(3, 20), message(1, 20), message(2, 20)])
    }
  })

  it("keeps applications apart that use one port, to two sentinels or in two families", () => {
    const world = new World([SENTINEL, SENTINEL6, OTHER])
    const one = world.connect(40_000, SENTINEL)
    const two = world.connect(40_000, SENTINEL6)
    one.ask(message(1))
    two.ask(message(2))
    world.tell(ends(HOST, 40_000, OTHER, 53), { flags: Syn, sequence: 9 })
    assert.deepStrictEqual(world.queries.map(({ connection, message: [mark] }) => [connection.local.text, mark]), [
      [`${SENTINEL}:53`, 1],
      [`[${SENTINEL6}]:53`, 2]
    ])
  })

  it("takes messages of the largest size, and answers with them", () => {
    const world = new World()
    world.respond = ({ message }) => message
    const application = world.connect()
    application.ask(message(9, 65_535))
    assert.deepStrictEqual(application.read(), [message(9, 65_535)])
  })

  it("is no more than it says: other ports, protocols and addresses are not taken", () => {
    const world = new World()
    assert.isFalse(world.tell(ends(HOST, 40_000, SENTINEL, 54), { flags: Syn, sequence: 1 }))
    assert.isFalse(world.tell(ends(HOST, 40_000, OTHER, 53), { flags: Syn, sequence: 1 }))
    assert.isFalse(world.raw(udp({ from: HOST, to: SENTINEL }, 53)))
    assert.isTrue(world.tell(ends(HOST, 40_000, SENTINEL, 53), { flags: Syn, sequence: 1 }))
    assert.deepStrictEqual(world.strays.map((packet) => seen(packet).flags), ["SYN ACK"])
  })

  it("drops damaged segments", () => {
    const world = new World()
    const syn = write(ends(HOST, 40_000, SENTINEL, 53), { flags: Syn, sequence: 1 })
    syn[30] = (syn[30] ?? 0) ^ 1
    assert.isTrue(world.raw(syn))
    assert.deepStrictEqual(world.strays, [])
  })

  it("lets everything vanish when the addresses change, answers too late for it included", () => {
    const world = new World()
    const application = world.connect()
    application.ask(message(1))
    const connection = world.queries[0]?.connection
    world.server.listen([ip(SENTINEL)])
    assert.isUndefined(world.server.pollTimeout())
    if (connection !== undefined) {
      world.server.answer(connection, message(1))
      world.server.abort(connection)
    }
    world.settle()
    assert.deepStrictEqual([application.read(), application.tcp.state], [[], "established"])
    // Whoever goes on hears that there is nothing any more.
    application.ask(message(2))
    assert.strictEqual(application.tcp.state, "closed")
    const again = world.connect(40_001)
    again.ask(message(3))
    assert.deepStrictEqual(marks(world.queries.map(({ message }) => message)), [1, 3])
  })

  it("ends a connection after the application did and everything is answered", () => {
    const world = new World()
    const application = world.connect()
    application.ask(message(1), message(2))
    application.tcp.close()
    world.settle()
    const [query] = world.queries
    assert.strictEqual(application.tcp.state, "fin-wait-2")
    if (query !== undefined) world.server.abort(query.connection)
    world.settle()
    assert.strictEqual(application.tcp.state, "closed")
  })

  it("ends a half-closed connection whose queries nobody answers, after 15 seconds", () => {
    const world = new World()
    const port = ends(HOST, 40_000, SENTINEL, 53)
    world.tell(port, { flags: Syn, sequence: 100, mss: 1240 })
    const { sequence } = seen(world.strays.pop() as Uint8Array)
    const payload = new Uint8Array(14).fill(0)
    payload[1] = 12
    world.tell(port, { flags: Ack | Fin, sequence: 101, acknowledgment: sequence + 1, payload })
    assert.strictEqual(world.queries.length, 1)
    world.strays.length = 0
    world.pass(14_999)
    assert.deepStrictEqual(world.strays, [])
    world.pass(1)
    assert.deepStrictEqual(world.strays.map((packet) => seen(packet).flags), ["FIN ACK"])
  })

  it("resets a connection whose message is too short for a header", () => {
    const world = new World()
    const application = world.connect()
    application.ask(message(1, 11))
    assert.deepStrictEqual([world.queries, application.tcp.state], [[], "closed"])
  })

  it("ends idle connections after 30 seconds, in order, and one with half a query with a reset", () => {
    const world = new World()
    world.respond = ({ message }) => message
    const idle = world.connect(40_000)
    const half = world.connect(40_001)
    const active = world.connect(40_002)
    half.tcp.write(Uint8Array.of(0, 50, 1, 2, 3))
    world.settle()
    for (const passed of [20_000, 9999]) {
      world.pass(passed)
      active.ask(message(1))
    }
    assert.deepStrictEqual([idle, half, active].map(({ tcp }) => tcp.state), [
      "established",
      "established",
      "established"
    ])
    world.pass(1)
    assert.deepStrictEqual([idle, half, active].map(({ tcp }) => tcp.state), ["close-wait", "closed", "established"])
    idle.tcp.close()
    world.settle()
    world.pass(100_000)
    assert.deepStrictEqual(active.tcp.state, "close-wait")
    world.pass(100_000)
    assert.isUndefined(world.server.pollTimeout(), "nothing is kept")
  })

  it("does not end a connection that waits for an answer, and gives a late one", () => {
    const world = new World()
    const application = world.connect()
    application.ask(message(1))
    world.pass(29_000)
    const [query] = world.queries
    if (query !== undefined) world.server.answer(query.connection, message(1))
    world.settle()
    assert.deepStrictEqual(marks(application.read()), [1])
    world.pass(29_999)
    assert.strictEqual(application.tcp.state, "established", "an answer is a sign of life")
    world.pass(1)
    assert.strictEqual(application.tcp.state, "close-wait")
  })
})

describe("limits", () => {
  it("a connection with many queries unanswered is not read, until some are answered or too old", () => {
    const world = new World()
    const application = world.connect()
    application.ask(...Array.from({ length: 300 }, (_, i) => message(i & 0xff)))
    assert.strictEqual(world.queries.length, 128)
    for (const { connection } of world.queries.slice(0, 10)) world.server.answer(connection, message(1))
    world.settle()
    assert.strictEqual(world.queries.length, 138)
    world.pass(15_000)
    assert.strictEqual(world.queries.length, 266)
    assert.strictEqual(application.tcp.state, "established")
  })

  it("an application that does not read its answers is not asked for more queries, and at last reset", () => {
    const world = new World()
    world.respond = ({ message }) => new Uint8Array(5000).fill(message[0] ?? 0)
    const application = world.connect()
    application.ask(...Array.from({ length: 200 }, () => message(1)))
    // 13 fill its window, and 14 more ours.
    const { length } = world.queries
    assert.isBelow(length, 40)
    world.pass(29_000)
    assert.strictEqual(world.queries.length, length)
    world.pass(2000)
    assert.strictEqual(application.tcp.state, "closed")
  })

  it("answers beyond half a megabyte that nobody takes cost the connection", () => {
    const world = new World()
    const application = world.connect()
    application.ask(...Array.from({ length: 20 }, () => message(1)))
    for (const { connection } of world.queries) world.server.answer(connection, message(1, 60_000))
    world.settle()
    assert.strictEqual(application.tcp.state, "closed")
  })

  it("a flood of SYNs leaves established connections alone, and is soon forgotten", () => {
    const world = new World()
    const application = world.connect()
    for (let i = 0; i < 3000; i++) {
      world.tell(ends(`100.64.${1 + (i >> 8)}.${i & 255}`, 1000 + i, SENTINEL, 53), { flags: Syn, sequence: i })
    }
    application.ask(message(1))
    assert.strictEqual(world.queries.length, 1)
    assert.isBelow(world.strays.length, 3100)
    world.strays.length = 0
    world.pass(10_000)
    // 64 of them are left, each with three repetitions and a farewell.
    assert.isAtMost(world.strays.length, 64 * 4)
    world.strays.length = 0
    world.pass(10_000)
    assert.deepStrictEqual(world.strays, [])
    // Now there is room again: one handshake does not push out another.
    const first = ends("100.64.0.6", 39_000, SENTINEL, 53)
    world.tell(first, { flags: Syn, sequence: 5 })
    const { sequence } = seen(world.strays[0] as Uint8Array)
    world.tell(ends("100.64.0.7", 39_000, SENTINEL, 53), { flags: Syn, sequence: 5 })
    const payload = Uint8Array.of(0, 12, ...message(2))
    world.tell(first, { flags: Ack, sequence: 6, acknowledgment: sequence + 1, payload })
    assert.deepStrictEqual(marks(world.queries.map(({ message }) => message)), [1, 2])
  })

  it("the connection that has been idle for longest makes room for a new one, one that waits for an answer last", () => {
    const world = new World()
    const waiting = world.connect(39_999)
    waiting.ask(message(1))
    const all = Array.from({ length: 127 }, (_, i) => {
      world.now += 1
      return world.connect(40_000 + i)
    })
    assert.isTrue(all.every(({ tcp }) => tcp.state === "established"))
    // A handshake takes nobody's place, and nobody takes its own.
    const opening = ends("100.64.0.6", 39_000, SENTINEL, 53)
    world.tell(opening, { flags: Syn, sequence: 5 })
    const { sequence } = seen(world.strays[0] as Uint8Array)
    world.connect(50_000)
    assert.deepStrictEqual(all.map(({ tcp }) => tcp.state).slice(0, 2), ["closed", "established"])
    world.tell(opening, { flags: Rst, sequence: 6, acknowledgment: sequence + 1 })
    assert.strictEqual(world.strays.length, 1)
    assert.strictEqual(waiting.tcp.state, "established")
    for (let i = 1; i < 20; i++) world.connect(50_000 + i)
    assert.strictEqual(all.filter(({ tcp }) => tcp.state === "closed").length, 20)
    assert.strictEqual(waiting.tcp.state, "established")
  })

  it("what has ended goes first", () => {
    const world = new World()
    const ended = world.connect(39_999)
    const all = Array.from({ length: 127 }, (_, i) => world.connect(40_000 + i))
    world.now += 10
    world.respond = ({ message }) => message
    ended.ask(message(1))
    ended.tcp.close()
    world.settle()
    world.connect(50_000)
    assert.isTrue(all.every(({ tcp }) => tcp.state === "established"))
  })
})

describe("strangers", () => {
  const from = ends(HOST, 40_000, SENTINEL, 53)
  const told = (written: Written, of = from): ReadonlyArray<ReturnType<typeof seen>> => {
    const world = new World()
    assert.isTrue(world.tell(of, written))
    return world.strays.map(seen)
  }

  it("that acknowledge are reset (RFC 9293 section 3.10.7.2)", () => {
    for (const flags of [Ack, Ack | Fin, Syn | Ack]) {
      const [reset] = told({ flags, sequence: 5, acknowledgment: 1234 })
      assert.deepStrictEqual([reset?.flags, reset?.sequence], ["RST", 1234])
    }
  })

  it("that reset, or want nothing, get no answer", () => {
    for (const flags of [Rst, Rst | Ack, Rst | Syn, 0, Fin]) assert.deepStrictEqual(told({ flags, sequence: 5 }), [])
  })

  it("that cannot be where they say get no answer", () => {
    assert.deepStrictEqual(told({ flags: Syn, sequence: 1 }, ends("224.0.0.1", 40_000, SENTINEL, 53)), [])
    assert.deepStrictEqual(told({ flags: Syn, sequence: 1 }, ends(SENTINEL, 53, SENTINEL, 53)), [])
  })

  it("with a SYN whose handshake somebody resets are forgotten", () => {
    const world = new World()
    world.tell(from, { flags: Syn, sequence: 5 })
    const { sequence } = seen(world.strays[0] as Uint8Array)
    world.tell(from, { flags: Rst, sequence: 6 })
    world.strays.length = 0
    world.pass(60_000)
    assert.deepStrictEqual([world.strays, world.server.pollTimeout()], [[], undefined])
    world.tell(from, { flags: Ack, sequence: 6, acknowledgment: sequence + 1 })
    assert.deepStrictEqual(world.strays.map((packet) => seen(packet).flags), ["RST"])
  })

  it("may use the port of a connection that we have just ended (RFC 6191)", () => {
    const world = new World()
    const first = world.connect(40_000)
    world.pass(30_000)
    first.tcp.close()
    world.settle()
    assert.strictEqual(first.tcp.state, "closed")
    world.applications.length = 0
    world.tell(from, { flags: Syn, sequence: 1_000_000 })
    assert.deepStrictEqual(world.strays.map((packet) => seen(packet).flags), ["SYN ACK"])
  })
})
