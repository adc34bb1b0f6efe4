/** The real layers of the tunnel device in this process's namespace, and what iproute2 says of it. */
import * as Effect from "effect/Effect"
import * as Layer from "effect/Layer"
import * as Logger from "effect/Logger"
import * as NetworkChangesLinux from "../../../src/layers/network/NetworkChangesLinux.ts"
import * as ReadinessPollerKoffi from "../../../src/layers/poll/ReadinessPollerKoffi.ts"
import * as RouteResolverLinux from "../../../src/layers/route/RouteResolverLinux.ts"
import * as TunDeviceLinux from "../../../src/layers/tun/TunDeviceLinux.ts"
import * as TunInterfaceLinux from "../../../src/layers/tun/TunInterfaceLinux.ts"
import { SOCKET_MARK } from "../../../src/model/policyRouting.ts"
import { ip as address, parseNetwork } from "../../../src/protocol/wire/address.ts"
import type { ReadinessPoller } from "../../../src/services/ReadinessPoller.ts"
import { TunDevice, type TunInterfaceConfig } from "../../../src/services/TunDevice.ts"
import { TunInterface } from "../../../src/services/TunInterface.ts"
import { ipJson } from "../../support/links.ts"
import { noBus } from "../../support/SystemBusDouble.ts"

export const TUN = "tun-test"

const interfaceOver = (poller: Layer.Layer<ReadinessPoller>) =>
  TunInterfaceLinux.layer.pipe(
    Layer.provide(NetworkChangesLinux.layerWith({ tunnelName: TUN })),
    Layer.provide(Layer.merge(RouteResolverLinux.layerWith({ tunnelName: TUN, mark: SOCKET_MARK }), noBus)),
    Layer.provideMerge(poller)
  )
export const deviceOver = (poller: Layer.Layer<ReadinessPoller>) =>
  TunDeviceLinux.layer.pipe(Layer.provideMerge(interfaceOver(poller)))
export const interfaceLayer = interfaceOver(ReadinessPollerKoffi.layer)
export const deviceLayer = deviceOver(ReadinessPollerKoffi.layer)

/** A device whose interface the test sets up itself. */
export const bareDeviceLayer = TunDeviceLinux.layer.pipe(
  Layer.provide(Layer.succeed(TunInterface, {
    manage: () => Effect.succeed({ interfaceIndex: 0, instance: 0, configure: () => Effect.dieMessage("not managed") })
  })),
  Layer.provide(ReadinessPollerKoffi.layer)
)

export const openTun = Effect.flatMap(TunDevice, (devices) => devices.open({ name: TUN, offloads: true }))

export const config = (...routes: ReadonlyArray<string>): TunInterfaceConfig => ({
  ipv4: address("100.64.0.5"),
  ipv6: address("fd00:2021:1111::5"),
  routes: routes.map((text) => {
    const parsed = parseNetwork(text)
    if (parsed === undefined) throw new RangeError(text)
    return parsed
  })
})

/** The destinations of a table with their devices, such as `10.9.0.0/16 tun-test`; a table that never was is empty. */
export const routesOf = (family: 4 | 6, table: number): ReadonlyArray<string> => {
  try {
    return ipJson(`-${family} route show table ${table}`).map(({ dev, dst }) => `${dst} ${dev}`).sort()
  } catch (error) {
    if (String(error).includes("table does not exist")) return []
    throw error
  }
}

/** Puts what is logged into `lines` instead of onto the console. */
export const collectLogs = (lines: Array<string>): Layer.Layer<never> =>
  Logger.replace(
    Logger.defaultLogger,
    Logger.make(({ message }) => {
      lines.push(String(message))
    })
  )
