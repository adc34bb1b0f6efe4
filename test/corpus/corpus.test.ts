/**
 * Inputs of every decoder of what comes from the network: those that once failed, and those that reach odd branches. Each
 * file has lines of `+` or `-`, whether the input is accepted, and its bytes in hexadecimal or its text. Every decoder
 * also reads mutations of them, whatever it makes of these: it must not throw, nor change its input, nor take two looks
 * for two different things.
 */
import { assert, describe, it } from "@effect/vitest"
import * as Either from "effect/Either"
import { readFileSync } from "node:fs"
import { decodeClientPush, decodeGatewayPush } from "../../src/model/portal.ts"
import { isAnswerTo, parseDnsQuery } from "../../src/protocol/dns/DnsQuery.ts"
import { parseCandidate } from "../../src/protocol/ice/candidate.ts"
import { parseCheck } from "../../src/protocol/ice/checkMessage.ts"
import { parsePathCandidate } from "../../src/protocol/path/candidate.ts"
import { probeType } from "../../src/protocol/path/probe.ts"
import { PhoenixChannel } from "../../src/protocol/portal/PhoenixChannel.ts"
import { isControlPacket, readControlEvent } from "../../src/protocol/tunnel/controlPacket.ts"
import { readChannel } from "../../src/protocol/wire/channelData.ts"
import { parseMessage, parsePropertiesChanged } from "../../src/protocol/wire/dbus.ts"
import { decodeDns, decodeQuestion, encodeDns } from "../../src/protocol/wire/dns.ts"
import { IcmpError, isIcmpError, parseIcmpError } from "../../src/protocol/wire/icmp.ts"
import { IpPacket } from "../../src/protocol/wire/ip.ts"
import { Attribute, parseStun } from "../../src/protocol/wire/stun.ts"
import { TcpSegment } from "../../src/protocol/wire/tcp.ts"
import { classify } from "../../src/protocol/wire/wireguard.ts"
import { type Random, seeded } from "../simulation/random.ts"

const MUTATIONS = 200

/** What a decoder made of an input, as far as it can be compared; `undefined` if it refused. */
type Decode<Input> = (input: Input) => unknown

const ofPacket = (read: (packet: IpPacket) => unknown): Decode<Uint8Array> => (bytes) => {
  const packet = new IpPacket()
  return packet.parse(bytes, 0, bytes.length) ? read(packet) : undefined
}

const byBytes: { readonly [file: string]: Decode<Uint8Array> } = {
  stun: (bytes) => {
    const message = parseStun(bytes)
    return message && [
      message.method,
      message.class,
      message.key,
      message.error,
      message.hasIntegrity,
      message.hasWrongFingerprint,
      message.text(Attribute.Username),
      message.text(Attribute.Nonce),
      message.u32(Attribute.Lifetime),
      message.address(Attribute.XorMappedAddress)?.text,
      message.addresses(Attribute.XorRelayedAddress).map(({ text }) => text)
    ]
  },
  check: (bytes) => parseCheck(bytes),
  dns: (bytes) => {
    const message = decodeDns(bytes)
    const query = parseDnsQuery(bytes)
    const details = [decodeQuestion(bytes), query, message && query && isAnswerTo(message, query)]
    return message && [message, encodeDns(message), details]
  },
  dbus: (bytes) => {
    const message = parseMessage(bytes)
    return message && parsePropertiesChanged(message)
  },
  wireguard: (bytes) => classify(bytes, 0, bytes.length) || undefined,
  ip: ofPacket((packet) => {
    const error = new IcmpError()
    const segment = new TcpSegment()
    return [
      packet.kind,
      packet.protocol,
      packet.length,
      [...packet.source, ...packet.destination],
      isIcmpError(packet) && parseIcmpError(packet, error) && [error.failed.kind, error.isProhibited],
      segment.parse(packet) && [segment.sequence, segment.flags, segment.mss, segment.payloadLength],
      probeType(packet.buffer, packet.offset, packet.length)
    ]
  }),
  channel: (bytes) => readChannel(bytes, 0, bytes.length) || undefined,
  control: ofPacket((packet) => {
    const event = isControlPacket(packet) ? readControlEvent(packet) : undefined
    return event?._tag === "Malformed" ? undefined : event
  })
}

/** What a push is understood as, by a client and a gateway. */
const frame: Decode<string> = (text) => {
  const channel = new PhoenixChannel("client", null, 0)
  channel.handleText(text, 0)
  const event = channel.pollEvent()
  if (event?._tag !== "Push") return undefined
  const gateway = Either.getOrUndefined(decodeGatewayPush(event.event, event.payload))
  return Either.getOrUndefined(decodeClientPush(event.event, event.payload)) ?? gateway
}

const byText: { readonly [file: string]: Decode<string> } = {
  candidate: parseCandidate,
  pathCandidate: parsePathCandidate,
  frame
}

interface Entry {
  readonly name: string
  readonly isAccepted: boolean
  readonly input: string
}

const entriesOf = (file: string): ReadonlyArray<Entry> =>
  readFileSync(new URL(`${file}.txt`, import.meta.url), "utf8").split("\n\n").slice(1).map((paragraph) => {
    const [comment = "", line = ""] = paragraph.trimEnd().split("\n")
    return { name: comment.slice(2), isAccepted: line.startsWith("+ "), input: line.slice(2) }
  })

/** Bits flipped, bytes replaced by odd ones, pieces cut out, repeated, or taken from another input. */
const mutate = (bytes: Uint8Array, other: Uint8Array, random: Random): Uint8Array => {
  const below = (limit: number): number => Math.floor(random() * limit)
  let mutated = Array.from(bytes)
  for (let changes = 1 + below(3); changes > 0; changes--) {
    const at = below(mutated.length + 1)
    switch (below(6)) {
      case 0:
        mutated[at] = (mutated[at] ?? 0) ^ 1 << below(8)
        break
      case 1:
        mutated[at] = [0, 1, 0x7f, 0x80, 0xc0, 0xff][below(6)] as number
        break
      case 2:
        mutated = mutated.slice(0, at)
        break
      case 3:
        mutated.splice(at, below(8))
        break
      case 4:
        mutated.splice(at, 0, ...mutated.slice(at, at + below(16)))
        break
      default:
        mutated.splice(at, mutated.length, ...other.slice(below(other.length + 1)))
    }
  }
  return Uint8Array.from(mutated)
}

const suite = <Input>(
  file: string,
  decode: Decode<Input>,
  { fromBytes, toBytes }: {
    readonly fromBytes: (b: Uint8Array) => Input
    readonly toBytes: (text: string) => Uint8Array
  }
): void => {
  describe(file, () => {
    const entries = entriesOf(file)
    for (const { input, isAccepted, name } of entries) {
      it(`${isAccepted ? "accepts" : "refuses"} ${name}`, () => {
        assert.strictEqual(decode(fromBytes(toBytes(input))) !== undefined, isAccepted)
      })
    }

    it(`survives ${MUTATIONS} mutations of each`, () => {
      const random = seeded(file.length)
      for (const { input } of entries) {
        const bytes = toBytes(input)
        for (let round = 0; round < MUTATIONS; round++) {
          const other = entries[Math.floor(random() * entries.length)]?.input ?? ""
          const mutated = mutate(bytes, toBytes(other), random)
          const copy = mutated.slice()
          try {
            const first = decode(fromBytes(mutated))
            assert.deepStrictEqual(decode(fromBytes(copy.slice())), first)
            assert.deepStrictEqual(mutated, copy, "the input was changed")
          } catch (error) {
            throw new Error(`of ${Buffer.from(copy).toString("hex")}: ${String(error)}`, { cause: error })
          }
        }
      }
    })
  })
}

const hex = {
  fromBytes: (bytes: Uint8Array) => bytes,
  toBytes: (text: string) => Uint8Array.from(Buffer.from(text, "hex"))
}
const utf8 = {
  fromBytes: (bytes: Uint8Array) => new TextDecoder().decode(bytes),
  toBytes: (text: string) => new TextEncoder().encode(text)
}
for (const [file, decode] of Object.entries(byBytes)) suite(file, decode, hex)
for (const [file, decode] of Object.entries(byText)) suite(file, decode, utf8)
