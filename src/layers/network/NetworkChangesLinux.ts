import * as Effect from "effect/Effect"
import * as Either from "effect/Either"
import * as Layer from "effect/Layer"
import * as Stream from "effect/Stream"
import { NetlinkNotifications, NetlinkRequests } from "../../ffi/linux/netlink.ts"
import { decodeAddress, decodeLink, type Envelope } from "../../ffi/linux/rtnetlinkDecode.ts"
import { dumpAddresses, dumpLinks } from "../../ffi/linux/rtnetlinkEncode.ts"
import { AF_UNSPEC, RTMGRP, RTNLGRP_IPV6_RULE } from "../../ffi/linux/rtnetlinkLayout.ts"
import { SyscallError } from "../../ffi/SyscallError.ts"
import { TUNNEL_NAME_LINUX } from "../../model/policyRouting.ts"
import type { NetworkChange } from "../../services/NetworkChanges.ts"
import { NetworkChanges, NetworkMonitorFailed } from "../../services/NetworkChanges.ts"
import { ReadinessPoller } from "../../services/ReadinessPoller.ts"
import { RouteResolver } from "../../services/RouteResolver.ts"
import { SystemBus } from "../../services/SystemBus.ts"
import { ChangeFilter } from "./ChangeFilter.ts"
import { primaryConnections } from "./primaryConnections.ts"
import { egressSnapshot, roamsOf } from "./roams.ts"
import { sleeps } from "./sleeps.ts"

export interface NetworkChangesLinuxOptions {
  /** Whatever happens to this interface is our own doing. */
  readonly tunnelName: string
  /** Bytes for notifications not read yet; what does not fit is an overrun. 1 MiB if not given. */
  readonly receiveBuffer?: number
}

const GROUPS = RTMGRP.LINK | RTMGRP.IPV4_IFADDR | RTMGRP.IPV4_ROUTE | RTMGRP.IPV4_RULE
  | RTMGRP.IPV6_IFADDR | RTMGRP.IPV6_ROUTE
const RECEIVE_BUFFER = 1 << 20
const DATAGRAMS_PER_TURN = 64
/** Elements that a slow subscriber may be behind; of more the oldest go, since each says only "look again". */
const BUFFERED_CHANGES = 256

const make = (options: NetworkChangesLinuxOptions) =>
  Effect.gen(function*() {
    const poller = yield* ReadinessPoller
    const resolver = yield* RouteResolver
    const bus = yield* SystemBus

    /** Synchronous, so nothing is read in between: what the kernel tells meanwhile waits in the other socket. */
    const readState = (filter: ChangeFilter): Either.Either<void, SyscallError> =>
      Either.flatMap(NetlinkRequests.open(), (requests) => {
        try {
          const links = requests.dump(dumpLinks(), "RTM_GETLINK", decodeLink)
          if (Either.isLeft(links)) return Either.left(links.left)
          const addresses = requests.dump(dumpAddresses(AF_UNSPEC), "RTM_GETADDR", decodeAddress)
          if (Either.isLeft(addresses)) return Either.left(addresses.left)
          return Either.right(filter.reset(links.right, addresses.right))
        } finally {
          requests.close()
        }
      })

    /** `pick` is asked about every notification; what it does not want takes no room. */
    const subscribe = <A>(
      pick: (filter: ChangeFilter, envelope: Envelope) => A | undefined,
      unknown: { readonly subscribed: A; readonly overrun: A }
    ): Stream.Stream<A, NetworkMonitorFailed> =>
      Stream.asyncPush<A, NetworkMonitorFailed>(
        (emit) =>
          Effect.gen(function*() {
            const filter = new ChangeFilter(options.tunnelName)
            const notifications = yield* Effect.acquireRelease(
              Effect.suspend(() =>
                NetlinkNotifications.open({
                  groups: GROUPS,
                  memberships: [RTNLGRP_IPV6_RULE],
                  receiveBuffer: options.receiveBuffer ?? RECEIVE_BUFFER
                })
              ),
              (opened) => Effect.sync(() => opened.close())
            )
            const subscribed = (): void => {
              const state = readState(filter)
              if (Either.isLeft(state)) emit.fail(new NetworkMonitorFailed({ cause: state.left }))
              else emit.single(unknown.subscribed)
            }
            subscribed()
            yield* poller.watch(notifications.fd, () => {
              const outcome = notifications.drain(DATAGRAMS_PER_TURN, (envelope) => {
                const picked = pick(filter, envelope)
                if (picked !== undefined) emit.single(picked)
              })
              if (outcome === "overrun") {
                // Old notifications must not put the filter back behind the state that it reads now.
                notifications.discard()
                emit.single(unknown.overrun)
                subscribed()
              } else if (outcome instanceof SyscallError) {
                emit.fail(new NetworkMonitorFailed({ cause: outcome }))
              }
            })
          }).pipe(Effect.mapError((cause) => new NetworkMonitorFailed({ cause }))),
        { bufferSize: BUFFERED_CHANGES, strategy: "sliding" }
      )

    const changes = subscribe<NetworkChange>((filter, envelope) => filter.handle(envelope), {
      subscribed: { _tag: "Subscribed" },
      overrun: { _tag: "Overrun" }
    })
    const tunnelLosses = Stream.map(
      subscribe<true>(
        (filter, envelope) => {
          filter.handle(envelope)
          return filter.isTunnelLoss(envelope) || undefined
        },
        { subscribed: true, overrun: true }
      ),
      () => undefined
    )
    const roams = roamsOf({ changes, sleeps, hints: primaryConnections(bus), snapshot: egressSnapshot(resolver) })

    return NetworkChanges.of({ changes, roams, tunnelLosses })
  })

/**
 * Listens to the kernel over rtnetlink, in the network namespace where a stream is run; `roams` also to NetworkManager,
 * where it runs.
 */
export const layerWith = (
  options: NetworkChangesLinuxOptions
): Layer.Layer<NetworkChanges, never, ReadinessPoller | RouteResolver | SystemBus> =>
  Layer.effect(NetworkChanges, make(options))

export const layer = layerWith({ tunnelName: TUNNEL_NAME_LINUX })
