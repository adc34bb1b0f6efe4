/**
 * Plays a schedule in the world and in the model, and compares what becomes of every packet and query. What is checked,
 * by the names of tunnel spec 20:
 *
 * | invariant | where |
 * | --- | --- |
 * | P1 | `#send`: every packet is sent once, by its client; its bytes are made from the journey alone |
 * | P2 | `Traffic`: a packet that belongs to nothing that was sent is a violation |
 * | P3, P4 | `judge`: the places where it arrived and what came back are compared whole, so once means once |
 * | P5, P6, P7 | `judge`: the bytes that arrived are those sent, save for the destination of a name |
 * | P7, P8 | `GatewayModel.setUp` and `#translate`: the latest resolution, and for a flow the one that it began with |
 * | P9, P10, P11 | `judge`: the bytes that came back are what the application's own destination would have answered |
 * | P12 | `judge` with `refused` |
 * | P13 | no slack: nothing is lost once all is settled, and the first packet is not either |
 * | R1 to R10 | `ClientModel`, `GatewayModel`; R3 and R8 by packets with `past` |
 * | R11 | a journey that waits is delivered when the grant comes, without another packet |
 * | R12 | `#forge`: errors about flows that are none |
 * | T1 | `#talk`: connections carry data both ways and end; DNS over TCP for whole connections |
 * | T2 | `judge` of SYNs |
 * | T3 | `isRepeated`: connections of earlier steps send data again after whatever happened |
 * | D1, D2, D3, D5 | `#judgeQuery`: answers and who was asked, over both transports |
 * | D4 | PTR queries of every address that stands for a name |
 * | D6, D7, C1 | `checkState` |
 * | C2 | `checkState`: every configuration differs from the one before it |
 * | L1, L2, L3, L5 | `checkState`; L5 by `ClientModel.remove` |
 * | L4 | `reconnect`, `portal away` and `portal back`: the model does nothing, and `judgeEarly` for packets amid them |
 *
 * Packets that are sent before a change has settled may be lost on their way, but come out nowhere else: `judgeEarly`.
 */
import { assert } from "@effect/vitest"
import { uuid } from "../../protocol/tunnel/fixtures.ts"
import { icmpError, other } from "../../protocol/tunnel/packets.ts"
import { seeded } from "../random.ts"
import { checkState } from "./checkState.ts"
import type { Answer, Journey, Packet } from "./fate.ts"
import { type Early, judge, judgeEarly } from "./judge.ts"
import { type Client, type Gateway, Organisation, SITES } from "./Organisation.ts"
import { contains, matches, proxiesOf, type Resource, reverseNameOf } from "./rules.ts"
import { ADDRESSES, type Change, DEVICE_NAME, NAMES, type Probe, type Query, type Schedule } from "./schedule.ts"
import { bytesOf, type Heard, type Sighting, Traffic } from "./Traffic.ts"
import { answerOf } from "./zones.ts"

/** Milliseconds. How long the end of a connection may go unnoticed: as in `Life`, with a relay that is always there. */
const UNNOTICED = 33_500
const UNNOTICED_PATH = 7000 + 90_000 + 1000
/** A query inside the tunnel, and what it takes to get that far. */
const CONCLUDED = 12_000
/** For what should not come. */
const GRACE = 400
/** Between requests for the same, and then some: whatever is asked for may be asked for again. */
const PAUSE = 2200
/** From the first packet of a step until the last has arrived, if nothing has to be asked for. */
const AHEAD = 2500
const POKE = 2000
/** A control packet that means nothing to anybody (10.2). */
const UNKNOWN_EVENT = other({ from: "::", to: "::" }, 0xff, Uint8Array.of(0xee, 0, 0, 0, 0, 0, 0, 0))
const FIRST_ID = 1024

/** Changes of which the packets of those that are connected notice nothing (L4). */
const HARMLESS = new Set<Change["do"]>(
  ["nothing", "rename", "records", "dns", "system dns", "forbid", "allow", "portal away", "site away"]
)

export class Play {
  readonly organisation: Organisation
  /** How often each fate, answer and change was seen: a model that is never asked proves nothing. */
  readonly seen: { [what: string]: number } = {}
  readonly #traffic: Traffic
  readonly #schedule: Schedule
  /** Those of earlier steps whose packets still wait. */
  #open: Array<Sighting> = []
  #openQueries: Array<Heard> = []
  /** To be taken up again. */
  readonly #past: Array<Packet> = []
  /** The TCP connections among them that are up. */
  readonly #established = new Set<number>()
  /** What packets of this step wait for. */
  readonly #wanted = new Set<string>()
  #nextId = FIRST_ID

  constructor(schedule: Schedule) {
    this.#schedule = schedule
    const organisation = this.organisation = new Organisation(schedule, {
      onClientPacket: (client, packet) => this.#traffic.onClientPacket(client, packet, this.organisation.clients),
      onGatewayPacket: (gateway, packet) => this.#traffic.onGatewayPacket(gateway, packet),
      onQuery: (client, upstream, message) => this.#traffic.resolve(client, upstream, message),
      onDeviceQuery: ({ id }, pool, name) => this.#traffic.asked.push(`${id} portal ${pool} ${name.toLowerCase()}`),
      onViolation: (what) => this.#traffic.violation(what)
    })
    this.#traffic = new Traffic(organisation.world, seeded(schedule.seed + 1))
    for (const resource of schedule.resources) organisation.put(resource)
    for (const client of organisation.clients) organisation.setSystemResolvers(client, ["1.1.1.1"])
    organisation.records.set("app.corp.test", ["10.200.0.2", "10.200.0.1", "fd00:cafe::1"])
    organisation.records.set("x.corp.test", ["10.200.0.3"])
  }

  /** Throws at the first step after which world and model are of different minds. */
  run(): void {
    this.organisation.world.run(1500)
    for (const [index, { change, probes, queries }] of this.#schedule.steps.entries()) {
      try {
        this.#count(change.do)
        const early = this.#changeAmid(change, probes.filter((probe) => probe.early !== undefined))
        this.#settle()
        this.#passExpiries()
        for (const each of early) this.#judgeEarly(each)
        // Before anything is asked for again, which makes up for what was forgotten.
        for (const client of this.organisation.clients) checkState(this.organisation, client, true)
        this.#round(queries, probes.filter((probe) => probe.early === undefined))
        for (const client of this.organisation.clients) checkState(this.organisation, client, false)
      } catch (error) {
        throw new Error(`step ${index}, ${change.do}: ${error instanceof Error ? error.message : String(error)}`, {
          cause: error
        })
      }
    }
  }

  #count(what: string): void {
    this.seen[what] = (this.seen[what] ?? 0) + 1
  }

  // ---- changes

  #change(change: Change): void {
    const { organisation } = this
    const { clients, gateways, resources, world } = organisation
    const devices: ReadonlyArray<Client | Gateway> = [...clients, ...gateways]
    switch (change.do) {
      case "nothing":
        return
      case "put":
        return organisation.put(change.resource)
      case "remove":
        return organisation.remove(uuid(change.resource))
      case "rename": {
        const resource = resources.get(uuid(change.resource))
        if (resource !== undefined) organisation.put({ ...resource, name: `${resource.name}x` })
        return
      }
      case "filter": {
        const resource = resources.get(uuid(change.resource))
        if (resource !== undefined && "filters" in resource) organisation.put({ ...resource, filters: change.filters })
        return
      }
      case "internet":
        return organisation.setInternet(clients[change.client] as Client, change.isOn)
      case "records":
        NAMES.forEach((name, index) => {
          organisation.records.set(name.toLowerCase(), change.hosts.filter((_, i) => (i + index) % 3 > 0))
        })
        return
      case "dns": {
        const { do53, doh, search } = change
        return organisation.setDns({ do53, doh, searchDomain: search === "" ? undefined : search })
      }
      case "system dns":
        return organisation.setSystemResolvers(clients[change.client] as Client, change.resolvers)
      case "roam":
        return organisation.roam(clients[change.client] as Client)
      case "restart client": {
        const client = clients[change.client] as Client
        this.#traffic.forget(client)
        this.#open = this.#open.filter(({ journey }) => journey.client !== client.id)
        this.#openQueries = this.#openQueries.filter(({ inquiry }) => inquiry.client !== client.id)
        return organisation.restartClient(client)
      }
      case "reconnect":
        return organisation.signIn(devices[change.device] as Client)
      case "portal away":
      case "portal back":
        return organisation.setAway(devices[change.device] as Client, change.do === "portal away")
      case "restart gateway":
        return organisation.restartGateway(gateways[change.gateway] as Gateway, change.goodbye)
      case "deauthorise":
        return organisation.deauthorise(clients[change.client] as Client, uuid(change.resource))
      case "forbid":
        organisation.forbidden.add(uuid(change.resource))
        return
      case "allow":
        organisation.forbidden.delete(uuid(change.resource))
        return
      case "site away":
      case "site back":
        for (const gateway of gateways) {
          if (gateway.site === SITES[change.site]) organisation.setAway(gateway, change.do === "site away")
        }
        return
      case "wait":
        world.run(change.seconds * 1000)
    }
  }

  /** Sends packets around the time of the change: of what becomes of them on their way not everything is certain. */
  #changeAmid(change: Change, probes: ReadonlyArray<Probe>): ReadonlyArray<Early> {
    const { clients, gateways, world } = this.organisation
    if (probes.length > 0) this.#passExpiries()
    const isWhole = [...clients, ...gateways].every(({ isAway }) => !isAway)
    const isCertain = HARMLESS.has(change.do) || (change.do === "reconnect" && isWhole)
    const sent = new Array<Early>()
    const sendAt = (delay: number): void => {
      for (const probe of probes) if (probe.early === delay) sent.push(...this.#sendEarly(probe, isCertain))
    }
    sendAt(0)
    this.#change(change)
    let waited = 0
    for (const delay of [...new Set(probes.map(({ early = 0 }) => early))].toSorted((a, b) => a - b)) {
      if (delay === 0) continue
      world.run(delay - waited)
      waited = delay
      sendAt(delay)
    }
    return sent
  }

  /** Nothing that would have to be asked for, and not on the ports of another. */
  #sendEarly(probe: Probe, isCertain: boolean): ReadonlyArray<Early> {
    const client = this.#clientAt(probe.client)
    const { connected, fresh } = this.#make({ ...probe, isMalicious: false })
    const foreseen = client.model.foresee(fresh, this.organisation.world.now)
    if (foreseen === undefined) return []
    const { fate, through } = foreseen
    const sighting = this.#traffic.send(client, { packet: fresh, client: client.id, fate })
    return [{ sighting, through, isCertain: isCertain && (through === undefined || connected.includes(through)) }]
  }

  /** Until every message has arrived, and everybody has noticed which connections are over. */
  #settle(): void {
    const { stale, world } = this.organisation
    world.run(PAUSE)
    const bound = world.now + (this.organisation.iceless ? UNNOTICED_PATH : UNNOTICED)
    while (!world.runUntil(() => stale.size === 0, POKE)) {
      if (world.now > bound) {
        assert.strictEqual([...stale].join("\n"), "", "ends of connections that nobody has noticed")
      }
      for (const pair of stale) this.#poke(pair)
    }
    world.run(GRACE)
  }

  /** Nothing ends while packets are under way: what became of them would be chance. */
  #passExpiries(): void {
    const { organisation } = this
    const { world } = organisation
    while (organisation.nextExpiry < world.now + AHEAD) {
      world.run(organisation.nextExpiry - world.now + 1)
      this.#count("expired")
      this.#settle()
    }
  }

  /** In path mode only who has something to say finds out that nobody answers. */
  #poke(pair: string): void {
    const [id, peer = ""] = pair.split(" ")
    const client = this.organisation.clients.find((each) => each.id === id)
    if (client !== undefined) this.#traffic.sendPast(client, peer, UNKNOWN_EVENT)
  }

  // ---- packets and queries

  #round(queries: ReadonlyArray<Query>, probes: ReadonlyArray<Probe>): void {
    const { world } = this.organisation
    const { asked } = this.#traffic
    const sightings = [...this.#open]
    this.#wanted.clear()
    // Past the rules nothing waits for anything, so that these go first.
    for (const probe of probes) if (probe.isMalicious) sightings.push(...this.#send(probe, sightings))
    world.run(GRACE)
    const heard = [...this.#openQueries]
    for (const query of [...queries, ...probes.flatMap((probe) => this.#nameOf(probe))]) heard.push(...this.#ask(query))
    // Names are at their gateways before packets for them come.
    world.run(GRACE)
    for (const probe of probes) if (!probe.isMalicious) sightings.push(...this.#send(probe, sightings))
    const isConcluded = (): boolean =>
      sightings.every((sighting) => this.#isConcluded(sighting)) && heard.every((each) => this.#isAnswered(each))
    world.runUntil(isConcluded, CONCLUDED)
    world.run(GRACE)
    for (const sighting of sightings) {
      this.#count(`${sighting.journey.packet.past === undefined ? "" : "past: "}${sighting.journey.fate._tag}`)
      judge(sighting, this.#mustBeLetIn)
    }
    sightings.push(...this.#talk(sightings))
    // Of a device that several ask for the portal is asked once.
    const expected = heard.map((each) => this.#judgeQuery(each)).flat()
      .filter((each, index, all) => !each.includes(" portal ") || all.indexOf(each) === index)
    // Since the last step: what waited may have been let in by the change.
    assert.strictEqual(asked.toSorted().join("\n"), expected.toSorted().join("\n"), "who was asked")
    asked.length = 0
    assert.strictEqual(this.#traffic.violations.join("\n"), "", "what nobody can explain")
    this.#open = sightings.filter(({ journey }) => journey.fate._tag === "waiting")
    this.#openQueries = heard.filter(({ answers, inquiry, isAbandoned }) =>
      answers.length === 0 && !inquiry.isGivenUp && !(isAbandoned && inquiry.asked !== undefined)
    )
  }

  /** Connections that came up carry data both ways, and every other one comes to its end. */
  #talk(sightings: ReadonlyArray<Sighting>): ReadonlyArray<Sighting> {
    const opened = sightings.filter(({ journey: { fate, packet } }) =>
      fate._tag === "delivered" && packet.protocol === "tcp" && packet.ending === "reply" &&
      packet.segment === undefined
    )
    for (const { journey } of opened) this.#established.add(journey.packet.id)
    const talks = this.#converse(opened, "data")
    const ends = this.#converse(
      talks.filter(({ journey: { fate, packet } }) => fate._tag === "delivered" && packet.id % 2 === 0),
      "end"
    )
    const ended = ends.map(({ journey }) => journey.packet.id)
    this.#past.splice(0, Infinity, ...this.#past.filter(({ id }) => !ended.includes(id)))
    return [...talks, ...ends]
  }

  #converse(connections: ReadonlyArray<Sighting>, segment: "data" | "end"): ReadonlyArray<Sighting> {
    const { world } = this.organisation
    if (connections.length === 0) return []
    this.#passExpiries()
    const talks = connections.map(({ journey }) => {
      const client = this.#clientOf(journey)
      return this.#follow(client, client.model.send({ ...journey.packet, segment }, world.now))
    })
    world.runUntil(() => talks.every((sighting) => this.#isConcluded(sighting)), CONCLUDED)
    world.run(GRACE)
    for (const sighting of talks) {
      this.#count(`${segment}: ${sighting.journey.fate._tag}`)
      judge(sighting, this.#mustBeLetIn)
    }
    return talks
  }

  #isDeviceAwaited(sightings: ReadonlyArray<Sighting>): boolean {
    return sightings.some(({ journey: { fate } }) => fate._tag === "waiting" && fate.for.includes(" "))
  }

  #clientAt(index: number): Client {
    return this.organisation.clients[index] as Client
  }

  /** A name that a probe is for has to be asked for first, unless an application knows its addresses already. */
  #nameOf({ client, isIpv6, nth, to }: Probe): ReadonlyArray<Query> {
    const target = to === "resource" ? this.#resourceOf(client, nth) : undefined
    if (target?.type === "dynamic_device_pool") {
      return [{ client, sentinel: 0, name: DEVICE_NAME, type: isIpv6 ? "AAAA" : "A", transport: "udp" }]
    }
    if (target?.type !== "dns") return []
    const { names } = this.#clientAt(client).model
    const found = names.names.find((each) => names.resourcesOf(each).includes(target))
    const name = NAMES.find((each) => matches(target.pattern, each))
    // Applications ask again, as often as not.
    if (name === undefined || (found !== undefined && nth % 2 === 0)) return []
    return [{ client, sentinel: 0, name: found?.name ?? name, type: isIpv6 ? "AAAA" : "A", transport: "udp" }]
  }

  #resourceOf(client: number, nth: number): Resource | undefined {
    const resources = [...this.#clientAt(client).model.resources.values()]
    return resources[nth % resources.length]
  }

  /** An address that leads to a resource, if nothing else is in its way. */
  #addressIn(resource: Resource, { client, isIpv6, nth }: Probe): string | undefined {
    const { model } = this.#clientAt(client)
    switch (resource.type) {
      case "cidr":
        return ADDRESSES.find((address) => contains(resource.network, address))
      case "dns": {
        const named = model.names.names.find((each) => model.names.resourcesOf(each).includes(resource))
        return named && proxiesOf(named.nth, isIpv6 ? 6 : 4)[nth % 4]
      }
      case "internet":
        return isIpv6 ? "2606:4700::1" : "8.8.8.8"
      default:
        return this.#clientAt(1 - client)[isIpv6 ? "ipv6" : "ipv4"]
    }
  }

  /** Where a probe is to go, in this client's eyes. */
  #addressOf(probe: Probe): string {
    const { client, isIpv6, nth, to } = probe
    const resource = to === "resource" ? this.#resourceOf(client, nth) : undefined
    const address = resource && this.#addressIn(resource, probe)
    if (address !== undefined) return address
    if (to === "resource") return isIpv6 ? "2606:4700::1" : "8.8.8.8"
    const { clients, gateways } = this.organisation
    const own = this.#clientAt(client)
    const family = isIpv6 ? "ipv6" : "ipv4"
    if (to === "own") return own[family]
    if (to === "other client") return this.#clientAt(1 - client)[family]
    if (to === "gateway") return (gateways[nth % gateways.length] as Gateway)[family]
    if (to === "sentinel") return own.model.names.mapping[0]?.[0] ?? "100.100.111.1"
    if (to === "spoofed") return "10.1.2.3"
    if (!/[a-z]\.[a-z]/i.test(to)) return to
    // Of a name that nobody has asked for: an address that stands for nothing as yet.
    const number = own.model.names.named(to)?.nth ?? own.model.names.names.length + clients.length
    return proxiesOf(number, isIpv6 ? 6 : 4)[nth % 4] as string
  }

  /** On ports that none of those `underWay` has. */
  #send(probe: Probe, underWay: ReadonlyArray<Sighting>): ReadonlyArray<Sighting> {
    const { now } = this.organisation.world
    const client = this.#clientAt(probe.client)
    const { model } = client
    const { fresh } = this.#make(probe)
    const { past, to } = fresh
    const own = to.includes(":") ? client.ipv6 : client.ipv4
    const isAnswered = fresh.protocol !== "other" && past === undefined
    const isFree = ({ id }: Packet): boolean => !underWay.some(({ journey }) => journey.packet.id === id)
    const earlier = this.#past.filter((packet) => packet.from === own && isFree(packet))
    const repeated = probe.isRepeated && past === undefined ? earlier[probe.nth % earlier.length] : undefined
    const packet: Packet = repeated === undefined
      ? fresh
      : { ...repeated, ending: fresh.ending, segment: this.#established.has(repeated.id) ? "data" : undefined }
    // Of two requests for devices chance says which is answered first, and the denial of one takes the other along.
    const { ipv4, ipv6 } = this.#clientAt(1 - probe.client)
    if ([ipv4, ipv6].includes(packet.to) && this.#isDeviceAwaited(underWay)) return []
    const journey = past === undefined ? model.send(packet, now) : model.sendPast(packet, past, now)
    if (isAnswered && repeated === undefined && journey.fate._tag !== "dropped") this.#past.push(packet)
    if (repeated !== undefined) this.#count(`${packet.segment ?? "first"} again: ${journey.fate._tag}`)
    const sighting = this.#follow(client, journey)
    if (past !== undefined) this.#forge(client, past)
    return [sighting]
  }

  /** A packet on ports of its own, and the peers that packets get to at once. */
  #make(probe: Probe): { readonly fresh: Packet; readonly connected: ReadonlyArray<string> } {
    const client = this.#clientAt(probe.client)
    const to = this.#addressOf(probe)
    const family = to.includes(":") ? "ipv6" : "ipv4"
    const connected = this.#connected(client)
    const past = probe.isMalicious && probe.protocol !== "other" ? connected[probe.nth % connected.length] : undefined
    const isSpoofed = past !== undefined && probe.nth % 2 === 1
    // An error has to be told from one of the tunnel's own; nobody answers to a packet that has lost its ports.
    const isAnswered = probe.protocol !== "other" && past === undefined
    const own = client[family]
    const fresh: Packet = {
      id: this.#nextId++,
      from: probe.to === "spoofed" ? "10.9.8.7" : isSpoofed ? this.#clientAt(1 - probe.client)[family] : own,
      to,
      protocol: probe.protocol,
      port: probe.protocol === "icmp" ? 0 : probe.port,
      ending: isAnswered ? probe.ending : "silence",
      past
    }
    return { fresh, connected }
  }

  #follow(client: Client, journey: Journey): Sighting {
    if (journey.fate._tag === "waiting") this.#wanted.add(`${client.id} ${journey.fate.for}`)
    return this.#traffic.send(client, journey)
  }

  /** Peers that packets get to at once. */
  #connected({ machine, model }: Client): ReadonlyArray<string> {
    const { peers } = machine.core.status(this.organisation.world.now)
    return [...model.gateways, ...model.peers.keys()].filter((id) =>
      peers.some(({ peer, state }) => peer === id && state !== "connecting")
    )
  }

  /** R12: an error about a packet that nobody has sent achieves nothing. */
  #forge(client: Client, peer: string): void {
    const other = this.organisation.clients.find(({ id }) => id === peer)
    if (other === undefined) return
    const invented: Packet = {
      id: 999,
      from: other.ipv4,
      to: client.ipv4,
      protocol: "udp",
      port: 999,
      ending: "silence"
    }
    this.#traffic.sendPast(client, peer, icmpError(bytesOf(invented)))
    this.#count("forged error")
  }

  #ask({ client: index, name, sentinel, transport, type }: Query): ReadonlyArray<Heard> {
    const client = this.#clientAt(index)
    const { mapping, names } = client.model.names
    const [address] = mapping[sentinel % mapping.length] ?? []
    if (address === undefined) return []
    // D4, now and then: of an address that stands for a name, whatever there is.
    const owned = names[sentinel + name.length]
    const asked = type === "PTR" && owned !== undefined && !name.includes("arpa")
      ? reverseNameOf(proxiesOf(owned.nth, transport === "udp" ? 4 : 6)[sentinel] as string)
      : name
    const generation = client.model.names.generation
    const inquiry = client.model.ask({ sentinel: address, name: asked, type, transport }, this.organisation.world.now)
    return [this.#traffic.ask(client, inquiry, generation)]
  }

  // ---- what was seen, beside what had to be

  #isConcluded({ arrived, journey, returned }: Sighting): boolean {
    const { fate, packet } = journey
    if (packet.past !== undefined) return fate._tag !== "delivered" || arrived.length > 0
    if (fate._tag === "refused") return returned.length > 0
    if (fate._tag === "delivered") return arrived.length > 0 && (packet.ending === "silence" || returned.length > 0)
    return fate._tag !== "waiting" || !this.#mustBeLetIn(journey.client, fate.for)
  }

  /** Nobody asks by himself for what has been asked for in vain: only traffic of this step makes the client ask again. */
  readonly #mustBeLetIn = (client: string, target: string): boolean =>
    this.#wanted.has(`${client} ${target}`) && this.organisation.wouldGrant(this.#clientOf({ client }), target)

  #isAnswered({ answers, inquiry }: Heard): boolean {
    if (answers.length > 0 || inquiry.isGivenUp) return true
    return inquiry.answer === undefined && inquiry.asked === undefined && !this.#mayBeAnswered(inquiry.client)
  }

  #mayBeAnswered(client: string): boolean {
    const found = this.organisation.clients.find(({ id }) => id === client)
    return found?.model.waiting.some((target) => this.organisation.wouldGrant(found, target)) ?? false
  }

  #clientOf({ client }: { readonly client: string }): Client {
    return this.organisation.clients.find(({ id }) => id === client) as Client
  }

  #judgeEarly(early: Early): void {
    const { isCertain, sighting: { arrived, journey } } = early
    this.#count(`early ${isCertain ? "certain" : arrived.length > 0 ? "whole" : "lost"}: ${journey.fate._tag}`)
    judgeEarly(early, this.#mustBeLetIn)
  }

  /** Returns what has to have been asked for it. */
  #judgeQuery(heard: Heard): ReadonlyArray<string> {
    const { answers, inquiry } = heard
    const { answer, asked, client: id, isGivenUp, question } = inquiry
    const { name, type } = question
    const client = this.#clientOf(inquiry)
    const what = `${question.transport} ${type} ${name} at ${question.sentinel}, asked ${asked ?? "nobody"}`
    const expected = answer ?? (asked === undefined ? undefined : this.#answerOf(client, asked, name, type))
    this.#count(
      `${question.transport}: ${expected?.code ?? "no answer"} of ${asked?.split(" ")[0]?.slice(0, 8) ?? "us"}`
    )
    if (heard.isAbandoned) {
      assert.deepStrictEqual(answers, [], what)
    } else if (expected === undefined && !isGivenUp) {
      // It waits for a grant that does not come, or the client gives up by itself after a while.
      assert.deepStrictEqual(answers.filter(({ code }) => code !== "SERVFAIL"), [], what)
    } else if (expected === undefined) {
      assert.isTrue(answers.every(({ code }) => code === "SERVFAIL"), what)
    } else {
      assert.deepStrictEqual(answers, [expected], what)
    }
    if (asked === undefined) return []
    if (asked.startsWith("portal")) return [`${id} ${asked} ${name.toLowerCase()}`]
    const address = asked.startsWith("outside")
      ? id
      : asked.includes(":")
      ? client.ipv6
      : client.ipv4
    return [`${address} ${asked} ${name} ${type}`]
  }

  #answerOf(client: Client, asked: string, name: string, type: string): Answer {
    if (!asked.startsWith("portal")) return answerOf(asked, name, type)
    if (!client.isOnline) return { code: "SERVFAIL", data: [] }
    const device = this.organisation.deviceNamed(name)
    if (device === undefined) return { code: "NXDOMAIN", data: [] }
    return { code: "NOERROR", data: [type === "A" ? device.ipv4 : device.ipv6] }
  }
}
