/** Nothing that applications, peers, the network or the portal send makes a core throw, or lets through what must not. */
import * as fc from "fast-check"
import { describe, expect, it } from "vitest"
import { makeCrypto } from "../../../src/layers/crypto/makeCrypto.ts"
import { CIPHER_HEADROOM } from "../../../src/protocol/crypto.ts"
import { Node } from "../../../src/protocol/node/Node.ts"
import type { ClientPush, Filter, GatewayPush, GatewayResource, Resource } from "../../../src/protocol/portal/types.ts"
import { ClientTunnel } from "../../../src/protocol/tunnel/ClientTunnel.ts"
import { GatewayTunnel } from "../../../src/protocol/tunnel/GatewayTunnel.ts"
import { ip, SocketAddress } from "../../../src/protocol/wire/address.ts"
import { sameWords } from "../../../src/protocol/wire/ipWords.ts"
import { back, ClientHarness, clientWith, via } from "./client.ts"
import {
  cidr,
  CLIENT_4,
  CLIENT_6,
  gateway,
  grant,
  init,
  internet,
  network,
  site1,
  site2,
  tcpPort,
  uuid
} from "./fixtures.ts"
import { GatewayHarness, gatewayWith } from "./gateway.ts"
import { outside } from "./NodeDouble.ts"
import { icmpError, other, parsed, ping, tcp, udp } from "./packets.ts"

const { crypto } = makeCrypto()
const g1 = gateway(1)
const alice = { id: uuid(0xc1), ipv4: CLIENT_4, ipv6: CLIENT_6 }

/** Deterministic noise (xorshift32). */
const noise = (seed: number) => {
  let state = seed
  return (length: number): Uint8Array => {
    const bytes = new Uint8Array(length)
    for (let i = 0; i < length; i++) {
      state ^= state << 13
      state ^= state >>> 17
      state ^= state << 5
      bytes[i] = state
    }
    return bytes
  }
}

/** Noise of every length from 0 to 2000: as it is, and with headers that pass a first look. */
const everyLength = function*(seed: number): Generator<Uint8Array> {
  const random = noise(seed)
  for (let length = 0; length <= 2000; length++) {
    yield random(length)
    if (length < 40) continue
    for (const first of [0x45, 0x4f, 0x60]) {
      const bytes = random(length)
      bytes[0] = first
      const view = new DataView(bytes.buffer)
      if (first === 0x60) view.setUint16(4, length - 40)
      else view.setUint16(2, length)
      bytes.fill(0, 6, 8)
      bytes[first === 0x60 ? 6 : 9] = [1, 6, 17, 58, 0, 44, 255][length % 7] as number
      yield bytes
    }
  }
}

/** Or nothing at all. */
const isFrom10 = (packet: Uint8Array | undefined): boolean => packet === undefined || packet[12] === 10

const served = (): GatewayHarness => {
  const gateway = gatewayWith(g1)
  gateway.connect(alice, { type: "cidr", id: uuid(1), name: "lan", address: network("10.0.0.0/8"), filters: [] })
  return gateway
}
const connected = (): ClientHarness => {
  const client = clientWith(cidr(1, "10.0.0.0/8"), cidr(2, "2001:db8::/32"))
  client.connect(uuid(1), "10.0.0.1", g1)
  return client
}

describe("noise of every length", () => {
  it("from applications goes nowhere", () => {
    const [client, gateway] = [connected(), served()]
    for (const bytes of everyLength(1)) {
      expect(client.fromTun(bytes)).toBeUndefined()
      expect(gateway.fromTun(bytes)).toBeUndefined()
    }
    expect(client.toTun()).toEqual([])
    expect(client.sent()).toEqual([])
  })
  it("inside the tunnel reaches no TUN device, but for what comes from a granted network", () => {
    const [client, gateway] = [connected(), served()]
    for (const bytes of everyLength(2)) {
      expect(isFrom10(client.fromPeer(g1.id, bytes))).toBe(true)
      expect(gateway.fromPeer(alice.id, bytes)).toBeUndefined()
      gateway.sent()
    }
    expect(client.fromTun(udp(via("10.0.0.1")))).toBeDefined()
    expect(gateway.fromPeer(alice.id, udp(via("10.0.0.1")))).toBeDefined()
  })
  it("from the network is dropped by real nodes", () => {
    const cores = [
      new ClientTunnel({
        node: new Node({ crypto, now: 0, unixEpochMillis: 1.7e12 }),
        crypto,
        unixEpochMillis: 1.7e12
      }),
      new GatewayTunnel({ node: new Node({ crypto, now: 0, unixEpochMillis: 1.7e12 }), unixEpochMillis: 1.7e12 })
    ]
    const random = noise(3)
    const output = new Uint8Array(4096)
    const relay = new SocketAddress(ip("203.0.113.1"), 3478)
    for (const core of cores) {
      for (let length = 0; length <= 2000; length++) {
        const bytes = random(length)
        if (length > 3) bytes.set([length % 5, 0, 0, 0]) // looks like STUN or WireGuard
        for (const from of [outside, relay]) {
          expect(core.networkInput(outside, from, length & 3, bytes, 0, length, output, CIPHER_HEADROOM, length)).toBe(
            false
          )
        }
      }
      expect(core.status(2000).dropped).toEqual({ "unreadable-datagram": 4002 })
    }
  })
})

describe("damaged packets", () => {
  it("never leave with another source than ours, nor arrive from where the gateway may not speak for", () => {
    const [client, gateway] = [connected(), served()]
    const base = fc.constantFrom(
      udp(via("10.0.0.1")),
      tcp(via("10.0.0.1")),
      ping(via("10.0.0.1")),
      other(via("10.0.0.1"), 47)
    )
    const damage = fc.array(fc.tuple(fc.nat(60), fc.nat(255)), { maxLength: 4 })
    const damaged = (bytes: Uint8Array, changes: ReadonlyArray<readonly [number, number]>): Uint8Array => {
      const copy = bytes.slice()
      for (const [at, value] of changes) copy[at % copy.length] = value
      return copy
    }
    fc.assert(
      fc.property(base, damage, (bytes, changes) => {
        const packet = damaged(bytes, changes)
        const isFine = (passed: Uint8Array | undefined): boolean =>
          passed === undefined || (sameWords(parsed(passed).source, parsed(bytes).source) && passed[16] === 10)
        expect(isFine(client.fromTun(packet))).toBe(true)
        expect(isFine(gateway.fromPeer(alice.id, packet))).toBe(true)
        expect(isFrom10(client.fromPeer(g1.id, damaged(udp(back("10.0.0.1")), changes)))).toBe(true)
        client.toTun()
        gateway.sent()
      }),
      { numRuns: 2000 }
    )
  })
})

// Ids from a small pool, so that messages are about the same things; values at and beyond the edges of their types.
const id = fc.constantFrom(...[1, 2, 3].map(uuid))
const peer = fc.constantFrom(g1, gateway(2))
const weirdNetwork = fc.record({
  address: fc.constantFrom(
    ip("10.0.0.0"),
    ip("10.1.2.3"),
    ip("100.64.0.1"),
    ip("0.0.0.0"),
    ip("::"),
    ip("2001:db8::1")
  ),
  bits: fc.constantFrom(0, 8, 16, 24, 32, 33, 64, 128, 129, -1, 1e9)
})
const filters: fc.Arbitrary<ReadonlyArray<Filter>> = fc.array(
  fc.oneof(
    fc.constant<Filter>({ protocol: "icmp" }),
    fc.tuple(fc.integer(), fc.integer()).map(([a, b]) => tcpPort(a, b))
  ),
  { maxLength: 3 }
)
const sites = fc.subarray([site1, site2, site1, { id: "", name: "" }])
const resource: fc.Arbitrary<Resource> = fc.oneof(
  fc.record({ id, address: weirdNetwork, filters, sites, name: fc.string() }).map((each) =>
    ({ type: "cidr", ...each }) as const
  ),
  fc.record({ id, sites, name: fc.string() }).map((each) => ({ type: "internet", ...each }) as const),
  fc.record({ id, sites, filters, name: fc.string(), address: fc.string() }).map((each) =>
    ({ type: "dns", ipStack: "dual", ...each }) as const
  ),
  fc.record({ id, filters, name: fc.string() }).map((each) =>
    ({ type: "static_device_pool", devices: [], ...each }) as const
  ),
  fc.record({ id, name: fc.string(), address: fc.string() }).map((each) =>
    ({ type: "dynamic_device_pool", ...each }) as const
  )
)
const clientPush: fc.Arbitrary<ClientPush> = fc.oneof(
  fc.array(resource, { maxLength: 5 }).map((resources) => init(resources)),
  resource.map((resource) => ({ _tag: "ResourceCreatedOrUpdated", resource }) as const),
  id.map((id) => ({ _tag: "ResourceDeleted", id }) as const),
  fc.tuple(id, peer, fc.boolean(), fc.constantFrom(site1.id, site2.id)).map(([id, from, useIceless, siteId]) =>
    grant(id, from, { useIceless, siteId })
  ),
  fc.tuple(id, fc.constantFrom("offline", "version_mismatch", "forbidden", "")).map(([resourceId, reason]) =>
    ({ _tag: "AuthorizationCreationFailed", resourceId, reason, violatedProperties: [] }) as const
  ),
  fc.tuple(peer, fc.array(fc.string())).map(([{ id }, candidates]) =>
    ({ _tag: "IceCandidates", gatewayId: id, candidates }) as const
  ),
  fc.tuple(peer, fc.array(fc.string())).map(([{ id }, candidates]) =>
    ({ _tag: "InvalidateIceCandidates", gatewayId: id, candidates }) as const
  ),
  id.map((clientId) => ({ _tag: "ClientIceCandidateError", clientId, reason: "offline" }) as const)
)
const destination = fc.constantFrom(
  "10.0.0.1",
  "10.1.2.3",
  "192.0.2.1",
  "2001:db8::1",
  g1.ipv4,
  "100.64.0.1",
  "224.0.0.1"
)
type Step<Push> =
  | { readonly push: Push }
  | { readonly send: Uint8Array }
  | { readonly receive: Uint8Array; readonly from: string }
  | { readonly up: string }
  | { readonly down: string }
  | { readonly wait: number }
  | { readonly action: "reset" | "connected" | "disconnected" | "on" | "off" }
const steps = <Push>(push: fc.Arbitrary<Push>, peers: ReadonlyArray<string>): fc.Arbitrary<ReadonlyArray<Step<Push>>> =>
  fc.array(
    fc.oneof<Array<fc.Arbitrary<Step<Push>>>>(
      push.map((push) => ({ push })),
      destination.map((to) => ({ send: udp(via(to)) })),
      fc.tuple(destination, fc.boolean(), fc.constantFrom(...peers)).map(([from, isError, peer]) => ({
        receive: isError ? icmpError(udp(via(from))) : udp(back(from)),
        from: peer
      })),
      fc.constantFrom(...peers).map((up) => ({ up })),
      fc.constantFrom(...peers).map((down) => ({ down })),
      fc.nat(400_000).map((wait) => ({ wait })),
      fc.constantFrom("reset" as const, "connected" as const, "disconnected" as const, "on" as const, "off" as const)
        .map((action) => ({ action }))
    ),
    { maxLength: 60 }
  )

describe("messages in any order", () => {
  it("keep a client consistent: what is listed, connected and routed fits together", () => {
    fc.assert(
      fc.property(steps(clientPush, [g1.id, gateway(2).id]), (steps) => {
        const client = new ClientHarness()
        const { core, node } = client
        for (const step of steps) {
          if ("push" in step) client.push(step.push)
          else if ("send" in step) {
            const sent = client.route(step.send)
            if (sent !== undefined && !node.isEstablished(sent.peer)) {
              throw new Error("sent to a peer that is not there")
            }
          } else if ("receive" in step) client.fromPeer(step.from, step.receive)
          else if ("up" in step) {
            if (node.hasConnection(step.up) && !node.isEstablished(step.up)) node.establish(step.up)
          } else if ("down" in step) {
            if (node.hasConnection(step.down)) node.fail(step.down)
          } else if ("wait" in step) client.advance(step.wait)
          else if (step.action === "reset") core.reset(client.now)
          else if (step.action === "connected") core.portalConnected(client.now)
          else if (step.action === "disconnected") core.portalDisconnected(client.now)
          else core.setInternetResourceState(step.action === "on", client.now)
          client.nudge()
          for (const event of client.events()) {
            if (event._tag !== "Request" || event.request._tag !== "RequestAuthorization") continue
            const { resourceId } = event.request
            expect(core.status(client.now).resources.some(({ id }) => id === resourceId)).toBe(true)
          }
          const { peers, resources } = core.status(client.now)
          // A site is online only by a connection that is up.
          const isConnected = peers.some(({ state }) => state === "connected")
          expect(isConnected || resources.every(({ status }) => status !== "Online")).toBe(true)
        }
        // Without resources nobody is left, not even one that was still coming up.
        client.push(init([]))
        expect(core.status(client.now).peers).toEqual([])
      }),
      { numRuns: 300 }
    )
  })

  const gatewayResource: fc.Arbitrary<GatewayResource> = fc.oneof(
    fc.record({ id, address: weirdNetwork, filters }).map((each) => ({ type: "cidr", name: "", ...each }) as const),
    id.map((id) => ({ type: "internet", id }) as const),
    id.map((id) => ({ type: "dns", id, name: "", address: "*", filters: [] }) as const)
  )
  const expiry = fc.option(fc.constantFrom(0, 1, 1_700_001_000, 1_700_001_300, Number.MAX_SAFE_INTEGER), {
    nil: undefined
  })
  const clientId = fc.constantFrom(alice.id, uuid(0xc2))
  const gatewayPush: fc.Arbitrary<GatewayPush> = fc.oneof(
    fc.tuple(gatewayResource, clientId, expiry).map(([resource, id, expiresAt]): GatewayPush => ({
      _tag: "CreateAuthorization",
      authorization: {
        ref: "",
        resource,
        client: {
          id,
          publicKey: new Uint8Array(32),
          presharedKey: new Uint8Array(32),
          ipv4: ip(CLIENT_4),
          ipv6: ip(CLIENT_6)
        },
        clientIceCredentials: { username: "c", password: "c" },
        gatewayIceCredentials: { username: "g", password: "g" },
        expiresAt,
        useIceless: false
      }
    })),
    fc.tuple(clientId, id).map(([clientId, resourceId]) => ({ _tag: "RejectAccess", clientId, resourceId }) as const),
    gatewayResource.map((resource) => ({ _tag: "ResourceUpdated", resource }) as const),
    fc.array(fc.tuple(clientId, id, expiry), { maxLength: 3 }).map((authorizations): GatewayPush => ({
      _tag: "GatewayInit",
      ipv4: ip(g1.ipv4),
      ipv6: ip(g1.ipv6),
      relays: [],
      authorizations: authorizations.map(([clientId, resourceId, expiresAt]) => ({
        clientId,
        resourceId,
        expiresAt: expiresAt ?? 0
      }))
    }))
  )

  it("keep a gateway consistent: nobody is connected without a grant, nor granted for longer than was said", () => {
    fc.assert(
      fc.property(steps(gatewayPush, [alice.id, uuid(0xc2)]), (steps) => {
        const gateway = new GatewayHarness()
        const { core, node } = gateway
        for (const step of steps) {
          if ("push" in step) gateway.push(step.push)
          else if ("send" in step) gateway.fromTun(step.send)
          else if ("receive" in step) gateway.fromPeer(step.from, step.receive)
          else if ("up" in step) {
            if (node.hasConnection(step.up) && !node.isEstablished(step.up)) node.establish(step.up)
          } else if ("down" in step) {
            if (node.hasConnection(step.down)) node.fail(step.down)
          } else if ("wait" in step) gateway.advance(step.wait)
          else if (step.action === "reset") core.reset(gateway.now)
          gateway.nudge()
          gateway.advance(0)
          gateway.events()
          gateway.sent()
          const { clients, peers } = core.status(gateway.now)
          expect(clients.filter(({ resources }) => resources.length === 0)).toEqual([])
          const granted = clients.map(({ id }) => id)
          expect(peers.filter((each) => !granted.includes(each.peer))).toEqual([])
        }
      }),
      { numRuns: 300 }
    )
  })
})

it("a client with the Internet off never leaks to it", () => {
  const client = clientWith(internet(9))
  client.push(grant(uuid(9), g1))
  expect(client.fromTun(udp(via("192.0.2.1")))).toBeUndefined()
  expect(client.intents()).toEqual([])
})
