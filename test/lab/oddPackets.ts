/**
 * Packets that a tunnel must carry as they are, or must not carry, and the trains that a kernel makes of ordinary ones.
 * Built with arithmetic of its own: nothing here is taken from the code that is tested.
 */
import type { Frame } from "./packetLinks.ts"

export interface OddPackets {
  readonly name: string
  /** Sent in one go. */
  readonly frames: ReadonlyArray<Frame>
  /** Whether they come out at the other end. */
  readonly passes: boolean
}

export interface Addresses {
  readonly source: Uint8Array
  readonly destination: Uint8Array
}

/** The largest packet of the tunnel. */
const MTU = 1280
const TCP = 6
const UDP = 17
const ICMP = { 4: 1, 6: 58 } as const

/** RFC 1071 over 16-bit words, the slow way. */
const onesSum = (bytes: Uint8Array, seed = 0): number => {
  let sum = seed
  for (let i = 0; i < bytes.length; i++) sum += (bytes[i] as number) << (i % 2 === 0 ? 8 : 0)
  while (sum > 0xffff) sum = (sum & 0xffff) + Math.floor(sum / 0x10000)
  return sum
}

const join = (...parts: ReadonlyArray<Uint8Array | ReadonlyArray<number>>): Uint8Array =>
  Uint8Array.from(parts.flatMap((part) => [...part]))
const be16 = (value: number): ReadonlyArray<number> => [value >> 8 & 0xff, value & 0xff]
const be32 = (value: number): ReadonlyArray<number> => [...be16(value >>> 16), ...be16(value & 0xffff)]
const filler = (length: number, seed = 0): Uint8Array =>
  Uint8Array.from({ length }, (_, i) => Math.imul(i + seed + 1, 0x9e3779b1) >>> 24)

interface Ip {
  /** ECN and the rest of the traffic class. */
  readonly tos?: number
  readonly hops?: number
  readonly id?: number
  /** Flags and offset. */
  readonly fragment?: number
  readonly options?: ReadonlyArray<number>
  /** Extension headers of IPv6, with the number of the first one; the last one names the transport. */
  readonly extensions?: { readonly first: number; readonly bytes: ReadonlyArray<number> }
  readonly flowLabel?: number
}

const ipPacket = (
  { destination, source }: Addresses,
  protocol: number,
  body: Uint8Array,
  more: Ip = {}
): Uint8Array => {
  const { extensions, flowLabel = 0, fragment = 0x4000, hops = 64, id = 1, options = [], tos = 0 } = more
  if (source.length === 16) {
    const inner = join(extensions?.bytes ?? [], body)
    return join(
      [0x60 | tos >> 4, (tos & 15) << 4 | flowLabel >> 16, ...be16(flowLabel & 0xffff), ...be16(inner.length)],
      [extensions?.first ?? protocol, hops],
      source,
      destination,
      inner
    )
  }
  const words = 5 + options.length / 4
  const header = join(
    [0x40 | words, tos, ...be16(words * 4 + body.length), ...be16(id), ...be16(fragment), hops, protocol, 0, 0],
    source,
    destination,
    options
  )
  header.set(be16(~onesSum(header) & 0xffff), 10)
  return join(header, body)
}

const pseudo = ({ destination, source }: Addresses, protocol: number, length: number): number =>
  onesSum(join(source, destination, be32(length), [0, 0, 0, protocol]))

const withChecksum = (addresses: Addresses, protocol: number, body: Uint8Array, at: number): Uint8Array => {
  const sum = ~onesSum(body, pseudo(addresses, protocol, body.length)) & 0xffff
  const out = Uint8Array.from(body)
  out.set(be16(protocol === UDP && sum === 0 ? 0xffff : sum), at)
  return out
}

const udp = (addresses: Addresses, payload: Uint8Array, port = 1000): Uint8Array =>
  withChecksum(addresses, UDP, join(be16(port), be16(443), be16(8 + payload.length), [0, 0], payload), 6)

interface Tcp {
  readonly flags?: number
  readonly sequence?: number
  readonly urgent?: number
  readonly window?: number
  readonly options?: ReadonlyArray<number>
}
const FLAG = { fin: 1, syn: 2, rst: 4, psh: 8, ack: 16, urg: 32, ece: 64, cwr: 128 } as const

const tcp = (addresses: Addresses, payload: Uint8Array, more: Tcp = {}): Uint8Array => {
  const { flags = FLAG.ack, options = [], sequence = 7, urgent = 0, window = 1024 } = more
  const header = [...be16(1000), ...be16(443), ...be32(sequence), ...be32(99)]
  const rest = [(5 + options.length / 4) << 4, flags, ...be16(window), 0, 0, ...be16(urgent), ...options]
  return withChecksum(addresses, TCP, join(header, rest, payload), 16)
}

const icmp = (addresses: Addresses, type: number, code: number, rest: Uint8Array): Uint8Array => {
  const body = join([type, code, 0, 0], rest)
  if (addresses.source.length === 16) return withChecksum(addresses, ICMP[6], body, 2)
  body.set(be16(~onesSum(body) & 0xffff), 2)
  return body
}

/** As a kernel hands over a train: cut every `size` bytes, with the pseudo-header's sum in the checksum's place. */
const train = (packet: Uint8Array, addresses: Addresses, protocol: number, size: number): Frame => {
  const at = addresses.source.length === 16 ? 40 : 20
  const offset = protocol === TCP ? 16 : 6
  const bytes = Uint8Array.from(packet)
  bytes.set(be16(pseudo(addresses, protocol, bytes.length - at)), at + offset)
  const header = new Uint8Array(10)
  const view = new DataView(header.buffer)
  const headers = at + (protocol === TCP ? ((bytes[at + 12] as number) >> 4) * 4 : 8)
  header.set([1, protocol === UDP ? 5 : at === 40 ? 4 : 1])
  ;[headers, size, at, offset].forEach((value, i) => view.setUint16(2 + 2 * i, value, true))
  return { bytes, header }
}

const changed = (bytes: Uint8Array, at: number, ...values: ReadonlyArray<number>): Uint8Array => {
  const out = Uint8Array.from(bytes)
  out.set(values, at)
  return out
}

/** `next` gives the addresses of another case, so that what comes out tells whose it is. */
export const oddPackets = (version: 4 | 6, next: () => Addresses, downwards: boolean): ReadonlyArray<OddPackets> => {
  const cases: Array<OddPackets> = []
  const header = version === 4 ? 20 : 40
  const add = (name: string, passes: boolean, make: (to: Addresses) => ReadonlyArray<Uint8Array | Frame>): void => {
    const frames = make(next()).map((one) => one instanceof Uint8Array ? { bytes: one } : one)
    cases.push({ name: `IPv${version}: ${name}`, frames, passes })
  }
  const plain = (to: Addresses, more?: Ip, length = 40): Uint8Array => ipPacket(to, UDP, udp(to, filler(length)), more)

  for (const length of [0, 1, 2, 3, MTU - header - 8]) {
    add(`UDP with ${length} bytes`, true, (to) => [plain(to, {}, length)])
  }
  add("UDP without a checksum", true, (to) => [changed(plain(to), header + 6, 0, 0)])
  add("UDP without a checksum in a burst", true, (to) =>
    Array.from({ length: 20 }, (_, i) => {
      const packet = ipPacket(to, UDP, udp(to, filler(500, i)), { id: i })
      return i % 3 === 1 ? changed(packet, header + 6, 0, 0) : packet
    }))
  add("UDP with a wrong checksum in a burst", true, (to) =>
    Array.from({ length: 20 }, (_, i) => {
      const packet = ipPacket(to, UDP, udp(to, filler(500, i)), { id: i })
      return i === 7 ? changed(packet, header + 30, 0xaa, 0xaa) : packet
    }))
  add(
    "UDP of mixed sizes in one flow",
    true,
    (to) =>
      [1000, 1000, 999, 1000, 1, 0, 1001, 1001, 1200, 1001].map((length, i) =>
        ipPacket(to, UDP, udp(to, filler(length, i)), { id: i })
      )
  )
  add("UDP whose length is not the packet's", false, (to) => [changed(plain(to), header + 4, 0, 30)])
  for (const tos of [0, 1, 2, 3, 0xb8, 0xbb]) {
    add(`the traffic class ${tos.toString(16)}`, true, (to) => [plain(to, { tos })])
  }
  add(
    "ECN marks that change within a flow",
    true,
    (to) =>
      Array.from(
        { length: 12 },
        (_, i) => ipPacket(to, TCP, tcp(to, filler(1000, i), { sequence: i * 1000 }), { id: i, tos: i === 5 ? 3 : 2 })
      )
  )
  for (const hops of [2, 255]) add(`a time to live of ${hops}`, true, (to) => [plain(to, { hops })])

  for (
    const [name, flags] of [
      ["SYN", FLAG.syn],
      ["SYN, ECE and CWR", FLAG.syn | FLAG.ece | FLAG.cwr],
      ["FIN", FLAG.fin | FLAG.ack],
      ["RST", FLAG.rst],
      ["no flag", 0],
      ["every flag", 0xff]
    ] as const
  ) {
    add(`TCP with ${name}`, true, (to) => [ipPacket(to, TCP, tcp(to, filler(30), { flags }))])
  }
  add("TCP with urgent data among other segments", true, (to) =>
    Array.from({ length: 9 }, (_, i) =>
      ipPacket(
        to,
        TCP,
        tcp(to, filler(800, i), {
          sequence: i * 800,
          flags: i === 4 ? FLAG.ack | FLAG.urg : FLAG.ack,
          urgent: i === 4 ? 33 : 0
        }),
        { id: i }
      )))
  add(
    "TCP with an urgent pointer but no such flag",
    true,
    (to) =>
      [0, 1, 2].map((i) =>
        ipPacket(to, TCP, tcp(to, filler(700, i), { sequence: i * 700, urgent: i === 1 ? 5 : 0 }), { id: i })
      )
  )
  add(
    "TCP with odd flags within a flow",
    true,
    (to) =>
      [0, FLAG.psh, 0, FLAG.ece, 0, FLAG.cwr, 0, FLAG.fin, 0, FLAG.psh | FLAG.fin, 0].map((flags, i) =>
        ipPacket(to, TCP, tcp(to, filler(600, i), { sequence: i * 600, flags: FLAG.ack | flags }), { id: i })
      )
  )
  add("TCP options that change within a flow", true, (to) =>
    Array.from({ length: 9 }, (_, i) => {
      const options = [1, 1, 8, 10, ...be32(i < 5 ? 100 : 101), ...be32(7)]
      return ipPacket(to, TCP, tcp(to, filler(700, i), { sequence: i * 700, options }), { id: i })
    }))
  add("TCP with every byte of options used", true, (to) =>
    Array.from({ length: 5 }, (_, i) => {
      const options = [5, 34, ...filler(32), 253, 6, 1, 2, 3, 4]
      return ipPacket(to, TCP, tcp(to, filler(700, i), { sequence: i * 700, options }), { id: i })
    }))
  add(
    "TCP out of order, repeated, and with a hole",
    true,
    (to) =>
      [0, 1, 3, 2, 2, 4, 6, 5, 9].map((n, i) =>
        ipPacket(to, TCP, tcp(to, filler(500, n), { sequence: n * 500 }), { id: i })
      )
  )
  add("TCP with a wrong checksum in a burst", true, (to) =>
    Array.from({ length: 9 }, (_, i) => {
      const packet = ipPacket(to, TCP, tcp(to, filler(500, i), { sequence: i * 500 }), { id: i })
      return i === 3 ? changed(packet, header + 50, 0xaa, 0xaa) : packet
    }))
  add(
    "TCP around the end of its sequence numbers",
    true,
    (to) =>
      Array.from(
        { length: 9 },
        (_, i) =>
          ipPacket(to, TCP, tcp(to, filler(500, i), { sequence: (0xffff_ffff - 1700 + i * 500) >>> 0 }), { id: i })
      )
  )
  add(
    "TCP without data",
    true,
    (to) => [10, 10, 11].map((sequence, i) => ipPacket(to, TCP, tcp(to, filler(0), { sequence }), { id: i }))
  )
  add("TCP whose header is cut short", false, (to) => [ipPacket(to, TCP, tcp(to, filler(0)).subarray(0, 16))])

  for (const protocol of [TCP, UDP]) {
    const name = protocol === TCP ? "TCP" : "UDP"
    const max = MTU - header - (protocol === TCP ? 20 : 8)
    for (const [length, size] of [[60_000, max], [45_001, 999], [3000, 1000], [1301, 1], [200, 150]] as const) {
      if (length / size > 60) continue
      add(`a train of ${name}, ${length} bytes in pieces of ${size}`, true, (to) => {
        const flags = FLAG.ack | FLAG.psh
        const body = protocol === TCP ? tcp(to, filler(length), { flags }) : udp(to, filler(length))
        return [train(ipPacket(to, protocol, body, { tos: 2, id: 0xfff0 }), to, protocol, size)]
      })
    }
    add(`a ${name} checksum that the device has to complete`, true, (to) => {
      const body = protocol === TCP ? tcp(to, filler(333)) : udp(to, filler(333))
      const frame = train(ipPacket(to, protocol, body), to, protocol, 0)
      return [{ bytes: frame.bytes, header: changed(frame.header as Uint8Array, 1, 0) }]
    })
  }
  add("a train that ends a connection", true, (to) => {
    const body = tcp(to, filler(5000), { flags: FLAG.ack | FLAG.psh | FLAG.fin })
    return [train(ipPacket(to, TCP, body), to, TCP, 1000)]
  })

  add("an echo request", true, (to) => {
    return [ipPacket(to, ICMP[version], icmp(to, version === 4 ? 8 : 128, 0, filler(60)))]
  })
  const back = (to: Addresses): Addresses => ({ source: to.destination, destination: to.source })
  const quote = (to: Addresses): Uint8Array =>
    join([0, 0, 0, 0], ipPacket(back(to), UDP, udp(back(to), filler(40))).subarray(0, header + 8))
  // To a gateway the client sends none: there is no flow that it answers for.
  add("an ICMP error about a port", downwards, (to) => [
    ipPacket(to, ICMP[version], version === 4 ? icmp(to, 3, 3, quote(to)) : icmp(to, 1, 4, quote(to)))
  ])
  add("an ICMP error about a size", downwards, (to) => [
    ipPacket(
      to,
      ICMP[version],
      version === 4
        ? icmp(to, 3, 4, changed(quote(to), 2, ...be16(1000)))
        : icmp(to, 2, 0, changed(quote(to), 0, ...be32(1280)))
    )
  ])

  add("a packet of another length than it says", false, (to) => [join(plain(to), [1, 2, 3])])
  add("a packet that says it is longer than it is", false, (to) => [plain(to).subarray(0, header + 20)])
  add("a part of a header", false, (to) => [plain(to).subarray(0, header - 1)])

  if (version === 4) {
    add("options", true, (to) => [plain(to, { options: [1, 1, 1, 0] })])
    add(
      "options, the most there can be, in a burst",
      true,
      (to) =>
        Array.from({ length: 6 }, (_, i) =>
          ipPacket(to, TCP, tcp(to, filler(500, i), { sequence: i * 500 }), {
            id: i,
            options: Array.from({ length: 40 }, () => 1)
          }))
    )
    add("a packet that may be fragmented", true, (to) => [0, 1, 2, 3].map((id) => plain(to, { fragment: 0, id })))
    add(
      "packets that may be fragmented with ids that do not count up",
      true,
      (to) =>
        [5, 5, 9, 2].map((id, i) =>
          ipPacket(to, TCP, tcp(to, filler(500, i), { sequence: i * 500 }), { fragment: 0, id })
        )
    )
    add("the first fragment", false, (to) => [plain(to, { fragment: 0x2000 })])
    add("a later fragment", false, (to) => [plain(to, { fragment: 0x2005 })])
    add("the last fragment", false, (to) => [plain(to, { fragment: 5 })])
    add("a header of four words", false, (to) => [changed(plain(to), 0, 0x44)])
  } else {
    const padding = (nextHeader: number): ReadonlyArray<number> => [nextHeader, 0, 1, 4, 0, 0, 0, 0]
    const extended = (to: Addresses, first: number, bytes: ReadonlyArray<number>): Uint8Array =>
      plain(to, { extensions: { first, bytes } })
    add("hop-by-hop options", true, (to) => [extended(to, 0, padding(UDP))])
    add("destination options", true, (to) => [extended(to, 60, padding(UDP))])
    add(
      "two extension headers in a burst",
      true,
      (to) =>
        Array.from({ length: 6 }, (_, i) =>
          ipPacket(to, TCP, tcp(to, filler(500, i), { sequence: i * 500 }), {
            extensions: { first: 0, bytes: [...padding(60), ...padding(TCP)] }
          }))
    )
    add("a fragment header of a whole packet", true, (to) => [extended(to, 44, [UDP, 0, 0, 0, 1, 2, 3, 4])])
    add("the first fragment", false, (to) => [extended(to, 44, [UDP, 0, 0, 1, 1, 2, 3, 4])])
    add("a later fragment", false, (to) => [extended(to, 44, [UDP, 0, 0, 0x19, 1, 2, 3, 4])])
    add("a flow label", true, (to) => [1, 1, 2].map((flowLabel) => plain(to, { flowLabel: flowLabel * 0x1234 })))
  }
  return cases
}

/** What a router makes of a packet that it forwards, by RFC 791 and RFC 8200: one hop less. */
export const forwarded = (packet: Uint8Array): Uint8Array => {
  const out = Uint8Array.from(packet)
  if ((out[0] as number) >> 4 === 6) {
    out[7] = (out[7] as number) - 1
    return out
  }
  out[8] = (out[8] as number) - 1
  out.set([0, 0], 10)
  out.set(be16(~onesSum(out.subarray(0, ((out[0] as number) & 15) * 4)) & 0xffff), 10)
  return out
}

/** The packet with both ECN bits set, if it says that its ends know ECN (RFC 6040). */
export const marked = (packet: Uint8Array): Uint8Array => {
  const out = Uint8Array.from(packet)
  const v6 = (out[0] as number) >> 4 === 6
  const ecn = v6 ? (out[1] as number) >> 4 & 3 : (out[1] as number) & 3
  if (ecn === 0) return out
  out[1] = (out[1] as number) | (v6 ? 0x30 : 3)
  if (v6) return out
  out.set([0, 0], 10)
  out.set(be16(~onesSum(out.subarray(0, ((out[0] as number) & 15) * 4)) & 0xffff), 10)
  return out
}
