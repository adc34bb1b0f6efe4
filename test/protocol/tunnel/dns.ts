/** An application that asks the client's sentinels, with messages by a codec that is not ours. */
import * as packet from "dns-packet"
import type { DnsResource } from "../../../src/protocol/portal/types.ts"
import type { OutsideQuery } from "../../../src/protocol/tunnel/ClientDns.ts"
import { ip } from "../../../src/protocol/wire/address.ts"
import { udpPacket } from "../../../src/protocol/wire/udp.ts"
import type { ClientHarness } from "./client.ts"
import { CLIENT_4, CLIENT_6, site1, uuid } from "./fixtures.ts"
import { isIntact, parsed } from "./packets.ts"

export const SENTINEL = "100.100.111.1"
/** Where the application's socket is. */
export const PORT = 40_053

export const dnsResource = (id: number, address: string, more: Partial<DnsResource> = {}): DnsResource => ({
  type: "dns",
  id: uuid(id),
  name: `resource ${id}`,
  address,
  sites: [site1],
  ipStack: "dual",
  filters: [],
  ...more
})

export interface Asked {
  readonly id?: number
  readonly type?: string
  readonly more?: Partial<packet.Packet>
}

export const encodeQuery = (name: string, { id = 0x1234, more = {}, type = "A" }: Asked = {}): Uint8Array =>
  Uint8Array.from(packet.encode({
    type: "query",
    id,
    flags: packet.RECURSION_DESIRED,
    // The codec does not know type 65 by name.
    questions: [{ type: (type === "HTTPS" ? "UNKNOWN_65" : type) as "A", name }],
    ...more
  }))

/** The packet of the application that asks `sentinel`. */
export const queryPacket = (sentinel: string, query: Uint8Array, sourcePort = PORT, port = 53): Uint8Array =>
  udpPacket({
    source: ip(sentinel.includes(":") ? CLIENT_6 : CLIENT_4),
    sourcePort,
    destination: ip(sentinel),
    destinationPort: port
  }, query)

export interface Reply {
  readonly message: packet.DecodedPacket & { readonly rcode: string }
  readonly bytes: Uint8Array
  readonly from: string
  readonly port: number
}

/** What UDP carries in a packet whose checksums are right. */
export const payloadOf = (bytes: Uint8Array): { readonly payload: Uint8Array; readonly from: string } => {
  if (!isIntact(bytes)) throw new Error("a checksum is wrong")
  const { transport, version } = parsed(bytes)
  const source = version === 4
    ? bytes.slice(12, 16).join(".")
    : Array.from({ length: 8 }, (_, i) => (bytes[8 + i * 2] as number << 8 | bytes[9 + i * 2] as number).toString(16))
      .join(":")
  return { payload: bytes.slice(transport + 8), from: ip(source) }
}

/** The DNS answers among what the applications got since. */
export const replies = (client: ClientHarness): ReadonlyArray<Reply> =>
  client.toTun().filter((bytes) => parsed(bytes).protocol === 17).map((bytes) => {
    const { from, payload } = payloadOf(bytes)
    const { destinationPort: port, sourcePort } = parsed(bytes)
    if (sourcePort !== 53) throw new Error("not from a DNS server")
    return { message: packet.decode(Buffer.from(payload)) as Reply["message"], bytes: payload, from, port }
  })

export const ask = (client: ClientHarness, name: string, asked: Asked = {}, sentinel = SENTINEL): void => {
  client.fromTun(queryPacket(sentinel, encodeQuery(name, asked)))
}

/** Asks, and expects one answer at once. */
export const answerTo = (client: ClientHarness, name: string, asked: Asked = {}, sentinel = SENTINEL): Reply => {
  ask(client, name, asked, sentinel)
  const [reply, ...more] = replies(client)
  if (reply === undefined || more.length > 0) throw new Error(`${more.length + Number(reply !== undefined)} answers`)
  return reply
}

/** What an answer says, one text for each record. */
export const records = ({ message }: Reply): ReadonlyArray<string> =>
  (message.answers ?? []).map((answer) => {
    const { data, name, ttl, type } = answer as packet.StringAnswer
    return `${name} ${ttl} ${type} ${String(data)}`
  })

export const addresses = (reply: Reply): ReadonlyArray<string> =>
  (reply.message.answers ?? []).map((answer) => ip((answer as packet.StringAnswer).data))

export const outsideQueries = (client: ClientHarness): ReadonlyArray<OutsideQuery> => {
  const queries: Array<OutsideQuery> = []
  for (let next = client.core.pollDnsQuery(); next !== undefined; next = client.core.pollDnsQuery()) queries.push(next)
  return queries
}

/** An upstream's answer to a query of the client. */
export const upstreamAnswer = (
  query: Uint8Array,
  answers: ReadonlyArray<packet.Answer>,
  more: Partial<packet.Packet> = {}
): Uint8Array => {
  const { id, questions } = packet.decode(Buffer.from(query))
  return Uint8Array.from(packet.encode({
    type: "response",
    id: id as number,
    flags: packet.RECURSION_DESIRED | packet.RECURSION_AVAILABLE,
    questions: questions ?? [],
    answers: [...answers],
    ...more
  }))
}
