/** DNS over TCP: applications at the sentinels, and resolvers behind gateways (tunnel spec 12.11 and 12.12). */
import type { Answer } from "dns-packet"
import { describe, expect, it } from "vitest"
import type { ClientPush, Resource } from "../../../src/protocol/portal/types.ts"
import { TcpDnsClient } from "../../../src/protocol/tcp/TcpDnsClient.ts"
import { TcpDnsServer } from "../../../src/protocol/tcp/TcpDnsServer.ts"
import { ip } from "../../../src/protocol/wire/address.ts"
import { decodeDns } from "../../../src/protocol/wire/dns.ts"
import type { IpPacket } from "../../../src/protocol/wire/ip.ts"
import { cryptoFrom, seeded } from "../../simulation/random.ts"
import { codeOf, decode, query, records } from "../dns/queries.ts"
import { type ClientHarness, clientWith } from "./client.ts"
import { dnsResource, outsideQueries, SENTINEL, upstreamAnswer } from "./dns.ts"
import { cidr, CLIENT_4, gateway, init } from "./fixtures.ts"
import { parsed } from "./packets.ts"

const g1 = gateway(1)
const lan = cidr(1, "10.0.0.0/8")
const corp = dnsResource(1, "*.corp.test")
const { randomBytes } = cryptoFrom(seeded(5))

/** An application with a TCP of its own, and a resolver behind the gateway. */
class World {
  readonly client: ClientHarness
  readonly application = new TcpDnsClient<string>(randomBytes)
  readonly resolver = new TcpDnsServer(randomBytes)
  readonly answers = new Map<string, Uint8Array | undefined>()
  /** What the resolver says. */
  answer: (message: Uint8Array) => Uint8Array | undefined = (message) => upstreamAnswer(message, [])
  /** TCP packets that the gateway got. */
  throughTunnel = 0
  seen: (packet: IpPacket) => void = () => undefined

  constructor(client: ClientHarness) {
    this.client = client
    this.resolver.listen([ip("10.0.0.53"), ip(g1.ipv4)])
  }

  ask(asker: string, name: string, type = "A", sentinel = SENTINEL): void {
    const server = { address: ip(sentinel), port: 53 }
    expect(this.application.send(query(name, type), asker, ip(CLIENT_4), server, this.client.now)).toBe(true)
    this.run()
  }

  /** Carries packets until there are none. */
  run(): void {
    const { application, client } = this
    for (let moved = true; moved;) {
      moved = false
      for (let packet = application.pollPacket(); packet !== undefined; packet = application.pollPacket()) {
        moved = true
        client.fromTun(packet)
      }
      for (const packet of client.toTun()) {
        moved = true
        application.accept(parsed(packet), client.now)
      }
      for (const packet of client.sent()) {
        if (parsed(packet).protocol !== 6) continue
        this.throughTunnel += 1
        this.seen(parsed(packet))
        moved = true
        this.#toResolver(packet)
      }
      for (let answer = application.pollAnswer(); answer !== undefined; answer = application.pollAnswer()) {
        this.answers.set(answer.asker, answer.answer?.bytes)
      }
    }
  }

  #toResolver(packet: Uint8Array): void {
    const { client, resolver } = this
    const view = parsed(packet)
    if (!resolver.handlePacket(view, client.now)) return
    for (let next = resolver.pollQuery(client.now); next !== undefined; next = resolver.pollQuery(client.now)) {
      const answer = this.answer(next.message)
      if (answer !== undefined) resolver.answer(next.connection, answer)
    }
    for (let next = resolver.pollPacket(client.now); next !== undefined; next = resolver.pollPacket(client.now)) {
      expect(client.fromPeer(g1.id, next)).toBeUndefined()
    }
  }
}

const world = (...resources: ReadonlyArray<Resource>): World => {
  const client = clientWith(...resources)
  client.core.setSystemResolvers([ip("192.0.2.53")])
  client.events()
  return new World(client)
}
/** The portal's upstream is a resolver behind the gateway, and that is connected. */
const inside = (): World => {
  const client = clientWith()
  const { init: message } = init([lan]) as Extract<ClientPush, { readonly _tag: "Init" }>
  client.push({
    _tag: "Init",
    init: { ...message, interface: { ...message.interface, upstreamDo53: [ip("10.0.0.53")] } }
  })
  client.connect(lan.id, "10.1.1.1", g1)
  return new World(client)
}
const large: ReadonlyArray<Answer> = Array.from({ length: 60 }, () => ({
  type: "TXT",
  name: "large.test",
  ttl: 300,
  data: "x".repeat(200)
}))

describe("an application that asks over TCP", () => {
  it("is answered at once for a name of a resource, many times on one connection", () => {
    const w = world(corp)
    for (const [asker, name] of [["x", "a.corp.test"], ["y", "b.corp.test"]] as const) w.ask(asker, name)
    expect(records(w.answers.get("x"))[0]).toBe("a.corp.test 1 A 100.96.0.1")
    expect(records(w.answers.get("y"))[0]).toBe("b.corp.test 1 A 100.96.0.5")
  })
  it("has its query forwarded over TCP, and gets a large answer whole", () => {
    const w = world()
    w.ask("x", "large.test", "TXT")
    const [asked, ...more] = outsideQueries(w.client)
    expect([asked?.transport, asked?.upstream, more]).toEqual(["tcp", { _tag: "Do53", address: "192.0.2.53" }, []])
    const answer = upstreamAnswer(asked?.message as Uint8Array, large)
    expect(answer.length).toBeGreaterThan(12_000)
    w.client.core.dnsResponse(asked?.id as number, answer, w.client.now)
    w.run()
    expect(w.answers.get("x")?.slice(2)).toEqual(answer.slice(2))
    // The cache is the same for both transports.
    w.ask("y", "large.test", "TXT")
    expect(decodeDns(w.answers.get("y") ?? new Uint8Array())?.answers).toHaveLength(60)
  })
  it.each(["failed", "timed-out"] as const)("gets an error if that %s", (outcome) => {
    const w = world()
    w.ask("x", "a.test")
    w.client.core.dnsResponse(outsideQueries(w.client)[0]?.id as number, outcome, w.client.now)
    w.run()
    expect(codeOf(w.answers.get("x"))).toBe("SERVFAIL")
  })
  it("gets answers in any order", () => {
    const w = world()
    for (const name of ["a.test", "b.test"]) w.ask(name, name)
    for (const { id, message } of outsideQueries(w.client).toReversed()) {
      w.client.core.dnsResponse(id, upstreamAnswer(message, []), w.client.now)
    }
    w.run()
    for (const name of ["a.test", "b.test"]) expect(decode(w.answers.get(name)).questions?.[0]?.name).toBe(name)
  })
  it("is cut off if it sends what is no query", () => {
    const w = world(corp)
    const response = { ...query("a.corp.test"), bytes: upstreamAnswer(query("a.corp.test").bytes, []) }
    w.application.send(response, "x", ip(CLIENT_4), { address: ip(SENTINEL), port: 53 }, w.client.now)
    w.run()
    expect(w.answers.get("x")).toBeUndefined()
    expect([...w.answers.keys()]).toEqual(["x"])
  })
  it("keeps its connection through a reset", () => {
    const w = world()
    w.ask("x", "a.test")
    w.client.core.reset(w.client.now)
    w.ask("y", "b.test")
    for (const { id, message } of outsideQueries(w.client)) {
      w.client.core.dnsResponse(id, upstreamAnswer(message, []), w.client.now)
    }
    w.run()
    for (const name of ["x", "y"]) expect(codeOf(w.answers.get(name))).toBe("NOERROR")
  })
  it("finds nobody any more at a sentinel that is none", () => {
    const w = world(corp)
    w.ask("x", "a.corp.test")
    w.client.core.setSystemResolvers([ip("192.0.2.54")])
    w.ask("y", "b.corp.test")
    w.ask("z", "c.corp.test", "A", "100.100.111.2")
    expect([...w.answers.keys()]).toEqual(["x", "z"])
  })
})

describe("a resolver behind a gateway", () => {
  it("is asked over TCP for who asked over TCP, and its answer is kept", () => {
    const w = inside()
    w.answer = (message) => upstreamAnswer(message, large)
    w.ask("x", "large.test", "TXT")
    expect(outsideQueries(w.client)).toEqual([])
    expect(decodeDns(w.answers.get("x") ?? new Uint8Array())?.answers).toHaveLength(60)
    const before = w.throughTunnel
    w.ask("y", "large.test", "TXT")
    expect([w.throughTunnel, w.answers.get("y")?.length]).toEqual([before, w.answers.get("x")?.length])
  })
  it("does not mix up applications that use the same id", () => {
    const w = inside()
    const asked: Array<Uint8Array> = []
    w.answer = (message) => {
      asked.push(message)
      return upstreamAnswer(message, [])
    }
    for (const name of ["a.test", "b.test", "c.test"]) w.ask(name, name)
    for (const name of ["a.test", "b.test", "c.test"]) {
      expect(decode(w.answers.get(name)).questions?.[0]?.name).toBe(name)
    }
    expect(asked).toHaveLength(3)
  })
  it("that says nothing is an error after 10 s", () => {
    const w = inside()
    w.answer = () => undefined
    w.ask("x", "a.test")
    w.client.advance(9999)
    w.run()
    expect(w.answers.size).toBe(0)
    w.client.advance(1)
    w.run()
    expect(codeOf(w.answers.get("x"))).toBe("SERVFAIL")
  })
  it("is an error after a reset, at once", () => {
    const w = inside()
    w.answer = () => undefined
    w.ask("x", "a.test")
    w.client.core.reset(w.client.now)
    w.run()
    expect(codeOf(w.answers.get("x"))).toBe("SERVFAIL")
  })
  it("is asked by the gateway's own resolver for SRV and TXT of a resource", () => {
    const w = world(corp)
    w.ask("warm", "a.corp.test")
    w.client.connect(corp.id, "100.96.0.1", g1)
    const syns: Array<number> = []
    w.seen = (packet) => syns.push(packet.destinationPort)
    w.ask("x", "a.corp.test", "TXT")
    expect(syns).toEqual([53_535])
  })
})
