/** What was seen of a packet, beside what had to be (tunnel spec 20.1). */
import { assert } from "@effect/vitest"
import { ip, ipFromBytes } from "../../../src/protocol/wire/address.ts"
import { IcmpError, parseIcmpError } from "../../../src/protocol/wire/icmp.ts"
import { destinationOffset, sourceOffset } from "../../../src/protocol/wire/ip.ts"
import { isIntact, parsed, summary } from "../../protocol/tunnel/packets.ts"
import type { Packet } from "./fate.ts"
import { redirected, replyTo, type Sighting } from "./Traffic.ts"

const KIND = { prohibited: { 4: 13, 6: 1 }, "unreachable-net": { 4: 0, 6: 3 } } as const

/** Whether a client that waits for the target has to have been let in by now. */
export type MustBeLetIn = (client: string, target: string) => boolean

/** A packet that was sent before everything was settled. */
export interface Early {
  readonly sighting: Sighting
  /** The peer that it was sent to, if it was. */
  readonly through: string | undefined
  /** Nothing happens that could change its fate. */
  readonly isCertain: boolean
}

export const judge = (sighting: Sighting, mustBeLetIn: MustBeLetIn): void => {
  const { arrived, journey, returned, sent } = sighting
  const { fate, packet } = journey
  const what = `${packet.protocol} ${packet.from} > ${packet.to} port ${packet.port} id ${packet.id}` +
    `${packet.past === undefined ? "" : ` past the rules to ${packet.past}`}: ${JSON.stringify(fate)}`
  const seen = { arrived: arrived.map(({ at, bytes }) => `${at} ${summary(bytes)}`), returned: returned.map(summary) }
  if (packet.past !== undefined && returned.length === 0 && fate._tag !== "delivered") {
    // What is said of a packet that it does not know of the client need not believe.
    return assert.deepStrictEqual(seen.arrived, [], what)
  }
  const expectNothing = (): void => assert.deepStrictEqual(seen, { arrived: [], returned: [] }, what)
  switch (fate._tag) {
    case "dropped":
      return expectNothing()
    case "waiting":
      // P3, and R11: whoever could have been let in has been.
      assert.isFalse(mustBeLetIn(journey.client, fate.for), `nobody let it in: ${what}`)
      return expectNothing()
    case "refused":
      assert.deepStrictEqual(seen.arrived, [], what)
      assert.strictEqual(returned.length, 1, `${what} ${JSON.stringify(seen)}`)
      return judgeError(returned[0] as Uint8Array, packet, fate.kind, what)
    case "delivered": {
      assert.deepStrictEqual(arrived.map(({ at }) => at), [fate.at], `${what} ${JSON.stringify(seen)}`)
      const [{ bytes }] = arrived as [Sighting["arrived"][number]]
      const candidates = fate.to.map((to) => hex(to === packet.to ? sent : redirected(sent, to)))
      assert.include(candidates, hex(bytes), `${what} ${JSON.stringify(seen)}`)
      assert.isTrue(isIntact(bytes), what)
      assert.strictEqual(returned.length, packet.ending === "silence" ? 0 : 1, `${what} ${JSON.stringify(seen)}`)
      const [back] = returned
      if (back === undefined) return
      if (packet.ending === "error") return judgeError(back, packet, "unreachable-net", what)
      assert.strictEqual(hex(back), hex(replyTo(packet, packet.to)), what)
    }
  }
}

/**
 * What the client itself does is certain. What it sent may get lost where the change got there first, or be refused,
 * but it is at nobody else's and not twice, and only what was seen is answered.
 */
export const judgeEarly = ({ isCertain, sighting, through }: Early, mustBeLetIn: MustBeLetIn): void => {
  const { arrived, journey, returned } = sighting
  const { fate, packet } = journey
  if (isCertain || through === undefined) return judge(sighting, mustBeLetIn)
  const what = `early ${packet.protocol} ${packet.from} > ${packet.to} port ${packet.port} to ${through}`
  assert.isAtMost(arrived.length, 1, what)
  assert.isAtMost(returned.length, 1, what)
  const [back] = returned
  const isOfTheTunnel = back !== undefined && arrived.length === 0
  if (isOfTheTunnel) {
    const kind = isUnreachable(back) ? "unreachable-net" : "prohibited"
    return judge({ ...sighting, journey: { ...journey, fate: { _tag: "refused", kind } } }, mustBeLetIn)
  }
  if (arrived.length === 0) return
  assert.strictEqual(fate._tag, "delivered", what)
  const isAnswerLost = back === undefined && packet.ending !== "silence"
  if (!isAnswerLost) return judge(sighting, mustBeLetIn)
  judge({ ...sighting, journey: { ...journey, packet: { ...packet, ending: "silence" } } }, mustBeLetIn)
}

/** P11, P12: of this kind, from where the packet was for, and about nothing else than the packet. */
const judgeError = (bytes: Uint8Array, packet: Packet, kind: keyof typeof KIND, what: string): void => {
  const view = parsed(bytes)
  const error = new IcmpError()
  assert.isTrue(isIntact(bytes) && parseIcmpError(view, error), what)
  const { failed } = error
  const { protocol } = packet
  const ends = (of: typeof view) => [
    ipFromBytes(of.buffer, sourceOffset(of), of.version),
    ipFromBytes(of.buffer, destinationOffset(of), of.version)
  ]
  assert.deepStrictEqual(
    { ends: ends(view), failed: ends(failed), code: error.code, port: failed.sourcePort, to: failed.destinationPort },
    {
      ends: [ip(packet.to), ip(packet.from)],
      failed: [ip(packet.from), ip(packet.to)],
      code: KIND[kind][view.version],
      port: packet.id,
      to: protocol === "icmp" ? packet.id : packet.port
    },
    what
  )
}

const isUnreachable = (bytes: Uint8Array): boolean => {
  const error = new IcmpError()
  return parseIcmpError(parsed(bytes), error) && Object.values(KIND["unreachable-net"]).includes(error.code as 0)
}

const hex = (bytes: Uint8Array): string => Buffer.from(bytes).toString("hex")
