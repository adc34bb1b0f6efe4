import { assert, describe, it } from "@effect/vitest"
import { parseCandidate } from "../../../src/protocol/ice/candidate.ts"
import {
  parseCheck,
  passwordKey,
  writeCheckRequest,
  writeCheckSuccess,
  writeRoleConflict
} from "../../../src/protocol/ice/checkMessage.ts"
import { checkSchedules } from "../../../src/protocol/ice/checkSchedule.ts"
import { type CheckTransmit, IceAgent, type IceAgentOptions } from "../../../src/protocol/ice/IceAgent.ts"
import type { GatheredCandidate } from "../../../src/protocol/turn/types.ts"
import type { SocketAddress } from "../../../src/protocol/wire/address.ts"
import { at, crypto } from "./support.ts"

const credentials = { username: "hpih", password: "nmd7bgzpeqrwvcw3pwxiw5" }
const remoteCredentials = { username: "nncg", password: "zafkb5xaun54giizc53axq" }
const socket = at("192.168.1.5:52625")
const relayed = at("203.0.113.9:50000")
const peerHost = at("198.51.100.7:52625")
const peerRelay = at("203.0.113.8:50001")

const host: GatheredCandidate = { kind: "host", address: socket, local: socket }
const srflx: GatheredCandidate = { kind: "srflx", address: at("198.51.100.1:40000"), local: socket }
const relay: GatheredCandidate = { kind: "relay", address: relayed, local: socket }
const host6: GatheredCandidate = { kind: "host", address: at("[2001:db8::5]:52625"), local: at("[2001:db8::5]:52625") }

const textOf = (kind: string, address: SocketAddress, priority = 2_130_706_175, extra = ""): string =>
  `candidate:1 1 udp ${priority} ${address.address} ${address.port} typ ${kind}${extra}`
const hostText = textOf("host", peerHost)
const relayText = textOf("relay", peerRelay, 37_748_479, " raddr 0.0.0.0 rport 0")

class Agent {
  now = 0
  readonly agent: IceAgent

  constructor(options: Partial<IceAgentOptions> = {}) {
    this.agent = new IceAgent({
      crypto,
      role: "controlling",
      localCredentials: credentials,
      remoteCredentials,
      schedule: checkSchedules.clientDefault,
      ...options
    })
  }

  drain(): Array<CheckTransmit> {
    const sent: Array<CheckTransmit> = []
    for (let next = this.agent.pollTransmit(); next !== undefined; next = this.agent.pollTransmit()) sent.push(next)
    return sent
  }

  tick(): Array<CheckTransmit> {
    this.agent.handleTimeout(this.now)
    return this.drain()
  }

  /** Ticks at every deadline; returns what was sent, and when. */
  advance(millis: number): Array<{ readonly at: number; readonly check: CheckTransmit }> {
    const sent: Array<{ readonly at: number; readonly check: CheckTransmit }> = []
    const end = this.now + millis
    for (let next = this.agent.pollTimeout(); next !== undefined && next <= end; next = this.agent.pollTimeout()) {
      this.now = Math.max(this.now, next)
      for (const check of this.tick()) sent.push({ at: this.now, check })
      assert.isAbove(this.agent.pollTimeout() ?? Number.POSITIVE_INFINITY, this.now, "the deadline does not move on")
    }
    this.now = end
    return sent
  }

  /** The peer's answer. */
  answer({ message, source }: CheckTransmit, mapped: SocketAddress = source): boolean {
    const request = parseCheck(message)
    if (request?._tag !== "Request") throw new Error("not a check")
    const bytes = writeCheckSuccess(crypto, request.transactionId, mapped, passwordKey(remoteCredentials.password))
    const response = parseCheck(bytes)
    return response?._tag === "Success" && this.agent.handleResponse(response, this.now)
  }

  /** A check of the peer's. */
  receive(
    local: SocketAddress,
    from: SocketAddress,
    fields: Partial<Parameters<typeof writeCheckRequest>[1]> = {}
  ): boolean {
    const { message } = writeCheckRequest(crypto, {
      username: `${credentials.username}:${remoteCredentials.username}`,
      controlling: !this.agent.controlling,
      tieBreaker: 1n,
      priority: 1_862_270_719,
      useCandidate: false,
      key: passwordKey(credentials.password),
      ...fields
    })
    const request = parseCheck(message)
    return request?._tag === "Request" && this.agent.handleRequest(local, from, request, this.now)
  }
}

const paths = (checks: ReadonlyArray<CheckTransmit>): ReadonlyArray<string> =>
  checks.map(({ destination, relayed, source }) => `${relayed ? "relay " : ""}${source.text} > ${destination.text}`)
const usesCandidate = ({ message }: CheckTransmit): boolean => {
  const check = parseCheck(message)
  return check?._tag === "Request" && check.useCandidate
}

describe("local candidates", () => {
  it("are announced with priority, placeholder and ufrag", () => {
    const { agent } = new Agent()
    const texts = [host, srflx, relay].map((candidate) => agent.addLocalCandidate(candidate) ?? "")
    assert.deepStrictEqual(texts.map(parseCandidate).map((description) => description?.priority), [
      2_130_706_175,
      1_686_109_951,
      37_748_479
    ])
    assert.match(texts[1] ?? "", / typ srflx raddr 0\.0\.0\.0 rport 0 ufrag hpih$/)
    assert.match(texts[0] ?? "", / typ host ufrag hpih$/)
  })

  it("add nothing twice, and nothing that is a better one already", () => {
    const { agent } = new Agent()
    assert.isDefined(agent.addLocalCandidate(host))
    assert.isUndefined(agent.addLocalCandidate(host))
    assert.isUndefined(agent.addLocalCandidate({ kind: "srflx", address: socket, local: socket }))
  })

  it("are withdrawn by kind and address, and come back", () => {
    const { agent } = new Agent()
    agent.addLocalCandidate(relay)
    const text = agent.removeLocalCandidate(relay) ?? ""
    assert.notInclude(text, "ufrag")
    assert.strictEqual(parseCandidate(text)?.address.text, relayed.text)
    assert.isUndefined(agent.removeLocalCandidate(relay))
    assert.isDefined(agent.addLocalCandidate(relay))
  })

  it("of a relay of the other family rank lower", () => {
    const { agent } = new Agent()
    const text = agent.addLocalCandidate({ ...relay, local: host6.local }) ?? ""
    assert.strictEqual(parseCandidate(text)?.priority, 37_492_479)
  })

  it("are all told again, best first, the peer-reflexive ones too", () => {
    const agent = new Agent()
    agent.agent.addLocalCandidate(relay)
    agent.agent.addLocalCandidate(host)
    agent.agent.addRemoteCandidate(hostText)
    const [check] = agent.tick()
    if (check !== undefined) agent.answer(check, at("198.51.100.1:41111"))
    const kinds = agent.agent.announcements().map((text) => parseCandidate(text)?.kind)
    assert.deepStrictEqual(kinds, ["host", "prflx", "relay"])
  })
})

describe("pairs", () => {
  it("join what is of one family; a server-reflexive address adds none", () => {
    const agent = new Agent()
    for (const candidate of [host, srflx, relay, host6]) agent.agent.addLocalCandidate(candidate)
    agent.agent.addRemoteCandidate(hostText)
    agent.agent.addRemoteCandidate(relayText)
    assert.sameMembers([...paths(agent.tick())], [
      `${socket} > ${peerHost}`,
      `${socket} > ${peerRelay}`,
      `relay ${relayed} > ${peerHost}`,
      `relay ${relayed} > ${peerRelay}`
    ])
  })

  it("are a hundred at most, the best ones", () => {
    const agent = new Agent()
    for (let i = 0; i < 10; i++) {
      const local = at(`192.168.1.${i + 1}:52625`)
      agent.agent.addLocalCandidate({ kind: "host", address: local, local })
    }
    for (let i = 0; i < 20; i++) agent.agent.addRemoteCandidate(textOf("host", at(`198.51.100.${i + 1}:1`), 1000 + i))
    const checked = paths(agent.tick())
    assert.strictEqual(checked.length, 100)
    assert.isFalse(checked.some((path) => path.endsWith("198.51.100.1:1")))
    assert.isTrue(checked.some((path) => path.endsWith("198.51.100.20:1")))
  })

  it("take a signalled peer-reflexive address over in place", () => {
    const agent = new Agent({ role: "controlled" })
    agent.agent.addLocalCandidate(host)
    assert.isTrue(agent.receive(socket, peerHost, { useCandidate: true }))
    assert.strictEqual(agent.agent.selected?.remoteKind, "prflx")
    agent.agent.addRemoteCandidate(hostText)
    assert.strictEqual(agent.agent.selected?.remoteKind, "host")
    agent.drain()
    assert.strictEqual(agent.tick().length, 1, "one pair")
  })

  it("go with a candidate that the peer withdraws, by kind, address and base", () => {
    const agent = new Agent()
    agent.agent.addLocalCandidate(host)
    agent.agent.addRemoteCandidate(hostText)
    agent.agent.addRemoteCandidate(relayText)
    agent.tick()
    agent.agent.removeRemoteCandidate(textOf("relay", peerRelay, 1))
    assert.strictEqual(agent.agent.pollTimeout(), 250)
    agent.agent.removeRemoteCandidate(textOf("relay", peerRelay, 1, " raddr 0.0.0.0 rport 0"))
    agent.now = 250
    assert.deepStrictEqual(paths(agent.tick()), [`${socket} > ${peerHost}`])
    assert.isFalse(agent.receive(socket, peerRelay), "a withdrawn candidate is not resurrected")
    agent.agent.addRemoteCandidate(relayText)
    assert.deepStrictEqual(paths(agent.tick()), [`${socket} > ${peerRelay}`], "unless it is signalled again")
  })

  it("include guesses at forwarded ports, which are reported for their channels", () => {
    const agent = new Agent()
    agent.agent.addLocalCandidate(host)
    agent.agent.addRemoteCandidate(textOf("host", at("10.0.0.7:52625")))
    const added = agent.agent.addRemoteCandidate(textOf("srflx", at("198.51.100.7:40000"), 5, " raddr 0.0.0.0 rport 0"))
    assert.deepStrictEqual(added.map(({ address }) => address.text), ["198.51.100.7:40000", "198.51.100.7:52625"])
    assert.deepStrictEqual(agent.agent.addRemoteCandidate(textOf("srflx", peerHost)), [], "known by now")
  })

  it("ignore candidates of another ufrag", () => {
    const { agent } = new Agent()
    assert.deepStrictEqual(agent.addRemoteCandidate(`${hostText} ufrag else`), [])
    assert.strictEqual(agent.addRemoteCandidate(`${hostText} ufrag nncg`).length, 1)
  })
})

describe("checks", () => {
  const paired = (options: Partial<IceAgentOptions> = {}) => {
    const agent = new Agent(options)
    agent.agent.addLocalCandidate(host)
    agent.agent.addRemoteCandidate(hostText)
    return agent
  }

  it("follow the schedule, each under its own transaction id, until the pair is dead", () => {
    const agent = paired()
    const sent = agent.advance(60_000)
    const times = sent.map(({ at }) => at)
    assert.deepStrictEqual(times.slice(0, 6), [0, 250, 750, 1750, 3250, 4750])
    assert.strictEqual(times.length, 12)
    assert.strictEqual(new Set(sent.map(({ check }) => check.transaction)).size, 12)
    assert.strictEqual(agent.agent.state, "disconnected")
    assert.isUndefined(agent.agent.pollTimeout())
  })

  it("have a key, a role and a priority that the peer can use", () => {
    const [check] = paired().tick()
    const request = parseCheck(check?.message ?? new Uint8Array(0))
    assert.strictEqual(request?._tag, "Request")
    if (request?._tag !== "Request") return
    assert.deepStrictEqual(
      [request.localUfrag, request.remoteUfrag, request.controlling, request.priority, request.useCandidate],
      ["nncg", "hpih", true, 1_862_270_719, false]
    )
  })

  it("go on as keep-alives on a pair that works, more often once it stops answering", () => {
    const agent = paired()
    for (let i = 0; i < 20; i++) {
      for (const { check } of agent.advance(1500)) agent.answer(check)
    }
    assert.strictEqual(agent.agent.state, "completed")
    const begun = agent.now
    const silent = agent.advance(60_000).map(({ at }) => at - begun)
    assert.strictEqual(agent.agent.state, "disconnected")
    assert.strictEqual(silent.length, 12)
    const gaps = silent.slice(1).map((time, index) => time - (silent[index] ?? 0))
    assert.deepStrictEqual(gaps, [750, 500, 1000, ...Array.from({ length: 8 }, () => 1500)])
  })

  it("accept the answer to an earlier attempt, once, and only with the right key", () => {
    const agent = paired()
    const [first] = agent.tick()
    agent.advance(1000)
    if (first === undefined) throw new Error("nothing was sent")
    const forged = parseCheck(writeCheckSuccess(crypto, new Uint8Array(12), socket, passwordKey("wrong")))
    assert.isFalse(forged?._tag === "Success" && agent.agent.handleResponse(forged, agent.now))
    assert.isTrue(agent.answer(first))
    assert.strictEqual(agent.agent.rtt, 1000)
    assert.isFalse(agent.answer(first))
  })

  it("of the peer keep a pair for 15 s though ours are lost", () => {
    const agent = paired()
    agent.advance(14_000)
    agent.receive(socket, peerHost)
    agent.advance(14_900)
    assert.notStrictEqual(agent.agent.state, "disconnected")
    agent.advance(1700)
    assert.strictEqual(agent.agent.state, "disconnected")
  })

  it("become rare at once under an idle schedule, and frequent again", () => {
    const agent = paired()
    for (let i = 0; i < 20; i++) for (const { check } of agent.advance(1500)) agent.answer(check)
    agent.agent.schedule = checkSchedules.clientIdle
    const idle = agent.advance(100_000)
    assert.strictEqual(idle.length, 4)
    for (const { check } of idle) agent.answer(check)
    agent.agent.schedule = checkSchedules.clientDefault
    assert.isAtMost(agent.agent.pollTimeout() ?? 0, agent.now + 1500)
  })
})

describe("an inbound check", () => {
  const ready = (options: Partial<IceAgentOptions> = {}) => {
    const agent = new Agent(options)
    agent.agent.addLocalCandidate(host)
    agent.agent.addLocalCandidate(relay)
    return agent
  }

  it("is answered from where it arrived, with the address that we saw", () => {
    const agent = ready()
    assert.isTrue(agent.receive(relayed, peerHost))
    const [answer] = agent.drain()
    assert.deepStrictEqual(answer === undefined ? [] : paths([answer]), [`relay ${relayed} > ${peerHost}`])
    const response = parseCheck(answer?.message ?? new Uint8Array(0))
    assert.strictEqual(response?._tag === "Success" ? response.mapped.text : undefined, peerHost.text)
    assert.isUndefined(answer?.transaction)
  })

  it("is dropped in silence if anything is wrong with it", () => {
    const agent = ready()
    assert.isFalse(agent.receive(socket, peerHost, { username: "else:nncg" }))
    assert.isFalse(agent.receive(socket, peerHost, { username: "hpih:else" }))
    assert.isFalse(agent.receive(socket, peerHost, { key: passwordKey("wrong") }))
    assert.isFalse(agent.receive(at("192.168.1.6:52625"), peerHost), "no candidate of ours")
    assert.isFalse(agent.receive(socket, peerHost, { useCandidate: true }), "we are controlling")
    assert.deepStrictEqual(agent.drain(), [])
    assert.deepStrictEqual(agent.tick(), [], "nobody was learnt of")
  })

  it("of a peer that claims our role is refused, or makes us change it", () => {
    const tall = ready({ crypto: { ...crypto, randomBytes: (length) => new Uint8Array(length).fill(255) } })
    assert.isTrue(tall.receive(socket, peerHost, { controlling: true }))
    const [refusal] = tall.drain()
    const conflict = writeRoleConflict(crypto, new Uint8Array(12), passwordKey(credentials.password))
    assert.deepStrictEqual(refusal?.message.slice(0, 8), conflict.slice(0, 8))
    assert.isTrue(tall.agent.controlling)

    const small = ready({ crypto: { ...crypto, randomBytes: (length) => new Uint8Array(length) } })
    assert.isTrue(small.receive(socket, peerHost, { controlling: true, useCandidate: true }))
    assert.isFalse(small.agent.controlling)
    assert.strictEqual(small.agent.selected?.remote.text, peerHost.text)
  })

  it("from an unknown address makes a pair that is checked at once", () => {
    const agent = ready()
    agent.receive(socket, peerHost)
    agent.drain()
    assert.sameMembers([...paths(agent.tick())], [`${socket} > ${peerHost}`, `relay ${relayed} > ${peerHost}`])
  })
})

describe("the nomination", () => {
  const both = (options: Partial<IceAgentOptions> = {}) => {
    const agent = new Agent(options)
    agent.agent.addLocalCandidate(host)
    agent.agent.addRemoteCandidate(hostText)
    agent.agent.addRemoteCandidate(relayText)
    return agent
  }

  it("of the controlling side is the best pair that works, and moves to better ones", () => {
    const agent = both()
    const [direct, viaRelay] = agent.tick()
    if (direct === undefined || viaRelay === undefined) throw new Error("two checks expected")
    agent.answer(viaRelay)
    assert.strictEqual(agent.agent.selected?.remote.text, peerRelay.text)
    assert.strictEqual(agent.agent.state, "connected")
    const first = agent.tick()
    assert.deepStrictEqual([paths(first), first.map(usesCandidate)], [[`${socket} > ${peerRelay}`], [true]])
    agent.answer(direct)
    assert.strictEqual(agent.agent.selected?.remote.text, peerHost.text)
    const second = agent.tick()
    assert.deepStrictEqual([paths(second), second.map(usesCandidate)], [[`${socket} > ${peerHost}`], [true]])
  })

  it("falls back to the next pair when the best one's candidate is withdrawn", () => {
    const agent = both()
    for (const check of agent.tick()) agent.answer(check)
    assert.strictEqual(agent.agent.selected?.remote.text, peerHost.text)
    agent.agent.removeRemoteCandidate(hostText)
    assert.strictEqual(agent.agent.selected?.remote.text, peerRelay.text)
    assert.strictEqual(agent.agent.state, "completed")
  })

  it("leaves a pair that went silent while another one is answered, says so once, and returns", () => {
    const agent = both()
    agent.agent.addLocalCandidate(relay)
    const live = (millis: number, ...remotes: ReadonlyArray<SocketAddress>): void => {
      for (let i = 0; i < millis; i += 50) {
        for (const { check } of agent.advance(50)) {
          if (remotes.some(({ text }) => text === check.destination.text)) agent.answer(check)
        }
      }
    }
    live(10_000, peerHost, peerRelay)
    assert.strictEqual(agent.agent.selected?.remote.text, peerHost.text)
    live(3500, peerRelay)
    assert.strictEqual(agent.agent.selected?.remote.text, peerHost.text, "a few may be lost")
    assert.isUndefined(agent.agent.takeLeftSilentPair())
    live(1500 + 5250 + 1500 - 3500, peerRelay)
    assert.strictEqual(agent.agent.selected?.remote.text, peerRelay.text)
    const base = agent.agent.takeLeftSilentPair()
    assert.strictEqual(base?.text, host.address.text)
    assert.isUndefined(agent.agent.takeLeftSilentPair())
    assert.lengthOf(agent.agent.withdrawals(base), 1, "the others may be in use")
    assert.isAbove(agent.agent.withdrawals().length, 1)
    assert.lengthOf(agent.agent.announcements(base), 1)
    live(3000, peerHost, peerRelay)
    assert.strictEqual(agent.agent.selected?.remote.text, peerHost.text)
    assert.isUndefined(agent.agent.takeLeftSilentPair(), "for a better one")
  })

  it("stays with a pair that went silent with all others, and is answered again with them", () => {
    const agent = both()
    for (let i = 0; i < 20; i++) for (const { check } of agent.advance(500)) agent.answer(check)
    agent.advance(10_000)
    let first: SocketAddress | undefined
    for (let i = 0; i < 60; i++) {
      for (const { check } of agent.advance(50)) {
        first ??= check.destination.text === peerRelay.text ? peerRelay : undefined
        if (first !== undefined) agent.answer(check)
      }
      assert.strictEqual(agent.agent.selected?.remote.text, peerHost.text)
    }
    assert.strictEqual(first, peerRelay)
    assert.isUndefined(agent.agent.takeLeftSilentPair())
  })

  it("of the controlled side leaves a pair that seems dead for one that the peer has marked since", () => {
    const agent = new Agent({ role: "controlled", schedule: checkSchedules.serverDefault })
    agent.agent.addLocalCandidate(host)
    agent.agent.addRemoteCandidate(hostText)
    agent.receive(socket, peerHost, { useCandidate: true })
    agent.advance(20_000)
    assert.strictEqual(agent.agent.selected?.remote.text, peerHost.text, "there is no other one")
    agent.receive(socket, peerRelay, { useCandidate: true, priority: 1 })
    assert.strictEqual(agent.agent.selected?.remote.text, peerRelay.text)
    agent.receive(socket, peerHost, { useCandidate: true })
    assert.strictEqual(agent.agent.selected?.remote.text, peerHost.text, "it is alive")
  })

  it("of the controlled side is the best of those that the peer marked, whether our checks pass or not", () => {
    const agent = both({ role: "controlled", schedule: checkSchedules.serverDefault })
    for (const check of agent.tick()) agent.answer(check)
    assert.strictEqual(agent.agent.state, "checking")
    agent.receive(socket, peerRelay, { useCandidate: true })
    assert.strictEqual(agent.agent.selected?.remote.text, peerRelay.text)
    agent.receive(socket, peerHost, { useCandidate: true })
    assert.strictEqual(agent.agent.selected?.remote.text, peerHost.text)
    agent.receive(socket, peerRelay, { useCandidate: true })
    assert.strictEqual(agent.agent.selected?.remote.text, peerHost.text)
    assert.isFalse(agent.drain().some(usesCandidate))
    assert.isFalse(agent.tick().some(usesCandidate))
  })
})

describe("the state", () => {
  it("is checking while one side has no candidates at all", () => {
    const { agent } = new Agent()
    assert.strictEqual(agent.state, "checking")
    agent.addLocalCandidate(host)
    assert.strictEqual(agent.state, "checking")
    agent.addRemoteCandidate(hostText)
    assert.strictEqual(agent.state, "checking")
    agent.removeRemoteCandidate(hostText)
    assert.strictEqual(agent.state, "disconnected")
  })
})
