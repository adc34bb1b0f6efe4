/** Virtual links, and ends of connections whose segments a test writes by hand. */
import { ip, ipToBytes } from "../../../src/protocol/wire/address.ts"
import { IpPacket } from "../../../src/protocol/wire/ip.ts"
import { type TcpEnds, TcpFlag, tcpPacket, TcpSegment } from "../../../src/protocol/wire/tcp.ts"
import { type Random, seeded } from "../../simulation/random.ts"

export { seeded }
export type { Random }

export const { Ack, Fin, Psh, Rst, Syn } = TcpFlag

export const randomBytesOf = (random: Random) => (length: number): Uint8Array =>
  Uint8Array.from({ length }, () => Math.floor(random() * 256))

export const parsePacket = (bytes: Uint8Array): IpPacket => {
  const packet = new IpPacket()
  if (!packet.parse(bytes, 0, bytes.length)) throw new RangeError("the tunnel does not accept this packet")
  return packet
}

/** Throws for a damaged one, so that everything we send is checked by the way. */
export const parseSegment = (bytes: Uint8Array): TcpSegment => {
  const segment = new TcpSegment()
  if (!segment.parse(parsePacket(bytes))) throw new RangeError("no TCP, or a wrong checksum")
  return segment
}

export const ends = (source: string, sourcePort: number, destination: string, destinationPort: number): TcpEnds => ({
  source: ipToBytes(ip(source)),
  sourcePort,
  destination: ipToBytes(ip(destination)),
  destinationPort
})

export const reversed = (of: TcpEnds): TcpEnds => ({
  source: of.destination,
  sourcePort: of.destinationPort,
  destination: of.source,
  destinationPort: of.sourcePort
})

const names = [[Syn, "SYN"], [Fin, "FIN"], [Rst, "RST"], [Psh, "PSH"], [Ack, "ACK"]] as const

export interface Seen {
  readonly flags: string
  readonly sequence: number
  readonly acknowledgment: number
  readonly window: number
  readonly mss: number
  readonly payload: Uint8Array
}

export const seen = (bytes: Uint8Array): Seen => {
  const segment = parseSegment(bytes)
  return {
    flags: names.filter(([flag]) => segment.has(flag)).map(([, name]) => name).join(" "),
    sequence: segment.sequence >>> 0,
    acknowledgment: segment.acknowledgment >>> 0,
    window: segment.window,
    mss: segment.mss,
    payload: segment.buffer.slice(segment.payload, segment.payload + segment.payloadLength)
  }
}

export interface Written {
  readonly flags: number
  readonly sequence: number
  readonly acknowledgment?: number
  readonly window?: number
  readonly mss?: number
  readonly payload?: Uint8Array | number
}

/** A packet of the peer; a payload that is a number stands for so many bytes that nobody looks at. */
export const write = (from: TcpEnds, { acknowledgment, flags, mss, payload, sequence, window }: Written): Uint8Array =>
  tcpPacket(
    from,
    {
      flags,
      sequence: sequence | 0,
      acknowledgment: (acknowledgment ?? 0) | 0,
      window: window ?? 65_535,
      mss: mss ?? 0
    },
    typeof payload === "number" ? new Uint8Array(payload) : payload
  )

export interface LinkFaults {
  /** Probabilities. */
  readonly loss: number
  readonly duplication: number
  /** One way, in milliseconds: the least and what may come on top, which is what puts packets out of order. */
  readonly delay: number
  readonly jitter: number
}

interface Flight {
  readonly at: number
  readonly order: number
  readonly bytes: Uint8Array
  readonly deliver: (bytes: Uint8Array, now: number) => void
}

/** Virtual time, and packets under way. */
export class Clock {
  now = 0
  readonly #flights: Array<Flight> = []
  readonly #random: Random
  readonly #faults: LinkFaults
  #order = 0
  /** Everything that was sent, lost or not. */
  readonly sent: Array<Uint8Array> = []

  constructor(random: Random, faults: LinkFaults) {
    this.#random = random
    this.#faults = faults
  }

  send(bytes: Uint8Array, deliver: Flight["deliver"]): void {
    const { delay, duplication, jitter, loss } = this.#faults
    this.sent.push(bytes)
    const copies = this.#random() < duplication ? 2 : 1
    for (let i = 0; i < copies; i++) {
      if (this.#random() < loss) continue
      this.#flights.push({ at: this.now + delay + this.#random() * jitter, order: this.#order++, bytes, deliver })
    }
  }

  /** The next packet to arrive, or `undefined`. */
  get nextArrival(): number | undefined {
    return this.#flights.reduce<number | undefined>(
      (min, { at }) => min === undefined || at < min ? at : min,
      undefined
    )
  }

  /** Delivers what has arrived by now. */
  deliver(): void {
    const due = this.#flights.filter(({ at }) => at <= this.now).sort((a, b) => a.at - b.at || a.order - b.order)
    for (const flight of due) {
      this.#flights.splice(this.#flights.indexOf(flight), 1)
      flight.deliver(flight.bytes, this.now)
    }
  }
}

export interface Machine {
  readonly handleTimeout: (now: number) => void
  readonly pollTimeout: () => number | undefined
}

/**
 * Lets time pass until `until` holds or there is nothing to wait for any more, or for `limit` milliseconds. `settle` is
 * called after everything that happens.
 */
export const runUntil = (
  clock: Clock,
  machines: ReadonlyArray<Machine>,
  settle: () => void,
  until: () => boolean,
  limit: number
): void => {
  const end = clock.now + limit
  settle()
  while (!until()) {
    const next = Math.min(
      clock.nextArrival ?? Number.POSITIVE_INFINITY,
      ...machines.map((machine) => machine.pollTimeout() ?? Number.POSITIVE_INFINITY)
    )
    if (next > end) {
      clock.now = end
      return
    }
    clock.now = Math.max(clock.now, next)
    clock.deliver()
    for (const machine of machines) machine.handleTimeout(clock.now)
    settle()
  }
}
