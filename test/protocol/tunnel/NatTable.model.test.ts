/** The translation table beside a list that is searched from end to end: the same packets, the same outcome. */
import * as fc from "fast-check"
import { expect, it } from "vitest"
import { Inward } from "../../../src/protocol/tunnel/NatTable.ts"
import { setSourcePort } from "../../../src/protocol/wire/ipEdit.ts"
import { NatHarness, SECOND } from "./nat.ts"
import { parsed, ping, tcp, udp } from "./packets.ts"

type Kind = "udp" | "tcp" | "ping"

interface Step {
  readonly kind: Kind
  readonly isIpv6: boolean
  /** Of the proxy address, and of the host. */
  readonly proxy: number
  readonly host: number
  /** The client's on the way out, where the answer goes on the way back. */
  readonly port: number
  readonly flags: number
}

interface Session {
  readonly kind: Kind
  readonly isIpv6: boolean
  readonly proxy: number
  readonly host: number
  readonly inside: number
  readonly outside: number
  last: number
  lastOut: number
  isAnswered: boolean
  readonly finished: Set<"out" | "in">
  isReset: boolean
  isExpired: boolean
}

const FIN = 0x11
const SYN = 0x02
const RST = 0x04
const ACK = 0x10
const SERVICE = 80

const clientOf = ({ isIpv6 }: Pick<Step, "isIpv6">) => isIpv6 ? "fd00:2021:1111::1" : "100.64.0.1"
const proxyOf = ({ isIpv6, proxy }: Pick<Step, "isIpv6" | "proxy">) =>
  isIpv6 ? `fd00:2021:1111:8000::${proxy}` : `100.96.0.${proxy}`
const hostOf = ({ host, isIpv6 }: Pick<Step, "isIpv6" | "host">) => isIpv6 ? `2001:db8::${host}` : `10.0.0.${host}`

const packet = (kind: Kind, from: string, to: string, source: number, destination: number, flags: number) => {
  if (kind === "ping") return ping({ from, to }, source === SERVICE ? destination : source)
  if (kind === "udp") return udp({ from, to }, destination, "x", source)
  const bytes = tcp({ from, to }, destination, flags)
  setSourcePort(parsed(bytes), source)
  return bytes
}
const outgoing = (step: Step) => packet(step.kind, clientOf(step), proxyOf(step), step.port, SERVICE, step.flags)
const incoming = (step: Step) => packet(step.kind, hostOf(step), clientOf(step), SERVICE, step.port, step.flags)

/** The rules of tunnel spec 14.5, one by one. */
class Model {
  #now = 0
  #sessions: ReadonlyArray<Session> = []

  get size(): number {
    return this.#sessions.filter(({ isExpired }) => !isExpired).length
  }

  advance(seconds: number): void {
    for (let i = 0; i < seconds; i++) {
      this.#now += SECOND
      for (const session of this.#sessions) {
        if (!session.isExpired && this.#end(session) <= this.#now) session.isExpired = true
      }
    }
  }

  out(step: Step): Uint8Array {
    const known = this.#inside(step)
    const isOver = known?.isReset === true || known?.finished.size === 2
    if (known !== undefined && isOver && step.kind === "tcp" && step.flags === SYN) known.isExpired = true
    const session = this.#inside(step) ?? this.#begin(step)
    session.last = this.#now
    session.lastOut = this.#now
    if (step.kind === "tcp" && step.flags === FIN) session.finished.add("out")
    if (step.kind === "tcp" && step.flags === RST) session.isReset = true
    return packet(step.kind, clientOf(step), hostOf(session), session.outside, SERVICE, step.flags)
  }

  back(step: Step): Uint8Array | Inward {
    const session = this.#sessions.find((each) =>
      sameSide(each, step) && each.host === step.host && each.outside === step.port
    )
    if (session === undefined) return Inward.Foreign
    if (session.isExpired) return Inward.Expired
    session.last = this.#now
    session.isAnswered = true
    if (step.kind === "tcp" && step.flags === FIN) session.finished.add("in")
    if (step.kind === "tcp" && step.flags === RST) session.isReset = true
    return packet(step.kind, proxyOf(session), clientOf(step), SERVICE, session.inside, step.flags)
  }

  #inside(step: Step): Session | undefined {
    return this.#sessions.find((each) =>
      !each.isExpired && sameSide(each, step) && each.proxy === step.proxy && each.inside === step.port
    )
  }

  #begin(step: Step): Session {
    const taken = this.#sessions.filter((each) => !each.isExpired && sameSide(each, step) && each.host === step.host)
      .map(({ outside }) => outside)
    const upwards = Array.from({ length: Math.min(20, 65_536 - step.port) }, (_, index) => step.port + index)
    const around = Array.from({ length: 20 }, (_, index) => index + 1)
    const outside = [...upwards, ...around].find((port) => !taken.includes(port)) ?? 0
    const session: Session = {
      ...step,
      inside: step.port,
      outside,
      last: 0,
      lastOut: 0,
      isAnswered: false,
      finished: new Set(),
      isReset: false,
      isExpired: false
    }
    const others = this.#sessions.filter((each) =>
      !(sameSide(each, step) && each.host === step.host && each.outside === outside)
    )
    this.#sessions = [...others, session]
    return session
  }

  #end({ finished, isAnswered, isReset, kind, last, lastOut }: Session): number {
    return Math.min(
      last + (kind === "tcp" ? 7440 : 120) * SECOND,
      isAnswered ? Number.POSITIVE_INFINITY : lastOut + 60 * SECOND,
      finished.size === 2 ? last + 5 * SECOND : Number.POSITIVE_INFINITY,
      isReset ? last : Number.POSITIVE_INFINITY
    )
  }
}

const sameSide = (a: Pick<Step, "kind" | "isIpv6">, b: Pick<Step, "kind" | "isIpv6">): boolean =>
  a.kind === b.kind && a.isIpv6 === b.isIpv6

// Few ports, around the end of their range, so that sessions meet.
const move = {
  kind: fc.constantFrom<Kind>("udp", "tcp", "tcp", "tcp", "ping"),
  isIpv6: fc.constantFrom(false, false, false, true),
  proxy: fc.constantFrom(1, 2),
  host: fc.constantFrom(1, 1, 2),
  port: fc.constantFrom(65_535, 1)
}
const step = fc.oneof(
  {
    weight: 5,
    arbitrary: fc.record({ ...move, what: fc.constant("out"), flags: fc.constantFrom(ACK, SYN, FIN, RST) })
  },
  { weight: 5, arbitrary: fc.record({ ...move, what: fc.constant("back"), flags: fc.constantFrom(ACK, FIN, RST) }) },
  { weight: 2, arbitrary: fc.record({ what: fc.constant("wait"), seconds: fc.constantFrom(1, 4, 5, 59, 60, 120) }) }
)

it("does what a plain list of sessions does", () => {
  fc.assert(
    fc.property(fc.array(step, { minLength: 1, maxLength: 80 }), (steps) => {
      const nat = new NatHarness()
      const model = new Model()
      for (const each of steps) {
        if ("seconds" in each) {
          nat.advance(each.seconds * SECOND)
          model.advance(each.seconds)
        }
        const [found, expected] = "seconds" in each
          ? []
          : each.what === "out"
          ? [nat.out(outgoing(each), hostOf(each)), model.out(each)]
          : [nat.back(incoming(each)), model.back(each)]
        expect(found).toEqual(expected)
        expect(nat.table.size).toBe(model.size)
      }
    }),
    { numRuns: 300 }
  )
})
