import * as Effect from "effect/Effect"
import * as Either from "effect/Either"
import * as Layer from "effect/Layer"
import { ERRNO } from "../../ffi/linux/libc.ts"
import { NetlinkRequests } from "../../ffi/linux/netlink.ts"
import type { AddressMessage, LinkMessage, RouteMessage } from "../../ffi/linux/rtnetlinkDecode.ts"
import { decodeAddress, decodeLink, decodeRoute, decodeRule } from "../../ffi/linux/rtnetlinkDecode.ts"
import * as encode from "../../ffi/linux/rtnetlinkEncode.ts"
import { AF_INET, AF_INET6, AF_UNSPEC, IFF } from "../../ffi/linux/rtnetlinkLayout.ts"
import type { AddressFamily } from "../../ffi/linux/rtnetlinkLayout.ts"
import type { SyscallError } from "../../ffi/SyscallError.ts"
import { isOurTable, SOCKET_MARK, TABLES, TUNNEL_MTU } from "../../model/policyRouting.ts"
import type { IpNetwork } from "../../model/Route.ts"
import { ipToBytes } from "../../protocol/wire/address.ts"
import { NetworkChanges } from "../../services/NetworkChanges.ts"
import type { TunInterfaceConfig } from "../../services/TunDevice.ts"
import { TunFailed } from "../../services/TunDevice.ts"
import { TunInterface } from "../../services/TunInterface.ts"
import { keepLinkScopeCopy } from "./linkScopeCopy.ts"

const TX_QUEUE_PACKETS = 10_000
/** Of a TUN device: somebody has it open. */
const RUNNING_TUNNEL = IFF.POINTOPOINT | IFF.RUNNING
const FAMILIES: ReadonlyArray<AddressFamily> = [AF_INET, AF_INET6]

type Step<A = void> = Either.Either<A, SyscallError>

const bytesEqual = (left: Uint8Array, right: Uint8Array): boolean =>
  left.length === right.length && left.every((byte, i) => byte === right[i])

const accepting = (step: Step, ...codes: ReadonlyArray<number>): Step =>
  Either.isLeft(step) && codes.includes(step.left.code) ? Either.right(undefined) : step

/** The requests of host spec sections 8.3 and 8.4, each with what it may fail with. */
class Requests {
  readonly #netlink: NetlinkRequests

  constructor(netlink: NetlinkRequests) {
    this.#netlink = netlink
  }

  link(name: string): Step<LinkMessage> {
    return this.#netlink.ask(encode.getLinkByName(name), `find interface ${name}`, decodeLink)
  }

  change(request: Uint8Array, what: string): Step {
    return this.#netlink.acknowledge(request, what)
  }

  addresses(index: number): Step<ReadonlyArray<AddressMessage>> {
    return this.#netlink.dump(encode.dumpAddresses(AF_UNSPEC, index), "list addresses", (body) => {
      const address = decodeAddress(body)
      return address?.index === index ? address : undefined
    })
  }

  /** The routes of one table, of both families; a family without that table has none. */
  routes(table: number): Step<ReadonlyArray<RouteMessage>> {
    const found: Array<RouteMessage> = []
    for (const family of FAMILIES) {
      const routes = this.#netlink.dump(encode.dumpRoutes(family, table), "list routes", (body) => {
        const route = decodeRoute(body)
        return route?.family === family && route.table === table ? route : undefined
      })
      if (Either.isRight(routes)) found.push(...routes.right)
      else if (!withoutFamily.includes(routes.left.code)) return Either.left(routes.left)
    }
    return Either.right(found)
  }

  /**
   * The tunnel interface, not `index`, of a client that is running: that of one which has died is gone with its routes,
   * or, if it was made to persist, not running.
   */
  otherTunnel(index: number): Step<string | undefined> {
    const routes = this.routes(TABLES.user.table)
    if (Either.isLeft(routes)) return Either.left(routes.left)
    for (const other of new Set(routes.right.map(({ outputInterface }) => outputInterface))) {
      if (other === undefined || other === index) continue
      const link = this.#netlink.ask(encode.getLinkByIndex(other), "find interface", decodeLink)
      if (Either.isRight(link) && (link.right.flags & RUNNING_TUNNEL) === RUNNING_TUNNEL) {
        return Either.right(link.right.name)
      }
    }
    return Either.right(undefined)
  }

  deleteRoute(route: RouteMessage): Step {
    return accepting(this.change(encode.deleteRoute(route), "delete route"), ERRNO.ENOENT, ERRNO.ESRCH)
  }

  /** Empties our three tables. */
  flush(): Step {
    for (const { table } of Object.values(TABLES)) {
      const routes = this.routes(table)
      if (Either.isLeft(routes)) return Either.left(routes.left)
      for (const route of routes.right) {
        const deleted = this.deleteRoute(route)
        if (Either.isLeft(deleted)) return deleted
      }
    }
    return Either.right(undefined)
  }

  /** Removes the rules that ask our tables, of this run or of a killed one. */
  deleteRules(): Step {
    for (const family of FAMILIES) {
      const rules = this.#netlink.dump(encode.dumpRules(family), "list rules", (body) => {
        const rule = decodeRule(body)
        return rule?.family === family && isOurTable(rule.table) && rule.mark === SOCKET_MARK ? rule : undefined
      })
      if (Either.isLeft(rules)) {
        if (withoutFamily.includes(rules.left.code)) continue
        return Either.left(rules.left)
      }
      for (const rule of rules.right) {
        const deleted = accepting(this.change(encode.deleteRule(rule), "delete rule"), ERRNO.ENOENT)
        if (Either.isLeft(deleted)) return deleted
      }
    }
    return Either.right(undefined)
  }
}

const withoutFamily: ReadonlyArray<number> = [ERRNO.ENOENT, ERRNO.EOPNOTSUPP, ERRNO.EAFNOSUPPORT]

const orFail = (step: string) => <A>(outcome: Step<A>): Effect.Effect<A, TunFailed> =>
  Either.isRight(outcome)
    ? Effect.succeed(outcome.right)
    : new TunFailed({
      step,
      cause: outcome.left,
      ...(outcome.left.code === ERRNO.EPERM ? { hint: "this needs root or CAP_NET_ADMIN" } : {})
    })

const orWarn = (what: string) => (outcome: Step): Effect.Effect<void> =>
  Either.isRight(outcome)
    ? Effect.void
    : Effect.logWarning(`${what} failed`).pipe(Effect.annotateLogs("error", outcome.left.message))

/** Removes the addresses that are not wanted, adds those that are missing; tells which families work. */
const setAddresses = (requests: Requests, index: number, config: TunInterfaceConfig) =>
  Effect.gen(function*() {
    const wanted = [config.ipv4, config.ipv6].map(ipToBytes)
    const present = yield* orFail("list addresses")(requests.addresses(index))
    const kept = present.filter(({ address, prefixLength }) =>
      prefixLength === address.length * 8 && wanted.some((other) => bytesEqual(other, address))
    )
    for (const other of present) {
      if (kept.includes(other)) continue
      const deletion = requests.change(encode.deleteAddress(index, other.address, other.prefixLength), "delete address")
      yield* orFail("delete address")(accepting(deletion, ERRNO.EADDRNOTAVAIL))
    }
    yield* orFail("set MTU")(requests.change(encode.setMtu(index, TUNNEL_MTU), "set MTU"))
    const failures: Array<SyscallError> = []
    const works: Array<boolean> = []
    for (const address of wanted) {
      const outcome = kept.some((other) => bytesEqual(other.address, address))
        ? Either.right(undefined)
        : accepting(requests.change(encode.addAddress(index, address, address.length * 8), "add address"), ERRNO.EEXIST)
      works.push(Either.isRight(outcome))
      if (Either.isLeft(outcome)) failures.push(outcome.left)
    }
    for (const error of failures) {
      yield* Effect.logInfo("an address family does not work on the tunnel").pipe(
        Effect.annotateLogs("error", error.message)
      )
    }
    const [ipv4 = false, ipv6 = false] = works
    if (!ipv4 && !ipv6) return yield* new TunFailed({ step: "add address", cause: failures[0] })
    return { ipv4, ipv6 }
  })

const addRules = (requests: Requests, family: AddressFamily) =>
  Effect.forEach(Object.values(TABLES), ({ priority, table }) => {
    const rule = { family, mark: SOCKET_MARK, table, priority }
    const added = accepting(requests.change(encode.addInvertedMarkRule(rule), "add rule"), ERRNO.EEXIST)
    // Some kernels have no policy routing: then nothing but the sockets' choice of source prevents loops.
    if (Either.isLeft(added) && added.left.code === ERRNO.EOPNOTSUPP) {
      return Effect.logWarning("this kernel has no policy routing: packets of ours could enter the tunnel again")
    }
    return orFail("add policy rule")(added)
  }, { discard: true })

interface WantedRoute extends encode.DeviceRoute {
  readonly key: string
}

const wantedRoute = (network: IpNetwork, index: number): WantedRoute => {
  const destination = ipToBytes(network.address)
  const { table } = network.bits === 0 ? TABLES.internet : TABLES.user
  return { destination, prefixLength: network.bits, table, index, key: `${table} ${destination}/${network.bits}` }
}

/** Adds and deletes what is different from the kernel's tables, which lose routes without us. */
const setRoutes = (requests: Requests, wanted: ReadonlyArray<WantedRoute>) =>
  Effect.gen(function*() {
    const missing = new Map(wanted.map((route) => [route.key, route]))
    for (const { table } of [TABLES.user, TABLES.internet]) {
      for (const route of yield* orFail("list routes")(requests.routes(table))) {
        const destination = route.destination ?? new Uint8Array(route.family === AF_INET ? 4 : 16)
        const key = `${table} ${destination}/${route.prefixLength}`
        if (missing.get(key)?.index === route.outputInterface) missing.delete(key)
        else yield* orWarn("deleting a route")(requests.deleteRoute(route))
      }
    }
    for (const route of missing.values()) {
      const added = requests.change(encode.addDeviceRoute(route), "add route")
      yield* orWarn("adding a route")(accepting(added, ERRNO.EEXIST, ERRNO.EOPNOTSUPP))
    }
  })

const make = Effect.gen(function*() {
  const { changes } = yield* NetworkChanges

  const manage = Effect.fn("TunInterface.manage")(function*(interfaceName: string) {
    const netlink = yield* Effect.acquireRelease(
      Effect.suspend(() => NetlinkRequests.open()),
      (opened) => Effect.sync(() => opened.close())
    ).pipe(Effect.mapError((cause) => new TunFailed({ step: "open a netlink socket", cause })))
    const requests = new Requests(netlink)
    const { index } = yield* orFail("find interface")(requests.link(interfaceName))

    const other = yield* orFail("list routes")(requests.otherTunnel(index))
    if (other !== undefined) {
      return yield* new TunFailed({
        step: "take the routing tables",
        cause: new Error(`the interface ${other} of another client that is running uses them`),
        hint: "stop that client first"
      })
    }
    yield* orFail("empty our routing tables")(requests.flush())
    yield* orFail("remove old policy rules")(requests.deleteRules())
    yield* Effect.addFinalizer(() =>
      Effect.suspend(() => orWarn("removing our policy rules")(requests.deleteRules())).pipe(
        Effect.zipRight(Effect.suspend(() => orWarn("emptying our routing tables")(requests.flush())))
      )
    )
    yield* orWarn("setting the queue length")(
      requests.change(encode.setTxQueueLength(index, TX_QUEUE_PACKETS), "set txqueuelen")
    )
    yield* keepLinkScopeCopy(netlink, changes, index)

    const serially = (yield* Effect.makeSemaphore(1)).withPermits(1)
    const configure = Effect.fn("TunInterface.configure")(function*(config: TunInterfaceConfig) {
      const link = yield* orFail("find interface")(requests.link(interfaceName))
      // Refused by kernels that have no such mode; they only make one address more.
      requests.change(encode.setAddressGenerationNone(link.index), "set address generation")
      const works = yield* setAddresses(requests, link.index, config)
      yield* orFail("bring the interface up")(requests.change(encode.setUp(link.index), "set up"))
      if (works.ipv4) yield* addRules(requests, AF_INET)
      if (works.ipv6) yield* addRules(requests, AF_INET6)
      yield* setRoutes(
        requests,
        config.routes.map((network) => wantedRoute(network, link.index))
          .filter(({ destination }) => destination.length === 4 ? works.ipv4 : works.ipv6)
      )
      return works
    }, serially)

    return { interfaceIndex: index, configure }
  })

  return TunInterface.of({ manage })
})

/** Configures the interface over rtnetlink. Needs CAP_NET_ADMIN. */
export const layer: Layer.Layer<TunInterface, never, NetworkChanges> = Layer.effect(TunInterface, make)
