import { type Family, familyOf, type IpNetwork } from "../wire/address.ts"
import type { PacketKind } from "../wire/ip.ts"
import { type IpWords, makeWords, maskWord, sameWords, wordsOf } from "../wire/ipWords.ts"
import type { PortFilter } from "./PortFilter.ts"

export interface PrefixEntry {
  /** Resource id; of two entries that are otherwise equal the larger wins. */
  readonly id: string
  readonly filter: PortFilter
}

/** The entries of one network; networks whose words hash alike form a list. */
interface Slot<Entry> {
  readonly words: IpWords
  /** Larger ids first. */
  entries: ReadonlyArray<Entry>
  readonly next: Slot<Entry> | undefined
}

/** All networks of one prefix length. */
interface Level<Entry> {
  readonly bits: number
  readonly masks: IpWords
  readonly slots: Map<number, Slot<Entry>>
}

/**
 * Networks with a set of entries each (tunnel spec 6.2). Among the entries whose network holds an address wins the one
 * that permits the packet, then that of the longer prefix, then the larger id. Look-ups try one hash per prefix length
 * in use and allocate nothing.
 */
export class PrefixTable<Entry extends PrefixEntry> {
  /** Longer prefixes first. */
  #ipv4: ReadonlyArray<Level<Entry>> = []
  #ipv6: ReadonlyArray<Level<Entry>> = []
  readonly #masked = makeWords()

  get isEmpty(): boolean {
    return this.#ipv4.length === 0 && this.#ipv6.length === 0
  }

  /** Adding an entry again to the same network changes nothing. A prefix too long for its family is ignored. */
  add(network: IpNetwork, entry: Entry): void {
    const version = familyOf(network.address)
    if (network.bits < 0 || network.bits > (version === 4 ? 32 : 128)) return
    const level = this.#levelFor(version, network.bits)
    const words = wordsOf(network.address)
    mask(words, words, level.masks)
    const key = hash(words)
    const first = level.slots.get(key)
    const slot = findSlot(first, words)
    if (slot === undefined) {
      level.slots.set(key, { words, entries: [entry], next: first })
    } else if (!slot.entries.includes(entry)) {
      slot.entries = [...slot.entries, entry].sort((a, b) => a.id < b.id ? 1 : a.id > b.id ? -1 : 0)
    }
  }

  /** Removes every entry that `predicate` accepts, from every network. */
  removeWhere(predicate: (entry: Entry) => boolean): void {
    this.#ipv4 = prune(this.#ipv4, predicate)
    this.#ipv6 = prune(this.#ipv6, predicate)
  }

  /** The winner, which need not permit the packet: ask its filter. */
  find(version: Family, words: IpWords, kind: PacketKind, port: number): Entry | undefined {
    const levels = version === 4 ? this.#ipv4 : this.#ipv6
    const masked = this.#masked
    let best: Entry | undefined
    for (let i = 0; i < levels.length; i++) {
      const level = levels[i] as Level<Entry>
      mask(masked, words, level.masks)
      const slot = findSlot(level.slots.get(hash(masked)), masked)
      if (slot === undefined) continue
      const { entries } = slot
      for (let j = 0; j < entries.length; j++) {
        const entry = entries[j] as Entry
        if (entry.filter.permits(kind, port)) return entry
        best ??= entry
      }
    }
    return best
  }

  /** Whether any network holds the address, whatever the filters say. */
  covers(version: Family, words: IpWords): boolean {
    const levels = version === 4 ? this.#ipv4 : this.#ipv6
    const masked = this.#masked
    for (let i = 0; i < levels.length; i++) {
      const level = levels[i] as Level<Entry>
      mask(masked, words, level.masks)
      if (findSlot(level.slots.get(hash(masked)), masked) !== undefined) return true
    }
    return false
  }

  #levelFor(version: Family, bits: number): Level<Entry> {
    const levels = version === 4 ? this.#ipv4 : this.#ipv6
    const existing = levels.find((level) => level.bits === bits)
    if (existing !== undefined) return existing
    const level = { bits, masks: Int32Array.from([0, 1, 2, 3], (index) => maskWord(bits, index)), slots: new Map() }
    const sorted = [...levels, level].sort((a, b) => b.bits - a.bits)
    if (version === 4) this.#ipv4 = sorted
    else this.#ipv6 = sorted
    return level
  }
}

const mask = (target: IpWords, words: IpWords, masks: IpWords): void => {
  target[0] = (words[0] as number) & (masks[0] as number)
  target[1] = (words[1] as number) & (masks[1] as number)
  target[2] = (words[2] as number) & (masks[2] as number)
  target[3] = (words[3] as number) & (masks[3] as number)
}

// Not keyed: the networks come from the portal, and a chain of equal hashes is still searched right.
const hash = (words: IpWords): number =>
  Math.imul(
      Math.imul(Math.imul(words[3] as number, 31) + (words[2] as number) | 0, 31) + (words[1] as number) | 0,
      31
    ) +
    (words[0] as number) | 0

const findSlot = <Entry>(first: Slot<Entry> | undefined, words: IpWords): Slot<Entry> | undefined => {
  let slot = first
  while (slot !== undefined && !sameWords(slot.words, words)) slot = slot.next
  return slot
}

const prune = <Entry>(
  levels: ReadonlyArray<Level<Entry>>,
  predicate: (entry: Entry) => boolean
): ReadonlyArray<Level<Entry>> => {
  for (const { slots } of levels) {
    for (const [key, first] of slots) {
      let kept: Slot<Entry> | undefined
      for (let slot: Slot<Entry> | undefined = first; slot !== undefined; slot = slot.next) {
        const entries = slot.entries.filter((entry) => !predicate(entry))
        if (entries.length > 0) kept = { words: slot.words, entries, next: kept }
      }
      if (kept === undefined) slots.delete(key)
      else slots.set(key, kept)
    }
  }
  return levels.filter(({ slots }) => slots.size > 0)
}
