/** What the client knows of the portal's refusals and of device pools, for those who ask for its status. */
import { describe, expect, it } from "vitest"
import type { ClientPush, Resource } from "../../../src/protocol/portal/types.ts"
import { ip } from "../../../src/protocol/wire/address.ts"
import { type ClientHarness, clientWith, via } from "./client.ts"
import { access, connectTo, device, establish, inboundAccess, poolOf } from "./devices.ts"
import { ask } from "./dns.ts"
import { cidr, gateway, grant, tcpPort, uuid } from "./fixtures.ts"
import { udp } from "./packets.ts"

const lan = cidr(1, "10.0.0.0/8")
const d1 = device(1)
const d2 = device(2)
const pool = poolOf(1, [d1, d2])
const names: Resource = { type: "dynamic_device_pool", id: uuid(2), name: "names", address: "*.l.test" }

const status = (client: ClientHarness) => client.core.status(client.now)
const refusalOf = (client: ClientHarness) => status(client).resources[0]?.refusal
const devicesOf = (client: ClientHarness, id = pool.id) =>
  status(client).devicePools.find((pool) => pool.id === id)?.devices ?? []

describe("a refusal of a resource", () => {
  const refused = (reason: string, violatedProperties: ReadonlyArray<string> = []): ClientPush => ({
    _tag: "AuthorizationCreationFailed",
    resourceId: lan.id,
    reason,
    violatedProperties
  })
  it.each(["offline", "not_found", "forbidden", "version_mismatch", "a word of tomorrow"])("%s is kept", (reason) => {
    const client = clientWith(lan)
    expect(refusalOf(client)).toBeUndefined()
    client.fromTun(udp(via("10.0.0.1")))
    client.push(refused(reason, ["remote_ip"]))
    client.advance(1500)
    expect(refusalOf(client)).toEqual({ reason, violated: ["remote_ip"], ageMillis: 1500 })
  })
  it("is the latest, until access is granted", () => {
    const client = clientWith(lan)
    client.fromTun(udp(via("10.0.0.1")))
    client.push(refused("forbidden"))
    client.advance(3000)
    client.push(refused("version_mismatch"))
    expect(refusalOf(client)).toMatchObject({ reason: "version_mismatch", ageMillis: 0 })
    client.push(grant(lan.id, gateway(1)))
    expect(refusalOf(client)).toBeUndefined()
  })
  it("outlives a new list that changes nothing of the resource, and no change of it", () => {
    const client = clientWith(lan)
    client.fromTun(udp(via("10.0.0.1")))
    client.push(refused("forbidden"))
    client.push({ _tag: "ResourceCreatedOrUpdated", resource: { ...lan, name: "another name" } })
    expect(refusalOf(client)).toBeDefined()
    client.push({ _tag: "ResourceCreatedOrUpdated", resource: { ...lan, filters: [tcpPort(80)] } })
    expect(refusalOf(client)).toBeUndefined()
  })
})

describe("devices of a static pool", () => {
  it("are those that the portal lists", () => {
    const client = clientWith(pool, names)
    expect(status(client).devicePools.map(({ address, name, type }) => [type, name, address])).toEqual([
      ["dynamic", "names", "*.l.test"],
      ["static", "pool 1", undefined]
    ])
    expect(devicesOf(client)).toEqual([d1, d2].map(({ id, ipv4, ipv6 }) => ({
      id,
      name: undefined,
      ipv4: `${ipv4}/32`,
      ipv6: `${ipv6}/128`,
      granted: false,
      peer: undefined,
      refusal: undefined
    })))
  })
  it("have a name and a peer once access was granted, and the name for good", () => {
    const client = clientWith(pool)
    connectTo(client, d1)
    expect(devicesOf(client)[0]).toMatchObject({ name: "alpha", granted: true, peer: d1.id })
    expect(status(client).peers).toMatchObject([{ peer: d1.id, kind: "device", name: "alpha" }])
    client.push({ _tag: "ClientIceCandidateError", clientId: d1.id, reason: "offline" })
    expect(devicesOf(client)[0]).toMatchObject({ name: "alpha", granted: false, peer: undefined })
    expect(devicesOf(client)[0]?.refusal?.reason).toBe("offline")
  })
  it("that come by themselves are peers, and not granted", () => {
    const client = clientWith(pool)
    client.push(inboundAccess(d2, uuid(9)))
    establish(client, d2)
    expect(devicesOf(client)[1]).toMatchObject({ granted: false, peer: d2.id, name: "alpha" })
  })
  it("say why they were refused, by either address, until they are granted", () => {
    const client = clientWith(pool)
    client.fromTun(udp(via(d1.ipv4)))
    client.push({ _tag: "DeviceAccessDenied", reason: "version_mismatch", ipv6: ip(d1.ipv6) })
    expect(devicesOf(client).map(({ refusal }) => refusal?.reason)).toEqual(["version_mismatch", undefined])
    client.fromTun(udp(via(d1.ipv4)))
    client.push(access(d1))
    expect(devicesOf(client)[0]).toMatchObject({ granted: true, refusal: undefined })
  })
})

describe("devices of a dynamic pool", () => {
  /** It has a server for DNS, as it knows one to ask in turn. */
  const withDns = (...resources: ReadonlyArray<Resource>) => {
    const client = clientWith(...resources)
    client.core.setSystemResolvers([ip("192.0.2.53")])
    client.events()
    return client
  }
  const resolved: ClientPush = {
    _tag: "DevicePoolDomainResolved",
    resourceId: names.id,
    domain: "Ann.l.test",
    ipv4: ip(d1.ipv4),
    ipv6: ip(d1.ipv6)
  }
  const failed: ClientPush = {
    _tag: "DevicePoolDomainResolutionFailed",
    resourceId: names.id,
    domain: "ann.l.test",
    reason: "not_found"
  }
  const refusal = (client: ClientHarness) => status(client).devicePools[0]?.refusal

  it("are those whose names were looked up, and are reached through a static pool", () => {
    const client = withDns(names, pool)
    expect(devicesOf(client, names.id)).toEqual([])
    ask(client, "ann.l.test")
    client.push(resolved)
    const ann = { name: "ann.l.test", ipv4: `${d1.ipv4}/32`, ipv6: `${d1.ipv6}/128` }
    expect(devicesOf(client, names.id)).toMatchObject([{ ...ann, id: d1.id, granted: false, peer: undefined }])
    connectTo(client, d1)
    expect(devicesOf(client, names.id)).toMatchObject([{ ...ann, granted: true, peer: d1.id }])
  })
  it("are known by their addresses alone where no static pool lists them", () => {
    const client = withDns(names)
    ask(client, "ann.l.test")
    client.push(resolved)
    expect(devicesOf(client, names.id)).toMatchObject([{ id: undefined, granted: false }])
  })
  it("may be none: that is told until the same name has one", () => {
    const client = withDns(names)
    client.push(failed)
    expect(refusal(client)).toBeUndefined()
    ask(client, "ann.l.test")
    client.push(failed)
    client.advance(10)
    expect(refusal(client)).toEqual({ domain: "ann.l.test", reason: "not_found", violated: [], ageMillis: 10 })
    ask(client, "ann.l.test")
    client.push(resolved)
    expect(refusal(client)).toBeUndefined()
  })
})
