/**
 * The control protocol inside the tunnel (tunnel spec 10): IPv6 packets from `::` to `::` with next header 0xFF, which
 * carry events between client and gateway and never reach a TUN device.
 */
import { type IpAddress, parseIp } from "../wire/address.ts"
import { type IpPacket, IPV6_HEADER_LENGTH, MAX_PACKET_LENGTH } from "../wire/ip.ts"

const CONTROL_PROTOCOL = 0xff
const EVENT_HEADER_LENGTH = 8
const ASSIGNED_IPS = 0
const DOMAIN_STATUS = 1
const GOODBYE = 2

export type ControlEvent =
  /** Client to gateway: which addresses stand for a domain. 4 (one family) or 8 addresses. */
  | {
    readonly _tag: "AssignedIps"
    readonly resource: string
    readonly domain: string
    readonly proxyIps: ReadonlyArray<IpAddress>
  }
  /** Gateway to client. */
  | {
    readonly _tag: "DomainStatus"
    readonly resource: string
    readonly domain: string
    readonly status: "Active" | "Inactive"
  }
  | { readonly _tag: "Goodbye" }

/** What a control packet that is no event of ours may be: of a later version, or broken. */
export type UnreadControlEvent = { readonly _tag: "Unknown"; readonly type: number } | { readonly _tag: "Malformed" }

export const isControlPacket = (packet: IpPacket): boolean =>
  packet.protocol === CONTROL_PROTOCOL && packet.version === 6 && isUnspecified(packet.source) &&
  isUnspecified(packet.destination)

const isUnspecified = (words: Int32Array): boolean =>
  words[0] === 0 && words[1] === 0 && words[2] === 0 && words[3] === 0

/** Reads a packet that `isControlPacket` accepted. */
export const readControlEvent = (packet: IpPacket): ControlEvent | UnreadControlEvent => {
  const end = packet.offset + packet.length
  if (end - packet.transport < EVENT_HEADER_LENGTH) return malformed
  const type = packet.buffer[packet.transport] as number
  if (type === GOODBYE) return { _tag: "Goodbye" }
  if (type !== ASSIGNED_IPS && type !== DOMAIN_STATUS) return { _tag: "Unknown", type }
  const payload = parseObject(packet.buffer.subarray(packet.transport + EVENT_HEADER_LENGTH, end))
  const resource = payload?.["resource"]
  const domain = payload?.["domain"]
  if (typeof resource !== "string" || !UUID.test(resource) || typeof domain !== "string" || domain === "") {
    return malformed
  }
  if (type === DOMAIN_STATUS) {
    const status = payload?.["status"]
    if (typeof status !== "string") return malformed
    return {
      _tag: "DomainStatus",
      resource: resource.toLowerCase(),
      domain,
      status: status === "Active" ? "Active" : "Inactive"
    }
  }
  const texts = payload?.["proxy_ips"]
  if (!Array.isArray(texts) || (texts.length !== 4 && texts.length !== 8)) return malformed
  const proxyIps: Array<IpAddress> = []
  for (const text of texts as ReadonlyArray<unknown>) {
    const address = typeof text === "string" ? parseIp(text) : undefined
    if (address === undefined) return malformed
    proxyIps.push(address)
  }
  return { _tag: "AssignedIps", resource: resource.toLowerCase(), domain, proxyIps }
}

/** The packet that carries `event`. Names are at most 255 octets, so that it always fits. */
export const makeControlPacket = (event: ControlEvent): Uint8Array => {
  const payload = encodePayload(event)
  const length = IPV6_HEADER_LENGTH + EVENT_HEADER_LENGTH + payload.length
  if (length > MAX_PACKET_LENGTH) throw new RangeError(`a control packet of ${length} bytes`)
  const packet = new Uint8Array(length)
  packet[0] = 0x60
  packet[4] = length - IPV6_HEADER_LENGTH >>> 8
  packet[5] = length - IPV6_HEADER_LENGTH & 0xff
  packet[6] = CONTROL_PROTOCOL
  packet[IPV6_HEADER_LENGTH] = event._tag === "AssignedIps"
    ? ASSIGNED_IPS
    : event._tag === "DomainStatus"
    ? DOMAIN_STATUS
    : GOODBYE
  packet.set(payload, IPV6_HEADER_LENGTH + EVENT_HEADER_LENGTH)
  return packet
}

const encodePayload = (event: ControlEvent): Uint8Array => {
  switch (event._tag) {
    case "AssignedIps":
      return encode({ resource: event.resource, domain: event.domain, proxy_ips: event.proxyIps })
    case "DomainStatus":
      return encode({ resource: event.resource, domain: event.domain, status: event.status })
    case "Goodbye":
      return new Uint8Array(0)
  }
}

const encode = (value: object): Uint8Array => new TextEncoder().encode(JSON.stringify(value))

const malformed: UnreadControlEvent = { _tag: "Malformed" }
const UUID = /^[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}$/i

const parseObject = (bytes: Uint8Array): Readonly<Record<string, unknown>> | undefined => {
  try {
    const value: unknown = JSON.parse(new TextDecoder("utf-8", { fatal: true }).decode(bytes))
    return typeof value === "object" && value !== null ? value as Readonly<Record<string, unknown>> : undefined
  } catch {
    return undefined
  }
}
