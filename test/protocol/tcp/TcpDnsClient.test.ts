/** Queries through the tunnel over TCP (tunnel spec 12.11), with a resolver that does as it is told. */
import { assert, describe, it } from "@effect/vitest"
import { type DnsQuery, parseDnsQuery } from "../../../src/protocol/dns/DnsQuery.ts"
import { TcpConnection } from "../../../src/protocol/tcp/TcpConnection.ts"
import { TcpDnsClient } from "../../../src/protocol/tcp/TcpDnsClient.ts"
import { ip } from "../../../src/protocol/wire/address.ts"
import { decodeDns, type DnsMessage, encodeDns, encodeQuery, responseTo } from "../../../src/protocol/wire/dns.ts"
import { icmpError, udp } from "../tunnel/packets.ts"
import { Ack, ends, parsePacket, parseSegment, randomBytesOf, Rst, seeded, seen, Syn, write } from "./support.ts"

const US = "100.64.0.9"
const US6 = "fd00:2021:1111::9"
const SERVER = "10.0.0.53"
const SERVER6 = "fd01::53"

const query = (name: string, id = 7, type = 1): DnsQuery =>
  parseDnsQuery(encodeQuery(id, name, type) as Uint8Array) as DnsQuery

const withId = (bytes: Uint8Array, id: number): Uint8Array => {
  const copy = bytes.slice()
  copy[0] = id >> 8
  copy[1] = id & 255
  return copy
}

interface Served {
  readonly port: number
  readonly tcp: TcpConnection
  /** What was asked, as it stood on the wire. */
  readonly asked: Array<Uint8Array>
}

class World {
  readonly client = new TcpDnsClient<string>(randomBytesOf(seeded(5)))
  readonly connections: Array<Served> = []
  /** Everything that the client sent. */
  readonly sent: Array<Uint8Array> = []
  readonly answers: Array<readonly [string, number | undefined]> = []
  /** Called with what a connection was asked. */
  serve: (served: Served, message: Uint8Array) => void = () => {}
  /** Nothing gets through. */
  isCut = false
  isListening = true
  now = 0

  send(asker: string, of: DnsQuery = query(`${asker}.test`), server = SERVER, source = US): boolean {
    const isSent = this.client.send(of, asker, ip(source), { address: ip(server), port: 53 }, this.now)
    this.settle()
    return isSent
  }

  accept(packet: Uint8Array): boolean {
    const isTaken = this.client.accept(parsePacket(packet), this.now)
    this.settle()
    return isTaken
  }

  settle(): void {
    for (let moved = true; moved;) {
      moved = false
      for (let out = this.client.pollPacket(); out !== undefined; out = this.client.pollPacket()) {
        moved = true
        this.sent.push(out)
        if (!this.isCut) this.#arrived(out)
      }
      for (const { tcp } of this.connections) {
        for (let out = tcp.pollPacket(this.now); out !== undefined; out = tcp.pollPacket(this.now)) {
          if (this.isCut) continue
          moved = true
          assert.isTrue(this.client.accept(parsePacket(out), this.now))
        }
      }
    }
    for (let answer = this.client.pollAnswer(); answer !== undefined; answer = this.client.pollAnswer()) {
      const { answer: given, asker, query } = answer
      if (given !== undefined) assert.deepStrictEqual([given.message.id, given.bytes[1]], [query.id, query.id & 255])
      this.answers.push([asker, given?.message.responseCode])
    }
  }

  pass(millis: number): void {
    const end = this.now + millis
    while (true) {
      const next = Math.min(
        this.client.pollTimeout() ?? Infinity,
        ...this.connections.map(({ tcp }) => tcp.pollTimeout() ?? Infinity)
      )
      if (next > end) break
      this.now = Math.max(this.now, next)
      this.client.handleTimeout(this.now)
      for (const { tcp } of this.connections) tcp.handleTimeout(this.now)
      this.settle()
    }
    this.now = end
  }

  /** The answers since the last look. */
  take(): ReadonlyArray<readonly [string, number | undefined]> {
    return this.answers.splice(0)
  }

  #arrived(bytes: Uint8Array): void {
    const packet = parsePacket(bytes)
    const segment = parseSegment(bytes)
    let served = this.connections.find(({ port }) => port === packet.sourcePort)
    if (served === undefined) {
      if ((segment.flags & Syn) === 0) return
      const back = packet.version === 4
        ? ends(SERVER, packet.destinationPort, US, packet.sourcePort)
        : ends(SERVER6, packet.destinationPort, US6, packet.sourcePort)
      if (!this.isListening) {
        const acknowledgment = segment.sequence + 1
        assert.isTrue(this.accept(write(back, { flags: Rst | Ack, sequence: 0, acknowledgment })))
        return
      }
      served = { port: packet.sourcePort, tcp: TcpConnection.accept(back, 99, segment), asked: [] }
      this.connections.push(served)
      return
    }
    served.tcp.handleSegment(segment, this.now)
    while (served.tcp.readable >= 2) {
      const end = 2 + (served.tcp.at(0) << 8 | served.tcp.at(1))
      if (served.tcp.readable < end) break
      const message = served.tcp.read(2, end)
      served.asked.push(message)
      this.serve(served, message)
    }
    if (served.tcp.isPeerFinished) served.tcp.close()
  }
}

const say = ({ tcp }: Served, message: Uint8Array): void => {
  tcp.write(Uint8Array.of(message.length >> 8, message.length & 255))
  tcp.write(message)
}

const answerTo = (message: Uint8Array): Uint8Array =>
  encodeDns(responseTo(decodeDns(message) as DnsMessage, 0)) as Uint8Array

const answer = (served: Served, message: Uint8Array): void => say(served, answerTo(message))

const only = (world: World): Served => {
  assert.strictEqual(world.connections.length, 1)
  return world.connections[0] as Served
}

describe("the client", () => {
  it("asks on one connection for a server, whatever ids applications chose, and sorts the answers out", () => {
    const world = new World()
    for (const asker of ["a", "b", "c"]) assert.isTrue(world.send(asker))
    const served = only(world)
    const ids = served.asked.map((message) => (message[0] ?? 0) << 8 | (message[1] ?? 0))
    assert.strictEqual(new Set(ids).size, 3)
    assert.deepStrictEqual(
      served.asked.map((message) => withId(message, 7)),
      ["a", "b", "c"].map((n) => query(`${n}.test`).bytes)
    )
    for (const message of served.asked.toReversed()) answer(served, message)
    world.settle()
    assert.deepStrictEqual(world.take(), [["c", 0], ["b", 0], ["a", 0]])
    world.pass(9000)
    world.send("d")
    assert.strictEqual(only(world).asked.length, 4)
  })

  it("asks from our address and a port of the ephemeral range, in both families", () => {
    const world = new World()
    world.serve = answer
    world.send("four")
    world.send("six", query("six.test"), SERVER6, US6)
    assert.deepStrictEqual(world.take(), [["four", 0], ["six", 0]])
    for (const { port } of world.connections) assert.isAtLeast(port, 49_152)
    assert.strictEqual(world.connections.length, 2)
  })

  it("ends an idle connection after ten seconds, and opens another for the next query", () => {
    const world = new World()
    world.serve = answer
    world.send("a")
    world.pass(9999)
    assert.strictEqual(only(world).tcp.state, "established")
    world.pass(1)
    assert.strictEqual(only(world).tcp.state, "closed")
    world.send("b")
    assert.deepStrictEqual(world.take(), [["a", 0], ["b", 0]])
    assert.strictEqual(world.connections.length, 2)
    world.pass(60_000)
    assert.isUndefined(world.client.pollTimeout())
  })

  it("fails what is not answered within ten seconds, and takes the answer that comes later from nobody", () => {
    const world = new World()
    world.send("slow")
    world.pass(6000)
    world.send("other")
    const [slow, other] = only(world).asked as [Uint8Array, Uint8Array]
    answer(only(world), other)
    world.pass(3999)
    assert.deepStrictEqual(world.take(), [["other", 0]])
    world.pass(1)
    assert.deepStrictEqual(world.take(), [["slow", undefined]])
    answer(only(world), slow)
    world.settle()
    world.serve = answer
    world.send("next")
    assert.deepStrictEqual(world.take(), [["next", 0]])
    assert.strictEqual(only(world).tcp.state, "established")
  })

  it("fails what is not answered, and leaves a connection on which nothing is heard", () => {
    const world = new World()
    world.serve = answer
    world.send("a")
    world.isCut = true
    world.send("lost")
    world.pass(5000)
    world.send("younger")
    world.isCut = false
    // The server has forgotten us.
    world.connections.length = 0
    world.pass(4999)
    assert.deepStrictEqual(world.take(), [["a", 0]])
    world.pass(1)
    assert.deepStrictEqual(world.take(), [["lost", undefined], ["younger", 0]])
  })

  it("hears at once that nobody listens", () => {
    const world = new World()
    world.isListening = false
    world.send("a")
    assert.deepStrictEqual(world.take(), [["a", undefined]])
    assert.strictEqual(world.sent.length, 1)
  })

  it("fails after ten seconds if nobody is there", () => {
    const world = new World()
    world.isCut = true
    world.send("a")
    world.pass(1000)
    world.send("b")
    world.pass(8999)
    assert.deepStrictEqual(world.take(), [])
    world.pass(1)
    assert.deepStrictEqual(world.take(), [["a", undefined]])
    world.pass(1000)
    assert.deepStrictEqual(world.take(), [["b", undefined]])
    assert.isTrue(world.sent.every((packet) => seen(packet).flags === "SYN"))
  })

  it("asks again when a server ends the connection, as long as it answers something on each", () => {
    const world = new World()
    world.serve = (served, message) => {
      if (served.asked.length > 1) return
      answer(served, message)
      served.tcp.close()
    }
    for (const asker of ["a", "b", "c", "d"]) world.send(asker)
    world.settle()
    assert.deepStrictEqual(world.take(), [["a", 0], ["b", 0], ["c", 0], ["d", 0]])
    assert.strictEqual(world.connections.length, 4)
  })

  it("asks again once when it ends the connection without an answer", () => {
    for (const end of ["close", "abort"] as const) {
      const world = new World()
      world.serve = ({ tcp }) => tcp[end]()
      world.send("a")
      world.settle()
      assert.deepStrictEqual(world.take(), [["a", undefined]])
      assert.strictEqual(world.connections.length, 2)
    }
  })

  it("counts an attempt for nothing only if nothing was answered", () => {
    const world = new World()
    world.serve = (served, message) => {
      // The first answers once, the second never.
      if (served.asked.length > 1) return
      if (world.connections.length !== 2) answer(served, message)
      if (world.connections.length < 3) served.tcp.close()
    }
    world.isCut = true
    world.send("a")
    world.send("b")
    world.isCut = false
    world.pass(1000)
    assert.deepStrictEqual(world.take().toSorted(), [["a", 0], ["b", 0]])
    assert.strictEqual(world.connections.length, 3)
  })

  it("does not take a connection for dead that it has asked on a moment ago", () => {
    const world = new World()
    world.send("a")
    world.pass(9000)
    only(world).tcp.abort()
    world.settle()
    world.pass(500)
    world.send("b")
    world.pass(500)
    assert.deepStrictEqual(world.take(), [["a", undefined]])
    const [, second] = world.connections
    if (second !== undefined) { for (const message of second.asked) answer(second, message) }
    world.settle()
    assert.deepStrictEqual(world.take(), [["b", 0]])
    assert.strictEqual(world.connections.length, 2)
  })

  it("asks again on a connection that was reset while nobody waited", () => {
    const world = new World()
    world.serve = answer
    world.send("a")
    only(world).tcp.abort()
    world.isCut = true
    world.settle()
    world.isCut = false
    world.connections.length = 0
    world.send("b")
    // What a kernel says to a segment of a connection that it does not know.
    const last = seen(world.sent.at(-1) as Uint8Array)
    const { sourcePort } = parsePacket(world.sent.at(-1) as Uint8Array)
    world.accept(write(ends(SERVER, 53, US, sourcePort), { flags: Rst, sequence: last.acknowledgment }))
    assert.deepStrictEqual(world.take(), [["a", 0], ["b", 0]])
  })

  it("may be opened from both sides at once by a strange server, or by none", () => {
    const world = new World()
    world.isCut = true
    world.send("a")
    const { sourcePort } = parsePacket(world.sent[0] as Uint8Array)
    assert.isTrue(world.accept(write(ends(SERVER, 53, US, sourcePort), { flags: Syn, sequence: 5 })))
    assert.deepStrictEqual(world.sent.map((packet) => seen(packet).flags), ["SYN", "SYN ACK"])
    world.pass(60_000)
    assert.deepStrictEqual([world.take(), world.client.pollTimeout()], [[["a", undefined]], undefined])
  })
})

describe("all queries of a connection fail", () => {
  const badAnswers: ReadonlyArray<readonly [string, (message: Uint8Array) => Uint8Array]> = [
    [
      "an id that was never asked",
      (message) => withId(answerTo(message), ((message[0] ?? 0) << 8 | (message[1] ?? 0)) ^ 1)
    ],
    ["what is no message", (message) => message.slice(0, 14)],
    ["nothing", () => new Uint8Array(0)],
    ["a query", (message) => message],
    [
      "the answer to another question",
      (message) => withId(answerTo(query("other.test").bytes), (message[0] ?? 0) << 8 | (message[1] ?? 0))
    ]
  ]
  for (const [name, bad] of badAnswers) {
    it(`when the server says ${name}, and the connection is reset`, () => {
      const world = new World()
      world.send("a")
      world.send("b")
      const served = only(world)
      say(served, bad(served.asked[0] as Uint8Array))
      world.settle()
      assert.deepStrictEqual(world.take().map(([asker, code]) => `${asker} ${code}`).sort(), [
        "a undefined",
        "b undefined"
      ])
      assert.strictEqual(served.tcp.state, "closed")
      world.serve = answer
      world.send("c")
      assert.deepStrictEqual(world.take(), [["c", 0]])
    })
  }

  it("when an ICMP error quotes one of its packets", () => {
    for (const [server, source] of [[SERVER, US], [SERVER6, US6]] as const) {
      const world = new World()
      world.isCut = true
      world.send("a", query("a.test"), server, source)
      world.send("b", query("b.test"), server, source)
      assert.isTrue(world.accept(icmpError(world.sent[0] as Uint8Array)))
      assert.deepStrictEqual(world.take(), [["a", undefined], ["b", undefined]])
      assert.isTrue(world.accept(icmpError(world.sent[0] as Uint8Array)), "again, and for nobody")
    }
  })

  it("when policy refuses one of its packets, which it then does not repeat", () => {
    const world = new World()
    world.isCut = true
    world.send("a")
    assert.isTrue(world.client.refused(parsePacket(world.sent[0] as Uint8Array)))
    world.pass(60_000)
    assert.deepStrictEqual([world.take(), world.sent.length], [[["a", undefined]], 1])
  })

  it("on reset, and what comes for them is swallowed without a word", () => {
    const world = new World()
    world.send("a")
    world.send("b", query("b.test"), SERVER6, US6)
    world.client.reset()
    world.settle()
    assert.deepStrictEqual(world.take(), [["a", undefined], ["b", undefined]])
    assert.isUndefined(world.client.pollTimeout())
    const count = world.sent.length
    for (const served of world.connections) answer(served, served.asked[0] as Uint8Array)
    world.settle() // asserts that each packet is accepted
    assert.deepStrictEqual([world.take(), world.sent.length], [[], count])
    world.serve = answer
    world.send("c")
    assert.deepStrictEqual(world.take(), [["c", 0]])
  })
})

describe("packets of others", () => {
  it("are not taken, although they come from the same server or go to the same port", () => {
    const world = new World()
    world.send("a")
    const { port } = only(world)
    const ack = { flags: Ack, sequence: 1 }
    assert.isFalse(world.accept(write(ends(SERVER, 53, US, port ^ 1), ack)))
    assert.isFalse(world.accept(write(ends(SERVER, 54, US, port), ack)))
    assert.isFalse(world.accept(write(ends("10.0.0.54", 53, US, port), ack)))
    assert.isFalse(world.accept(write(ends(SERVER, 53, "100.64.0.10", port), ack)))
    assert.isFalse(world.accept(write(ends(SERVER6, 53, US6, port), ack)))
    assert.isFalse(world.accept(udp({ from: SERVER, to: US }, port, "hello", 53)))
    const theirs = write(ends(US, port ^ 1, SERVER, 53), ack)
    assert.isFalse(world.accept(icmpError(theirs)))
    assert.isFalse(world.client.refused(parsePacket(theirs)))
    assert.isFalse(world.client.refused(parsePacket(udp({ from: US, to: SERVER }, 53, "hello", port))))
  })
})

describe("limits", () => {
  it("1024 queries are under way at most", () => {
    const world = new World()
    world.isCut = true
    for (let i = 0; i < 1024; i++) assert.isTrue(world.send(`n${i}`))
    assert.isFalse(world.send("more"))
    world.pass(10_000)
    assert.strictEqual(world.take().length, 1024)
    assert.isTrue(world.send("again"))
  })

  it("no two of them have one id", () => {
    const world = new World()
    for (let i = 0; i < 1024; i++) world.send(`n${i}`)
    const ids = only(world).asked.map((message) => (message[0] ?? 0) << 8 | (message[1] ?? 0))
    assert.strictEqual(new Set(ids).size, 1024)
  })

  it("64 connections are open at most: an idle one makes room, a busy one does not", () => {
    const world = new World()
    world.isCut = true
    const server = (i: number) => `10.0.1.${i}`
    for (let i = 0; i < 64; i++) assert.isTrue(world.send(`n${i}`, query("a.test"), server(i)))
    assert.isFalse(world.send("more", query("a.test"), server(64)))
    assert.isTrue(world.client.refused(parsePacket(world.sent[0] as Uint8Array)))
    assert.isTrue(world.send("more", query("a.test"), server(64)))
  })

  it("zone transfers, whose answers are many messages, are not asked for", () => {
    const world = new World()
    for (const type of [251, 252]) assert.isFalse(world.send("a", query("a.test", 1, type)))
    assert.deepStrictEqual(world.sent, [])
  })

  it("queries that a server does not take are not piled up", () => {
    const world = new World()
    world.isCut = true
    const large = { ...query("a.test"), bytes: new Uint8Array(60_000) }
    assert.deepStrictEqual([1, 2, 3].map((i) => world.send(`n${i}`, large)), [true, true, false])
    assert.isFalse(world.send("huge", { ...large, bytes: new Uint8Array(70_000) }))
  })

  it("a server that leaves many queries unanswered is asked on a new connection", () => {
    const world = new World()
    world.serve = (served, message) => {
      if ((decodeDns(message) as DnsMessage).questions[0]?.name.startsWith("ok")) answer(served, message)
    }
    for (let i = 0; i < 256; i++) world.send(`n${i}`)
    world.pass(9000)
    world.send("ok")
    world.pass(1000)
    assert.strictEqual(world.take().length, 257)
    world.send("ok2")
    assert.deepStrictEqual(world.take(), [["ok2", 0]])
    assert.strictEqual(world.connections.length, 2)
  })
})
