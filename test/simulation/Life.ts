/** A story told: the devices that it is about, their traffic, and what must hold whatever happens to them. */
import { assert } from "@effect/vitest"
import { IpPacket } from "../../src/protocol/wire/ip.ts"
import { udp } from "../protocol/tunnel/packets.ts"
import { Account, type Client, type GatewayDevice, resourceOf } from "./Account.ts"
import { Lan } from "./Lan.ts"
import type { Chapter, Story } from "./story.ts"
import { FAIR, World } from "./World.ts"

/**
 * How long it may take after the last disturbance, milliseconds. A dead pair is missed after 16.5 s, 15 s later if the
 * peer still checks, and 2 s of grace; a relay that died in silence after 25 s and 8.125 s; a relay of another mind after
 * 60 s. Each may begin only when the one before has ended.
 */
const RECOVERY = 33_500 + 33_125 + 60_000
/** In path mode only the tunnel gives up: it misses answers after 7 s, and has 90 s for the handshake (spec 11.6). */
const PATH_RECOVERY = 7000 + 90_000 + 1000 + 33_125 + 60_000
/** How long two ends may be of different minds about their path: a gateway checks its pairs every 15 s at least. */
const AGREEMENT = 16_000
const STEP = 1000
/** In every packet of an application; never to be seen outside of a tunnel. */
const MARK = "In the clear!"
const MARK_BYTES = Buffer.from(MARK)
const UDP_PAYLOAD = 28
/** What a device may send in a second for each other one and each packet, far below what a loop of packets makes. */
const MAX_RATE = 400

const textOf = (packet: Uint8Array): string => new TextDecoder().decode(packet.subarray(UDP_PAYLOAD))
const pick = <A>(list: ReadonlyArray<A>, who: number): A => list[who % list.length] as A

export class Life {
  readonly world: World
  readonly account: Account
  readonly #lans: ReadonlyArray<Lan>
  readonly #story: Story
  readonly #relays: ReadonlyArray<string>
  /** What came out of a tunnel: nothing may do so twice. */
  readonly #seen = new Set<string>()
  /** Client and site of the answers that came since the set was emptied. */
  readonly #answered = new Set<string>()
  #sent = 0

  constructor(story: Story) {
    this.#story = story
    const world = this.world = new World(story.seed)
    this.#relays = Array.from({ length: story.relays }, () => world.relay())
    this.#lans = story.lans.map(({ hairpins, ipv6, nat, timeout }, index) =>
      new Lan(world, index + 1, { nat, ipv6, hairpins, ...timeout > 0 && { timeout: timeout * 1000 } })
    )
    this.account = new Account(world, {
      relays: this.#relays,
      sites: story.sites,
      iceless: story.iceless === true,
      onClientPacket: (client, packet) => this.#onClientPacket(client, packet),
      onGatewayPacket: (gateway, packet) => this.#onGatewayPacket(gateway, packet)
    })
    for (const lan of story.clients) this.account.addClient(pick(this.#lans, lan))
    story.gateways.forEach((lan, index) => this.account.addGateway(pick(this.#lans, lan), index % story.sites))
    world.onDatagram = ({ bytes }) => {
      if (Buffer.from(bytes.buffer).includes(MARK_BYTES)) throw new Error("a packet was seen outside of the tunnel")
    }
  }

  /** Tells the story, and returns how long it took to recover from it. */
  tell(): number {
    this.talk(2)
    for (const chapter of this.#story.chapters) this.#play(chapter)
    return this.recover()
  }

  talk(seconds: number): void {
    for (let second = 0; second < seconds; second++) this.#step()
  }

  /** Lets everything be well, and waits until every client has answers from every site. */
  recover(): number {
    const { account, world } = this
    const bound = this.#story.iceless === true ? PATH_RECOVERY : RECOVERY
    this.#clear()
    const begun = world.now
    this.#answered.clear()
    while (this.#unanswered().length > 0) {
      if (world.now - begun > bound) assert.deepStrictEqual(this.#unanswered(), [], "no answers")
      this.#step()
    }
    const recovered = world.now - begun
    assert.isTrue(this.#agreesWithin(AGREEMENT), "the two ends are of different minds")
    for (const { machine } of [...account.clients, ...account.gateways]) {
      for (const { bytesReceived, bytesSent } of machine.core.status(world.now).peers) {
        assert.isTrue(Number.isSafeInteger(bytesReceived) && Number.isSafeInteger(bytesSent))
      }
    }
    return recovered
  }

  /** The clients leave: whoever was connected to them knows at once, all others by their timers. */
  leave(): void {
    const { account, world } = this
    for (const { machine } of account.clients) {
      machine.core.close(world.now)
      machine.drain()
    }
    world.run(AGREEMENT)
  }

  #step(): void {
    const { account, world } = this
    const before = world.emitted
    for (const [index, { ipv4, machine }] of account.clients.entries()) {
      for (let site = 0; site < this.#story.sites; site++) {
        machine.send(udp({ from: ipv4, to: hostOf(site) }, 5000, `${MARK} ${index} ${site} ${this.#sent++}`))
      }
    }
    world.run(STEP)
    const devices = account.clients.length + account.gateways.length
    assert.isBelow(world.emitted - before, MAX_RATE * devices * devices, "datagrams in a second")
  }

  #unanswered(): ReadonlyArray<string> {
    const { clients, gateways } = this.account
    return clients.flatMap((_, index) =>
      Array.from({ length: this.#story.sites }, (_, site) => site)
        .filter((site) => gateways.some((gateway) => gateway.site === site))
        .map((site) => `${index} ${site}`)
    ).filter((name) => !this.#answered.has(name))
  }

  #onGatewayPacket(gateway: GatewayDevice, packet: Uint8Array): void {
    const text = textOf(packet)
    const [client, site] = this.#read(text)
    this.#once(`${gateway.machine.id} ${text}`)
    assert.strictEqual(gateway.site, site, "a packet for another site")
    const parsed = new IpPacket()
    assert.isTrue(parsed.parse(packet, 0, packet.length))
    const { ipv4 } = client
    assert.deepStrictEqual(packet, udp({ from: ipv4, to: hostOf(site) }, 5000, text), "changed on its way")
    // The answer is on its way when the gateway is done with this packet.
    this.world.later(0, () => gateway.machine.send(udp({ from: hostOf(site), to: ipv4 }, 40_000, `${text} indeed`)))
  }

  #onClientPacket(client: Client, packet: Uint8Array): void {
    if (packet[9] !== 17) return // an error of a gateway that has lost the grant
    const text = textOf(packet)
    this.#once(`${client.machine.id} ${text}`)
    const [whose, site] = this.#read(text)
    assert.strictEqual(whose, client, "a packet for another client")
    assert.isTrue(text.endsWith("indeed"))
    this.#answered.add(`${this.account.clients.indexOf(client)} ${site}`)
  }

  #read(text: string): readonly [client: Client, site: number] {
    assert.isTrue(text.startsWith(MARK), "a packet that nobody has sent")
    const [client, site] = text.slice(MARK.length + 1).split(" ").map(Number)
    return [this.account.clients[client ?? -1] as Client, site ?? -1]
  }

  #once(what: string): void {
    assert.isFalse(this.#seen.has(what), "came twice")
    this.#seen.add(what)
  }

  /**
   * Every gateway is connected to whom the client is connected to, and by the same kind of path; in path mode each side
   * chooses its own.
   */
  #agreesWithin(limit: number): boolean {
    const { clients, gateways } = this.account
    const agrees = () =>
      clients.every(({ machine }) =>
        machine.core.status(this.world.now).peers.every(({ path, peer }) => {
          const gateway = gateways.find((each) => each.machine.id === peer)?.machine
          const other = gateway?.core.status(this.world.now).peers.find((each) => each.peer === machine.id)
          if (other === undefined || this.#story.iceless === true) return other !== undefined
          return (other.path?.kind === "direct") === (path?.kind === "direct")
        })
      )
    for (const end = this.world.now + limit; !agrees();) {
      if (this.world.now >= end) return false
      this.#step()
    }
    return true
  }

  #play({ happens, seconds, weather, who }: Chapter): void {
    const { account, world } = this
    const { clients, gateways } = account
    const [client, gateway] = [pick(clients, who), pick(gateways, who)]
    const relay = pick(this.#relays, who)
    world.weather = weather
    switch (happens) {
      case "nothing":
        break
      case "client roams":
      case "gateway roams": {
        const device = happens === "client roams" ? client : gateway
        device.machine.move(pick(this.#lans, who >> 1))
        device.machine.core.reset(world.now)
        account.signIn(device)
        break
      }
      case "client restarts":
      case "gateway restarts":
      case "client says goodbye":
      case "gateway says goodbye": {
        const device = happens.startsWith("client") ? client : gateway
        if (happens.endsWith("goodbye")) {
          device.machine.core.close(world.now)
          device.machine.drain()
        }
        device.machine.restart()
        account.signIn(device)
        break
      }
      case "client sleeps":
        client.machine.isAsleep = true
        break
      case "gateway sleeps":
        gateway.machine.isAsleep = true
        break
      case "relay dies":
        world.kill(relay)
        account.announceRelays(account.relays.filter((id) => id !== relay))
        break
      case "relay dies in silence":
        world.kill(relay)
        break
      case "relay forgets":
        world.revive(relay)
        break
      case "portal is away":
        account.isAway = true
        break
      case "portal connection breaks":
        account.signIn(who % 2 === 0 ? client : gateway)
        break
      case "gateway is cut off from a client": {
        const [one, other] = [client.machine.lan, gateway.machine.lan]
        world.isCut = (from, to) => (one.owns(from) && other.owns(to)) || (other.owns(from) && one.owns(to))
        break
      }
      case "client is cut off from a relay": {
        const { lan } = client.machine
        const { v4, v6 } = world.describeRelay(relay, "")
        const isRelay = (address: string): boolean => address === v4?.address || address === v6?.address
        world.isCut = (from, to) => (lan.owns(from) && isRelay(to)) || (isRelay(from) && lan.owns(to))
        break
      }
      case "translator forgets":
        pick(this.#lans, who).nat.clear()
        break
      case "access is taken back":
        account.revoke(client, who % this.#story.sites)
        break
      case "grants are short":
        account.grantSeconds = 1 + who
        break
      case "resource goes and comes":
        account.replaceResource(who % this.#story.sites, 500 * who)
    }
    this.talk(seconds)
    this.#wake()
  }

  #wake(): void {
    for (const { machine } of [...this.account.clients, ...this.account.gateways]) machine.isAsleep = false
    this.world.isCut = () => false
    this.account.isAway = false
  }

  #clear(): void {
    const { account, world } = this
    world.weather = FAIR
    this.#wake()
    account.grantSeconds = undefined
    const dead = this.#relays.filter((id) => !account.relays.includes(id) || world.isDown(id))
    for (const id of dead) world.revive(id)
    account.announceRelays(this.#relays)
  }
}

const hostOf = (site: number): string => resourceOf(site).address.address.replace(/0$/, "1")
