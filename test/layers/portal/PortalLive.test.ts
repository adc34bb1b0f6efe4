import { assert, describe, it } from "@effect/vitest"
import * as Effect from "effect/Effect"
import { Portal } from "../../../src/services/Portal.ts"
import { makeSocketFactoryDouble } from "../../support/SocketFactoryDouble.ts"
import { cleanedToken, expectEvent, makeScriptedPortal, optionsFor, portalLayer, waitFor } from "./support.ts"

describe("a session", () => {
  it.scoped("joins, hears and says", () =>
    Effect.gen(function*() {
      const portal = yield* makeScriptedPortal()
      const factory = makeSocketFactoryDouble()
      const open = Effect.flatMap(Portal, ({ open }) => open(optionsFor("client", `ws://127.0.0.1:${portal.port}/`)))
      const connection = yield* Effect.provide(open, portalLayer(factory))
      yield* expectEvent(connection, "Connected")
      assert.isTrue(connection.unsafeSend({ _tag: "NoRelays" }))
      yield* waitFor("the request", () => portal.sessions[0]?.events().includes("no_relays") === true)
      const [session] = portal.sessions
      assert.strictEqual(session?.headers["x-authorization"], `Bearer ${cleanedToken}`)
    }))
})
