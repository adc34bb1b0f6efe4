/** The relays that are there, and who was told of them (portal spec sections 8 and 10). */
import { parseIp } from "../../protocol/wire/address.ts"
import type { StaticRelay } from "./config.ts"
import { relayId } from "./derivations.ts"
import type { Session } from "./Session.ts"

/** Presence changes are told together. */
const DEBOUNCE = 1000
const RELAYS_PER_DEVICE = 2

export interface OnlineRelay extends StaticRelay {
  readonly id: string
  /** None for one that the configuration names. */
  readonly session?: Session | undefined
}

export class RelayPool {
  readonly #randomBytes: (length: number) => Uint8Array
  readonly #online = new Map<string, OnlineRelay>()
  #changedAt: number | undefined

  /** Throws if a relay has no address, or one that is none. */
  constructor(randomBytes: (length: number) => Uint8Array, relays: ReadonlyArray<StaticRelay>) {
    this.#randomBytes = randomBytes
    for (const relay of relays) this.#put(relay)
  }

  get all(): ReadonlyArray<OnlineRelay> {
    return [...this.#online.values()]
  }

  add(relay: Omit<OnlineRelay, "id">, now: number): void {
    this.#put(relay)
    this.#changedAt ??= now
  }

  /** Replaces those that have no session. */
  setStatic(relays: ReadonlyArray<StaticRelay>, now: number): void {
    for (const [id, relay] of this.#online) if (relay.session === undefined) this.#online.delete(id)
    for (const relay of relays) this.#put(relay)
    this.#changedAt ??= now
  }

  removeSession(session: Session, now: number): void {
    for (const [id, relay] of this.#online) {
      if (relay.session !== session) continue
      this.#online.delete(id)
      this.#changedAt ??= now
    }
  }

  #put(relay: Omit<OnlineRelay, "id">): void {
    const addresses = [relay.ipv4, relay.ipv6].filter((address) => address !== undefined)
    if (addresses.length === 0 || addresses.some((address) => parseIp(address) === undefined)) {
      throw new Error("a relay needs an address")
    }
    const id = relayId(relay.stampSecret)
    this.#online.set(id, { ...relay, id })
  }

  /** Up to two, by chance, and notes that this channel was given them. */
  handOut(session: Session): ReadonlyArray<OnlineRelay> {
    const chosen = this.all
      .map((relay) => ({ relay, order: Buffer.from(this.#randomBytes(4)).readUInt32BE() }))
      .sort((a, b) => a.order - b.order)
      .slice(0, RELAYS_PER_DEVICE)
      .map(({ relay }) => relay)
    session.relays = chosen.map(({ id }) => id)
    return chosen
  }

  pollTimeout(): number | undefined {
    return this.#changedAt === undefined ? undefined : this.#changedAt + DEBOUNCE
  }

  /** The channels that have to hear of changes that are one second old, with what they have lost. */
  takeUpdates(
    sessions: ReadonlyArray<Session>,
    now: number
  ): ReadonlyArray<{ readonly session: Session; readonly disconnected: ReadonlyArray<string> }> {
    const due = this.pollTimeout()
    if (due === undefined || now < due) return []
    this.#changedAt = undefined
    return sessions
      .map((session) => ({ session, disconnected: session.relays.filter((id) => !this.#online.has(id)) }))
      .filter(({ disconnected, session }) =>
        disconnected.length > 0 || (session.relays.length < RELAYS_PER_DEVICE && this.#online.size > 0)
      )
  }
}
