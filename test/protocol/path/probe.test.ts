import { assert, describe, it } from "@effect/vitest"
import * as fc from "fast-check"
import { writeGoodbye } from "../../../src/protocol/node/innerPacket.ts"
import {
  PROBE_LENGTH,
  probeId,
  probeSequence,
  ProbeType,
  probeType,
  writeProbe
} from "../../../src/protocol/path/probe.ts"
import { IpPacket, PacketKind } from "../../../src/protocol/wire/ip.ts"
import {
  bytes,
  exchange,
  fromHex,
  initiator,
  responder,
  sealPacket,
  toHex,
  withRandomness
} from "../wireguard/peers.ts"

const addresses = "01000000000000000000dead01ce000101000000000000000000dead01ce0002"
const request = `6000000000083a40${addresses}8000541612345678`
const reply = `6000000000083a40${addresses}8100531612345678`

const written = (type: ProbeType, id: number, sequence: number): Uint8Array => {
  const packet = new Uint8Array(PROBE_LENGTH + 2).fill(0xff)
  writeProbe(packet, 1, type, id, sequence)
  assert.deepStrictEqual([packet[0], packet[PROBE_LENGTH + 1]], [0xff, 0xff])
  return packet.slice(1, 1 + PROBE_LENGTH)
}

describe("a probe", () => {
  it("has the published bytes", () => {
    assert.strictEqual(toHex(written(ProbeType.Request, 0x1234, 0x5678)), request)
    assert.strictEqual(toHex(written(ProbeType.Reply, 0x1234, 0x5678)), reply)
  })

  it("has the published bytes as the second message of the published session", () => {
    const left = initiator({
      crypto: withRandomness(bytes(3)),
      indexPrefix: 0x00abcd
    })
    const right = responder({ crypto: withRandomness(bytes(4)) })
    left.initiate(0)
    exchange(left, right, 0) // ends with the keep-alive, which has counter 0
    const sealed = sealPacket(left, fromHex(request), 0)
    assert.strictEqual(
      sealed === undefined ? "" : toHex(sealed),
      "040000000134120001000000000000009af40f88ad1e1f1272b63db4f6f85215233a81f6e3df591701a9e13645a953528d31c823b4"
        + "7c2b46516296edd43cc8b0550fdd758ce97913a8d524f809e447fe"
    )
  })

  it("carries any id and sequence", () => {
    const number = fc.integer({ min: 0, max: 0xffff })
    fc.assert(fc.property(number, number, fc.constantFrom(ProbeType.Request, ProbeType.Reply), (id, sequence, type) => {
      const packet = written(type, id, sequence)
      assert.strictEqual(probeType(packet, 0, packet.length), type)
      assert.deepStrictEqual([probeId(packet, 0), probeSequence(packet, 0)], [id, sequence])
    }))
  })

  it("is an IP packet with a right checksum, as others see it", () => {
    const packet = written(ProbeType.Request, 7, 9)
    const parsed = new IpPacket()
    assert.isTrue(parsed.parse(packet, 0, packet.length))
    assert.strictEqual(parsed.kind, PacketKind.Echo)
  })

  it("is recognised by both addresses and the echo type only", () => {
    const packet = fromHex(request)
    assert.strictEqual(probeType(packet, 0, packet.length), ProbeType.Request)
    assert.strictEqual(probeType(packet, 0, PROBE_LENGTH - 1), 0)
    // Version, next header, addresses, type and code: a change of any byte makes it something else.
    for (const at of [0, 6, ...Array.from({ length: 32 }, (_, i) => 8 + i), 40, 41]) {
      const other = packet.slice()
      other[at] = (other[at] ?? 0) ^ 0x40
      assert.strictEqual(probeType(other, 0, other.length), 0, `byte ${at}`)
    }
    const goodbye = new Uint8Array(48)
    writeGoodbye(goodbye, 0)
    assert.strictEqual(probeType(goodbye, 0, goodbye.length), 0)
  })
})
