import { describe, expect, it } from "vitest"
import type { Transmit } from "../../../src/protocol/node/types.ts"
import { DropCounts } from "../../../src/protocol/tunnel/DropCounts.ts"
import { GatewayPeer } from "../../../src/protocol/tunnel/GatewayPeer.ts"
import { GatewayPreferences } from "../../../src/protocol/tunnel/GatewayPreferences.ts"
import { PacketQueue } from "../../../src/protocol/tunnel/PacketQueue.ts"
import { Tracked } from "../../../src/protocol/tunnel/Tracked.ts"
import { TransmitQueue } from "../../../src/protocol/tunnel/TransmitQueue.ts"
import { TunAddresses } from "../../../src/protocol/tunnel/TunAddresses.ts"
import { ip } from "../../../src/protocol/wire/address.ts"
import { wordsOf } from "../../../src/protocol/wire/ipWords.ts"
import { network } from "./fixtures.ts"
import { outside } from "./NodeDouble.ts"

describe("Tracked", () => {
  const tracked = () => {
    const state = { value: undefined as number | undefined, computed: 0 }
    const value = new Tracked(() => {
      state.computed += 1
      return state.value
    }, (a, b) => a === b)
    return {
      state,
      value,
      set: (next: number | undefined) => {
        state.value = next
        value.invalidate()
      }
    }
  }

  it("tells the latest value once", () => {
    const { set, state, value } = tracked()
    expect(value.poll()).toBeUndefined()
    set(1)
    set(2)
    expect([value.poll(), value.poll()]).toEqual([2, undefined])
    expect(state.computed).toBe(1)
  })
  it("does not tell of a value that came back", () => {
    const { set, value } = tracked()
    set(1)
    value.poll()
    set(2)
    set(1)
    expect(value.poll()).toBeUndefined()
    set(2)
    expect(value.poll()).toBe(2)
  })
  it("waits for a first value", () => {
    const { set, value } = tracked()
    set(undefined)
    expect(value.poll()).toBeUndefined()
    set(1)
    expect(value.poll()).toBe(1)
  })
})

describe("GatewayPreferences", () => {
  const learned = (...gateways: ReadonlyArray<string>) => {
    const preferences = new GatewayPreferences()
    for (const gateway of gateways) preferences.learn(gateway)
    return preferences
  }

  it("is the vector of tunnel spec 21.7", () => {
    expect(learned("40", "20", "30", "10").order(undefined, (gateway) => gateway === "30")).toEqual(
      ["30", "10", "20", "40"]
    )
  })
  it("puts the favourite first, but only if it was ever learned", () => {
    const preferences = learned("1", "2", "3")
    expect(preferences.order("3", (gateway) => gateway === "2")).toEqual(["3", "2", "1"])
    expect(preferences.order("9", () => false)).toEqual(["1", "2", "3"])
  })
  it("keeps the 256 that were granted last", () => {
    const names = Array.from({ length: 300 }, (_, i) => String(1000 + i))
    const preferences = learned(...names, "1000")
    expect(preferences.order(undefined, () => false)).toEqual(["1000", ...names.slice(-255)])
  })
})

describe("GatewayPeer", () => {
  const makePeer = () => new GatewayPeer("g", "s", new TunAddresses(ip("100.64.1.1"), ip("fd00:2021:1111::1:1")))
  const allows = (peer: GatewayPeer, from: string) =>
    peer.isAllowedSource(from.includes(":") ? 6 : 4, wordsOf(ip(from)))

  it("always may speak for itself", () => {
    const peer = makePeer()
    expect([allows(peer, "100.64.1.1"), allows(peer, "fd00:2021:1111::1:1"), allows(peer, "10.0.0.1")]).toEqual(
      [true, true, false]
    )
    expect(peer.isUnused).toBe(true)
  })
  it("may speak for a network until the last resource that justifies it is gone", () => {
    const peer = makePeer()
    peer.allow("a", [network("10.0.0.0/8")])
    peer.allow("b", [network("10.0.0.0/8"), network("2001:db8::/32")])
    peer.disallow("b")
    expect([allows(peer, "10.0.0.1"), allows(peer, "2001:db8::1"), peer.isUnused]).toEqual([true, false, false])
    peer.disallow("a")
    expect([allows(peer, "10.0.0.1"), peer.isUnused]).toEqual([false, true])
  })
  it("forgets what a resource justified before", () => {
    const peer = makePeer()
    peer.allow("a", [network("10.0.0.0/8")])
    peer.allow("a", [network("192.0.2.0/24")])
    expect([allows(peer, "10.0.0.1"), allows(peer, "192.0.2.1")]).toEqual([false, true])
  })
})

describe("TransmitQueue", () => {
  const transmit = (length: number): Transmit => ({
    source: undefined,
    destination: outside,
    ecn: 0,
    buffer: new Uint8Array(9),
    offset: 0,
    length
  })
  it("copies what it is given, and returns it in order", () => {
    const queue = new TransmitQueue()
    const reused = transmit(1)
    queue.push(reused)
    reused.length = 2
    queue.push(reused)
    expect([queue.poll()?.length, queue.poll()?.length, queue.poll()]).toEqual([1, 2, undefined])
  })
  it("loses the oldest when 1024 wait", () => {
    const queue = new TransmitQueue()
    for (let i = 0; i < 1024; i++) expect(queue.push(transmit(i))).toBe(true)
    expect(queue.push(transmit(1024))).toBe(false)
    expect(queue.poll()?.length).toBe(1)
    queue.clear()
    expect(queue.poll()).toBeUndefined()
  })
})

describe("PacketQueue", () => {
  it("keeps the first 1024, in order", () => {
    const queue = new PacketQueue()
    for (let i = 0; i < 1024; i++) expect(queue.push(Uint8Array.of(i & 0xff))).toBe(true)
    expect(queue.push(Uint8Array.of(7))).toBe(false)
    expect(queue.poll()).toEqual(Uint8Array.of(0))
    expect(queue.push(Uint8Array.of(7))).toBe(true)
  })
})

describe("DropCounts", () => {
  it("shows what happened at all", () => {
    const counts = new DropCounts()
    expect(counts.snapshot()).toEqual({})
    counts.add("multicast")
    counts.add("multicast")
    counts.add("closed")
    expect(counts.snapshot()).toEqual({ multicast: 2, closed: 1 })
  })
})
