/** Queries as a codec that is not ours makes them, parsed by ours; answers read by that codec. */
import * as packet from "dns-packet"
import { type DnsQuery, parseDnsQuery } from "../../../src/protocol/dns/DnsQuery.ts"
import { ip } from "../../../src/protocol/wire/address.ts"

export const encodeQuery = (name: string, type = "A", more: Partial<packet.Packet> = {}): Uint8Array =>
  Uint8Array.from(packet.encode({
    type: "query",
    id: 0x1234,
    flags: packet.RECURSION_DESIRED,
    // The codec does not know type 65 by name.
    questions: [{ type: (type === "HTTPS" ? "UNKNOWN_65" : type) as "A", name }],
    ...more
  }))

export const query = (name: string, type = "A", more: Partial<packet.Packet> = {}): DnsQuery => {
  const parsed = parseDnsQuery(encodeQuery(name, type, more))
  if (parsed === undefined) throw new Error(`no query for ${name}`)
  return parsed
}

export const decode = (message: Uint8Array | undefined): packet.DecodedPacket => {
  if (message === undefined) throw new Error("no message")
  return packet.decode(Buffer.from(message))
}

/** One text for each answer record: name, time to live, type, data; addresses in their canonical form. */
export const records = (message: Uint8Array | undefined): ReadonlyArray<string> =>
  (decode(message).answers ?? []).map((answer) => {
    const { data, name, ttl, type } = answer as packet.StringAnswer
    return `${name} ${ttl} ${type} ${type === "A" || type === "AAAA" ? ip(data) : String(data)}`
  })

export const codeOf = (message: Uint8Array | undefined): string =>
  (decode(message) as packet.DecodedPacket & { readonly rcode: string }).rcode
