/** What the model says of a packet or a query. */
import type { Protocol } from "./rules.ts"

/** A packet of an application; its id is the source port, or the identifier of an echo, and nobody else's. */
export interface Packet {
  readonly id: number
  readonly from: string
  readonly to: string
  /** `other` is a protocol without ports. */
  readonly protocol: Protocol | "other"
  readonly port: number
  /** Of a TCP connection that is up; else its first. */
  readonly segment?: "data" | "end" | undefined
  /** What the host that gets it does. */
  readonly ending: "reply" | "error" | "silence"
  /** Past the rules of the client's own core, straight into the tunnel to this peer (R3, R8). */
  readonly past?: string | undefined
}

export type Fate =
  /** It waits for a grant, and nothing is to be seen of it. */
  | { readonly _tag: "waiting"; readonly for: string }
  | { readonly _tag: "dropped" }
  /** Answered by an ICMP error that is not the host's. */
  | { readonly _tag: "refused"; readonly kind: "prohibited" | "unreachable-net" }
  /** It comes out of this gateway's or client's TUN device, once, for one of these addresses. */
  | { readonly _tag: "delivered"; readonly at: string; readonly to: ReadonlyArray<string> }

export const dropped: Fate = { _tag: "dropped" }
export const prohibited: Fate = { _tag: "refused", kind: "prohibited" }
export const unreachable: Fate = { _tag: "refused", kind: "unreachable-net" }

/** A packet on its way, and what has become of it so far. */
export interface Journey {
  readonly packet: Packet
  readonly client: string
  fate: Fate
}

/** A query of an application to one of the client's own servers. */
export interface Question {
  readonly sentinel: string
  readonly name: string
  readonly type: string
  readonly transport: "udp" | "tcp"
}

export interface Answer {
  readonly code: "NOERROR" | "NXDOMAIN" | "SERVFAIL"
  readonly data: ReadonlyArray<string>
}

/** A query on its way: what is to be answered, and which servers are to be asked for it. */
export interface Inquiry {
  readonly question: Question
  readonly client: string
  /** `undefined`: nothing as yet, or nothing at all. */
  answer: Answer | undefined
  /** What waits for a grant may be given up with an answer or without one (12.15). */
  isGivenUp: boolean
  /** Who is asked, such as `outside 9.9.9.9` or `GATEWAY 10.1.2.53`. */
  asked: string | undefined
}
