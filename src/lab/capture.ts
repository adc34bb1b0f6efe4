/** What crosses links of the lab, packet by packet, as `tcpdump` sees it. */
import * as Effect from "effect/Effect"
import type * as Scope from "effect/Scope"
import * as fs from "node:fs"
import * as path from "node:path"
import { type IpAddress, ipFromBytes } from "../protocol/wire/address.ts"
import { LabError } from "./LabError.ts"
import { eventually } from "./scenario.ts"
import type { HostName, Topology } from "./topology.ts"

/** A UDP datagram or TCP segment; a train that the kernel has not yet cut is one. */
export interface Captured {
  /** Unix milliseconds. */
  readonly at: number
  readonly link: string
  readonly source: IpAddress
  readonly destination: IpAddress
  readonly protocol: "tcp" | "udp"
  /** The kernel's answer to a segment of a connection that nobody has. */
  readonly isReset: boolean
  /** The first bytes behind the transport header. */
  readonly payload: Uint8Array
}

export interface Capture {
  /** Ends it. In the order of time; fails if the kernel had to leave packets out. */
  readonly stop: Effect.Effect<ReadonlyArray<Captured>, LabError>
}

/** Enough for the headers of IPv6 and TCP with options, and of what a datagram begins with. */
const SNAP_LENGTH = 128
const PCAP_HEADER = 24
const RECORD_HEADER = 16
const ETHERNET_HEADER = 14
const ETHERTYPE = { ipv4: 0x0800, ipv6: 0x86dd } as const
const TCP_RST = 4
const PROTOCOL = { tcp: 6, udp: 17 } as const

/** Captures on the links of one host what `filter` (pcap-filter(7)) lets through. Returns once every link is watched. */
export const start = (
  topology: Topology,
  host: HostName,
  links: ReadonlyArray<string>,
  filter: string
): Effect.Effect<Capture, LabError, Scope.Scope> =>
  Effect.gen(function*() {
    const captures = yield* Effect.forEach(links, (link) => startOne(topology, host, link, filter))
    return {
      stop: Effect.map(
        Effect.forEach(captures, (stop) => stop),
        (packets) => packets.flat().sort((a, b) => a.at - b.at)
      )
    }
  })

const startOne = (topology: Topology, host: HostName, link: string, filter: string) =>
  Effect.gen(function*() {
    const name = `capture-${host}-${link}`
    const file = path.join(topology.folder, `${name}.pcap`)
    // As ourselves, in packets' order, with room for bursts, and nothing left in a buffer when we end it.
    const options = ["-Z", "root", "--immediate-mode", "-U", "-B", "32768", "-s", String(SNAP_LENGTH)]
    const daemon = yield* topology.daemon(host, name, ["tcpdump", "-n", "-i", link, ...options, "-w", file, filter])
    const listens = yield* eventually(
      Effect.sync(() => daemon.log().includes("listening on") || daemon.hasExited()),
      10_000
    )
    if (listens === undefined || daemon.hasExited()) {
      return yield* new LabError({ what: `tcpdump on ${link}`, why: daemon.log().trim() || "it does not start" })
    }
    return Effect.gen(function*() {
      daemon.signal("SIGTERM")
      yield* daemon.exit
      if (!/\b0 packets dropped by kernel/.test(daemon.log())) {
        return yield* new LabError({ what: `tcpdump on ${link}`, why: daemon.log().trim() })
      }
      return parse(fs.readFileSync(file), link)
    })
  })

/** Reads a capture file of an Ethernet link, written on this machine (pcap-savefile(5)). */
export const parse = (file: Uint8Array, link: string): ReadonlyArray<Captured> => {
  const view = new DataView(file.buffer, file.byteOffset, file.byteLength)
  const packets: Array<Captured> = []
  let offset = PCAP_HEADER
  while (offset + RECORD_HEADER <= file.length) {
    const at = view.getUint32(offset, true) * 1000 + view.getUint32(offset + 4, true) / 1000
    const length = view.getUint32(offset + 8, true)
    offset += RECORD_HEADER
    if (offset + length > file.length) break // being written when it ended
    const packet = parseFrame(file.subarray(offset, offset + length))
    if (packet !== undefined) packets.push({ at, link, ...packet })
    offset += length
  }
  return packets
}

const parseFrame = (frame: Uint8Array): Omit<Captured, "at" | "link"> | undefined => {
  const type = (frame[12] ?? 0) << 8 | (frame[13] ?? 0)
  const version = type === ETHERTYPE.ipv4 ? 4 : type === ETHERTYPE.ipv6 ? 6 : undefined
  if (version === undefined) return undefined
  const ip = ETHERNET_HEADER
  // The lab's hosts send no extension headers before TCP or UDP.
  const [number, source, size, transport] = version === 4
    ? [frame[ip + 9], ip + 12, 4, ip + ((frame[ip] ?? 0) & 0x0f) * 4] as const
    : [frame[ip + 6], ip + 8, 16, ip + 40] as const
  const protocol = number === PROTOCOL.udp ? "udp" : number === PROTOCOL.tcp ? "tcp" : undefined
  if (protocol === undefined) return undefined
  const header = protocol === "udp" ? 8 : ((frame[transport + 12] ?? 0) >> 4) * 4
  if (transport + header > frame.length) return undefined
  return {
    isReset: protocol === "tcp" && frame[transport + 13] === TCP_RST,
    source: ipFromBytes(frame, source, version),
    destination: ipFromBytes(frame, source + size, version),
    protocol,
    payload: frame.slice(transport + header)
  }
}

/** The type of a WireGuard message, which may be the payload of a TURN channel; 0 if it is none. */
export const wireguardType = ({ payload, protocol }: Captured): number => {
  if (protocol !== "udp") return 0
  const isChannel = (payload[0] ?? 0) >= 0x40 && (payload[0] ?? 0) <= 0x4f
  const [type = 0, ...reserved] = payload.subarray(isChannel ? 4 : 0, isChannel ? 8 : 4)
  return type >= 1 && type <= 4 && reserved.length === 3 && reserved.every((byte) => byte === 0) ? type : 0
}
