import * as Effect from "effect/Effect"
import * as Either from "effect/Either"
import * as Layer from "effect/Layer"
import { ERRNO } from "../../ffi/linux/libc.ts"
import { NetlinkRequests } from "../../ffi/linux/netlink.ts"
import { decodeLink, decodeRoute, decodeRule } from "../../ffi/linux/rtnetlinkDecode.ts"
import { dumpAllRoutes, dumpLinks, dumpRules } from "../../ffi/linux/rtnetlinkEncode.ts"
import {
  type AddressFamily,
  AF_INET,
  AF_INET6,
  FIB_RULE_INVERT,
  FR_ACT_TO_TBL,
  IFF,
  ROUTE_TYPE,
  RT_TABLE,
  RTM_F
} from "../../ffi/linux/rtnetlinkLayout.ts"
import type { SyscallError } from "../../ffi/SyscallError.ts"
import { type Family, type IpAddress, ipFromBytes } from "../../protocol/wire/address.ts"
import {
  InventoryFailed,
  type LinkFacts,
  NetworkInventory,
  type RouteFacts,
  type RuleFacts
} from "../../services/NetworkInventory.ts"

const FAMILIES: ReadonlyArray<AddressFamily> = [AF_INET, AF_INET6]
/** What a kernel without that family, or without policy routing, answers. */
const withoutFamily: ReadonlyArray<number> = [ERRNO.ENOENT, ERRNO.EOPNOTSUPP, ERRNO.EAFNOSUPPORT]

const familyOf = (family: number): Family => family === AF_INET ? 4 : 6
const toIp = (bytes: Uint8Array): IpAddress => ipFromBytes(bytes, 0, bytes.length === 4 ? 4 : 6)
const anything = (family: number): Uint8Array => new Uint8Array(family === AF_INET ? 4 : 16)
/** fe80::/10, ff00::/8. */
const isLinkLocal = (address: Uint8Array): boolean =>
  address.length === 16 && (address[0] === 0xff || (address[0] === 0xfe && ((address[1] ?? 0) & 0xc0) === 0x80))

const link = (body: Uint8Array): LinkFacts | undefined => {
  const message = decodeLink(body)
  return message === undefined ? undefined : {
    index: message.index,
    name: message.name ?? `#${message.index}`,
    isUp: (message.flags & IFF.UP) !== 0,
    isLoopback: (message.flags & IFF.LOOPBACK) !== 0,
    mtu: message.mtu ?? 0,
    kind: message.kind
  }
}

const route = (body: Uint8Array): RouteFacts | undefined => {
  const message = decodeRoute(body)
  if (message === undefined || message.type !== ROUTE_TYPE.UNICAST || (message.flags & RTM_F.CLONED) !== 0) {
    return undefined
  }
  if (message.table === RT_TABLE.LOCAL) return undefined
  const destination = message.destination ?? anything(message.family)
  if (isLinkLocal(destination)) return undefined
  return {
    destination: { address: toIp(destination), bits: message.prefixLength },
    table: message.table,
    interfaceIndex: message.outputInterface,
    nextHop: message.gateway === undefined ? undefined : toIp(message.gateway),
    metric: message.priority ?? 0
  }
}

const rule = (body: Uint8Array): RuleFacts | undefined => {
  const message = decodeRule(body)
  return message === undefined ? undefined : {
    family: familyOf(message.family),
    priority: message.priority,
    table: message.action === FR_ACT_TO_TBL ? message.table : undefined,
    mark: message.mark,
    isInverted: (message.flags & FIB_RULE_INVERT) !== 0
  }
}

const orFail = <A>(result: Either.Either<A, SyscallError>): Effect.Effect<A, InventoryFailed> =>
  Either.isRight(result) ? Effect.succeed(result.right) : new InventoryFailed({ cause: result.left })

/** Both families; one that the kernel does not have is empty. */
const both = <A>(
  netlink: NetlinkRequests,
  request: (family: AddressFamily) => Uint8Array,
  what: string,
  decode: (body: Uint8Array) => A | undefined
) =>
  Effect.map(
    Effect.forEach(FAMILIES, (family) => {
      const found = netlink.dump(request(family), what, decode)
      return orFail(Either.isLeft(found) && withoutFamily.includes(found.left.code) ? Either.right([]) : found)
    }),
    (families) => families.flat()
  )

/** In the network namespace where the layer was built. */
export const layer: Layer.Layer<NetworkInventory, SyscallError> = Layer.scoped(
  NetworkInventory,
  Effect.gen(function*() {
    const netlink = yield* Effect.acquireRelease(
      Effect.suspend(() => NetlinkRequests.open()),
      (opened) => Effect.sync(() => opened.close())
    )
    return NetworkInventory.of({
      links: Effect.suspend(() => orFail(netlink.dump(dumpLinks(), "list interfaces", link))),
      routes: Effect.suspend(() => both(netlink, dumpAllRoutes, "list routes", route)),
      rules: Effect.suspend(() => both(netlink, dumpRules, "list policy rules", rule))
    })
  })
)
