/** What may happen to an organisation, as plain values: a schedule that failed is kept as JSON and played again. */
import * as fc from "fast-check"
import { uuid } from "../../protocol/tunnel/fixtures.ts"
import { SITES } from "./Organisation.ts"
import type { Filters, Resource } from "./rules.ts"

export type Change =
  | { readonly do: "nothing" }
  | { readonly do: "put"; readonly resource: Resource }
  | { readonly do: "remove"; readonly resource: number }
  | { readonly do: "rename"; readonly resource: number }
  | { readonly do: "filter"; readonly resource: number; readonly filters: Filters }
  | { readonly do: "internet"; readonly client: number; readonly isOn: boolean }
  /** What the resolvers of the sites say from now on: of every name something else. */
  | { readonly do: "records"; readonly hosts: ReadonlyArray<string> }
  | {
    readonly do: "dns"
    readonly do53: ReadonlyArray<string>
    readonly doh: ReadonlyArray<string>
    readonly search: string
  }
  | { readonly do: "system dns"; readonly client: number; readonly resolvers: ReadonlyArray<string> }
  | { readonly do: "roam" | "restart client"; readonly client: number }
  | { readonly do: "reconnect" | "portal away" | "portal back"; readonly device: number }
  | { readonly do: "restart gateway"; readonly gateway: number; readonly goodbye: boolean }
  | { readonly do: "deauthorise"; readonly client: number; readonly resource: number }
  | { readonly do: "forbid" | "allow"; readonly resource: number }
  /** All gateways of a site: nobody is let in there. */
  | { readonly do: "site away" | "site back"; readonly site: number }
  | { readonly do: "wait"; readonly seconds: number }

/** A packet to send; `to` and `nth` are looked up when it is sent. */
export interface Probe {
  readonly client: number
  readonly to: string
  /** Of the resources, of the addresses of a name, and of earlier probes to take up again. */
  readonly nth: number
  readonly isIpv6: boolean
  readonly protocol: "tcp" | "udp" | "icmp" | "other"
  readonly port: number
  readonly ending: "reply" | "error" | "silence"
  /** Sends it past the client's own rules, and by an odd `nth` in the other client's name. */
  readonly isMalicious: boolean
  /** On the ports of an earlier probe to the same place. */
  readonly isRepeated: boolean
  /** Not once everything is settled, but this many milliseconds after the change: 0 is just before it. */
  readonly early?: number | undefined
}

export interface Query {
  readonly client: number
  readonly sentinel: number
  readonly name: string
  readonly type: string
  readonly transport: "udp" | "tcp"
}

export interface Step {
  readonly change: Change
  readonly queries: ReadonlyArray<Query>
  readonly probes: ReadonlyArray<Probe>
}

export interface Schedule {
  readonly seed: number
  readonly iceless: boolean
  /** For how long the portal lets anybody in; without end if 0. */
  readonly grantSeconds?: number
  readonly resources: ReadonlyArray<Resource>
  readonly steps: ReadonlyArray<Step>
}

/** With capitals: a name's case is nobody's business but the asker's. */
export const NAMES = [
  ...["app.corp.test", "App.Corp.test", "corp.test", "x.corp.test", "a.b.corp.test", "db1.corp.test"],
  "missing.test"
]
/** Of every dynamic pool. */
export const DEVICE_NAME = "one.lab.test"
const OTHER_NAMES = [
  "www.example.com",
  "missing.example.com",
  "use-application-dns.net",
  DEVICE_NAME,
  "three.lab.test"
]
const PATTERNS = [
  "app.corp.test",
  "*.corp.test",
  "**.corp.test",
  "?.corp.test",
  "db?.corp.test",
  "*b.corp.test",
  "*.test"
]
const NETWORKS = [
  ...["10.0.0.0/8", "10.1.0.0/16", "10.1.2.0/24", "10.1.2.3/32", "192.0.2.0/24", "fd01::/16", "fd01:2::/32"],
  "2001:db8:7::/48"
]
export const ADDRESSES = [
  ...["10.1.2.3", "10.1.2.9", "10.9.9.9", "192.0.2.1", "8.8.8.8", "fd01:2::1", "2001:db8:7::1", "2606:4700::1"]
]
const ODD_ADDRESSES = [
  ...["224.0.0.1", "ff02::1", "100.64.9.9", "100.100.111.77", "100.127.0.1", "own", "sentinel", "gateway", "spoofed"]
]
const UPSTREAMS = ["9.9.9.9", "10.1.2.53", "192.0.2.53", "fd01:2::53"]
const HOSTS = ["10.200.0.1", "10.200.0.2", "10.200.0.3", "fd00:cafe::1", "fd00:cafe::2"]

const port = (protocol: "tcp" | "udp", from: number, to = from) => ({ protocol, from, to } as const)
const ICMP = { protocol: "icmp" } as const
const filters: fc.Arbitrary<Filters> = fc.oneof(
  { weight: 3, arbitrary: fc.constant([]) },
  {
    weight: 4,
    arbitrary: fc.constantFrom<Filters>(
      [port("tcp", 443)],
      [port("udp", 1, 1000), ICMP],
      [ICMP],
      [port("tcp", 1, 65_535), port("udp", 443)],
      [port("udp", 53), port("tcp", 53)]
    )
  }
)

/** Few ids, so that what comes often replaces what was there. */
const ID = { min: 1, max: 7 }
const named = <A extends object>(type: fc.Arbitrary<A>) =>
  fc.record({ number: fc.integer(ID), name: fc.constantFrom("a", "b"), more: type })
    .map(({ more, name, number }) => ({ id: uuid(number), name, ...more }))
const site = fc.constantFrom(...SITES)
const resource: fc.Arbitrary<Resource> = fc.oneof(
  {
    weight: 4,
    arbitrary: named(
      fc.record({ type: fc.constant("cidr" as const), network: fc.constantFrom(...NETWORKS), site, filters })
    )
  },
  {
    weight: 5,
    arbitrary: named(fc.record({
      type: fc.constant("dns" as const),
      pattern: fc.constantFrom(...PATTERNS),
      site,
      stack: fc.constantFrom("dual" as const, "dual" as const, "ipv4_only" as const, "ipv6_only" as const),
      filters
    }))
  },
  // The portal lists one of these.
  { weight: 2, arbitrary: site.map((site) => ({ type: "internet" as const, id: uuid(8), name: "Internet", site })) },
  {
    weight: 2,
    arbitrary: named(fc.record({
      type: fc.constant("static_device_pool" as const),
      members: fc.constantFrom([1, 2], [2], [1], []).map((members) => members.map((n) => uuid(0xc00 + n))),
      filters
    }))
  },
  {
    weight: 2,
    arbitrary: fc.constantFrom("*.lab.test", "one.*.test").map((pattern) => ({
      type: "dynamic_device_pool" as const,
      id: uuid(7),
      name: "Laptops",
      pattern
    }))
  }
)

const number = fc.integer({ min: 1, max: 8 })
const client = fc.nat(1)
const device = fc.nat(4)
const is = <T extends Change["do"]>(...what: ReadonlyArray<T>) => fc.constantFrom(...what)
const change = fc.oneof(
  { weight: 3, arbitrary: fc.record({ do: is("nothing") }) },
  { weight: 8, arbitrary: fc.record({ do: is("put"), resource }) },
  { weight: 3, arbitrary: fc.record({ do: is("remove"), resource: number }) },
  { weight: 1, arbitrary: fc.record({ do: is("rename"), resource: number }) },
  { weight: 3, arbitrary: fc.record({ do: is("filter"), resource: number, filters }) },
  { weight: 3, arbitrary: fc.record({ do: is("internet"), client, isOn: fc.boolean() }) },
  {
    weight: 3,
    arbitrary: fc.record({ do: is("records"), hosts: fc.subarray(HOSTS) })
  },
  {
    weight: 2,
    arbitrary: fc.record({
      do: is("dns"),
      do53: fc.shuffledSubarray(UPSTREAMS, { maxLength: 2 }),
      doh: fc.subarray(["https://doh.test/dns-query"]),
      search: fc.constantFrom("", "corp.test")
    })
  },
  {
    weight: 1,
    arbitrary: fc.record({
      do: is("system dns"),
      client,
      resolvers: fc.shuffledSubarray(["1.1.1.1", "1.0.0.1", "2606:4700::1111", "100.100.111.1"], { maxLength: 3 })
    })
  },
  { weight: 3, arbitrary: fc.record({ do: is("roam"), client }) },
  { weight: 1, arbitrary: fc.record({ do: is("restart client"), client }) },
  { weight: 2, arbitrary: fc.record({ do: is("reconnect"), device }) },
  { weight: 2, arbitrary: fc.record({ do: is("portal away", "portal back"), device }) },
  { weight: 2, arbitrary: fc.record({ do: is("restart gateway"), gateway: fc.nat(2), goodbye: fc.boolean() }) },
  { weight: 3, arbitrary: fc.record({ do: is("deauthorise"), client, resource: number }) },
  { weight: 2, arbitrary: fc.record({ do: is("forbid", "allow", "allow"), resource: number }) },
  { weight: 2, arbitrary: fc.record({ do: is("site away", "site back"), site: fc.nat(1) }) },
  { weight: 2, arbitrary: fc.record({ do: is("wait"), seconds: fc.constantFrom(3, 31, 61, 121, 301) }) }
) as fc.Arbitrary<Change>

const probe: fc.Arbitrary<Probe> = fc.record({
  client,
  to: fc.oneof(
    { weight: 12, arbitrary: fc.constant("resource") },
    { weight: 2, arbitrary: fc.constantFrom(...ADDRESSES) },
    { weight: 1, arbitrary: fc.constantFrom(...NAMES) },
    { weight: 1, arbitrary: fc.constant("other client") },
    { weight: 1, arbitrary: fc.constantFrom(...ODD_ADDRESSES) }
  ),
  nth: fc.nat(11),
  isIpv6: fc.boolean(),
  protocol: fc.oneof(
    { weight: 12, arbitrary: fc.constantFrom("tcp" as const, "udp" as const, "icmp" as const) },
    { weight: 1, arbitrary: fc.constant("other" as const) }
  ),
  port: fc.constantFrom(80, 443, 2000),
  ending: fc.constantFrom("reply", "reply", "error", "silence"),
  isMalicious: fc.nat(7).map((n) => n === 0),
  isRepeated: fc.nat(3).map((n) => n === 0),
  early: fc.constantFrom(...Array<undefined>(12).fill(undefined), 0, 10, 60, 400)
}) as fc.Arbitrary<Probe>

const query: fc.Arbitrary<Query> = fc.record({
  client,
  sentinel: fc.nat(1),
  name: fc.oneof(
    { weight: 4, arbitrary: fc.constantFrom(...NAMES) },
    { weight: 2, arbitrary: fc.constantFrom(...OTHER_NAMES) },
    {
      weight: 1,
      arbitrary: fc.constantFrom("1.0.96.100.in-addr.arpa", "7.0.96.100.in-addr.arpa", "9.9.9.9.in-addr.arpa")
    }
  ),
  type: fc.constantFrom("A", "AAAA", "HTTPS", "PTR", "SRV", "TXT"),
  transport: fc.constantFrom("udp" as const, "udp" as const, "tcp" as const)
})

const step: fc.Arbitrary<Step> = fc.record({
  change,
  queries: fc.array(query, { maxLength: 3 }),
  probes: fc.array(probe, { minLength: 1, maxLength: 6 })
})

export const schedule: fc.Arbitrary<Schedule> = fc.record({
  seed: fc.nat(0xffff),
  iceless: fc.nat(3).map((n) => n === 0),
  grantSeconds: fc.constantFrom(0, 0, 0, 20),
  resources: fc.uniqueArray(resource, { minLength: 1, maxLength: 6, selector: ({ id }) => id }),
  steps: fc.array(step, { minLength: 3, maxLength: 12, size: "max" })
})
