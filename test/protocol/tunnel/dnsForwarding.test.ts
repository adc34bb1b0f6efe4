/** Queries that the client does not answer itself (tunnel spec 12.1 to 12.4, 12.8 to 12.15). */
import type { Answer } from "dns-packet"
import { describe, expect, it } from "vitest"
import type { Resource } from "../../../src/protocol/portal/types.ts"
import { ip, parseScopedIp } from "../../../src/protocol/wire/address.ts"
import { decodeDns } from "../../../src/protocol/wire/dns.ts"
import { udpPacket } from "../../../src/protocol/wire/udp.ts"
import { type ClientHarness, clientWith, tags } from "./client.ts"
import {
  ask,
  type Asked,
  dnsResource,
  encodeQuery,
  outsideQueries,
  payloadOf,
  PORT,
  queryPacket,
  records,
  replies,
  SENTINEL,
  upstreamAnswer
} from "./dns.ts"
import { cidr, CLIENT_4, CLIENT_6, gateway, init, internet, site2, udpPort } from "./fixtures.ts"
import { icmpError, other, parsed, ping, summary, tcp } from "./packets.ts"

const UPSTREAM = "192.0.2.53"
const g1 = gateway(1)
const a = (name: string, data: string, ttl = 30): Answer => ({ type: "A", name, ttl, data })

/** Knows one system resolver, and nothing is left to be told. */
const client = (...resources: ReadonlyArray<Resource>): ClientHarness => {
  const client = clientWith(...resources)
  client.core.setSystemResolvers([ip(UPSTREAM)])
  client.events()
  return client
}
/** The portal has chosen the upstream. */
const custom = (upstreams: ReadonlyArray<string>, ...resources: ReadonlyArray<Resource>): ClientHarness => {
  const client = clientWith()
  const { init: message } = init(resources) as Extract<ReturnType<typeof init>, { readonly _tag: "Init" }>
  client.push({
    _tag: "Init",
    init: { ...message, interface: { ...message.interface, upstreamDo53: upstreams.map((text) => ip(text)) } }
  })
  client.events()
  return client
}
const codes = (client: ClientHarness) => replies(client).map(({ message }) => message.rcode)
/** The one query that the driver is to ask. */
const outside = (client: ClientHarness) => {
  const [query, ...more] = outsideQueries(client)
  if (query === undefined || more.length > 0) throw new Error("not one query")
  return query
}
/** Asks, and the upstream answers. */
const roundTrip = (client: ClientHarness, name: string, answers: ReadonlyArray<Answer>, asked: Asked = {}) => {
  ask(client, name, asked)
  const { id, message } = outside(client)
  client.core.dnsResponse(id, upstreamAnswer(message, answers), client.now)
  return replies(client)
}

describe("what reaches a sentinel", () => {
  it.each(
    [
      ["no query", queryPacket(SENTINEL, Uint8Array.of(1, 2, 3))],
      ["a response", queryPacket(SENTINEL, encodeQuery("a.test", { more: { type: "response" } }))],
      ["another port", queryPacket(SENTINEL, encodeQuery("a.test"), PORT, 5353)],
      ["a ping", ping({ from: CLIENT_4, to: SENTINEL })],
      ["TCP to another port", tcp({ from: CLIENT_4, to: SENTINEL }, 80)],
      ["another protocol", other({ from: CLIENT_4, to: SENTINEL }, 47)]
    ] as const
  )("and is %s gets no answer", (_, packet) => {
    const c = client()
    c.fromTun(packet)
    expect([c.toTun(), outsideQueries(c), c.dropped()]).toEqual([[], [], { "no-dns-query": 1 }])
  })
  it("gets no answer where no upstream is mapped", () => {
    const c = client()
    c.fromTun(queryPacket("100.100.111.2", encodeQuery("a.test")))
    expect([c.toTun(), c.dropped()]).toEqual([[], { "sentinel-without-dns": 1 }])
    const none = clientWith(dnsResource(1, "a.test"))
    none.fromTun(queryPacket(SENTINEL, encodeQuery("a.test")))
    expect([none.toTun(), none.dropped()]).toEqual([[], { "sentinel-without-dns": 1 }])
  })
})

describe("the TUN configuration", () => {
  const dns = (c: ClientHarness) =>
    c.events().flatMap((event) => event._tag === "TunConfigUpdated" ? [[...event.config.dnsBySentinel.keys()]] : [])

  it("names the sentinels, in order, whenever they change", () => {
    const c = clientWith()
    expect(c.core.setSystemResolvers([ip("1.1.1.1"), ip(SENTINEL), ip("2606:4700:4700::1111"), ip("1.1.1.1")])).toEqual(
      [
        "1.1.1.1",
        "2606:4700:4700::1111"
      ]
    )
    expect(dns(c)).toEqual([[SENTINEL, ip("fd00:2021:1111:8000:100:100:111:0")]])
    c.core.setSystemResolvers([ip("1.1.1.1"), ip("2606:4700:4700::1111")])
    expect(tags(c.events())).toEqual([])
    const { init: message } = init([]) as Extract<ReturnType<typeof init>, { readonly _tag: "Init" }>
    c.push({ _tag: "ConfigChanged", interface: { ...message.interface, upstreamDoh: ["https://dns.example/q"] } })
    expect(dns(c)).toEqual([["100.100.111.2"]])
    c.push({ _tag: "ConfigChanged", interface: message.interface })
    expect(dns(c)).toEqual([[SENTINEL, ip("fd00:2021:1111:8000:100:100:111:0")]])
    c.core.setSystemResolvers([])
    expect(dns(c)).toEqual([[]])
  })
  it("begins with the lowest sentinel, whatever was known before the portal", () => {
    const c = clientWith()
    c.core.setSystemResolvers([ip("1.1.1.1")])
    expect(dns(c)).toEqual([[SENTINEL]])
  })
})

describe("outside the tunnel, a query", () => {
  it("goes to the upstream as it is, and its answer back to who asked", () => {
    const c = client(dnsResource(1, "*.corp.test"))
    ask(c, "Example.com")
    expect(c.toTun()).toEqual([])
    const { id, message, transport, upstream } = outside(c)
    expect([transport, upstream, message]).toEqual([
      "udp",
      { _tag: "Do53", address: UPSTREAM },
      encodeQuery("Example.com")
    ])
    c.core.dnsResponse(id, upstreamAnswer(message, [a("Example.com", "203.0.113.80")]), c.now)
    const [reply, ...more] = replies(c)
    expect(more).toEqual([])
    expect(reply).toMatchObject({ from: SENTINEL, port: PORT, message: { id: 0x1234, rcode: "NOERROR" } })
    expect(reply && records(reply)).toEqual(["Example.com 30 A 203.0.113.80"])
  })
  it("over IPv6 is answered over IPv6", () => {
    const c = clientWith()
    c.core.setSystemResolvers([ip("2001:db8::53")])
    const sentinel = ip("fd00:2021:1111:8000:100:100:111:0")
    ask(c, "a.test", {}, sentinel)
    const { id, message } = outside(c)
    c.core.dnsResponse(id, upstreamAnswer(message, [a("a.test", "203.0.113.80")]), c.now)
    const [packet] = c.toTun()
    expect(packet && summary(packet)).toBe(`${sentinel} > ${CLIENT_6} protocol 17`)
  })
  it("is each upstream's that was asked, also with equal ids", () => {
    const c = clientWith()
    c.core.setSystemResolvers([ip("192.0.2.1"), ip("192.0.2.2")])
    ask(c, "a.test", {}, "100.100.111.1")
    ask(c, "a.test", {}, "100.100.111.2")
    const [first, second] = outsideQueries(c)
    if (first === undefined || second === undefined) throw new Error("not two queries")
    expect([first.upstream, second.upstream]).toMatchObject([{ address: "192.0.2.1" }, { address: "192.0.2.2" }])
    c.core.dnsResponse(second.id, upstreamAnswer(second.message, [a("a.test", "203.0.113.2")]), c.now)
    c.core.dnsResponse(first.id, upstreamAnswer(first.message, [a("a.test", "203.0.113.1")]), c.now)
    expect(replies(c).map((reply) => [reply.from, ...records(reply)])).toEqual([
      ["100.100.111.2", "a.test 30 A 203.0.113.2"],
      ["100.100.111.1", "a.test 30 A 203.0.113.1"]
    ])
  })
  it("to a DoH server has the id 0, and its answer the application's", () => {
    const c = clientWith()
    const { init: message } = init([]) as Extract<ReturnType<typeof init>, { readonly _tag: "Init" }>
    const url = "https://dns.example/dns-query"
    c.push({ _tag: "ConfigChanged", interface: { ...message.interface, upstreamDoh: [url] } })
    ask(c, "www.example.com", { id: 0xabcd })
    const query = outside(c)
    expect(query.upstream).toEqual({ _tag: "DoH", url })
    // The vector of 21.5.
    expect(Buffer.from(query.message).toString("base64url")).toBe("AAABAAABAAAAAAAAA3d3dwdleGFtcGxlA2NvbQAAAQAB")
    c.core.dnsResponse(query.id, upstreamAnswer(query.message, [a("www.example.com", "203.0.113.1")]), c.now)
    expect(replies(c)).toMatchObject([{ message: { id: 0xabcd, rcode: "NOERROR" } }])
    ask(c, "b.test", { id: 0xabcd })
    const second = outside(c)
    c.core.dnsResponse(second.id, upstreamAnswer(encodeQuery("b.test", { id: 0xabcd }), []), c.now)
    expect(codes(c)).toEqual(["SERVFAIL"])
    // Its connection has to be made anew after a reset: whoever hears nothing asks again.
    ask(c, "c.test")
    c.core.reset(c.now)
    expect([outsideQueries(c), replies(c)]).toEqual([[], []])
  })
  it.each([["NXDOMAIN", 3], ["REFUSED", 5], ["NOTIMP", 4], ["SERVFAIL", 2]] as const)(
    "gets the upstream's %s, which is not kept",
    (code, flags) => {
      const c = client()
      for (let i = 0; i < 2; i++) {
        ask(c, "a.test")
        const { id, message } = outside(c)
        c.core.dnsResponse(id, upstreamAnswer(message, [], { flags }), c.now)
        expect(codes(c)).toEqual([code])
      }
    }
  )
  it("gets an answer that is too long for a packet cut, and may ask again over TCP", () => {
    const c = client()
    const long: Answer = {
      type: "TXT",
      name: "a.test",
      ttl: 30,
      data: Array.from({ length: 6 }, () => "x".repeat(200))
    }
    const fromUpstream = roundTrip(c, "a.test", [long], { type: "TXT" })
    ask(c, "a.test", { type: "TXT" })
    expect(outsideQueries(c)).toEqual([])
    for (const [reply] of [fromUpstream, replies(c)]) {
      expect(reply?.message).toMatchObject({ flag_tc: true, rcode: "NOERROR", answers: [] })
    }
  })
  it.each([
    ["fails", "failed" as const, ["SERVFAIL"]],
    // Whoever asks over UDP has a time limit of its own.
    ["runs out of time", "timed-out" as const, []],
    ["is answered with garbage", Uint8Array.of(1, 2, 3), ["SERVFAIL"]],
    ["is answered with another id", upstreamAnswer(encodeQuery("a.test", { id: 1 }), []), ["SERVFAIL"]],
    ["is answered with another question", upstreamAnswer(encodeQuery("b.test"), []), ["SERVFAIL"]],
    ["is answered with a query", encodeQuery("a.test"), ["SERVFAIL"]]
  ])("that %s", (_, outcome, expected) => {
    const c = client()
    ask(c, "a.test")
    c.core.dnsResponse(outside(c).id, outcome, c.now)
    expect(codes(c)).toEqual(expected)
  })
  it("is counted by who was to answer, and by why there was no answer", () => {
    const c = client(dnsResource(1, "*.corp.test"))
    const counts = () => {
      const { failures, queries } = c.core.status(c.now).dnsCounts
      return Object.fromEntries(Object.entries({ ...queries, ...failures }).filter(([, count]) => count > 0))
    }
    roundTrip(c, "a.test", [a("a.test", "203.0.113.1", 30)])
    ask(c, "a.test")
    ask(c, "www.corp.test")
    expect(counts()).toEqual({ upstream: 1, cache: 1, resource: 1 })
    for (const outcome of ["failed", "timed-out", Uint8Array.of(1)] as const) {
      ask(c, "b.test")
      c.core.dnsResponse(outside(c).id, outcome, c.now)
    }
    ask(c, "www.corp.test", { type: "TXT" })
    expect(counts()).toEqual({
      "upstream": 4,
      "cache": 1,
      "resource": 1,
      "site": 1,
      "failed": 1,
      "timed-out": 1,
      "unusable-answer": 1
    })
  })
  it("is one of 1000 at most; more are dropped", () => {
    const c = client()
    for (let i = 0; i < 1001; i++) ask(c, `n${i}.test`)
    const queries = outsideQueries(c)
    expect([queries.length, c.dropped()]).toEqual([1000, { "dns-overload": 1 }])
    c.core.dnsResponse(queries[0]?.id as number, "failed", c.now)
    replies(c)
    ask(c, "again.test")
    expect(outsideQueries(c)).toHaveLength(1)
  })
  it("is asked again after a reset, and nothing happens to it when the portal is lost", () => {
    const c = client()
    ask(c, "a.test")
    c.core.portalDisconnected(c.now)
    const { id, message } = outside(c)
    ask(c, "b.test") // which the driver has not seen yet
    c.core.reset(c.now)
    const again = outsideQueries(c)
    expect(again.map(({ message }) => decodeDns(message)?.questions[0]?.name)).toEqual(["a.test", "b.test"])
    c.core.dnsResponse(id, upstreamAnswer(message, [a("a.test", "203.0.113.1")]), c.now)
    expect(replies(c)).toEqual([]) // what was asked before counts no more
    const [first] = again
    if (first === undefined) throw new Error("not asked again")
    c.core.dnsResponse(first.id, upstreamAnswer(first.message, [a("a.test", "203.0.113.2")]), c.now)
    expect(replies(c).map(records)).toEqual([["a.test 30 A 203.0.113.2"]])
    expect(roundTrip(c, "c.test", [a("c.test", "203.0.113.1")])).toHaveLength(1)
  })
  it("is nobody's after the end", () => {
    const c = client()
    ask(c, "a.test")
    const { id } = outside(c)
    c.core.close(c.now)
    c.core.dnsResponse(id, "failed", c.now)
    ask(c, "a.test")
    expect([c.toTun(), outsideQueries(c)]).toEqual([[], []])
  })
})

describe("the cache", () => {
  it("answers before everything else, with what is left of the lifetime", () => {
    const c = client()
    roundTrip(c, "a.test", [a("a.test", "203.0.113.1", 30)])
    c.advance(10_000)
    ask(c, "A.test", { id: 9 })
    expect(replies(c).map((reply) => [reply.message.id, ...records(reply)])).toEqual([[9, "a.test 20 A 203.0.113.1"]])
    expect(outsideQueries(c)).toEqual([])
    c.advance(20_000)
    ask(c, "a.test")
    expect(outsideQueries(c)).toHaveLength(1)
  })
  it("outlives a reset and the portal's absence", () => {
    const c = client()
    roundTrip(c, "a.test", [a("a.test", "203.0.113.1", 300)])
    c.core.portalDisconnected(c.now)
    c.core.reset(c.now)
    ask(c, "a.test")
    expect([replies(c).length, outsideQueries(c).length]).toEqual([1, 0])
  })
  it.each<readonly [string, (c: ClientHarness) => void]>([
    ["a resource is added", (c) => c.push({ _tag: "ResourceCreatedOrUpdated", resource: cidr(9, "10.9.0.0/16") })],
    ["a resource is removed", (c) => c.push({ _tag: "ResourceDeleted", id: cidr(1, "10.0.0.0/8").id })],
    ["a DNS resource begins to match", (c) => {
      c.push({ _tag: "ResourceCreatedOrUpdated", resource: dnsResource(9, "a.test") })
    }]
  ])("is emptied when %s, also of what was on its way", (_, change) => {
    const c = client(cidr(1, "10.0.0.0/8"))
    roundTrip(c, "a.test", [a("a.test", "203.0.113.1", 300)])
    ask(c, "b.test")
    const { id, message } = outside(c)
    change(c)
    c.core.dnsResponse(id, upstreamAnswer(message, [a("b.test", "203.0.113.2", 300)]), c.now)
    expect(replies(c).map((reply) => records(reply))).toEqual([["b.test 300 A 203.0.113.2"]])
    ask(c, "a.test")
    ask(c, "b.test")
    expect(replies(c).flatMap((reply) => records(reply)).filter((text) => text.includes("203.0.113"))).toEqual([])
  })
  it("is emptied when the upstreams change", () => {
    const c = client()
    roundTrip(c, "a.test", [a("a.test", "203.0.113.1", 300)])
    c.core.setSystemResolvers([ip("192.0.2.99")])
    ask(c, "a.test", {}, "100.100.111.2")
    expect(outside(c).upstream).toMatchObject({ address: "192.0.2.99" })
  })
})

describe("through the tunnel, a query", () => {
  const lan = cidr(1, "10.0.0.0/8")

  /** What the gateway gets of the query, which is not what the application sent but as much as it asked. */
  const sent = (c: ClientHarness) => c.sent().filter((bytes) => parsed(bytes).protocol === 17)

  it("goes to an upstream of the portal that a resource covers, once there is access, and is answered", () => {
    const c = custom(["10.0.0.53"], lan)
    ask(c, "a.test")
    expect([outsideQueries(c), c.intents()]).toEqual([[], [lan.id]])
    c.connect(lan.id, "10.1.1.1", g1) // and `sent` is emptied
    ask(c, "b.test", { id: 77 })
    const [query] = sent(c)
    if (query === undefined) throw new Error("not sent")
    expect(summary(query)).toBe(`${CLIENT_4} > 10.0.0.53 protocol 17`)
    const { destinationPort, sourcePort } = parsed(query)
    expect([destinationPort, sourcePort >= 49_152]).toEqual([53, true])
    const answer = upstreamAnswer(payloadOf(query).payload, [a("b.test", "10.0.0.80", 300)])
    const reply = udpPacket({
      source: ip("10.0.0.53"),
      sourcePort: 53,
      destination: ip(CLIENT_4),
      destinationPort: sourcePort
    }, answer)
    expect(c.fromPeer(g1.id, reply)).toBeUndefined()
    expect(replies(c).map((found) => [found.from, found.port, found.message.id, ...records(found)])).toEqual([
      [SENTINEL, PORT, 77, "b.test 300 A 10.0.0.80"]
    ])
    ask(c, "b.test")
    expect([replies(c).length, sent(c).length]).toEqual([1, 0]) // kept in the cache
  })
  it("waits for access as any packet", () => {
    const c = custom(["10.0.0.53"], lan)
    ask(c, "a.test")
    c.authorize(lan.id, "10.1.1.1", g1)
    c.node.establish(g1.id)
    c.nudge()
    expect(sent(c).map((bytes) => parsed(bytes).destinationPort)).toContain(53)
  })
  it("stays outside if the system chose the upstream, or no resource covers it", () => {
    const system = clientWith(lan)
    system.core.setSystemResolvers([ip("10.0.0.53")])
    ask(system, "a.test")
    expect(outsideQueries(system)).toHaveLength(1)
    const elsewhere = custom(["192.0.2.53"], lan)
    ask(elsewhere, "a.test")
    expect(outsideQueries(elsewhere)).toHaveLength(1)
  })
  it("takes the Internet resource while it is on", () => {
    const c = custom(["192.0.2.53"], internet(7))
    c.core.setInternetResourceState(true, c.now)
    ask(c, "a.test")
    expect([outsideQueries(c), c.intents()]).toEqual([[], [internet(7).id]])
    c.core.setInternetResourceState(false, c.now)
    ask(c, "a.test")
    expect(outsideQueries(c)).toHaveLength(1)
  })
  it("fails at once if the resource's filters refuse it, and no application hears of that", () => {
    const c = custom(["10.0.0.53"], cidr(1, "10.0.0.0/8", { filters: [udpPort(5000)] }))
    ask(c, "a.test")
    expect(c.dropped()).toEqual({ prohibited: 1 })
    expect(codes(c)).toEqual(["SERVFAIL"])
  })
  it("fails when the gateway or the network refuses it", () => {
    const c = custom(["10.0.0.53"], lan)
    c.connect(lan.id, "10.1.1.1", g1)
    ask(c, "a.test")
    const [query] = sent(c)
    if (query === undefined) throw new Error("not sent")
    expect(c.fromPeer(g1.id, icmpError(query, "unreachable-net"))).toBeUndefined()
    expect(codes(c)).toEqual(["SERVFAIL"])
  })
  it("that the gateway prohibits fails, and has the portal asked for access again", () => {
    const c = custom(["10.0.0.53"], lan)
    c.connect(lan.id, "10.1.1.1", g1)
    ask(c, "a.test")
    const [query] = sent(c)
    if (query === undefined) throw new Error("not sent")
    expect(c.fromPeer(g1.id, icmpError(query))).toBeUndefined()
    expect([codes(c), c.intents()]).toEqual([["SERVFAIL"], [lan.id]])
  })
  it("fails after 10 s, and a late answer reaches nobody", () => {
    const c = custom(["10.0.0.53"], lan)
    c.connect(lan.id, "10.1.1.1", g1)
    ask(c, "a.test")
    const [query] = sent(c)
    if (query === undefined) throw new Error("not sent")
    c.advance(9999)
    expect(replies(c)).toEqual([])
    c.advance(1)
    expect(codes(c)).toEqual(["SERVFAIL"])
    const late = udpPacket({
      source: ip("10.0.0.53"),
      sourcePort: 53,
      destination: ip(CLIENT_4),
      destinationPort: parsed(query).sourcePort
    }, upstreamAnswer(payloadOf(query).payload, []))
    expect([c.fromPeer(g1.id, late), replies(c)]).toEqual([undefined, []])
  })
  it("outlives a reset", () => {
    const c = custom(["10.0.0.53"], lan)
    c.connect(lan.id, "10.1.1.1", g1)
    ask(c, "a.test")
    c.core.reset(c.now)
    c.advance(9999)
    expect(replies(c)).toEqual([])
    c.advance(1)
    expect(codes(c)).toEqual(["SERVFAIL"])
  })
  it("is answered by its gateway only to our own address", () => {
    const c = custom(["10.0.0.53"], lan)
    c.connect(lan.id, "10.1.1.1", g1)
    ask(c, "a.test")
    const [query] = sent(c)
    if (query === undefined) throw new Error("not sent")
    const astray = udpPacket({
      source: ip("10.0.0.53"),
      sourcePort: 53,
      destination: ip("100.64.0.9"),
      destinationPort: parsed(query).sourcePort
    }, upstreamAnswer(payloadOf(query).payload, []))
    expect(c.fromPeer(g1.id, astray)).toBeDefined()
    expect(replies(c)).toEqual([])
  })
})

describe("a link-local resolver of the system", () => {
  it("is asked outside with its zone, although the Internet resource holds its address", () => {
    const c = clientWith(internet(1))
    c.core.setInternetResourceState(true, c.now)
    c.core.setSystemResolvers([parseScopedIp("fe80::53%eth0")!])
    c.events()
    ask(c, "a.test", {}, "fd00:2021:1111:8000:100:100:111:0")
    expect(outsideQueries(c).map(({ upstream }) => upstream)).toEqual([{ _tag: "Do53", address: "fe80::53%eth0" }])
  })
})

describe("a name of a dynamic device pool", () => {
  const pool: Resource = {
    type: "dynamic_device_pool",
    id: cidr(8, "10.0.0.0/8").id,
    name: "laptops",
    address: "*.l.test"
  }

  it("is the portal's to resolve", () => {
    const c = client(pool)
    ask(c, "ann.l.test")
    expect([outsideQueries(c), c.requests()]).toEqual([[], [
      { _tag: "ResolveDevicePoolDomain", resourceId: pool.id, domain: "ann.l.test" }
    ]])
    c.push({
      _tag: "DevicePoolDomainResolved",
      resourceId: pool.id,
      domain: "ann.l.test",
      ipv4: ip("100.64.0.7"),
      ipv6: ip("fd00:2021:1111::7")
    })
    expect(replies(c).map((reply) => records(reply))).toEqual([["ann.l.test 1 A 100.64.0.7"]])
  })
  it("fails when the portal says so, says nothing, or lists the pool no more", () => {
    const c = client(pool)
    ask(c, "ann.l.test")
    c.push({
      _tag: "DevicePoolDomainResolutionFailed",
      resourceId: pool.id,
      domain: "ann.l.test",
      reason: "not_found"
    })
    expect(codes(c)).toEqual(["NXDOMAIN"])
    ask(c, "ann.l.test")
    c.advance(5000)
    expect(codes(c)).toEqual(["SERVFAIL"])
    ask(c, "ann.l.test")
    c.push({ _tag: "ResourceDeleted", id: pool.id })
    expect(codes(c)).toEqual(["SERVFAIL"])
    ask(c, "ann.l.test")
    expect(outsideQueries(c)).toHaveLength(1)
  })
  it("comes before the names of DNS resources", () => {
    const c = client(pool, dnsResource(1, "**.test", { sites: [site2] }))
    ask(c, "ann.l.test")
    expect(replies(c)).toEqual([])
  })
})
