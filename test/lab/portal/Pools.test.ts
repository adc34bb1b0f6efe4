/** Device pools in the portal emulator: who is let in, in which order both sides hear of it, and how it ends. */
import { assert, describe, it } from "@effect/vitest"
import type { PoolConfig } from "../../../src/lab/portal/config.ts"
import { candidate, keyFrom, type Party, type Received, VirtualPortal } from "./support.ts"

const pool: PoolConfig = {
  type: "static_device_pool",
  id: "66666666-6666-4666-8666-666666666661",
  name: "Devices",
  devices: ["one", "two"],
  filters: [{ protocol: "icmp" }]
}
const names: PoolConfig = {
  type: "dynamic_device_pool",
  id: "66666666-6666-4666-8666-666666666662",
  name: "Names",
  address: "*.devices.test"
}

const listed = (init: Received["payload"]): unknown =>
  (init["resources"] as ReadonlyArray<Received["payload"]>).find(({ id }) => id === pool.id)?.["devices"]

/** Two clients that are there. */
const two = () => {
  const portal = new VirtualPortal({ pools: [pool, names] })
  const one = portal.join("client", { externalId: "one" })
  const other = portal.join("client", { externalId: "two", key: keyFrom(64) })
  one.take()
  const [first, second] = portal.state.clients
  if (first === undefined || second === undefined) throw new Error("not signed in")
  return { portal, one, other, first, second }
}

const ask = (party: Party, more: object, resource_id = pool.id): void => {
  party.send("request_authorization", { resource_id, connected_gateway_ids: [], ...more })
}

describe("device pools", () => {
  it("list those who have signed in, and tell the others when one does", () => {
    const portal = new VirtualPortal({ pools: [pool, names] })
    const one = portal.join("client", { externalId: "one" })
    const device = (number: number, { id }: { readonly id: string }) => ({
      client_id: id,
      ipv4: `100.64.0.${number}/32`,
      ipv6: `fd00:2021:1111::${number}/128`
    })
    const other = portal.join("client", { externalId: "two" })
    const [first, second] = portal.state.clients
    assert.deepStrictEqual(listed(one.init), first && [device(1, first)])
    const both = first && second && [device(1, first), device(2, second)]
    assert.deepStrictEqual(listed(other.init), both)
    assert.deepStrictEqual(one.takeOnly("resource_created_or_updated")["devices"], both)
    portal.join("client", { externalId: "stranger" })
    assert.deepStrictEqual(one.events(), [])
  })

  it("let one client in to another, which hears of it with the grant", () => {
    const { first, one, other, portal, second } = two()
    ask(one, { ipv4: second.ipv4 })
    const answer = one.takeOnly("client_device_access_authorized")
    const told = other.takeOnly("client_device_access_authorized")
    assert.deepInclude(answer, {
      client_id: second.id,
      client_public_key: keyFrom(64),
      client_ipv4: second.ipv4,
      client_ipv6: second.ipv6,
      ice_role: "controlling",
      use_iceless: false
    })
    assert.deepInclude(told, { client_id: first.id, client_public_key: keyFrom(0), ice_role: "controlled" })
    assert.strictEqual(answer["preshared_key"], told["preshared_key"])
    assert.deepStrictEqual(answer["local_ice_credentials"], told["remote_ice_credentials"])
    assert.deepStrictEqual(answer["remote_ice_credentials"], told["local_ice_credentials"])
    assert.deepStrictEqual(told["resource"], { id: pool.id, name: pool.name, filters: pool.filters })
    assert.notProperty(answer, "resource")
    assert.strictEqual(told["expires_at"], 1_893_456_000)
    // The same each time, so that the connection stays; who asks makes a difference.
    ask(one, { ipv6: second.ipv6 })
    assert.deepStrictEqual(one.takeOnly("client_device_access_authorized"), answer)
    ask(other, { ipv4: first.ipv4 })
    assert.notDeepEqual(
      one.take().at(-1)?.payload["local_ice_credentials"],
      answer["local_ice_credentials"]
    )
    assert.strictEqual(portal.state.deviceGrants.length, 2)
    assert.deepStrictEqual(portal.violations, [])
  })

  it("say why they do not", () => {
    const { first, one, other, portal, second } = two()
    const denied = (more: object): unknown => {
      ask(one, more)
      return one.takeOnly("client_device_access_denied")
    }
    assert.deepStrictEqual(denied({}), { reason: "missing_address", resource_id: pool.id })
    const both = { ipv4: second.ipv4, ipv6: second.ipv6 }
    assert.deepStrictEqual(denied(both), { reason: "ambiguous_address", ...both })
    assert.deepStrictEqual(denied({ ipv4: "100.64.9.9" }), { reason: "forbidden", ipv4: "100.64.9.9" })
    assert.deepStrictEqual(denied({ ipv4: first.ipv4 }), { reason: "forbidden", ipv4: first.ipv4 })
    portal.join("client", { externalId: "two", agent: "headless-client/1.4.0" })
    assert.deepStrictEqual(denied({ ipv4: second.ipv4 }), { reason: "version_mismatch", ipv4: second.ipv4 })
    portal.server.drop("two", { how: "abrupt" }, portal.now)
    assert.deepStrictEqual(denied({ ipv6: second.ipv6 }), { reason: "offline", ipv6: second.ipv6 })
    assert.deepStrictEqual(other.events().filter((event) => event.startsWith("client_device")), [])
    assert.deepStrictEqual(portal.violations, [
      "a request for a device pool without an address",
      "a request for a device pool with two addresses"
    ])
  })

  it("carry candidates between those who were introduced", () => {
    const { first, one, other, portal, second } = two()
    const candidates = [candidate]
    one.send("new_client_ice_candidates", { client_id: second.id, candidates })
    assert.deepStrictEqual(portal.violations, ["candidates for a client that it was not given"])
    other.take()
    ask(one, { ipv4: second.ipv4 })
    for (const party of [one, other]) party.take()
    one.send("new_client_ice_candidates", { client_id: second.id, candidates })
    assert.deepStrictEqual(other.takeOnly("client_ice_candidates"), { client_id: first.id, candidates })
    other.send("invalidate_client_ice_candidates", { client_id: first.id, candidates })
    assert.deepStrictEqual(one.takeOnly("invalidate_client_ice_candidates"), { client_id: second.id, candidates })
    portal.server.drop("two", { how: "abrupt" }, portal.now)
    one.send("new_client_ice_candidates", { client_id: second.id, candidates })
    assert.deepStrictEqual(one.takeOnly("client_ice_candidate_error"), { client_id: second.id, reason: "offline" })
    assert.strictEqual(portal.violations.length, 1)
  })

  it("change under grants: filters, members, the end", () => {
    const { first, one, other, portal, second } = two()
    const { pools } = portal.server.account
    ask(one, { ipv4: second.ipv4 })
    for (const party of [one, other]) party.take()
    const filters = [{ protocol: "tcp", port_range_start: 1, port_range_end: 2 }] as const
    pools.put({ ...pool, filters })
    portal.drain()
    assert.deepStrictEqual(one.events(), ["resource_created_or_updated"])
    assert.deepStrictEqual(other.take().map(({ event, payload }) => [event, payload["filters"]]), [
      ["resource_created_or_updated", filters],
      ["resource_filters_updated", filters]
    ])
    pools.put({ ...pool, devices: ["one"] })
    portal.drain()
    const { ipv4, ipv6 } = second
    assert.deepStrictEqual(one.take().at(-1), {
      topic: "client",
      event: "client_device_access_denied",
      payload: { reason: "forbidden", ipv4, ipv6 },
      ref: null
    })
    assert.deepStrictEqual(other.take().at(-1)?.payload, { client_id: first.id, resource_id: pool.id })
    assert.deepStrictEqual(portal.state.deviceGrants, [])
    pools.delete(pool.id)
    portal.drain()
    assert.deepStrictEqual([one.events(), other.events()], [["resource_deleted"], ["resource_deleted"]])
    assert.throws(() => pools.delete(pool.id))
  })

  it("list what others may do to a client that comes back", () => {
    const { first, one, portal, second } = two()
    ask(one, { ipv4: second.ipv4 })
    const again = portal.join("client", { externalId: "two" })
    assert.deepStrictEqual(again.init["authorizations"], [
      { client_id: first.id, resource_id: pool.id, expires_at: 1_893_456_000 }
    ])
    portal.server.account.pools.reject(pool.id)
    portal.drain()
    assert.deepStrictEqual(again.takeOnly("reject_access"), { client_id: first.id, resource_id: pool.id })
    assert.deepStrictEqual(portal.join("client", { externalId: "two" }).init["authorizations"], [])
  })

  it("resolve the names of devices", () => {
    const { one, second } = two()
    const resolve = (domain: string, resource_id = names.id) => {
      one.send("resolve_device_pool_domain", { resource_id, domain })
      const [answer] = one.take()
      return [answer?.event, answer?.payload["ipv4"] ?? answer?.payload["reason"]]
    }
    const failed = ["device_pool_domain_resolution_failed", "not_found"]
    assert.deepStrictEqual(resolve("Two.devices.test"), ["device_pool_domain_resolved", `${second.ipv4}/32`])
    assert.deepStrictEqual(resolve("three.devices.test"), failed)
    assert.deepStrictEqual(resolve("two.other.test"), failed)
    assert.deepStrictEqual(resolve("two.devices.test", pool.id), failed)
  })
})
