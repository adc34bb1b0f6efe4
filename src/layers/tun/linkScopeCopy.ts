import * as Effect from "effect/Effect"
import * as Either from "effect/Either"
import type * as Scope from "effect/Scope"
import * as Stream from "effect/Stream"
import { ERRNO } from "../../ffi/linux/libc.ts"
import type { NetlinkRequests } from "../../ffi/linux/netlink.ts"
import type { RouteMessage } from "../../ffi/linux/rtnetlinkDecode.ts"
import { decodeLink, decodeRoute } from "../../ffi/linux/rtnetlinkDecode.ts"
import { copyRoute, deleteRoute, dumpLinks, dumpRoutes } from "../../ffi/linux/rtnetlinkEncode.ts"
import {
  AF_INET,
  AF_INET6,
  OPERSTATE_UP,
  ROUTE_TYPE,
  RT_SCOPE,
  RT_TABLE,
  RTPROT
} from "../../ffi/linux/rtnetlinkLayout.ts"
import { SyscallError } from "../../ffi/SyscallError.ts"
import { type NetworkChange, type NetworkMonitorFailed, resubscribe } from "../../services/NetworkChanges.ts"

interface Dumped {
  readonly route: RouteMessage
  /** The message, to be sent back with another table. */
  readonly body: Uint8Array
  readonly key: string
}

const dumped = (body: Uint8Array, table: number): Dumped | undefined => {
  const route = decodeRoute(body)
  if (route === undefined || route.table !== table) return undefined
  const { destination, gateway, outputInterface, preferredSource, prefixLength, priority, tos } = route
  return {
    route,
    body: body.slice(),
    key: [destination, prefixLength, tos, priority ?? 0, outputInterface, gateway, preferredSource].join(" ")
  }
}

/**
 * Whether a route of the main table belongs to a local network. IPv6 routes have no link scope: there it is those that
 * the kernel made for the addresses (host spec section 17, item 10), or that a network daemon made in its place of what a
 * router announces as on-link. A default route through a device without a gateway (a modem) has link scope too, and its
 * copy would beat the internet resource.
 */
const isLocalNetwork = ({ family, gateway, prefixLength, protocol, scope, type }: RouteMessage): boolean =>
  type === ROUTE_TYPE.UNICAST && prefixLength > 0 && (family === AF_INET
    ? scope === RT_SCOPE.LINK
    : protocol === RTPROT.KERNEL || protocol === RTPROT.RA && gateway === undefined)

const read = (
  netlink: NetlinkRequests,
  table: number,
  keep: (dumped: Dumped) => boolean
): Either.Either<ReadonlyArray<Dumped>, SyscallError> => {
  const found: Array<Dumped> = []
  for (const family of [AF_INET, AF_INET6] as const) {
    const routes = netlink.dump(dumpRoutes(family, table), "list routes", (body) => {
      const one = dumped(body, table)
      return one !== undefined && one.route.family === family && keep(one) ? one : undefined
    })
    if (Either.isRight(routes)) found.push(...routes.right)
    // No such table yet, or no such family: nothing to copy.
    else if (routes.left.code !== ERRNO.ENOENT && routes.left.code !== ERRNO.EOPNOTSUPP) return routes
  }
  return Either.right(found)
}

/**
 * Makes the link-scope table hold the main table's local networks on links that are up, and nothing else (host spec
 * section 8.5). Returns the failures of single routes.
 */
export const syncLinkScope = (
  netlink: NetlinkRequests,
  tunnelIndex: number,
  table: number
): Either.Either<ReadonlyArray<SyscallError>, SyscallError> => {
  const links = netlink.dump(dumpLinks(), "list links", decodeLink)
  if (Either.isLeft(links)) return Either.left(links.left)
  const up = new Set(links.right.filter(({ operState }) => operState === OPERSTATE_UP).map(({ index }) => index))
  const wanted = read(
    netlink,
    RT_TABLE.MAIN,
    ({ route }) =>
      isLocalNetwork(route) && route.outputInterface !== undefined && route.outputInterface !== tunnelIndex
      && up.has(route.outputInterface)
  )
  if (Either.isLeft(wanted)) return Either.left(wanted.left)
  const present = read(netlink, table, () => true)
  if (Either.isLeft(present)) return Either.left(present.left)

  const wantedKeys = new Set(wanted.right.map(({ key }) => key))
  const presentKeys = new Set(present.right.map(({ key }) => key))
  const failures: Array<SyscallError> = []
  const apply = (request: Uint8Array, what: string, fine: ReadonlyArray<number>): void => {
    const outcome = netlink.acknowledge(request, what)
    if (Either.isLeft(outcome) && !fine.includes(outcome.left.code)) failures.push(outcome.left)
  }
  for (const { key, route } of present.right) {
    if (!wantedKeys.has(key)) apply(deleteRoute(route), "withdraw local network", [ERRNO.ENOENT, ERRNO.ESRCH])
  }
  for (const { body, key } of wanted.right) {
    if (!presentKeys.has(key)) {
      apply(copyRoute(body, table), "copy local network", [ERRNO.EEXIST, ERRNO.EOPNOTSUPP])
    }
  }
  return Either.right(failures)
}

const SETTLE = "500 millis"

/**
 * Keeps the copy up to date while the scope lasts, 500 ms after a change; what changes meanwhile counts as one more. Not
 * debounced: on a machine whose routes never rest the copy would never be made.
 */
export const keepLinkScopeCopy = (
  netlink: NetlinkRequests,
  changes: Stream.Stream<NetworkChange, NetworkMonitorFailed>,
  tunnelIndex: number,
  table: number
): Effect.Effect<void, never, Scope.Scope> =>
  changes.pipe(
    Stream.buffer({ capacity: 1, strategy: "sliding" }),
    Stream.mapEffect(() => Effect.delay(Effect.suspend(() => syncLinkScope(netlink, tunnelIndex, table)), SETTLE)),
    Stream.runForEach((failures) =>
      Effect.forEach(failures, (error) =>
        Effect.logWarning("a local network could not be kept reachable").pipe(
          Effect.annotateLogs("error", error.message)
        ), { discard: true })
    ),
    Effect.tapError((error) =>
      Effect.logWarning("cannot follow the local networks, trying again").pipe(
        Effect.annotateLogs("error", error instanceof SyscallError ? error.message : String(error.cause))
      )
    ),
    Effect.retry(resubscribe),
    Effect.annotateLogs("service", "TunInterface"),
    Effect.interruptible,
    Effect.forkScoped,
    Effect.asVoid
  )
