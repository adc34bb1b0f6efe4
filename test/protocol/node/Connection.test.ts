import { assert, describe, it } from "@effect/vitest"
import {
  type CheckRequestFields,
  parseCheck,
  passwordKey,
  writeCheckRequest,
  writeCheckSuccess
} from "../../../src/protocol/ice/checkMessage.ts"
import { ConnectionTable } from "../../../src/protocol/node/ConnectionTable.ts"
import { IceConnection, RENEWAL_PAUSE } from "../../../src/protocol/node/IceConnection.ts"
import type { ConnectionRequest } from "../../../src/protocol/node/types.ts"
import { at, crypto, hostText, peer, reflexiveText, request, socket, TunnelDouble } from "./support.ts"

const GREATEST = 2n ** 64n - 1n

const setUp = (overrides: Partial<ConnectionRequest> = {}, indexPrefix = 0xabcdef) => {
  const own = { ...request, ...overrides }
  const tunnel = new TunnelDouble()
  const connection = new IceConnection(crypto, { request: own, tunnel, indexPrefix, relay: "a" }, 0)
  const { agent } = connection
  connection.addLocalCandidate({ kind: "host", address: socket, local: socket })
  /** Answers every check that is due. */
  const answer = (now: number): void => {
    agent.handleTimeout(now)
    for (let sent = agent.pollTransmit(); sent !== undefined; sent = agent.pollTransmit()) {
      const check = parseCheck(sent.message)
      if (check?._tag !== "Request") continue
      const bytes = writeCheckSuccess(crypto, check.transactionId, socket, passwordKey(own.remoteCredentials.password))
      const response = parseCheck(bytes)
      if (response?._tag === "Success") agent.handleResponse(response, now)
    }
  }
  /** A check of the peer's comes. */
  const hear = (fields: Pick<CheckRequestFields, "controlling" | "tieBreaker" | "useCandidate">, now: number): void => {
    const { message } = writeCheckRequest(crypto, {
      username: `${own.localCredentials.username}:${own.remoteCredentials.username}`,
      priority: 1,
      key: passwordKey(own.localCredentials.password),
      ...fields
    })
    const check = parseCheck(message)
    assert.isTrue(check?._tag === "Request" && agent.handleRequest(socket, peer, check, now))
  }
  return { agent, tunnel, connection, answer, hear }
}

/** A connection with a path and a session. */
const established = (overrides: Partial<ConnectionRequest> = {}) => {
  const world = setUp(overrides)
  world.connection.addRemoteCandidate(hostText, 0)
  world.answer(0)
  world.tunnel.lastHandshakeAt = 0
  assert.isTrue(world.connection.update(0))
  return world
}

describe("a connection that comes up", () => {
  it("is established once, when there is a path and a session, whichever comes first", () => {
    const { answer, connection, tunnel } = setUp()
    assert.isFalse(connection.update(0))
    connection.addRemoteCandidate(hostText, 0)
    answer(0)
    assert.isFalse(connection.update(0))
    assert.strictEqual(connection.path?.remote.text, peer.text)
    tunnel.lastHandshakeAt = 1
    assert.isTrue(connection.update(1))
    assert.isFalse(connection.update(2))

    const other = setUp()
    other.tunnel.lastHandshakeAt = 1
    assert.isFalse(other.connection.update(1))
    other.connection.addRemoteCandidate(hostText, 1)
    other.answer(1)
    assert.isTrue(other.connection.update(1))
  })

  it("starts the handshake with the path if it is controlling", () => {
    const { answer, connection, tunnel } = setUp()
    connection.addRemoteCandidate(hostText, 0)
    assert.strictEqual(tunnel.initiations, 0)
    answer(0)
    connection.update(0)
    assert.strictEqual(tunnel.initiations, 1)
    connection.update(1)
    assert.strictEqual(tunnel.initiations, 1)
  })

  it("leaves the handshake to the peer if it is controlled", () => {
    const { connection, hear, tunnel } = setUp({ role: "controlled" })
    hear({ controlling: true, tieBreaker: 1n, useCandidate: true }, 0)
    connection.update(0)
    assert.strictEqual(connection.path?.remote.text, peer.text)
    connection.proposeHandshake(100_000)
    assert.strictEqual(tunnel.initiations, 0)
  })

  it("starts the handshake if it becomes controlling with the path already there, once", () => {
    // Two devices that both take themselves for controlled: whose tie-breaker is smaller gives way (RFC 8445 7.3.1.1).
    const { agent, answer, connection, hear, tunnel } = setUp({ role: "controlled", profile: "device" })
    hear({ controlling: true, tieBreaker: 1n, useCandidate: true }, 0)
    answer(0)
    connection.update(0)
    assert.strictEqual(connection.path?.remote.text, peer.text)
    assert.strictEqual(tunnel.initiations, 0)
    const path = agent.selected
    hear({ controlling: false, tieBreaker: GREATEST, useCandidate: false }, 3000)
    assert.isTrue(agent.controlling)
    assert.isUndefined(connection.handleTimeout(3000))
    assert.strictEqual(agent.selected, path)
    assert.strictEqual(tunnel.initiations, 1)
    // Back, and once more the other way: the first handshake is still under way, or was answered.
    hear({ controlling: true, tieBreaker: GREATEST, useCandidate: false }, 3100)
    assert.isFalse(agent.controlling)
    connection.handleTimeout(3100)
    hear({ controlling: false, tieBreaker: GREATEST, useCandidate: false }, 30_000)
    connection.handleTimeout(30_000)
    assert.strictEqual(tunnel.initiations, 1)
  })

  it("has no need of another handshake when the roles flip after it was established", () => {
    const { agent, connection, hear, tunnel } = setUp({ role: "controlled", profile: "device" })
    hear({ controlling: true, tieBreaker: 1n, useCandidate: true }, 0)
    tunnel.lastHandshakeAt = 0
    assert.isTrue(connection.update(0))
    hear({ controlling: false, tieBreaker: GREATEST, useCandidate: false }, 3000)
    assert.isUndefined(connection.handleTimeout(3000))
    assert.isTrue(agent.controlling)
    assert.strictEqual(tunnel.initiations, 0)
  })

  it("gives no way to a smaller tie-breaker", () => {
    const { agent, connection, hear, tunnel } = setUp({ role: "controlled", profile: "device" })
    hear({ controlling: true, tieBreaker: 1n, useCandidate: true }, 0)
    hear({ controlling: false, tieBreaker: 0n, useCandidate: false }, 3000)
    assert.isUndefined(connection.handleTimeout(3000))
    assert.isFalse(agent.controlling)
    assert.strictEqual(tunnel.initiations, 0)
  })

  it("holds WireGuard messages back until there is a path, 128 of them, the latest", () => {
    const { answer, connection, tunnel } = setUp()
    for (let i = 0; i < 200; i++) {
      tunnel.outbox.push(Uint8Array.of(i))
      assert.isUndefined(connection.pollTunnel())
    }
    connection.addRemoteCandidate(hostText, 0)
    answer(0)
    connection.update(0)
    tunnel.outbox.push(Uint8Array.of(201))
    const sent: Array<number | undefined> = []
    for (let next = connection.pollTunnel(); next !== undefined; next = connection.pollTunnel()) sent.push(next[0])
    assert.deepStrictEqual(sent, [...Array.from({ length: 128 }, (_, i) => 72 + i), 201])
  })

  it("fails without candidates after ten seconds, and not with one", () => {
    const { connection } = setUp()
    assert.strictEqual(connection.pollTimeout(), 10_000)
    assert.isUndefined(connection.handleTimeout(9999))
    assert.match(connection.handleTimeout(10_000) ?? "", /no candidates/)

    const other = setUp().connection
    other.addRemoteCandidate("candidate:garbage", 1)
    assert.strictEqual(other.pollTimeout(), 10_000)
    other.addRemoteCandidate(hostText, 1)
    assert.isUndefined(other.handleTimeout(10_000))
  })

  it("fails two seconds after the last pair has died", () => {
    const { connection } = setUp()
    connection.addRemoteCandidate(hostText, 0)
    let now = 0
    let failure: string | undefined
    while (failure === undefined) {
      now = Math.max(now, connection.pollTimeout())
      failure = connection.handleTimeout(now)
      assert.isBelow(now, 60_000)
    }
    assert.match(failure, /no path/)
    assert.strictEqual(now, 15_250 + 2000)
  })

  it("does not fail if a pair turns up within the two seconds", () => {
    const { answer, connection } = setUp()
    connection.addRemoteCandidate(hostText, 0)
    connection.removeRemoteCandidate(hostText, 1)
    assert.isUndefined(connection.handleTimeout(1))
    assert.strictEqual(connection.pollTimeout(), 2001)
    connection.addRemoteCandidate(reflexiveText, 2000)
    answer(2000)
    assert.isUndefined(connection.handleTimeout(2001))
  })

  it("fails when WireGuard gives up", () => {
    const { connection, tunnel } = established()
    tunnel.expired = true
    assert.strictEqual(connection.pollTimeout(), 0)
    assert.match(connection.handleTimeout(0) ?? "", /handshakes/)
  })
})

describe("a handshake", () => {
  it("is not proposed within 20 s of the last one, nor while one is in flight", () => {
    const { connection, tunnel } = established()
    connection.proposeHandshake(19_999)
    assert.strictEqual(tunnel.initiations, 1)
    tunnel.isHandshaking = true
    connection.proposeHandshake(20_000)
    assert.strictEqual(tunnel.initiations, 1)
    tunnel.isHandshaking = false
    connection.proposeHandshake(20_000)
    assert.strictEqual(tunnel.initiations, 2)
  })

  it("is proposed when the path changes", () => {
    const { answer, connection, tunnel } = setUp()
    connection.addRemoteCandidate(reflexiveText, 0)
    answer(0)
    connection.update(0)
    connection.addRemoteCandidate(hostText, 25_000)
    answer(25_000)
    connection.update(25_000)
    assert.strictEqual(connection.path?.remote.text, peer.text)
    assert.strictEqual(tunnel.initiations, 2)
  })
})

describe("an idle connection", () => {
  it("was quiet for 20 s, and is active with the next packet", () => {
    const { agent, answer, connection } = established()
    const active = agent.schedule
    for (let now = 0; now < 20_000; now += 250) {
      answer(now)
      assert.isUndefined(connection.handleTimeout(now))
    }
    assert.strictEqual(agent.schedule, active)
    assert.strictEqual(connection.status(20_000).state, "connected")
    answer(20_000)
    assert.isAtMost(connection.pollTimeout(), 20_000)
    connection.handleTimeout(20_000)
    assert.strictEqual(connection.status(20_000).state, "idle")
    assert.strictEqual(agent.schedule.maxRto, 25_000)
    assert.isAbove(connection.pollTimeout(), 40_000)
    connection.touch(30_000)
    assert.strictEqual(agent.schedule, active)
    assert.strictEqual(connection.status(30_000).state, "connected")
  })

  it("between clients keeps its schedule", () => {
    const { agent, answer, connection } = established({ profile: "device" })
    const active = agent.schedule
    answer(20_000)
    connection.handleTimeout(20_000)
    assert.strictEqual(connection.status(20_000).state, "idle")
    assert.strictEqual(agent.schedule, active)
  })
})

describe("a request", () => {
  const { connection } = setUp()
  const others: ReadonlyArray<readonly [string, Partial<ConnectionRequest>]> = [
    ["key", { remoteKey: new Uint8Array(32) }],
    ["preshared key", { presharedKey: new Uint8Array(32) }],
    ["local ufrag", { localCredentials: { ...request.localCredentials, username: "else" } }],
    ["local password", { localCredentials: { ...request.localCredentials, password: "else" } }],
    ["remote ufrag", { remoteCredentials: { ...request.remoteCredentials, username: "else" } }],
    ["remote password", { remoteCredentials: { ...request.remoteCredentials, password: "else" } }],
    ["role", { role: "controlled" }],
    ["mode", { iceless: true }]
  ]
  it("with the same values is for the same connection", () => {
    assert.isTrue(connection.matches({ ...request, remoteKey: request.remoteKey.slice() }))
  })
  for (const [what, override] of others) {
    it(`with another ${what} is for another connection`, () => {
      assert.isFalse(connection.matches({ ...request, ...override }))
    })
  }
})

describe("the table of connections", () => {
  it("finds a connection by every name, and knows for 5 s that it was there", () => {
    const { connection } = setUp()
    const table = new ConnectionTable()
    table.add(connection)
    const found = () => [
      table.get("gateway"),
      table.byPrefix(0xabcdef),
      table.byKey(request.remoteKey.slice()),
      table.byUfrags("hpih", "nncg")
    ]
    assert.deepStrictEqual(found(), [connection, connection, connection, connection])
    assert.isUndefined(table.byUfrags("hpih", "else"))
    table.remove(connection, 1000)
    assert.deepStrictEqual(found(), [undefined, undefined, undefined, undefined])
    for (const name of ["gateway", 0xabcdef, request.remoteKey, "hpih:nncg"]) {
      assert.isTrue(table.wasRecent(name, 5999))
      assert.isFalse(table.wasRecent(name, 6000))
    }
    assert.isFalse(table.wasRecent("else", 1000))
  })

  it("does not lose what a later connection has taken over", () => {
    const { connection: old } = setUp()
    const { connection: fresh } = setUp({ presharedKey: new Uint8Array(32) }, 0x123456)
    const table = new ConnectionTable()
    table.add(old)
    table.add(fresh)
    table.remove(old, 0)
    assert.strictEqual(table.byKey(request.remoteKey), fresh)
    assert.strictEqual(table.get("gateway"), fresh)
    assert.isUndefined(table.byPrefix(0xabcdef))
    assert.deepStrictEqual([...table], [fresh])
  })
})

describe("the status", () => {
  it("names the kind of path by its ends", () => {
    const { answer, connection } = setUp()
    const relayed = at("203.0.113.1:50000")
    connection.addLocalCandidate({ kind: "relay", address: relayed, local: socket })
    assert.strictEqual(connection.status(0).state, "connecting")
    assert.isUndefined(connection.status(0).path)
    connection.addRemoteCandidate("candidate:1 1 udp 9 203.0.113.8 50001 typ relay raddr 0.0.0.0 rport 0", 0)
    answer(0)
    connection.update(0)
    assert.strictEqual(connection.status(0).path?.kind, "relayed-by-peer")
    connection.agent.removeLocalCandidate({ kind: "host", address: socket, local: socket })
    answer(500)
    connection.update(500)
    assert.deepStrictEqual(connection.status(500).path, {
      kind: "relayed-both",
      local: relayed,
      remote: at("203.0.113.8:50001"),
      relay: "a"
    })
    connection.addRemoteCandidate(hostText, 500)
    answer(500)
    connection.update(500)
    assert.strictEqual(connection.status(500).path?.kind, "relayed-by-us")
  })
})

describe("a pair that went silent", () => {
  it("has the candidates of its base withdrawn and announced again, also if another one follows at once", () => {
    const { agent, connection } = setUp()
    const relayed = at("198.51.100.7:50000")
    connection.addLocalCandidate({ kind: "relay", address: relayed, local: socket })
    const left: Array<typeof socket> = []
    agent.takeLeftSilentPair = () => left.shift()
    const of = (base: typeof socket) => ({ withdrawn: agent.withdrawals(base), announced: agent.announcements(base) })
    const [host, relay] = [of(socket), of(relayed)]
    assert.notDeepEqual(host, relay)
    assert.isUndefined(connection.renewal(0))

    left.push(socket)
    assert.deepStrictEqual(connection.renewal(0), { withdrawn: host.withdrawn, announced: [] })
    assert.isUndefined(connection.renewal(RENEWAL_PAUSE - 1))
    assert.deepStrictEqual(connection.renewal(RENEWAL_PAUSE), { withdrawn: [], announced: host.announced })
    assert.isUndefined(connection.renewal(RENEWAL_PAUSE))

    left.push(socket)
    connection.renewal(1000)
    left.push(relayed)
    assert.deepStrictEqual(connection.renewal(1010), { withdrawn: relay.withdrawn, announced: host.announced })
    left.push(relayed)
    assert.deepStrictEqual(connection.renewal(1020), { withdrawn: relay.withdrawn, announced: [] })
    assert.isUndefined(connection.renewal(1020 + RENEWAL_PAUSE - 1))
    assert.deepStrictEqual(connection.renewal(1020 + RENEWAL_PAUSE), { withdrawn: [], announced: relay.announced })
  })
})
