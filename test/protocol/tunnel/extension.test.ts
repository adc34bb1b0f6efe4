/** The place of device pools in the client's core: when an extension is asked, and what it may take. */
import { describe, expect, it, vi } from "vitest"
import type { ClientPush, Resource } from "../../../src/protocol/portal/types.ts"
import type { ClientExtension } from "../../../src/protocol/tunnel/ClientExtension.ts"
import { back, ClientHarness, via } from "./client.ts"
import { cidr, CLIENT_4, gateway, init, tcpPort, uuid } from "./fixtures.ts"
import { other, udp } from "./packets.ts"

const lan = cidr(1, "10.0.0.0/8")
const g1 = gateway(1)
const names: Resource = { type: "dynamic_device_pool", id: uuid(5), name: "laptops", address: "*.laptops.test" }
const pool: Resource = { type: "static_device_pool", id: uuid(6), name: "pool", devices: [], filters: [] }

const extended = (...resources: ReadonlyArray<Resource>) => {
  const extension = {
    resourceAdded: vi.fn<ClientExtension["resourceAdded"]>(),
    resourceRemoved: vi.fn<ClientExtension["resourceRemoved"]>(),
    tunInput: vi.fn<ClientExtension["tunInput"]>(() => false),
    networkInput: vi.fn<ClientExtension["networkInput"]>(() => false),
    handlePush: vi.fn<ClientExtension["handlePush"]>(),
    peerLost: vi.fn<ClientExtension["peerLost"]>(),
    handleTimeout: vi.fn<ClientExtension["handleTimeout"]>(),
    pollTimeout: vi.fn<ClientExtension["pollTimeout"]>()
  } satisfies ClientExtension
  const client = new ClientHarness(extension)
  client.push(init(resources))
  client.events()
  return { client, extension }
}

describe("an extension", () => {
  it("takes packets after the checks of their addresses and before sentinels and routes", () => {
    const { client, extension } = extended(lan)
    client.fromTun(udp({ from: "100.64.0.9", to: "10.0.0.1" }))
    client.fromTun(udp(via(CLIENT_4)))
    client.fromTun(udp(via("224.0.0.1")))
    expect(extension.tunInput).not.toHaveBeenCalled()
    client.dropped()
    extension.tunInput.mockReturnValue(true)
    for (const packet of [udp(via("100.100.111.1"), 53), udp(via("10.0.0.1")), other(via("10.0.0.1"), 47)]) {
      expect(client.fromTun(packet)).toBeUndefined()
    }
    expect([client.dropped(), client.intents()]).toEqual([{}, []])
    extension.tunInput.mockReturnValue(false)
    client.fromTun(udp(via("10.0.0.1")))
    expect(client.intents()).toEqual([lan.id])
  })
  it("takes decrypted packets before any check", () => {
    const { client, extension } = extended(lan)
    client.connect(lan.id, "10.0.0.1", g1)
    extension.networkInput.mockReturnValue(true)
    expect(client.fromPeer(uuid(77), udp(back("192.0.2.1")))).toBeUndefined()
    expect(client.fromPeer(g1.id, udp(back("10.0.0.1")))).toBeUndefined()
    expect(extension.networkInput.mock.calls.map(([peer]) => peer)).toEqual([uuid(77), g1.id])
    expect(client.dropped()).toEqual({})
  })
  it("follows its resources: in the list, removed, changed", () => {
    const { client, extension } = extended(lan, names, pool)
    const calls = () =>
      [extension.resourceRemoved, extension.resourceAdded].map((mock) => {
        const resources = mock.mock.calls.map(([resource]) => resource)
        mock.mockClear()
        return resources
      })
    expect(calls()).toEqual([[], [names, pool]])
    const moved = { ...names, address: "*.phones.test" }
    client.push({ _tag: "ResourceCreatedOrUpdated", resource: moved })
    expect(calls()).toEqual([[names], [moved]])
    // A static pool is followed member by member: it is never removed to be changed.
    const filtered = { ...pool, filters: [tcpPort(1)] }
    client.push({ _tag: "ResourceCreatedOrUpdated", resource: filtered })
    expect(calls()).toEqual([[], [filtered]])
    client.push({ _tag: "ResourceDeleted", id: pool.id })
    client.push({ _tag: "ResourceDeleted", id: lan.id })
    expect(calls()).toEqual([[filtered], []])
  })
  it("hears of pushes that are not the core's, of lost peers, and of time", () => {
    const { client, extension } = extended(lan)
    const push: ClientPush = { _tag: "RejectAccess", clientId: uuid(7), resourceId: uuid(6) }
    client.push(push)
    expect(extension.handlePush.mock.lastCall).toEqual([push, client.now])
    client.connect(lan.id, "10.0.0.1", g1)
    client.node.fail(g1.id)
    client.nudge()
    expect(extension.peerLost.mock.calls).toEqual([[g1.id, client.now]])
    extension.pollTimeout.mockReturnValueOnce(client.now + 5).mockReturnValueOnce(client.now + 5)
    expect(client.core.pollTimeout()).toBe(client.now + 5)
    client.core.handleTimeout(client.now + 5)
    expect(extension.handleTimeout.mock.calls).toEqual([[client.now + 5]])
    expect(client.dropped()).toEqual({})
  })
})
