/** A translation table as tests see it: packets in, packets out, a clock. */
import { expect } from "vitest"
import { Inward, NatTable } from "../../../src/protocol/tunnel/NatTable.ts"
import { ip, ipToBytes } from "../../../src/protocol/wire/address.ts"
import { isIntact, parsed } from "./packets.ts"

export const SECOND = 1000

export class NatHarness {
  readonly table = new NatTable()
  now = 0

  /** Lets time pass as the gateway does. */
  advance(millis: number): void {
    for (const end = this.now + millis; this.now < end;) {
      this.now = Math.min(end, this.now + SECOND)
      this.table.handleTimeout(this.now)
    }
  }

  /** What reaches the host; `undefined` if nothing does. */
  out(packet: Uint8Array, host: string): Uint8Array | undefined {
    const sent = packet.slice()
    if (!this.table.translateOut(parsed(sent), ipToBytes(ip(host)), this.now)) {
      expect(sent).toEqual(packet)
      return undefined
    }
    expect(isIntact(sent)).toBe(true)
    return sent
  }

  /** What reaches the client, or why the packet was left as it is. */
  back(packet: Uint8Array): Uint8Array | Inward {
    const received = packet.slice()
    const outcome = this.table.translateIn(parsed(received), this.now)
    if (outcome === Inward.Translated) return received
    expect(received).toEqual(packet)
    return outcome
  }
}
