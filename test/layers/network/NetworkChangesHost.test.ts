import { assert, it } from "@effect/vitest"
import * as Effect from "effect/Effect"
import * as Layer from "effect/Layer"
import * as NetworkChangesHost from "../../../src/layers/network/NetworkChangesHost.ts"
import { NetworkChanges } from "../../../src/services/NetworkChanges.ts"
import { ReadinessPoller } from "../../../src/services/ReadinessPoller.ts"
import { makeRouteResolverDouble } from "../../support/RouteResolverDouble.ts"
import { noBus } from "../../support/SystemBusDouble.ts"

const build = (platform: NodeJS.Platform) =>
  NetworkChanges.pipe(
    Effect.provide(NetworkChangesHost.layerFor(platform, { tunnelName: "tun-x" })),
    Effect.provide(Layer.mergeAll(Layer.mock(ReadinessPoller, {}), makeRouteResolverDouble().layer, noBus))
  )

it.effect("follows changes on Linux, and says so where it cannot", () =>
  Effect.gen(function*() {
    assert.hasAllKeys(yield* build("linux"), ["changes", "roams", "tunnelLosses"])
    for (const platform of ["win32", "sunos"] as const) {
      const error = yield* Effect.flip(build(platform))
      assert.strictEqual(error.message, `following network changes: not supported on ${platform}`)
    }
  }))
