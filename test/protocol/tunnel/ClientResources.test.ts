import { describe, expect, it } from "vitest"
import type { Resource } from "../../../src/protocol/portal/types.ts"
import { clientRanges } from "../../../src/protocol/tunnel/clientRanges.ts"
import { routesAlike } from "../../../src/protocol/tunnel/ClientResource.ts"
import { ClientResources, networksOf } from "../../../src/protocol/tunnel/ClientResources.ts"
import { SiteStates } from "../../../src/protocol/tunnel/SiteStates.ts"
import { formatNetwork } from "../../../src/protocol/wire/address.ts"
import { cidr, internet, network, site1, site2, tcpPort, uuid } from "./fixtures.ts"
import { parsed, tcp, udp } from "./packets.ts"

const from4 = (to: string) => ({ from: "100.64.0.1", to })

const listing = (...resources: ReadonlyArray<Resource>): ClientResources => {
  const list = new ClientResources()
  for (const resource of resources) list.add(resource)
  return list
}
const remove = (list: ClientResources, id: string): void => {
  const known = list.get(id)
  if (known !== undefined) list.remove(known)
}

describe("ClientResources", () => {
  it("routes to networks before the Internet, and to that only if it is wanted", () => {
    const list = listing(internet(9), cidr(1, "10.0.0.0/8"))
    const route = (to: string) => list.route(parsed(udp(from4(to))))?.id
    expect([route("10.0.0.1"), route("192.0.2.1")]).toEqual([uuid(1), undefined])
    list.setInternetSwitch(true)
    expect([route("10.0.0.1"), route("192.0.2.1"), route("100.64.0.9")]).toEqual([uuid(1), uuid(9), undefined])
  })
  it("takes a network of the tunnel range for one if the portal lists it", () => {
    const list = listing(cidr(1, "100.64.7.0/24"))
    expect(list.route(parsed(udp(from4("100.64.7.1"))))?.id).toBe(uuid(1))
  })
  it("returns a resource that denies the packet, for the caller to refuse it", () => {
    const list = listing(cidr(1, "10.0.0.0/8", { filters: [tcpPort(443)] }), internet(9))
    list.setInternetSwitch(true)
    expect(list.route(parsed(tcp(from4("10.0.0.1"), 80)))?.id).toBe(uuid(1))
  })
  it("switches the Internet off with its resource, and takes the largest id of several", () => {
    const list = listing(internet(8), internet(9))
    list.setInternetSwitch(true)
    expect(list.internet?.id).toBe(uuid(9))
    remove(list, uuid(9))
    expect([list.internet?.id, list.isInternetActive]).toEqual([uuid(8), false])
    remove(list, uuid(8))
    expect(list.internet).toBeUndefined()
  })
  it("has each network once among the routes, for as long as a resource has it", () => {
    const list = listing(cidr(1, "10.0.0.0/8"), cidr(2, "10.0.0.0/8"), cidr(3, "2001:db8::/32"))
    const routes = () => list.routes(clientRanges(0).routes).map(formatNetwork).slice(6)
    expect(routes()).toEqual(["10.0.0.0/8", "2001:db8::/32"])
    remove(list, uuid(1))
    expect(routes()).toEqual(["2001:db8::/32", "10.0.0.0/8"].sort())
    remove(list, uuid(2))
    expect(routes()).toEqual(["2001:db8::/32"])
    expect(list.routes(clientRanges(0).routes).slice(0, 6).map(formatNetwork)).toEqual([
      "100.64.0.0/11",
      "fd00:2021:1111::/107",
      "100.96.0.0/11",
      "fd00:2021:1111:8000::/107",
      "100.100.111.0/24",
      "fd00:2021:1111:8000:100:100:111:0/120"
    ])
  })
  it("shows the Internet first, then by name in code-point order, then by id; and no pools", () => {
    const list = listing(
      cidr(4, "10.4.0.0/16", { name: "\u{1F600}" }),
      cidr(3, "10.3.0.0/16", { name: "\uFB00" }),
      cidr(2, "10.2.0.0/16", { name: "a" }),
      cidr(1, "10.1.0.0/16", { name: "a" }),
      cidr(5, "10.5.0.0/16", { name: "B" }),
      internet(9),
      { type: "dynamic_device_pool", id: uuid(6), name: "A", address: "*.device" }
    )
    const views = list.views(new SiteStates())
    expect(views.map(({ id }) => id)).toEqual([9, 5, 1, 2, 3, 4].map(uuid))
    expect(views[0]).toEqual({
      id: uuid(9),
      type: "internet",
      name: "Internet Resource",
      address: "",
      addressDescription: undefined,
      sites: [site2],
      status: "Unknown"
    })
  })
  it("knows which sites are in use", () => {
    const list = listing(cidr(1, "10.0.0.0/8"), {
      type: "static_device_pool",
      id: uuid(2),
      name: "p",
      devices: [],
      filters: []
    })
    expect([list.usesSite(site1.id), list.usesSite(site2.id)]).toEqual([true, false])
  })
})

describe("networksOf", () => {
  it("is what packets from the resource may come from", () => {
    expect(networksOf(cidr(1, "10.0.0.0/8"))).toEqual([network("10.0.0.0/8")])
    expect(networksOf(internet(1)).map(formatNetwork)).toEqual(["0.0.0.0/0", "::/0"])
    expect(networksOf({ type: "dynamic_device_pool", id: uuid(1), name: "p", address: "*" })).toEqual([])
  })
})

describe("routesAlike", () => {
  const dns: Resource = {
    type: "dns",
    id: uuid(1),
    name: "wiki",
    address: "wiki.test",
    sites: [site1, site2],
    ipStack: "dual",
    filters: [tcpPort(1)]
  }
  const pool: Resource = { type: "static_device_pool", id: uuid(1), name: "pool", devices: [], filters: [] }

  it("looks through names, descriptions and order", () => {
    const renamed = { ...dns, name: "x", addressDescription: "y", sites: [site2, { ...site1, name: "z" }] }
    expect(routesAlike(dns, renamed)).toBe(true)
    expect(routesAlike(pool, { ...pool, filters: [tcpPort(1)] })).toBe(true)
  })
  it.each([
    ["address", { ...dns, address: "wiki2.test" }],
    ["families", { ...dns, ipStack: "ipv4_only" } as const],
    ["sites", { ...dns, sites: [site1] }],
    ["filters", { ...dns, filters: [] }],
    ["type", { ...pool }]
  ])("sees another %s", (_, changed) => {
    expect(routesAlike(dns, changed)).toBe(false)
  })
})
