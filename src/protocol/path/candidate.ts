/** Candidates of the path mode: their text and their kinds (connectivity spec 8.4). */
import { parseCandidate } from "../ice/candidate.ts"
import { type IpAddress, ipToBytes, type SocketAddress } from "../wire/address.ts"

export type PathCandidateKind = "host" | "srflx" | "relay"

/** Kind, address and base together name a candidate. */
export interface PathCandidate {
  readonly kind: PathCandidateKind
  readonly address: SocketAddress
  /** The socket's address that it belongs to, that of a host candidate being itself. */
  readonly base: SocketAddress
}

const KIND_BYTE: { readonly [kind in PathCandidateKind]: number } = { host: 0, srflx: 1, relay: 2 }
/** RFC 8445 section 5.1.2.1 with the type preferences 126, 100 and 0. */
const PRIORITY: { readonly [kind in PathCandidateKind]: number } = {
  host: 2_130_706_431,
  srflx: 1_694_498_815,
  relay: 16_777_215
}

/** As text; to be withdrawn with the very same one. */
export const formatPathCandidate = (candidate: PathCandidate): string => {
  const { address, base, kind } = candidate
  const related = kind === "host" ? "" : ` raddr ${base.address} rport ${base.port}`
  return `candidate:${foundation(candidate)} 1 udp ${PRIORITY[kind]} ${address.address} ${address.port} typ ${kind}`
    + related
}

/**
 * Reads a candidate of the peer; `undefined` for anything that cannot be used: what no ICE agent could use either, and a
 * reflexive or relayed address without its base.
 */
export const parsePathCandidate = (text: string): PathCandidate | undefined => {
  const parsed = parseCandidate(text)
  if (parsed === undefined || parsed.kind === "prflx") return undefined
  const { address, kind } = parsed
  const base = kind === "host" ? address : parsed.related
  if (base === undefined || (kind === "srflx" && base.family !== address.family)) return undefined
  return { kind, address, base }
}

export const isSameCandidate = (left: PathCandidate, right: PathCandidate): boolean =>
  left.kind === right.kind && left.address.text === right.address.text && left.base.text === right.base.text

/** FNV-1a over everything that names the candidate, in 64 bits. */
const foundation = ({ address, base, kind }: PathCandidate): string => {
  let hash = 0xcbf2_9ce4_8422_2325n
  const related = kind === "host" ? [] : octets(base.address, base.port)
  for (const byte of [KIND_BYTE[kind], ...octets(address.address, address.port), ...related]) {
    hash = BigInt.asUintN(64, (hash ^ BigInt(byte)) * 0x100_0000_01b3n)
  }
  return hash.toString()
}

const octets = (address: IpAddress, port: number): ReadonlyArray<number> => [
  ...ipToBytes(address),
  port >> 8,
  port & 0xff
]
