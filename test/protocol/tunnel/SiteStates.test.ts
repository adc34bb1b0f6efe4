import { describe, expect, it } from "vitest"
import { SiteStates } from "../../../src/protocol/tunnel/SiteStates.ts"

const sites = (...ids: ReadonlyArray<string>) => ids.map((id) => ({ id, name: id }))

describe("SiteStates", () => {
  it("combines: any online, all offline, else unknown", () => {
    const states = new SiteStates()
    states.set("on", "Online", 0)
    states.set("off", "Offline", 0)
    states.set("off2", "Offline", 0)
    expect(states.combined(sites("off", "on"))).toBe("Online")
    expect(states.combined(sites("off", "off2"))).toBe("Offline")
    expect(states.combined(sites("off", "other"))).toBe("Unknown")
    expect(states.combined([])).toBe("Unknown")
  })
  it("believes in offline for 5 minutes, from the latest word on", () => {
    const states = new SiteStates()
    states.set("a", "Offline", 0)
    states.set("a", "Offline", 1000)
    states.set("b", "Offline", 500)
    expect(states.pollTimeout()).toBe(300_500)
    expect(states.handleTimeout(300_499)).toBe(false)
    expect(states.handleTimeout(300_500)).toBe(true)
    expect([states.get("a"), states.get("b")]).toEqual(["Offline", "Unknown"])
    expect(states.pollTimeout()).toBe(301_000)
    states.set("a", "Online", 2000)
    expect(states.pollTimeout()).toBeUndefined()
    expect(states.handleTimeout(1e9)).toBe(false)
    expect(states.get("a")).toBe("Online")
  })
  it("forgets sites that nobody uses", () => {
    const states = new SiteStates()
    states.set("a", "Online", 0)
    states.set("b", "Offline", 0)
    states.set("c", "Online", 0)
    states.retain((site) => site === "c")
    expect(["a", "b", "c"].map((site) => states.get(site))).toEqual(["Unknown", "Unknown", "Online"])
    expect(states.pollTimeout()).toBeUndefined()
  })
})
