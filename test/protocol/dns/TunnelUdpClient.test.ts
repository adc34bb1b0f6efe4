/** Queries through the tunnel over UDP (tunnel spec 12.11). */
import * as packet from "dns-packet"
import { describe, expect, it } from "vitest"
import { TunnelUdpClient } from "../../../src/protocol/dns/TunnelUdpClient.ts"
import { ip } from "../../../src/protocol/wire/address.ts"
import { udpPacket } from "../../../src/protocol/wire/udp.ts"
import { cryptoFrom, seeded } from "../../simulation/random.ts"
import { icmpError, isIntact, parsed } from "../tunnel/packets.ts"
import { codeOf, encodeQuery, query } from "./queries.ts"

const SERVER = { address: ip("10.0.0.53"), port: 53 }
const US = ip("100.64.0.1")

class Client {
  readonly machine: TunnelUdpClient<string>
  constructor(randomBytes = cryptoFrom(seeded(7)).randomBytes) {
    this.machine = new TunnelUdpClient(randomBytes)
  }
  /** The packet of a query, if it was taken. */
  send(asker: string, now = 0, name = "a.test"): Uint8Array | undefined {
    return this.machine.send(query(name), asker, US, SERVER, now) ? this.machine.pollPacket() : undefined
  }
  sent(asker: string, now = 0): Uint8Array {
    const sent = this.send(asker, now)
    if (sent === undefined) throw new Error("not taken")
    return sent
  }
  accept(bytes: Uint8Array): boolean {
    return this.machine.accept(parsed(bytes))
  }
  /** `ASKER CODE`, or `ASKER none`. */
  answers(): ReadonlyArray<string> {
    const found: Array<string> = []
    for (let next = this.machine.pollAnswer(); next !== undefined; next = this.machine.pollAnswer()) {
      found.push(`${next.asker} ${next.answer === undefined ? "none" : codeOf(next.answer.bytes)}`)
    }
    return found
  }
}

const response = (more: Partial<packet.Packet> = {}): Uint8Array =>
  Uint8Array.from(packet.encode({
    type: "response",
    id: 0x1234,
    questions: [{ type: "A", name: "a.test" }],
    answers: [{ type: "A", name: "a.test", ttl: 30, data: "192.0.2.1" }],
    ...more
  }))
/** What the server, or somebody else, sends to where `sent` came from. */
const back = (sent: Uint8Array, payload: Uint8Array, from = "10.0.0.53", port = 53): Uint8Array =>
  udpPacket({
    source: ip(from),
    sourcePort: port,
    destination: US,
    destinationPort: parsed(sent).sourcePort
  }, payload)

describe("TunnelUdpClient", () => {
  it("sends the query once, unchanged, from a port of its own", () => {
    const client = new Client()
    const sent = Array.from({ length: 200 }, (_, i) => client.sent(`${i}`))
    for (const bytes of sent) {
      expect(isIntact(bytes)).toBe(true)
      const { destinationPort, sourcePort, transport } = parsed(bytes)
      expect(bytes.slice(transport + 8)).toEqual(encodeQuery("a.test"))
      expect(destinationPort).toBe(53)
      expect(sourcePort).toBeGreaterThanOrEqual(49_152)
    }
    expect(new Set(sent.map((bytes) => parsed(bytes).sourcePort)).size).toBe(200)
    client.machine.handleTimeout(9999)
    expect(client.machine.pollPacket()).toBeUndefined()
  })
  it("takes the server's answer, whatever its code", () => {
    const client = new Client()
    const [first, second] = [client.sent("x"), client.sent("y")]
    expect(client.accept(back(second, response({ flags: 3, answers: [] })))).toBe(true)
    expect(client.accept(back(first, response()))).toBe(true)
    expect(client.answers()).toEqual(["y NXDOMAIN", "x NOERROR"])
    expect(client.machine.pollTimeout()).toBeUndefined()
  })
  it("swallows the server's answers to other questions and goes on waiting", () => {
    const client = new Client()
    const sent = client.sent("x")
    const wrong = [
      response({ id: 0x1235 }),
      response({ type: "query" }),
      response({ questions: [{ type: "A", name: "b.test" }] })
    ]
    for (const payload of wrong) expect(client.accept(back(sent, payload))).toBe(true)
    expect(client.answers()).toEqual([])
    client.accept(back(sent, response()))
    expect(client.answers()).toEqual(["x NOERROR"])
  })
  it("leaves to others what others send, also to its ports", () => {
    const client = new Client()
    const sent = client.sent("x")
    for (const [from, port] of [["10.0.0.54", 53], ["10.0.0.53", 5353]] as const) {
      expect(client.accept(back(sent, response(), from, port))).toBe(false)
    }
    const elsewhere = udpPacket({
      source: SERVER.address,
      sourcePort: 53,
      destination: US,
      destinationPort: parsed(sent).sourcePort ^ 1
    }, response())
    expect(client.accept(elsewhere)).toBe(false)
    expect(client.answers()).toEqual([])
  })
  it("fails when the server sends what is no message", () => {
    const client = new Client()
    expect(client.accept(back(client.sent("x"), Uint8Array.of(0x12, 0x34)))).toBe(true)
    expect(client.answers()).toEqual(["x none"])
  })
  it("fails when an ICMP error quotes the query, and only then", () => {
    const client = new Client()
    const sent = client.sent("x")
    const other = udpPacket({
      source: US,
      sourcePort: parsed(sent).sourcePort,
      destination: ip("10.0.0.54"),
      destinationPort: 53
    }, response())
    expect(client.accept(icmpError(other, "unreachable-net"))).toBe(false)
    expect(client.answers()).toEqual([])
    expect(client.accept(icmpError(sent, "unreachable-net"))).toBe(true)
    expect(client.answers()).toEqual(["x none"])
    expect(client.accept(icmpError(sent, "unreachable-net"))).toBe(false)
  })
  it("fails at once when policy refuses the query", () => {
    const client = new Client()
    const sent = client.sent("x")
    expect(client.machine.refused(parsed(back(sent, response())))).toBe(false)
    expect(client.machine.refused(parsed(sent))).toBe(true)
    expect(client.answers()).toEqual(["x none"])
    expect(client.machine.refused(parsed(sent))).toBe(false)
  })
  it("gives up after 10 s, and swallows what comes later", () => {
    const client = new Client()
    const first = client.sent("x", 0)
    client.sent("y", 4000)
    expect(client.machine.pollTimeout()).toBe(10_000)
    client.machine.handleTimeout(9999)
    expect(client.answers()).toEqual([])
    client.machine.handleTimeout(10_000)
    expect([client.answers(), client.machine.pollTimeout()]).toEqual([["x none"], 14_000])
    expect(client.accept(back(first, response()))).toBe(true)
    expect(client.accept(back(first, response(), "10.0.0.54"))).toBe(false)
    expect(client.answers()).toEqual([])
  })
  it("has 1024 ports; those that nobody waits for any more make room", () => {
    const client = new Client()
    const first = client.sent("first", 0)
    for (let i = 1; i < 1024; i++) client.sent(`${i}`, 1)
    expect(client.send("too many", 1)).toBeUndefined()
    client.machine.handleTimeout(10_000) // the first
    expect(client.accept(back(first, response()))).toBe(true)
    expect(client.send("again", 10_000)).toBeDefined()
    expect(client.accept(back(first, response()))).toBe(false)
    expect(client.send("too many", 10_000)).toBeUndefined()
  })
  it("finds a free port with the worst randomness, and takes no query that no packet carries", () => {
    const client = new Client((length) => new Uint8Array(length).fill(0xff))
    const ports = [client.sent("x"), client.sent("y"), client.sent("z")].map((bytes) => parsed(bytes).sourcePort)
    expect(ports).toEqual([65_535, 49_152, 49_153])
    const long = Uint8Array.of(...encodeQuery("a.test"), ...new Uint8Array(1200))
    expect(client.machine.send({ ...query("a.test"), bytes: long }, "x", US, SERVER, 0)).toBe(false)
  })
})
