import { assert, it } from "@effect/vitest"
import * as Effect from "effect/Effect"
import * as Layer from "effect/Layer"
import * as TunDeviceHost from "../../../src/layers/tun/TunDeviceHost.ts"
import * as TunInterfaceHost from "../../../src/layers/tun/TunInterfaceHost.ts"
import { ReadinessPoller } from "../../../src/services/ReadinessPoller.ts"
import { TunDevice } from "../../../src/services/TunDevice.ts"
import { TunInterface } from "../../../src/services/TunInterface.ts"
import { makeNetworkChangesDouble } from "../../support/NetworkChangesDouble.ts"

it.effect("has interface settings for Linux, and says so where it has none", () =>
  Effect.gen(function*() {
    const network = yield* makeNetworkChangesDouble
    const build = (platform: NodeJS.Platform) =>
      TunInterface.pipe(Effect.provide(TunInterfaceHost.layerFor(platform)), Effect.provide(network.layer))
    assert.isFunction((yield* build("linux")).manage)
    const error = yield* Effect.flip(build("win32"))
    assert.strictEqual(error.message, "tunnel interface settings: not supported on win32")
  }))

it.scoped("fails to open a device where there is none, with the reason", () =>
  Effect.gen(function*() {
    const devices = yield* TunDevice
    const error = yield* Effect.flip(devices.open({ name: "Firezone", offloads: true }))
    assert.match(error.message, /open Firezone: the Windows tunnel device is not implemented.*run the client on Linux/)
  }).pipe(
    Effect.provide(TunDeviceHost.layerFor("win32")),
    Effect.provide(Layer.merge(Layer.mock(ReadinessPoller, {}), Layer.mock(TunInterface, {})))
  ))
