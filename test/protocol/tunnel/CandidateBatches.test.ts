import { describe, expect, it } from "vitest"
import { CandidateBatches } from "../../../src/protocol/tunnel/CandidateBatches.ts"

const host = "candidate:1 1 udp 2130706431 192.0.2.1 52625 typ host"
const reflexive = "candidate:2 1 udp 1694498815 198.51.100.7 40123 typ srflx raddr 192.0.2.1 rport 52625"
const relayed = "candidate:3 1 udp 16777215 203.0.113.9 49180 typ relay raddr 203.0.113.9 rport 49180"

describe("CandidateBatches", () => {
  it("makes one batch per peer and kind, highest priority first, equals by text", () => {
    const batches = new CandidateBatches()
    const equal = relayed.replace("candidate:3", "candidate:0")
    for (const candidate of [relayed, host, equal, reflexive, host]) batches.add("a", candidate)
    batches.add("b", host)
    batches.remove("a", "candidate:9 1 udp 1 x")
    expect(batches.take()).toEqual([
      { peer: "a", kind: "added", candidates: [host, reflexive, equal, relayed] },
      { peer: "a", kind: "removed", candidates: ["candidate:9 1 udp 1 x"] },
      { peer: "b", kind: "added", candidates: [host] }
    ])
    expect(batches.take()).toEqual([])
  })
  it("holds back, and cancels what was added and removed meanwhile", () => {
    const batches = new CandidateBatches()
    batches.hold()
    batches.add("a", host)
    batches.add("a", relayed)
    batches.remove("a", relayed)
    batches.remove("b", relayed)
    expect(batches.take()).toEqual([])
    batches.release()
    expect(batches.take()).toEqual([
      { peer: "a", kind: "added", candidates: [host] },
      { peer: "b", kind: "removed", candidates: [relayed] }
    ])
  })
  it("adds again what was to be removed", () => {
    const batches = new CandidateBatches()
    batches.hold()
    batches.remove("a", host)
    batches.add("a", host)
    batches.release()
    expect(batches.take()).toEqual([{ peer: "a", kind: "added", candidates: [host] }])
  })
  it("tells of a removal within one turn, since the peer may know the candidate from before", () => {
    const batches = new CandidateBatches()
    batches.add("a", host)
    batches.remove("a", host)
    expect(batches.take()).toEqual([{ peer: "a", kind: "removed", candidates: [host] }])
  })
  it("forgets a peer", () => {
    const batches = new CandidateBatches()
    batches.add("a", host)
    batches.add("b", host)
    batches.forget("a")
    expect(batches.take().map(({ peer }) => peer)).toEqual(["b"])
  })
  it("still tells of what a connection has withdrawn at its end, unless that is held back", () => {
    const batches = new CandidateBatches()
    batches.add("a", host)
    batches.remove("a", relayed)
    batches.forget("a")
    expect(batches.take()).toEqual([{ peer: "a", kind: "removed", candidates: [relayed] }])
    batches.hold()
    batches.remove("a", relayed)
    batches.forget("a")
    batches.release()
    expect(batches.take()).toEqual([])
  })
  it("puts candidates without a priority last", () => {
    const batches = new CandidateBatches()
    for (const candidate of ["nonsense", host]) batches.add("a", candidate)
    expect(batches.take()[0]?.candidates).toEqual([host, "nonsense"])
  })
})
