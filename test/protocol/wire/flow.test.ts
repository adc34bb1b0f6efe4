import * as fc from "fast-check"
import { describe, expect, it } from "vitest"
import { FLOW_BUCKETS, flowBucket } from "../../../src/protocol/wire/flow.ts"
import { buildPacket, type PacketParts } from "./packets.ts"

const bucketOf = (parts: PacketParts): number => {
  const packet = buildPacket(parts)
  return flowBucket(packet, 0, packet.length)
}
const flow = fc.record({
  version: fc.constantFrom<4 | 6>(4, 6),
  protocol: fc.constantFrom<"tcp" | "udp">("tcp", "udp"),
  sourcePort: fc.integer({ min: 0, max: 65_535 }),
  destinationPort: fc.integer({ min: 0, max: 65_535 })
})

describe("flowBucket", () => {
  it("is the same for every packet of a flow", () => {
    fc.assert(
      fc.property(
        flow,
        fc.uint8Array({ maxLength: 100 }),
        fc.integer(),
        fc.integer({ min: 0, max: 255 }),
        (parts, payload, sequence, trafficClass) => {
          const other = { ...parts, payload, sequence: sequence >>> 0, trafficClass, id: sequence & 0xffff }
          expect(bucketOf(other)).toBe(bucketOf({ ...parts, payload: new Uint8Array(1) }))
        }
      )
    )
  })

  it("spreads flows that differ in a port", () => {
    for (const version of [4, 6] as const) {
      const buckets = Array.from(
        { length: 4 * FLOW_BUCKETS },
        (_, i) => bucketOf({ version, protocol: "tcp", payload: new Uint8Array(1), sourcePort: 40_000 + i })
      )
      const most = Math.max(...buckets.map((bucket) => buckets.filter((other) => other === bucket).length))
      expect(most).toBeLessThan(16) // four each, if they were spread perfectly
    }
  })

  it("is below FLOW_BUCKETS for any bytes", () => {
    fc.assert(
      fc.property(
        fc.uint8Array({ minLength: 1, maxLength: 80 }),
        fc.constantFrom(0x45, 0x4f, 0x41, 0x60, 0),
        (bytes, first) => {
          bytes[0] = first
          const bucket = flowBucket(bytes, 0, bytes.length)
          expect(Number.isInteger(bucket) && bucket >= 0 && bucket < FLOW_BUCKETS).toBe(true)
        }
      )
    )
  })
})
