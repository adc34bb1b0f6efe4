import * as Effect from "effect/Effect"
import * as Either from "effect/Either"
import * as Layer from "effect/Layer"
import { ERRNO } from "../../ffi/linux/libc.ts"
import { NetlinkRequests } from "../../ffi/linux/netlink.ts"
import * as encode from "../../ffi/linux/rtnetlinkEncode.ts"
import { AF_INET, AF_INET6 } from "../../ffi/linux/rtnetlinkLayout.ts"
import type { AddressFamily } from "../../ffi/linux/rtnetlinkLayout.ts"
import type { SyscallError } from "../../ffi/SyscallError.ts"
import { type PolicyTables, SOCKET_MARK, TUNNEL_MTU } from "../../model/policyRouting.ts"
import { ipToBytes } from "../../protocol/wire/address.ts"
import { NetworkChanges } from "../../services/NetworkChanges.ts"
import type { TunInterfaceConfig } from "../../services/TunDevice.ts"
import { TunFailed } from "../../services/TunDevice.ts"
import { TunInterface } from "../../services/TunInterface.ts"
import { type Claim, claimTables } from "./claimTables.ts"
import { accepting, InterfaceRequests, type Step } from "./InterfaceRequests.ts"
import { keepLinkScopeCopy } from "./linkScopeCopy.ts"
import {
  isSameAddress,
  missingParts,
  routeKey,
  type WantedRoute,
  wantedRoutes,
  type WorkingFamilies
} from "./missingParts.ts"
import { repairAfter } from "./repairAfter.ts"

const TX_QUEUE_PACKETS = 10_000

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
const setAddresses = (requests: InterfaceRequests, index: number, config: TunInterfaceConfig) =>
  Effect.gen(function*() {
    const wanted = [config.ipv4, config.ipv6].map(ipToBytes)
    const present = yield* orFail("list addresses")(requests.addresses(index))
    const kept = present.filter(({ address, prefixLength }) =>
      prefixLength === address.length * 8 && wanted.some((other) => isSameAddress(other, address))
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
      const outcome = kept.some((other) => isSameAddress(other.address, address))
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

const addRules = (requests: InterfaceRequests, family: AddressFamily, tables: PolicyTables) =>
  Effect.forEach(Object.values(tables), ({ priority, table }) => {
    const rule = { family, mark: SOCKET_MARK, table, priority }
    const added = accepting(requests.change(encode.addInvertedMarkRule(rule), "add rule"), ERRNO.EEXIST)
    // Some kernels have no policy routing: then nothing but the sockets' choice of source prevents loops.
    if (Either.isLeft(added) && added.left.code === ERRNO.EOPNOTSUPP) {
      return Effect.logWarning("this kernel has no policy routing: packets of ours could enter the tunnel again")
    }
    return orFail("add policy rule")(added)
  }, { discard: true })

/** Adds and deletes what is different from the kernel's tables, which lose routes without us. */
const setRoutes = (requests: InterfaceRequests, wanted: ReadonlyArray<WantedRoute>, tables: PolicyTables) =>
  Effect.gen(function*() {
    const missing = new Map(wanted.map((route) => [route.key, route]))
    for (const { table } of [tables.user, tables.internet]) {
      for (const route of yield* orFail("list routes")(requests.routes(table))) {
        const key = routeKey(route)
        if (missing.get(key)?.index === route.outputInterface) missing.delete(key)
        else yield* orWarn("deleting a route")(requests.deleteRoute(route))
      }
    }
    for (const route of missing.values()) {
      const added = requests.change(encode.addDeviceRoute(route), "add route")
      yield* orWarn("adding a route")(accepting(added, ERRNO.EEXIST, ERRNO.EOPNOTSUPP))
    }
  })

const claimed = (requests: InterfaceRequests, index: number): Effect.Effect<Claim, TunFailed> => {
  const step = "take routing tables"
  const claim = claimTables(requests, index)
  if (Either.isRight(claim)) {
    const { instance } = claim.right
    return Effect.succeed(claim.right).pipe(
      Effect.tap(() =>
        instance === 0 ? Effect.void : Effect.logInfo("another client runs on this machine, this one comes next to it")
          .pipe(Effect.annotateLogs("instance", instance))
      )
    )
  }
  const why = claim.left
  return new TunFailed({
    step,
    ...("code" in why ? { cause: why } : {
      cause: new Error(`as many clients as there can be are running, with the interfaces ${why.join(", ")}`),
      hint: "stop one of them first"
    })
  })
}

const make = Effect.gen(function*() {
  const { changes, tunnelLosses } = yield* NetworkChanges

  const manage = Effect.fn("TunInterface.manage")(function*(interfaceName: string) {
    const netlink = yield* Effect.acquireRelease(
      Effect.suspend(() => NetlinkRequests.open()),
      (opened) => Effect.sync(() => opened.close())
    ).pipe(Effect.mapError((cause) => new TunFailed({ step: "open a netlink socket", cause })))
    const requests = new InterfaceRequests(netlink)
    const { index } = yield* orFail("find interface")(requests.link(interfaceName))

    // Refused by kernels that have no such mode; they only make one address more.
    requests.change(encode.setAddressGenerationNone(index), "set address generation")
    yield* orFail("bring the interface up")(requests.change(encode.setUp(index), "set up"))
    const { instance, tables } = yield* claimed(requests, index)
    yield* Effect.addFinalizer(() =>
      Effect.suspend(() => orWarn("removing our policy rules")(requests.deleteRules(tables))).pipe(
        Effect.zipRight(Effect.suspend(() => orWarn("emptying our routing tables")(requests.flush(tables))))
      )
    )
    yield* orWarn("setting the queue length")(
      requests.change(encode.setTxQueueLength(index, TX_QUEUE_PACKETS), "set txqueuelen")
    )
    yield* keepLinkScopeCopy(netlink, changes, index, tables.linkScope.table)

    let configured: { readonly config: TunInterfaceConfig; readonly works: WorkingFamilies } | undefined
    const serially = (yield* Effect.makeSemaphore(1)).withPermits(1)
    const configure = Effect.fn("TunInterface.configure")(function*(config: TunInterfaceConfig) {
      const link = yield* orFail("find interface")(requests.link(interfaceName))
      // Refused by kernels that have no such mode; they only make one address more.
      requests.change(encode.setAddressGenerationNone(link.index), "set address generation")
      const works = yield* setAddresses(requests, link.index, config)
      yield* orFail("bring the interface up")(requests.change(encode.setUp(link.index), "set up"))
      if (works.ipv4) yield* addRules(requests, AF_INET, tables)
      if (works.ipv6) yield* addRules(requests, AF_INET6, tables)
      yield* setRoutes(requests, wantedRoutes(config, works, link.index, tables), tables)
      configured = { config, works }
      return works
    })
    const repair = Effect.gen(function*() {
      if (configured === undefined) return []
      const { config, works } = configured
      const missing = yield* orFail("look at the interface")(
        missingParts(requests, interfaceName, config, works, tables)
      )
      if (missing.length > 0) yield* configure(config)
      return missing
    })
    yield* repairAfter(tunnelLosses, serially(repair))

    return { interfaceIndex: index, instance, configure: (config: TunInterfaceConfig) => serially(configure(config)) }
  })

  return TunInterface.of({ manage })
})

/** Configures the interface over rtnetlink. Needs CAP_NET_ADMIN. */
export const layer: Layer.Layer<TunInterface, never, NetworkChanges> = Layer.effect(TunInterface, make)
