/** Resources, relays, candidates and interfaces, and what is left out of a message (portal spec 5, 6.1 and 12.3). */
import * as Either from "effect/Either"
import { assert, describe, expect, it } from "vitest"
import { decodeClientPush } from "../../src/model/portal.ts"
import { readResource } from "../../src/model/portalValues.ts"
import type { ClientPush, Init } from "../../src/protocol/portal/types.ts"
import { ip, SocketAddress } from "../../src/protocol/wire/address.ts"

const id = (last: string): string => `66666666-6666-4666-8666-66666666666${last}`
const site = { id: "88888888-8888-4888-8888-888888888888", name: "HQ" }
const cidr = {
  type: "cidr",
  id: id("6"),
  name: "Office LAN",
  address: "10.20.0.0/16",
  address_description: null,
  sites: [site],
  filters: [{ protocol: "tcp", port_range_start: 443, port_range_end: 443 }, { protocol: "icmp" }]
}
const dns = {
  type: "dns",
  id: id("7"),
  name: "Wiki",
  address: "**.corp.example",
  address_description: "internal wiki",
  ip_stack: "dual",
  sites: [site],
  filters: []
}
const internet = { type: "internet", id: id("8"), can_be_disabled: true, sites: [{ ...site, name: "Internet" }] }
const pool = {
  type: "static_device_pool",
  id: id("9"),
  name: "Printers",
  devices: [{
    client_id: "99999999-9999-4999-8999-999999999999",
    ipv4: "100.64.0.7/32",
    ipv6: "fd00:2021:1111::7/128"
  }],
  filters: []
}
const dynamicPool = {
  type: "dynamic_device_pool",
  id: id("a"),
  name: "Laptops",
  address: "*.laptops.example",
  filters: []
}
const device = {
  clientId: "99999999-9999-4999-8999-999999999999",
  ipv4: { address: ip("100.64.0.7"), bits: 32 },
  ipv6: { address: ip("fd00:2021:1111::7"), bits: 128 }
}

const interfaceWire = { ipv4: "100.64.0.1", ipv6: "fd00:2021:1111::1" }
const initWith = (members: object): { readonly init: Init; readonly skipped: ReadonlyArray<string> } => {
  const { message, skipped } = Either.getOrThrowWith(
    decodeClientPush("init", { interface: interfaceWire, ...members }),
    ({ why }) => new Error(why)
  )
  assert(message._tag === "Init")
  return { init: message.init, skipped }
}
const turn = (relay: string, addr: string, password = "cGFzcw") => ({
  type: "turn",
  id: `0d6f4f0e-0000-4000-8000-00000000000${relay}`,
  addr,
  username: "1893456000:c2FsdA",
  password,
  expires_at: 1893456000
})

describe("resources", () => {
  it("of every type", () => {
    expect([cidr, dns, internet, pool, dynamicPool].map((wire) => Either.getOrThrow(readResource(wire)))).toEqual([
      {
        type: "cidr",
        id: id("6"),
        name: "Office LAN",
        address: { address: ip("10.20.0.0"), bits: 16 },
        addressDescription: undefined,
        sites: [site],
        filters: [{ protocol: "tcp", portRangeStart: 443, portRangeEnd: 443 }, { protocol: "icmp" }]
      },
      {
        type: "dns",
        id: id("7"),
        name: "Wiki",
        address: "**.corp.example",
        addressDescription: "internal wiki",
        sites: [site],
        ipStack: "dual",
        filters: []
      },
      { type: "internet", id: id("8"), name: "Internet Resource", sites: [{ ...site, name: "Internet" }] },
      { type: "static_device_pool", id: id("9"), name: "Printers", devices: [device], filters: [] },
      { type: "dynamic_device_pool", id: id("a"), name: "Laptops", address: "*.laptops.example" }
    ])
  })

  it("know older names, and defaults for what is absent or null", () => {
    const { sites, ...withoutSites } = cidr
    expect(readResource({ ...withoutSites, gateway_groups: sites })).toEqual(readResource(cidr))
    const [{ client_id, ...addresses }] = pool.devices as [typeof pool.devices[0] & object]
    expect(readResource({ ...pool, devices: [{ ...addresses, id: client_id }] })).toEqual(readResource(pool))
    expect(readResource({ ...pool, devices: [{ client_id, ipv4: "100.64.0.7", ipv6: "fd00:2021:1111::7" }] }))
      .toEqual(readResource(pool))
    expect(readResource({ ...dns, ip_stack: null, filters: null })).toEqual(readResource(dns))
    expect(Either.getOrThrow(readResource({ type: "static_device_pool", id: id("9"), name: "Printers" })))
      .toMatchObject({ devices: [], filters: [] })
    expect(Either.getOrThrow(readResource({ ...dns, filters: [{ protocol: "udp" }] })))
      .toMatchObject({ filters: [{ protocol: "udp", portRangeStart: 0, portRangeEnd: 65_535 }] })
    expect(Either.getOrThrow(readResource({ ...dns, id: id("7").toUpperCase() }))).toMatchObject({ id: id("7") })
  })

  const { sites: _, ...siteless } = cidr
  const odd: ReadonlyArray<readonly [string, unknown]> = [
    ["no object", 7],
    ["null", null],
    ["no type", { ...cidr, type: undefined }],
    ["an unknown type", { ...cidr, type: "ip" }],
    ["an inherited type", { ...cidr, type: "toString" }],
    ["host bits", { ...cidr, address: "10.20.0.1/16" }],
    ["no prefix length", { ...cidr, address: "10.20.0.0" }],
    ["a prefix too long", { ...cidr, address: "10.20.0.0/33" }],
    ["no name", { ...cidr, name: undefined }],
    ["an id that is none", { ...cidr, id: "office" }],
    ["no sites", siteless],
    ["both keys for sites", { ...cidr, gateway_groups: cidr.sites }],
    ["an unknown protocol", { ...cidr, filters: [{ protocol: "tcp" }, { protocol: "sctp" }] }],
    ["a port out of range", { ...cidr, filters: [{ protocol: "tcp", port_range_end: 65_536 }] }],
    ["a port that is no integer", { ...cidr, filters: [{ protocol: "tcp", port_range_start: 1.5 }] }],
    ["a port in text", { ...cidr, filters: [{ protocol: "tcp", port_range_start: "443" }] }],
    ["an unknown IP stack", { ...dns, ip_stack: "ipv5" }],
    ["no domain", { ...dns, address: "" }],
    ["a domain too long", { ...dns, address: "a.".repeat(128) }]
  ]
  it.each(odd)("with %s is left out alone, and named", (_what, wire) => {
    const { init, skipped } = initWith({ resources: [wire, dns] })
    expect(init.resources).toEqual([Either.getOrThrow(readResource(dns))])
    expect(skipped.length).toBe(1)
    expect(skipped[0]).toMatch(/^resource/)
    for (const secret of ["Office", "10.20", "corp", "sctp"]) expect(skipped[0]).not.toContain(secret)
  })

  it("that were left out are named by id and by what is wrong", () => {
    expect(initWith({ resources: [{ ...cidr, address: "10.20.0.1/16" }] }).skipped)
      .toEqual([`resource ${id("6")}: address is not as specified`])
  })

  it("in a message of their own make it fail instead", () => {
    expect(decodeClientPush("resource_created_or_updated", { ...cidr, filters: [{ protocol: "sctp" }] }))
      .toMatchObject({ left: { _tag: "Malformed" } })
  })
})

describe("relays", () => {
  it("are merged by id, adjacent or not; the later credentials count", () => {
    const { init } = initWith({
      relays: [turn("1", "203.0.113.9:3478"), turn("2", "203.0.113.10:3478"), turn("1", "[2001:db8::9]:3478", "later")]
    })
    expect(init.relays).toEqual([
      {
        id: "0d6f4f0e-0000-4000-8000-000000000001",
        username: "1893456000:c2FsdA",
        password: "later",
        v4: new SocketAddress(ip("203.0.113.9"), 3478),
        v6: new SocketAddress(ip("2001:db8::9"), 3478)
      },
      {
        id: "0d6f4f0e-0000-4000-8000-000000000002",
        username: "1893456000:c2FsdA",
        password: "cGFzcw",
        v4: new SocketAddress(ip("203.0.113.10"), 3478)
      }
    ])
  })

  it("that cannot be read are left out, and STUN servers are none", () => {
    const good = turn("1", "203.0.113.9:3478")
    const { init, skipped } = initWith({
      relays: [
        { type: "stun", id: good.id, addr: "203.0.113.9:3478" },
        { ...good, type: "quic" },
        { ...good, addr: "relay.example:3478" },
        { ...good, addr: "203.0.113.9:65536" },
        { ...good, addr: "2001:db8::9:3478" },
        { ...good, password: undefined },
        good
      ]
    })
    expect(init.relays.map(({ v4 }) => v4?.text)).toEqual(["203.0.113.9:3478"])
    expect(skipped.length).toBe(5)
  })

  it("on another port than 3478 are left out by name", () => {
    const { init, skipped } = initWith({
      relays: [turn("1", "203.0.113.9:3478"), turn("1", "[2001:db8::9]:5349"), turn("2", "203.0.113.10:443")]
    })
    expect(init.relays.map(({ v4, v6 }) => [v4?.text, v6?.text])).toEqual([["203.0.113.9:3478", undefined]])
    expect(skipped).toEqual([
      "relay 0d6f4f0e-0000-4000-8000-000000000001: its port is not 3478",
      "relay 0d6f4f0e-0000-4000-8000-000000000002: its port is not 3478"
    ])
  })

  it("whose ids cannot be read stay out of those that went", () => {
    const decoded = decodeClientPush("relays_presence", { disconnected_ids: ["x", 7, id("6")], connected: [] })
    expect(Either.getOrThrow(decoded)).toMatchObject({
      message: { disconnectedIds: [id("6")], connected: [] },
      skipped: ["relay id: payload is not as specified", "relay id: payload is not as specified"]
    })
  })
})

describe("candidates", () => {
  it("need the prefix and a priority, and the others go without a word", () => {
    const good = "candidate:1 1 udp 2130706431 192.0.2.10 52625 typ host"
    const decoded = Either.getOrThrow(decodeClientPush("ice_candidates", {
      gateway_id: id("6"),
      candidates: [
        good,
        7,
        null,
        "",
        "candidate:1 1 udp",
        "candidate:1 1 udp -1 192.0.2.10 52625 typ host",
        "candidate:1 1 udp 1e9 192.0.2.10 52625 typ host",
        ` ${good}`,
        `a=${good}`,
        `${good} ${"x".repeat(512)}`
      ]
    }))
    expect(decoded.message satisfies ClientPush).toMatchObject({ candidates: [good] })
    expect(decoded.skipped).toEqual([])
  })
})

describe("interfaces", () => {
  it("take the older list of resolvers only where the current one is empty", () => {
    const legacy = { protocol: "ip_port", address: "9.9.9.9:53" }
    expect(initWith({ interface: { ...interfaceWire, upstream_dns: [legacy] } }).init.interface.upstreamDo53)
      .toEqual([ip("9.9.9.9")])
    expect(
      initWith({ interface: { ...interfaceWire, upstream_do53: [{ ip: "1.1.1.1" }], upstream_dns: [legacy] } })
        .init.interface.upstreamDo53
    ).toEqual([ip("1.1.1.1")])
  })

  it("leave out resolvers that are none", () => {
    const { init, skipped } = initWith({
      interface: {
        ...interfaceWire,
        ipv4: "100.64.0.1/32",
        upstream_do53: [{ ip: "dns.example" }, { ip: "2606:4700:4700::1111" }],
        upstream_doh: [{ url: "http://dns.example/" }, { url: "https://" }, { url: "https://dns.google/dns-query" }],
        search_domain: ""
      }
    })
    expect(init.interface).toEqual({
      ipv4: ip("100.64.0.1"),
      ipv6: ip("fd00:2021:1111::1"),
      upstreamDo53: [ip("2606:4700:4700::1111")],
      upstreamDoh: ["https://dns.google/dns-query"],
      searchDomain: undefined
    })
    expect(skipped.length).toBe(3)
  })

  it("need both addresses", () => {
    for (const odd of [{ ipv4: "100.64.0.1" }, { ...interfaceWire, ipv6: "none" }, undefined]) {
      expect(decodeClientPush("init", { interface: odd })).toMatchObject({ left: { _tag: "Malformed" } })
    }
  })
})

describe("inbound authorizations", () => {
  it("are left out one by one", () => {
    const grant = { client_id: id("6"), resource_id: id("7"), expires_at: 1893456000 }
    const { init, skipped } = initWith({
      authorizations: [{ ...grant, expires_at: "soon" }, { ...grant, client_id: 7 }, grant, {
        ...grant,
        expires_at: 1.5
      }]
    })
    expect(init.authorizations).toEqual([{ clientId: id("6"), resourceId: id("7"), expiresAt: 1893456000 }])
    expect(skipped.length).toBe(3)
  })
})
