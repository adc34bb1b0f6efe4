/** The flow table beside a list that is searched from end to end. */
import * as fc from "fast-check"
import { describe, expect, it } from "vitest"
import { FlowTable, Opener } from "../../../src/protocol/tunnel/FlowTable.ts"
import { PacketKind } from "../../../src/protocol/wire/ip.ts"

const TCP_IDLE = 7_440_000
const OTHER_IDLE = 120_000

const openers = [Opener.We, Opener.Peer] as const
const kinds = [PacketKind.Tcp, PacketKind.Udp, PacketKind.Echo] as const
const port = fc.constantFrom(0, 1, 0x7fff, 0x8000, 0xffff)
const flow = fc.record({
  version: fc.constantFrom(4 as const, 6 as const),
  kind: fc.constantFrom(...kinds),
  local: port,
  peer: port
})
const steps = fc.array(
  fc.record({
    flow,
    opener: fc.constantFrom(...openers),
    wait: fc.constantFrom(0, 1, 60_000, 119_999, 120_000, 7_439_999)
  }),
  { maxLength: 40 }
)

describe("a flow table", () => {
  it("knows who opened each flow until it was idle for too long", () => {
    fc.assert(fc.property(steps, (steps) => {
      const table = new FlowTable()
      const last = new Map<string, { readonly opener: Opener; readonly at: number }>()
      let now = 5
      for (const { flow, opener, wait } of steps) {
        const { kind, local, peer, version } = flow
        const key = JSON.stringify(flow)
        table.record(version, kind, local, peer, opener, now)
        last.set(key, { opener, at: now })
        now += wait
        if (table.nextTimeout <= now) table.handleTimeout(now)
        for (const [text, { at, opener }] of last) {
          const each = JSON.parse(text) as typeof flow
          const isLive = now - at < (each.kind === PacketKind.Tcp ? TCP_IDLE : OTHER_IDLE)
          expect(table.openerOf(each.version, each.kind, each.local, each.peer, now)).toBe(
            isLive ? opener : Opener.Nobody
          )
        }
      }
    }))
  })
  it("does not take one side for the other", () => {
    const table = new FlowTable()
    table.record(4, PacketKind.Tcp, 1, 2, Opener.We, 0)
    expect(table.openerOf(4, PacketKind.Tcp, 2, 1, 0)).toBe(Opener.Nobody)
    expect(table.openerOf(6, PacketKind.Tcp, 1, 2, 0)).toBe(Opener.Nobody)
    expect(table.openerOf(4, PacketKind.Udp, 1, 2, 0)).toBe(Opener.Nobody)
  })
  it("forgets in time, and has nothing to wait for when it is empty", () => {
    const table = new FlowTable()
    expect(table.nextTimeout).toBe(Number.POSITIVE_INFINITY)
    table.record(4, PacketKind.Tcp, 1, 2, Opener.We, 0)
    table.record(4, PacketKind.Udp, 1, 2, Opener.We, 0)
    table.record(6, PacketKind.Echo, 1, 1, Opener.Peer, 1)
    const sizes: Array<readonly [number, number]> = []
    while (table.nextTimeout !== Number.POSITIVE_INFINITY) {
      const at = table.nextTimeout
      table.handleTimeout(at)
      sizes.push([at, table.size])
    }
    expect(sizes).toEqual([[OTHER_IDLE, 2], [OTHER_IDLE + 1000, 1], [TCP_IDLE, 0]])
  })
  it("keeps nothing for packets without ports", () => {
    const table = new FlowTable()
    for (const kind of [PacketKind.OtherIcmp, PacketKind.Other]) table.record(4, kind, 0, 0, Opener.Peer, 0)
    expect([table.size, table.openerOf(4, PacketKind.Other, 0, 0, 0)]).toEqual([0, Opener.Nobody])
  })
  it("makes room for a new flow by forgetting the oldest of its kind", () => {
    const table = new FlowTable()
    table.record(4, PacketKind.Tcp, 1, 1, Opener.We, 0)
    for (let i = 0; i <= 16_384; i++) table.record(4, PacketKind.Udp, i, 53, Opener.Peer, 0)
    expect(table.size).toBe(16_385)
    expect([0, 1, 16_384].map((local) => table.openerOf(4, PacketKind.Udp, local, 53, 0)))
      .toEqual([Opener.Nobody, Opener.Peer, Opener.Peer])
    expect(table.openerOf(4, PacketKind.Tcp, 1, 1, 0)).toBe(Opener.We)
  })
})
