/** ICE candidates: their text (RFC 8839 section 5.1, connectivity spec 8.2, 8.3) and priorities (spec 9.2, 9.3). */
import { type Family, familyOf, type IpAddress, ipToBytes, parseIp, SocketAddress } from "../wire/address.ts"

export type CandidateKind = "host" | "srflx" | "prflx" | "relay"

/** A candidate of the peer as signalled; `related` is the base it claims, often a placeholder. */
export interface RemoteDescription {
  readonly kind: CandidateKind
  readonly address: SocketAddress
  readonly priority: number
  readonly related?: SocketAddress | undefined
  readonly ufrag?: string | undefined
}

/** Longer texts are not looked at: every known form stays below 200 characters. */
const MAX_TEXT = 512
const MAX_PRIORITY = 0xffff_ffff

const isKind = (text: string | undefined): text is CandidateKind =>
  text === "host" || text === "srflx" || text === "prflx" || text === "relay"

const parseInteger = (text: string | undefined, max: number): number | undefined => {
  if (text === undefined || !/^\d{1,10}$/.test(text)) return undefined
  const value = Number(text)
  return value <= max ? value : undefined
}

const parseEndpoint = (address: string | undefined, port: string | undefined): SocketAddress | undefined => {
  const parsed = address === undefined ? undefined : parseIp(address)
  const parsedPort = parseInteger(port, 65_535)
  return parsed === undefined || parsedPort === undefined ? undefined : new SocketAddress(parsed, parsedPort)
}

/**
 * Whether datagrams may be sent to `address` (spec 8.1): not unspecified, not multicast, for IPv4 also neither link-local
 * nor broadcast. Loopback is allowed.
 */
export const isUsableAddress = (address: IpAddress): boolean => {
  const bytes = ipToBytes(address)
  if (bytes.every((byte) => byte === 0)) return false
  const [first = 0, second = 0] = bytes
  if (bytes.length === 16) return first !== 0xff
  if (first >= 224 && first <= 239) return false
  return !(first === 169 && second === 254) && !bytes.every((byte) => byte === 255)
}

/**
 * Reads a candidate of the peer; `undefined` for anything that cannot be used: another component or transport, a host
 * name, an address that `isUsableAddress` refuses. Unknown extensions are skipped with their values.
 */
export const parseCandidate = (text: string): RemoteDescription | undefined => {
  if (text.length > MAX_TEXT || !text.startsWith("candidate:")) return undefined
  const words = text.slice("candidate:".length).split(" ")
  const [foundation, component, transport, priorityText, host, port, typ, kind] = words
  const priority = parseInteger(priorityText, MAX_PRIORITY)
  const address = parseEndpoint(host, port)
  if (!/^[A-Za-z0-9+/]{1,32}$/.test(foundation ?? "") || component !== "1" || transport?.toLowerCase() !== "udp") {
    return undefined
  }
  if (priority === undefined || address === undefined || typ !== "typ" || !isKind(kind)) return undefined
  if (address.port === 0 || !isUsableAddress(address.address)) return undefined
  const extensions = new Map<string, string>()
  for (let i = 8; i + 1 < words.length; i += 2) extensions.set(words[i] as string, words[i + 1] as string)
  const related = parseEndpoint(extensions.get("raddr"), extensions.get("rport"))
  return { kind, address, priority, related, ufrag: extensions.get("ufrag") }
}

const NOWHERE = { 4: new SocketAddress("0.0.0.0" as IpAddress, 0), 6: new SocketAddress("::" as IpAddress, 0) }

/**
 * Our candidate as text. The base of srflx and relay candidates is kept private. With `ufrag` it is an announcement,
 * without one a withdrawal (spec 8.3).
 */
export const formatCandidate = (
  candidate: { readonly kind: CandidateKind; readonly address: SocketAddress; readonly base: SocketAddress },
  priority: number,
  ufrag: string | undefined
): string => {
  const { address, base, kind } = candidate
  const nowhere = NOWHERE[address.family]
  const related = kind === "host" ? "" : ` raddr ${nowhere.address} rport ${nowhere.port}`
  const suffix = ufrag === undefined ? "" : ` ufrag ${ufrag}`
  return `candidate:${foundation(kind, base)} 1 udp ${priority} ${address.address} ${address.port} typ ${kind}`
    + related + suffix
}

/** Equal for candidates of one kind and base address (RFC 8445 section 5.1.1.3); opaque to the peer: FNV-1a. */
const foundation = (kind: CandidateKind, base: SocketAddress): string => {
  let hash = 0x811c_9dc5
  for (const char of `${kind} ${base.address}`) hash = Math.imul(hash ^ (char.codePointAt(0) ?? 0), 0x0100_0193)
  return (hash >>> 0).toString(16).padStart(8, "0")
}

const TYPE_PREFERENCE: { readonly [kind in CandidateKind]: number } = { host: 126, prflx: 110, srflx: 100, relay: 2 }
const LOCAL_PREFERENCE: { readonly [kind in CandidateKind]: number } = {
  host: 65_535,
  prflx: 49_151,
  srflx: 32_767,
  relay: 16_383
}
/** A relayed address of another family than our socket's costs the relay a translation. */
const CROSS_FAMILY_PENALTY = 1000

/** `nth` counts our candidates of that kind and family from 0; `local` is the socket's address. */
export const localPreference = (kind: CandidateKind, family: Family, nth: number, local: IpAddress): number =>
  Math.max(
    0,
    LOCAL_PREFERENCE[kind] - (family === 6 ? 0 : 1) - 2 * nth
      - (kind === "relay" && familyOf(local) !== family ? CROSS_FAMILY_PENALTY : 0)
  )

/** RFC 8445 section 5.1.2.1, component 1. */
export const candidatePriority = (kind: CandidateKind, preference: number): number =>
  TYPE_PREFERENCE[kind] * 0x100_0000 + preference * 0x100 + 255

/** RFC 8445 section 6.1.2.3. 64 bits, hence a bigint; computed once per pair. */
export const pairPriority = (controlling: number, controlled: number): bigint =>
  (BigInt(Math.min(controlling, controlled)) << 32n) + 2n * BigInt(Math.max(controlling, controlled))
  + (controlling > controlled ? 1n : 0n)

/** Optimistic candidates that one pass adds at most. */
const MAX_OPTIMISTIC = 2

/**
 * Guesses that a port forwarded by the peer's NAT has the number of its local port (spec 8.5): for every pair of an IPv4
 * server-reflexive address and an IPv4 host port, a server-reflexive candidate that is not yet known; at most two.
 */
export const optimisticCandidates = (
  known: ReadonlyArray<{ readonly kind: CandidateKind; readonly address: SocketAddress; readonly priority: number }>
): ReadonlyArray<RemoteDescription> => {
  const found: Array<RemoteDescription> = []
  const taken = new Set(known.map(({ address }) => address.text))
  for (const reflexive of known) {
    if (reflexive.kind !== "srflx" || reflexive.address.family !== 4) continue
    for (const host of known) {
      if (host.kind !== "host" || host.address.family !== 4) continue
      const address = new SocketAddress(reflexive.address.address, host.address.port)
      if (taken.has(address.text)) continue
      taken.add(address.text)
      found.push({ kind: "srflx", address, priority: reflexive.priority, related: host.address })
      if (found.length === MAX_OPTIMISTIC) return found
    }
  }
  return found
}
