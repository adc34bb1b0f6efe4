import * as Effect from "effect/Effect"
import * as Either from "effect/Either"
import * as Layer from "effect/Layer"
import { memoryAddress } from "../../ffi/memory.ts"
import type { SyscallError } from "../../ffi/SyscallError.ts"
import {
  type Adapter,
  AF_INET,
  AF_INET6,
  decodeAdapters,
  decodeForwardRow,
  decodeSockaddrInet,
  encodeSockaddrInet,
  MIB_IPFORWARD_ROW2,
  SOCKADDR_INET
} from "../../ffi/windows/ipHelperLayout.ts"
import { ERROR_BUFFER_OVERFLOW, type IpHelper, ipHelper, win32Error } from "../../ffi/windows/iphlpapi.ts"
import { TUNNEL_NAME_WINDOWS } from "../../model/policyRouting.ts"
import type { IpAddress, Route, RouteCandidate, RouteExplanation } from "../../model/Route.ts"
import { familyOf, ipFromBytes, ipToBytes } from "../../protocol/wire/address.ts"
import { NoRoute, RouteQueryFailed, RouteResolver } from "../../services/RouteResolver.ts"
import { selectRoute, whyItLost } from "./selectRoute.ts"

export interface RouteResolverWindowsOptions {
  /** The adapter that no route of ours may use. */
  readonly tunnelName: string
}

/** What is large enough on most machines (host spec section 11.2, step 1). */
const ADAPTERS_BUFFER = 15_000
const ADAPTERS_BUFFER_LIMIT = 1 << 24

const readAdapters = (helper: IpHelper): Either.Either<ReadonlyArray<Adapter>, SyscallError> => {
  let buffer = new Uint8Array(ADAPTERS_BUFFER)
  let { code, length } = helper.getAdaptersAddresses(buffer)
  if (code === ERROR_BUFFER_OVERFLOW && length <= ADAPTERS_BUFFER_LIMIT) {
    buffer = new Uint8Array(length)
    code = helper.getAdaptersAddresses(buffer).code
  }
  return code === 0
    ? Either.right(decodeAdapters(buffer, memoryAddress(buffer)))
    : Either.left(win32Error("GetAdaptersAddresses", code))
}

const toIp = (bytes: Uint8Array): IpAddress => ipFromBytes(bytes, 0, bytes.length === 4 ? 4 : 6)

const indexOf = ({ ifIndex, ipv6IfIndex }: Adapter): number => ifIndex === 0 ? ipv6IfIndex : ifIndex
const nameOf = (adapter: Adapter): string => adapter.friendlyName ?? `#${indexOf(adapter)}`

/** The best route through this adapter, or why it has none. */
const routeThrough = (
  helper: IpHelper,
  { tunnelName }: RouteResolverWindowsOptions,
  destination: IpAddress,
  adapter: Adapter
): Either.Either<Route, string> => {
  if (adapter.friendlyName === tunnelName) {
    return Either.left("it is our own tunnel: the packet would come back to us")
  }
  if (!adapter.isUp) return Either.left("the interface is down")
  const row = new Uint8Array(MIB_IPFORWARD_ROW2.size)
  const sourceBytes = new Uint8Array(SOCKADDR_INET.size)
  const code = helper.getBestRoute2(adapter.luid, encodeSockaddrInet(ipToBytes(destination)), row, sourceBytes)
  if (code !== 0) {
    const { errno } = win32Error("GetBestRoute2", code)
    return Either.left(`it has no route to the destination (${errno === "UNKNOWN" ? code : errno})`)
  }
  const family = familyOf(destination) === 4 ? AF_INET : AF_INET6
  const source = decodeSockaddrInet(sourceBytes, 0, family)
  if (source === undefined) return Either.left("the system names no source address")
  const { interfaceIndex, metric, nextHop, prefixLength } = decodeForwardRow(row, family)
  return Either.right({
    destination,
    source: toIp(source),
    interfaceIndex,
    interfaceName: nameOf(adapter),
    ...(nextHop === undefined ? {} : { nextHop: toIp(nextHop) }),
    prefixLength,
    // The row's metric is an offset to the interface's (netioapi.h).
    metric: metric + (family === AF_INET ? adapter.ipv4Metric : adapter.ipv6Metric)
  })
}

const make = (helper: IpHelper, options: RouteResolverWindowsOptions): RouteResolver["Type"] => {
  /** Every adapter with its route, in the system's order, which decides between equals. */
  const ask = (destination: IpAddress) =>
    Effect.suspend(() =>
      Either.mapBoth(readAdapters(helper), {
        onLeft: (cause) => new RouteQueryFailed({ destination, cause }),
        onRight: (adapters) =>
          adapters.map((adapter) => ({ adapter, route: routeThrough(helper, options, destination, adapter) }))
      })
    )
  const choose = (asked: ReadonlyArray<{ readonly route: Either.Either<Route, string> }>): Route | undefined =>
    selectRoute(asked.flatMap(({ route }) => Either.isRight(route) ? [route.right] : []))

  return RouteResolver.of({
    resolve: Effect.fnUntraced(function*(destination) {
      const chosen = choose(yield* ask(destination))
      return chosen ?? (yield* new NoRoute({ destination, reason: NO_WAY }))
    }),
    explain: Effect.fnUntraced(function*(destination) {
      const asked = yield* ask(destination)
      const chosen = choose(asked)
      const candidates = asked.map(({ adapter, route }): RouteCandidate => {
        if (Either.isLeft(route)) {
          return { interfaceName: nameOf(adapter), interfaceIndex: indexOf(adapter), rejected: route.left }
        }
        return chosen === undefined || route.right === chosen
          ? route.right
          : { ...route.right, rejected: whyItLost(route.right, chosen) }
      })
      const explanation: RouteExplanation = {
        destination,
        chosen,
        ...(chosen === undefined ? { reason: NO_WAY } : {}),
        candidates: [
          ...candidates.filter(({ rejected }) => rejected === undefined),
          ...candidates.filter(({ rejected }) => rejected !== undefined)
        ]
      }
      return explanation
    })
  })
}

const NO_WAY = "ERROR_HOST_UNREACHABLE"

export const layerOver = (helper: IpHelper, options: RouteResolverWindowsOptions): Layer.Layer<RouteResolver> =>
  Layer.sync(RouteResolver, () => make(helper, options))

export const layerWith = (options: RouteResolverWindowsOptions): Layer.Layer<RouteResolver> =>
  layerOver(ipHelper, options)

/** Asks each adapter for its best route and chooses as host spec section 11.2 says, without our own tunnel. */
export const layer = layerWith({ tunnelName: TUNNEL_NAME_WINDOWS })
