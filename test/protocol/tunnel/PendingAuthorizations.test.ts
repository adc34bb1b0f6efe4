import { describe, expect, it } from "vitest"
import { PendingAuthorizations } from "../../../src/protocol/tunnel/PendingAuthorizations.ts"
import { parsed, udp } from "./packets.ts"

const ends = { from: "100.64.0.1", to: "10.0.0.1" }
const packet = (port: number) => parsed(udp(ends, port))

describe("PendingAuthorizations", () => {
  it("asks at once, then at most every 2 s, for each resource by itself", () => {
    const pending = new PendingAuthorizations()
    const asked = (resource: string, now: number) => {
      pending.trigger(resource, undefined, now)
      return pending.pollIntent()
    }
    expect(asked("a", 0)).toBe("a")
    expect(asked("a", 1999)).toBeUndefined()
    expect(asked("b", 1999)).toBe("b")
    expect(asked("a", 2000)).toBe("a")
    expect(asked("a", 3999)).toBeUndefined()
    expect(asked("b", 3999)).toBe("b")
  })
  it("asks once for what was triggered often before the driver looked", () => {
    const pending = new PendingAuthorizations()
    for (let now = 0; now <= 10_000; now += 500) pending.trigger("a", packet(now), now)
    expect([pending.pollIntent(), pending.pollIntent()]).toEqual(["a", undefined])
  })
  it("hands back what was kept, once, and then begins anew", () => {
    const pending = new PendingAuthorizations()
    pending.trigger("a", packet(1), 0)
    pending.trigger("a", packet(2), 0)
    pending.trigger("a", packet(2), 0)
    expect(pending.has("a")).toBe(true)
    expect(pending.remove("a")).toHaveLength(2)
    expect(pending.remove("a")).toBeUndefined()
    expect(pending.has("a")).toBe(false)
    expect(pending.pollIntent()).toBeUndefined()
    pending.trigger("a", packet(1), 1)
    expect(pending.pollIntent()).toBe("a")
  })
  it("knows a resource that waits without a packet", () => {
    const pending = new PendingAuthorizations()
    expect(pending.trigger("a", undefined, 0)).toBe(true)
    expect(pending.remove("a")).toEqual([])
  })
  it("keeps 128 packets for a resource and loses the oldest", () => {
    const pending = new PendingAuthorizations()
    const isKept = Array.from({ length: 130 }, (_, port) => pending.trigger("a", packet(port), 0))
    expect(isKept.indexOf(false)).toBe(128)
    expect(pending.remove("a")).toHaveLength(128)
  })
  it("keeps 4096 packets in all: newcomers find no room, and whoever has some makes it himself", () => {
    const pending = new PendingAuthorizations()
    for (let i = 0; i < 32; i++) for (let port = 0; port < 128; port++) pending.trigger(`r${i}`, packet(port), 0)
    expect(pending.trigger("late", packet(1), 0)).toBe(false)
    expect(pending.remove("late")).toEqual([])
    expect(pending.trigger("r0", packet(1000), 0)).toBe(false)
    expect(pending.remove("r0")).toHaveLength(128)
    expect(pending.trigger("late", packet(1), 0)).toBe(true)
    for (let port = 2; port <= 128; port++) expect(pending.trigger("late", packet(port), 0)).toBe(true)
    expect(pending.trigger("r1", packet(1), 0)).toBe(true) // there already
    expect(pending.trigger("r40", packet(1), 0)).toBe(false)
    for (let i = 1; i < 32; i++) expect(pending.remove(`r${i}`)).toHaveLength(128)
  })
})
