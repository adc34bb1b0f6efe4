import fc from "fast-check"
import { expect, it } from "vitest"
import type { WireguardTunnel } from "../../../src/protocol/wireguard/WireguardTunnel.ts"
import { crypto, deliver, drain, initiator, ipv4, responder, sealPacket } from "./peers.ts"

const STEP = 250

/** Numbers from 0 to 1 that follow from a seed (mulberry32). */
const randomFrom = (seed: number) => {
  let state = seed
  return (): number => {
    state = state + 0x6d2b_79f5 | 0
    let mixed = Math.imul(state ^ state >>> 15, 1 | state)
    mixed = mixed + Math.imul(mixed ^ mixed >>> 7, 61 | mixed) ^ mixed
    return ((mixed ^ mixed >>> 14) >>> 0) / 0x1_0000_0000
  }
}

interface Weather {
  readonly loss: number
  readonly duplication: number
  /** Of a message, at most, milliseconds. */
  readonly delay: number
}
const CALM: Weather = { loss: 0, duplication: 0, delay: 20 }

/** Two tunnels on a network that loses, doubles and reorders; both send a numbered packet every now and then. */
class World {
  now = 0
  weather: Weather = CALM
  readonly left: WireguardTunnel
  readonly right: WireguardTunnel
  /** Packets by number: whether they were sealed, and how often they came out. */
  readonly sealed: Array<boolean> = []
  readonly opened: Array<number> = []
  readonly #random: () => number
  #inFlight: Array<{ readonly at: number; readonly to: WireguardTunnel; readonly message: Uint8Array }> = []

  constructor(seed: number) {
    this.#random = randomFrom(seed)
    this.left = initiator({ crypto })
    this.right = responder({ crypto })
    this.left.initiate(0)
  }

  get hasExpired(): boolean {
    return this.left.expired || this.right.expired
  }

  /** `chatter` is how likely each end is to send a packet in each quarter of a second. */
  run(millis: number, chatter: number): void {
    for (const end = this.now + millis; this.now < end && !this.hasExpired; this.now += STEP) {
      for (const [from, to] of [[this.left, this.right], [this.right, this.left]] as const) {
        from.handleTimeout(this.now)
        if (this.#random() < chatter) this.#sendPacket(from, to)
        for (const message of drain(from)) this.#transmit(to, message)
      }
      this.#deliver()
    }
  }

  #sendPacket(from: WireguardTunnel, to: WireguardTunnel): void {
    const number = this.sealed.length
    const message = sealPacket(from, ipv4(Uint8Array.of(number >> 16, number >> 8, number)), this.now)
    this.sealed.push(message !== undefined)
    this.opened.push(0)
    if (message !== undefined) this.#transmit(to, message)
  }

  #transmit(to: WireguardTunnel, message: Uint8Array): void {
    const { delay, duplication, loss } = this.weather
    if (this.#random() < loss) return
    const copies = this.#random() < duplication ? 2 : 1
    for (let i = 0; i < copies; i++) this.#inFlight.push({ at: this.now + this.#random() * delay, to, message })
  }

  #deliver(): void {
    const due = this.#inFlight.filter(({ at }) => at < this.now + STEP).sort((a, b) => a.at - b.at)
    this.#inFlight = this.#inFlight.filter(({ at }) => at >= this.now + STEP)
    for (const { at, message, to } of due) {
      const packet = deliver(to, message, Math.max(at, this.now))
      if (!(packet instanceof Uint8Array) || packet.length === 0) continue
      const [high = 0, middle = 0, low = 0] = packet.subarray(20)
      const number = high << 16 | middle << 8 | low
      this.opened[number] = (this.opened[number] ?? 0) + 1
    }
  }
}

const chance = (max: number) => fc.double({ min: 0, max, noNaN: true })
const storm = fc.record({ loss: chance(0.6), duplication: chance(0.5), delay: fc.integer({ min: 0, max: 9000 }) })

it("no packet comes out twice, and when the network has calmed down every packet comes out", () => {
  let survivors = 0
  fc.assert(
    fc.property(
      fc.integer(),
      storm,
      fc.integer({ min: 1, max: 400 }),
      chance(0.5),
      (seed, weather, seconds, chatter) => {
        const world = new World(seed)
        world.weather = weather
        world.run(seconds * 1000, chatter)
        expect(Math.max(0, ...world.opened)).toBeLessThanOrEqual(1)
        if (world.hasExpired) return
        survivors += 1
        // What is left of the storm arrives, and the ends find out: 15 s of silence, then a handshake with its jitter. A
        // session of which an end knows nothing may first have to be noticed by one, then by the other.
        world.weather = CALM
        world.run(45_000, 0.5)
        const from = world.sealed.length
        world.run(60_000, 0.5)
        expect(world.hasExpired).toBe(false)
        expect(world.sealed.slice(from).every(Boolean)).toBe(true)
        // The last ones are still under way.
        world.run(2 * STEP, 0)
        expect(world.opened.slice(from).every((times) => times === 1)).toBe(true)
        expect(Math.max(0, ...world.opened)).toBe(1)
      }
    ),
    { numRuns: 60 }
  )
  expect(survivors).toBeGreaterThan(10)
}, 60_000)
