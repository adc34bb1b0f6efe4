import * as Effect from "effect/Effect"
import * as Either from "effect/Either"
import * as Layer from "effect/Layer"
import { ERRNO } from "../../ffi/linux/libc.ts"
import { NetlinkRequests } from "../../ffi/linux/netlink.ts"
import type { AddressMessage, LinkMessage, RouteMessage } from "../../ffi/linux/rtnetlinkDecode.ts"
import { decodeAddress, decodeLink, decodeRoute } from "../../ffi/linux/rtnetlinkDecode.ts"
import { dumpAddresses, dumpLinks, getLinkByIndex, getRoute } from "../../ffi/linux/rtnetlinkEncode.ts"
import { AF_INET6, IFA_F, IFF, ROUTE_TYPE, RT_TABLE, RTM_F } from "../../ffi/linux/rtnetlinkLayout.ts"
import type { SyscallError } from "../../ffi/SyscallError.ts"
import { SOCKET_MARK, TUNNEL_NAME_LINUX } from "../../model/policyRouting.ts"
import type { IpAddress, Route, RouteCandidate, RouteExplanation } from "../../model/Route.ts"
import { ipFromBytes, ipToBytes, withZone, zoneOf } from "../../protocol/wire/address.ts"
import type { RouteError } from "../../services/RouteResolver.ts"
import { NoRoute, RouteQueryFailed, RouteResolver } from "../../services/RouteResolver.ts"
import { selectRoute, whyItLost } from "./selectRoute.ts"

export interface RouteResolverLinuxOptions {
  /** The interface that no route of ours may use. */
  readonly tunnelName: string
  /** The mark of our sockets; policy rules may depend on it. */
  readonly mark: number
}

const toIp = (bytes: Uint8Array): IpAddress => ipFromBytes(bytes, 0, bytes.length === 4 ? 4 : 6)

const typeNames = new Map<number, string>(
  Object.entries(ROUTE_TYPE).map(([name, type]) => [type, name.toLowerCase()])
)

// What the kernel says when there is no way, as opposed to when it could not be asked (host spec section 11.5).
// EINVAL is a blackhole route: our requests are well-formed.
const noWay: ReadonlySet<number> = new Set([
  ERRNO.ENETUNREACH,
  ERRNO.EHOSTUNREACH,
  ERRNO.EACCES,
  ERRNO.EINVAL,
  ERRNO.ENETDOWN,
  ERRNO.EADDRNOTAVAIL,
  ERRNO.EAFNOSUPPORT,
  ERRNO.EOPNOTSUPP
])

const routeError = (destination: IpAddress, error: SyscallError): RouteError =>
  noWay.has(error.code)
    ? new NoRoute({ destination, reason: error.errno })
    : new RouteQueryFailed({ destination, cause: error })

const samePrefix = (left: Uint8Array, right: Uint8Array, bits: number): boolean => {
  for (let i = 0, rest = bits; rest > 0; i++, rest -= 8) {
    const mask = rest >= 8 ? 0xff : 0xff << (8 - rest) & 0xff
    if ((((left[i] ?? 0) ^ (right[i] ?? 0)) & mask) !== 0) return false
  }
  return true
}

const isStable = ({ flags }: AddressMessage): boolean =>
  (flags & (IFA_F.TEMPORARY | IFA_F.DEPRECATED | IFA_F.DADFAILED)) === 0
  && ((flags & IFA_F.TENTATIVE) === 0 || (flags & IFA_F.OPTIMISTIC) !== 0)

/**
 * The address to pin instead of `source`: if that is temporary or deprecated, a stable one of the same prefix. The
 * kernel's answer does not know that our sockets prefer stable ones, and a temporary one would change daily.
 */
export const stableSource = (source: Uint8Array, addresses: ReadonlyArray<AddressMessage>): Uint8Array => {
  const current = addresses.find(({ address }) => samePrefix(address, source, 128))
  if (current === undefined || (current.flags & (IFA_F.TEMPORARY | IFA_F.DEPRECATED)) === 0) return source
  return addresses.find((other) =>
    isStable(other) && other.prefixLength === current.prefixLength
    && samePrefix(other.address, source, current.prefixLength)
  )?.address ?? source
}

interface LinkRoute {
  readonly link: LinkMessage
  readonly match: RouteMessage
  readonly prefixLength: number
  readonly metric: number
}

/** The questions to the kernel; each is a few microseconds and synchronous. */
class Asker {
  readonly #netlink: NetlinkRequests
  readonly #options: RouteResolverLinuxOptions

  constructor(netlink: NetlinkRequests, options: RouteResolverLinuxOptions) {
    this.#netlink = netlink
    this.#options = options
  }

  route(destination: Uint8Array, flags: number, outputInterface?: number): Either.Either<RouteMessage, SyscallError> {
    return this.#netlink.ask(
      getRoute(destination, {
        mark: this.#options.mark,
        // Without it IPv4 always answers "main"; IPv6 tells the true table anyhow, and refuses the flag.
        flags: destination.length === 4 ? flags | RTM_F.LOOKUP_TABLE : flags,
        outputInterface
      }),
      "RTM_GETROUTE",
      decodeRoute
    )
  }

  link(index: number): Either.Either<LinkMessage, SyscallError> {
    return this.#netlink.ask(getLinkByIndex(index), "RTM_GETLINK", decodeLink)
  }

  links(): Either.Either<ReadonlyArray<LinkMessage>, SyscallError> {
    return this.#netlink.dump(dumpLinks(), "RTM_GETLINK", decodeLink)
  }

  /** The source to pin for `answer`; `undefined` if the kernel has none. */
  source(answer: RouteMessage, match: RouteMessage | undefined): Uint8Array | undefined {
    if (match?.preferredSource !== undefined) return match.preferredSource // the administrator's choice
    const source = answer.preferredSource
    if (source === undefined || source.length === 4 || answer.outputInterface === undefined) return source
    const addresses = this.#netlink.dump(dumpAddresses(AF_INET6, answer.outputInterface), "RTM_GETADDR", (body) => {
      const address = decodeAddress(body)
      return address?.family === AF_INET6 && address.index === answer.outputInterface ? address : undefined
    })
    return Either.isRight(addresses) ? stableSource(source, addresses.right) : source
  }

  isTunnel(link: LinkMessage): boolean {
    return link.name === this.#options.tunnelName
  }
}

const routeOf = (
  destination: IpAddress,
  link: LinkMessage,
  answer: RouteMessage,
  source: Uint8Array,
  match: RouteMessage | undefined
): Route => {
  const local = answer.type === ROUTE_TYPE.LOCAL
  return {
    destination,
    source: toIp(source),
    interfaceIndex: link.index,
    interfaceName: link.name ?? `#${link.index}`,
    ...(answer.gateway === undefined ? {} : { nextHop: toIp(answer.gateway) }),
    prefixLength: local ? source.length * 8 : (match ?? answer).prefixLength,
    metric: local ? 0 : (match ?? answer).priority ?? 0,
    table: local ? RT_TABLE.LOCAL : answer.table // IPv4 would say main for a local one
  }
}

const whyUnusable = (link: LinkMessage): string | undefined =>
  (link.flags & IFF.UP) === 0
    ? "the interface is down"
    : (link.flags & IFF.RUNNING) === 0
    ? "the interface has no carrier"
    : undefined

/** The route that a lookup restricted to `link` finds. FIB_MATCH, or IPv4 would assume that everything is on-link. */
const routeOnLink = (asker: Asker, bytes: Uint8Array, link: LinkMessage): Either.Either<LinkRoute, string> => {
  const match = asker.route(bytes, RTM_F.FIB_MATCH, link.index)
  if (Either.isLeft(match)) return Either.left(`it has no route to the destination (${match.left.errno})`)
  const { outputInterface, prefixLength, priority, type } = match.right
  if (type !== ROUTE_TYPE.UNICAST) return Either.left(`its route is of type ${typeNames.get(type) ?? type}`)
  // A multipath route names its interfaces elsewhere; any other one must be on this link.
  if (outputInterface !== undefined && outputInterface !== link.index) {
    return Either.left("it has no route to the destination")
  }
  return Either.right({ link, match: match.right, prefixLength, metric: priority ?? 0 })
}

/** Without policy rules the kernel would send our packets into the tunnel: choose among the other links ourselves. */
const resolveAroundTunnel = (
  asker: Asker,
  destination: IpAddress,
  bytes: Uint8Array
): Either.Either<Route, RouteError> => {
  const links = asker.links()
  if (Either.isLeft(links)) return Either.left(new RouteQueryFailed({ destination, cause: links.left }))
  const found: Array<LinkRoute> = []
  for (const link of links.right) {
    if (asker.isTunnel(link) || (link.flags & IFF.LOOPBACK) !== 0 || whyUnusable(link) !== undefined) continue
    const onLink = routeOnLink(asker, bytes, link)
    if (Either.isRight(onLink)) found.push(onLink.right)
  }
  const best = selectRoute(found)
  if (best === undefined) return Either.left(new NoRoute({ destination, reason: "EHOSTUNREACH" }))
  const answer = asker.route(bytes, 0, best.link.index)
  if (Either.isLeft(answer)) return Either.left(routeError(destination, answer.left))
  const source = asker.source(answer.right, best.match)
  if (source === undefined) return Either.left(new NoRoute({ destination, reason: "no source address" }))
  return Either.right(routeOf(destination, best.link, { ...answer.right, table: best.match.table }, source, best.match))
}

/** Of an address that is link-local: there is no other way than its link, and no other source than ours there. */
const resolveOnZone = (asker: Asker, destination: IpAddress, zone: string): Either.Either<Route, RouteError> => {
  const links = asker.links()
  if (Either.isLeft(links)) return Either.left(new RouteQueryFailed({ destination, cause: links.left }))
  const link = links.right.find(({ index, name }) => name === zone || String(index) === zone)
  if (link === undefined) return Either.left(new NoRoute({ destination, reason: `there is no interface ${zone}` }))
  if (asker.isTunnel(link)) return Either.left(new NoRoute({ destination, reason: "it is behind our own tunnel" }))
  const bytes = ipToBytes(destination)
  const answer = asker.route(bytes, 0, link.index)
  if (Either.isLeft(answer)) return Either.left(routeError(destination, answer.left))
  const source = asker.source(answer.right, undefined)
  if (source === undefined) return Either.left(new NoRoute({ destination, reason: "no source address" }))
  const route = routeOf(destination, link, answer.right, source, undefined)
  return Either.right({ ...route, source: withZone(route.source, zone) })
}

const resolveWith = (asker: Asker, destination: IpAddress): Either.Either<Route, RouteError> => {
  const zone = zoneOf(destination)
  if (zone !== undefined) return resolveOnZone(asker, destination, zone)
  const bytes = ipToBytes(destination)
  const asked = asker.route(bytes, 0)
  if (Either.isLeft(asked)) return Either.left(routeError(destination, asked.left))
  const answer = asked.right
  if (answer.type !== ROUTE_TYPE.UNICAST && answer.type !== ROUTE_TYPE.LOCAL) {
    return Either.left(new NoRoute({ destination, reason: typeNames.get(answer.type) ?? `type ${answer.type}` }))
  }
  if (answer.outputInterface === undefined) return Either.left(new NoRoute({ destination, reason: "no interface" }))
  const link = asker.link(answer.outputInterface)
  if (Either.isLeft(link)) return Either.left(new RouteQueryFailed({ destination, cause: link.left }))
  if (asker.isTunnel(link.right) && answer.type === ROUTE_TYPE.UNICAST) {
    return resolveAroundTunnel(asker, destination, bytes)
  }
  // The plain answer says /32 or /128: what matched is asked for by itself.
  const matched = answer.type === ROUTE_TYPE.LOCAL ? undefined : asker.route(bytes, RTM_F.FIB_MATCH)
  const match = matched !== undefined && Either.isRight(matched)
      && (matched.right.outputInterface ?? answer.outputInterface) === answer.outputInterface
    ? matched.right
    : undefined
  const source = asker.source(answer, match)
  return source === undefined
    ? Either.left(new NoRoute({ destination, reason: "no source address" }))
    : Either.right(routeOf(destination, link.right, answer, source, match))
}

const explainWith = (
  asker: Asker,
  destination: IpAddress
): Either.Either<RouteExplanation, RouteQueryFailed> => {
  const decision = resolveWith(asker, destination)
  if (Either.isLeft(decision) && decision.left._tag === "RouteQueryFailed") return Either.left(decision.left)
  const chosen = Either.isRight(decision) ? decision.right : undefined
  const reason = Either.isLeft(decision) && decision.left._tag === "NoRoute" ? decision.left.reason : undefined
  const links = asker.links()
  if (Either.isLeft(links)) return Either.left(new RouteQueryFailed({ destination, cause: links.left }))
  const bytes = ipToBytes(destination)
  const others = links.right
    .filter((link) => link.index !== chosen?.interfaceIndex && (link.flags & IFF.LOOPBACK) === 0)
    .map((link): RouteCandidate => {
      const name = { interfaceName: link.name ?? `#${link.index}`, interfaceIndex: link.index }
      if (asker.isTunnel(link)) return { ...name, rejected: "it is our own tunnel: the packet would come back to us" }
      const unusable = whyUnusable(link)
      if (unusable !== undefined) return { ...name, rejected: unusable }
      const onLink = routeOnLink(asker, bytes, link)
      if (Either.isLeft(onLink)) return { ...name, rejected: onLink.left }
      const { match, metric, prefixLength } = onLink.right
      const answer = asker.route(bytes, 0, link.index)
      const source = Either.isRight(answer) ? asker.source(answer.right, match) : undefined
      return {
        ...name,
        source: source === undefined ? undefined : toIp(source),
        nextHop: match.gateway === undefined ? undefined : toIp(match.gateway),
        prefixLength,
        metric,
        table: match.table,
        rejected: chosen === undefined
          ? `the system refuses the destination before it comes to this (${reason})`
          : whyItLost({ prefixLength, metric, table: match.table }, chosen)
      }
    })
  const winner: ReadonlyArray<RouteCandidate> = chosen === undefined ? [] : [{
    interfaceName: chosen.interfaceName,
    interfaceIndex: chosen.interfaceIndex,
    source: chosen.source,
    nextHop: chosen.nextHop,
    prefixLength: chosen.prefixLength,
    metric: chosen.metric,
    table: chosen.table
  }]
  return Either.right({ destination, chosen, reason, candidates: [...winner, ...others] })
}

export const layerWith = (
  options: RouteResolverLinuxOptions
): Layer.Layer<RouteResolver, SyscallError> =>
  Layer.scoped(
    RouteResolver,
    Effect.gen(function*() {
      const netlink = yield* Effect.acquireRelease(
        Effect.suspend(() => NetlinkRequests.open()),
        (opened) => Effect.sync(() => opened.close())
      )
      const asker = new Asker(netlink, options)
      return RouteResolver.of({
        resolve: (destination) => Effect.suspend(() => resolveWith(asker, destination)),
        explain: (destination) => Effect.suspend(() => explainWith(asker, destination))
      })
    })
  )

/** Asks the kernel over rtnetlink, synchronously, in the network namespace where the layer was built. */
export const layer = layerWith({ tunnelName: TUNNEL_NAME_LINUX, mark: SOCKET_MARK })
