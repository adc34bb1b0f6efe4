/** Our TURN client against coturn, and a plain UDP peer behind it. */
import { assert, it } from "@effect/vitest"
import * as Effect from "effect/Effect"
import { beforeAll } from "vitest"
import { relayCredentials } from "../../src/lab/relay/credentials.ts"
import { makeCrypto } from "../../src/layers/crypto/makeCrypto.ts"
import type { Relay } from "../../src/protocol/node/types.ts"
import { ip as address, SocketAddress } from "../../src/protocol/wire/address.ts"
import { Attribute, Class, Method } from "../../src/protocol/wire/stun.ts"
import { enterPrivateNetworkNamespace, ip } from "../support/netns.ts"
import { describeWith } from "../support/requires.ts"
import { waitFor } from "../support/waitFor.ts"
import { type CoturnOptions, start } from "./Coturn.ts"
import * as RelayClient from "./RelayClient.ts"

const { crypto } = makeCrypto()
const SERVER = "203.0.113.9"
const SERVER6 = "2001:db8:9::9"
const CLIENT = "192.0.2.5"
const CLIENT6 = "2001:db8:1::5"
const PEER = "198.51.100.21"
const PEER2 = "198.51.100.22"

const user = relayCredentials({ expiresAt: 1_893_456_000, stampSecret: "a secret of the portal's", deviceKey: "a key" })
const server: Relay = { id: "coturn", v4: new SocketAddress(address(SERVER), 3478), ...user }

const startCoturn = (options: Partial<CoturnOptions> = {}) =>
  start({ addresses: [SERVER, SERVER6], users: [user], ...options })

/** A client that has an allocation. */
const allocated = (relay: Relay = server, addresses: ReadonlyArray<string> = [CLIENT]) =>
  Effect.gen(function*() {
    const client = yield* RelayClient.open(relay, crypto, addresses)
    yield* waitFor("a relayed address", () => client.allocation.relayed(4) !== undefined)
    return client
  })

/** Sends datagrams of all kinds of lengths through the relay, and compares what arrives there and what comes back. */
const exchange = (client: RelayClient.RelayClient, peer: RelayClient.UdpPeer, count: number) =>
  Effect.gen(function*() {
    const before = { there: peer.received.length, here: client.received.length }
    const payloads = Array.from({ length: count }, (_, i) => crypto.randomBytes(i === 0 ? 1 : i * 41 % 1312))
    for (let sent = 0; sent < count; sent++) {
      assert.isTrue(client.send(peer.address, payloads[sent] as Uint8Array))
      yield* waitFor(`datagram ${sent}`, () => client.received.length > before.here + sent)
    }
    const there = peer.received.slice(before.there)
    assert.deepStrictEqual(there.map(({ payload }) => Uint8Array.from(payload)), payloads)
    const relayed = client.allocation.relayed(4)?.text
    assert.deepStrictEqual(new Set(there.map(({ from }) => from.text)), new Set([relayed ?? ""]))
    const here = client.received.slice(before.here)
    assert.deepStrictEqual(here.map(({ payload }) => Uint8Array.from(payload).reverse()), payloads)
    assert.deepStrictEqual(new Set(here.map(({ from }) => from.text)), new Set([peer.address.text]))
  })

const bind = (client: RelayClient.RelayClient, peer: RelayClient.UdpPeer) =>
  Effect.gen(function*() {
    const binds = () =>
      client.answers.filter((answer) => answer.method === Method.ChannelBind && answer.class === Class.Success).length
    const before = binds()
    client.allocation.bindChannel(peer.address, client.now)
    client.settle()
    yield* waitFor("a channel", () => binds() > before)
  })

describeWith({ root: true, programs: ["ip", "ss", "turnserver", "turnadmin"] }, "coturn", () => {
  beforeAll(() => {
    enterPrivateNetworkNamespace()
    for (const one of [SERVER, CLIENT, PEER, PEER2]) ip(`addr add ${one}/32 dev lo`)
    for (const one of [SERVER6, CLIENT6]) ip(`addr add ${one}/128 dev lo nodad`)
  })

  it.scopedLive("takes a user of the portal's, and gives an address though it does not know ADDITIONAL-ADDRESS-FAMILY", () =>
    Effect.gen(function*() {
      yield* startCoturn()
      const client = yield* allocated()
      assert.deepStrictEqual(client.errors, [400, 401])
      assert.isFalse(client.answers.find(({ class: kind }) => kind === Class.Error)?.hasIntegrity)
      const [host, srflx, relay] = client.allocation.candidates
      assert.strictEqual(host?.address.address, CLIENT)
      assert.strictEqual(srflx?.address.text, host?.address.text)
      assert.strictEqual(relay?.address.address, SERVER)
      assert.isUndefined(client.allocation.relayed(6))
      assert.isAbove(client.allocation.rtt ?? 0, 0)
    }))

  it.scopedLive("carries datagrams both ways, each channel to its peer", () =>
    Effect.gen(function*() {
      yield* startCoturn()
      const client = yield* allocated()
      const first = yield* RelayClient.mirror(PEER)
      const second = yield* RelayClient.mirror(PEER2)
      yield* bind(client, first)
      yield* exchange(client, first, 150)
      assert.isFalse(client.send(second.address, crypto.randomBytes(9)), "the first datagram asks for the channel")
      assert.isTrue(client.send(second.address, crypto.randomBytes(9)), "the next one does not wait for it")
      yield* waitFor("its answer", () => client.received.some(({ from }) => from.text === second.address.text))
      yield* exchange(client, second, 50)
      yield* exchange(client, first, 50)
    }), 30_000)

  it.scopedLive("is reached over IPv6 and gives an IPv4 address", () =>
    Effect.gen(function*() {
      yield* startCoturn()
      const relay = { ...server, v4: undefined, v6: new SocketAddress(address(SERVER6), 3478) }
      const client = yield* allocated(relay, [CLIENT6])
      assert.strictEqual(client.allocation.server?.address, SERVER6)
      const peer = yield* RelayClient.mirror(PEER)
      yield* bind(client, peer)
      yield* exchange(client, peer, 50)
    }))

  it.scopedLive("is asked over both families at once, and used over the one that answers first", () =>
    Effect.gen(function*() {
      yield* startCoturn()
      const relay = { ...server, v6: new SocketAddress(address(SERVER6), 3478) }
      const client = yield* allocated(relay, [CLIENT, CLIENT6])
      yield* waitFor("candidates of both families", () => client.allocation.candidates.length === 5)
      assert.deepStrictEqual(
        new Set(client.allocation.candidates.map(({ address, kind }) => `${kind}${address.family}`)),
        new Set(["host4", "host6", "srflx4", "srflx6", "relay4"])
      )
    }))

  it.scopedLive("wants another nonce, and gets what it wants", () =>
    Effect.gen(function*() {
      yield* startCoturn({ staleNonce: 1 })
      const client = yield* allocated()
      const peer = yield* RelayClient.mirror(PEER)
      const answeredAt = performance.now()
      yield* waitFor("the nonce's end", () => performance.now() > answeredAt + 2100)
      yield* bind(client, peer)
      assert.deepStrictEqual([...new Set(client.errors)], [400, 401, 438])
      yield* exchange(client, peer, 5)
      assert.isUndefined(client.allocation.freed)
    }))

  it.scopedLive("grants refreshes of the allocation and of a channel in use", () =>
    Effect.gen(function*() {
      yield* startCoturn()
      const client = yield* allocated()
      const peer = yield* RelayClient.mirror(PEER)
      yield* bind(client, peer)
      yield* exchange(client, peer, 2)
      const before = client.answers.length
      const fresh = () => client.answers.slice(before).filter((answer) => answer.class === Class.Success)
      client.skip(25_000)
      yield* waitFor("the answer to a keep-alive", () => fresh().some(({ method }) => method === Method.Binding))
      client.skip(275_000)
      yield* waitFor("a refresh and a bind", () =>
        fresh().some(({ method }) => method === Method.Refresh)
        && fresh().some(({ method }) => method === Method.ChannelBind))
      assert.strictEqual(fresh().find(({ method }) => method === Method.Refresh)?.u32(Attribute.Lifetime), 600)
      yield* exchange(client, peer, 2)
      assert.deepStrictEqual(client.errors, [400, 401])
    }))

  it.scopedLive("still holds an allocation of ours after a restart, which is deleted first", () =>
    Effect.gen(function*() {
      yield* startCoturn()
      const client = yield* allocated()
      const before = client.allocation.relayed(4)?.text
      client.allocation.restart(client.now)
      client.settle()
      assert.isUndefined(client.allocation.relayed(4))
      yield* waitFor("another relayed address", () => client.allocation.relayed(4) !== undefined)
      assert.include(client.errors, 437)
      assert.notStrictEqual(client.allocation.relayed(4)?.text, before)
      const peer = yield* RelayClient.mirror(PEER)
      yield* bind(client, peer)
      yield* exchange(client, peer, 5)
    }))

  it.scopedLive(
    "has been restarted and knows nobody: the next refresh leads to a new allocation",
    () =>
      Effect.gen(function*() {
        const client = yield* RelayClient.open(server, crypto, [CLIENT])
        yield* Effect.scoped(Effect.zipRight(
          startCoturn(),
          waitFor("a relayed address", () => client.allocation.relayed(4) !== undefined)
        ))
        yield* startCoturn()
        const relay = client.allocation.relayed(4)?.text
        client.events.length = 0
        client.allocation.refresh(client.now)
        client.settle()
        yield* waitFor("another relayed address", () => client.events.length >= 2)
        assert.strictEqual(client.events[0], `InvalidatedCandidate relay ${relay}`)
        assert.match(client.events[1] ?? "", /^NewCandidate relay 203\.0\.113\.9:/)
        const peer = yield* RelayClient.mirror(PEER)
        yield* bind(client, peer)
        yield* exchange(client, peer, 5)
      }),
    30_000
  )

  it.scopedLive("refuses a wrong password and an unknown user", () =>
    Effect.gen(function*() {
      yield* startCoturn()
      for (const wrong of [{ password: "wrong" }, { username: "1893456000:somebody" }]) {
        const client = yield* RelayClient.open({ ...server, ...wrong }, crypto, [CLIENT])
        yield* waitFor("the end", () => client.allocation.freed !== undefined)
        assert.strictEqual(client.allocation.freed, "bad-credentials")
        assert.deepStrictEqual(client.errors, [400, 401, 401])
      }
    }))

  it.scopedLive("that is not there is given up, as fast as the schedule says", () =>
    Effect.gen(function*() {
      const client = yield* RelayClient.open(server, crypto, [CLIENT])
      for (const interval of [1000, 1500, 2250]) client.skip(interval)
      assert.isUndefined(client.allocation.freed)
      client.skip(3375)
      assert.strictEqual(client.allocation.freed, "no-response")
    }))
})
