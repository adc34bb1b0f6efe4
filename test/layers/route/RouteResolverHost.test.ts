import { assert, it } from "@effect/vitest"
import * as Effect from "effect/Effect"
import * as RouteResolverHost from "../../../src/layers/route/RouteResolverHost.ts"
import { ip } from "../../../src/protocol/wire/address.ts"
import { RouteResolver } from "../../../src/services/RouteResolver.ts"

it.effect("has a resolver for Linux and Windows, and says so where it has none", () =>
  Effect.gen(function*() {
    for (const platform of ["linux", "win32"] as const) {
      const resolver = yield* Effect.provide(RouteResolver, RouteResolverHost.layerFor(platform, "tun-x"))
      assert.isFunction(resolver.resolve)
    }
    const error = yield* Effect.flip(Effect.provide(RouteResolver, RouteResolverHost.layerFor("sunos", "tun-x")))
    assert.strictEqual(error.message, "route lookups: not supported on sunos")
  }))

it.effect.skipIf(process.platform !== "linux")("asks the host", () =>
  Effect.gen(function*() {
    const resolver = yield* RouteResolver
    assert.strictEqual((yield* resolver.resolve(ip("127.0.0.1"))).interfaceName, "lo")
  }).pipe(Effect.provide(RouteResolverHost.layer)))
