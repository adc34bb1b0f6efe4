import { describe, expect, it } from "@effect/vitest"
import * as Effect from "effect/Effect"
import * as Fiber from "effect/Fiber"
import * as Layer from "effect/Layer"
import * as Logger from "effect/Logger"
import * as Redacted from "effect/Redacted"
import { connect, serviceText } from "../../src/programs/connect.ts"
import { ip } from "../../src/protocol/wire/address.ts"
import { ClientConfig, type ClientSettings } from "../../src/services/ClientConfig.ts"
import { DeviceIdentity } from "../../src/services/DeviceIdentity.ts"
import { MetricsExport } from "../../src/services/MetricsExport.ts"
import { TokenRejected } from "../../src/services/Portal.ts"
import { TokenStore } from "../../src/services/TokenStore.ts"
import { makeControlServerDouble } from "../support/ControlServerDouble.ts"
import { makeDnsControlDouble } from "../support/DnsControlDouble.ts"
import { makeServiceManagerDouble } from "../support/ServiceManagerDouble.ts"
import { settings } from "../support/settings.ts"
import { makeTunnelDouble, tunnelStatus } from "../support/TunnelDouble.ts"
import { waitFor } from "../support/waitFor.ts"

const interfaceUp = { _tag: "InterfaceUp", ipv4: ip("100.64.0.2"), ipv6: ip("fd00:2021:1111::2") } as const

const client = (changes: Partial<ClientSettings> = {}) =>
  Effect.gen(function*() {
    const tunnel = yield* makeTunnelDouble
    const manager = makeServiceManagerDouble()
    const layers = Layer.mergeAll(
      tunnel.layer,
      manager.layer,
      makeControlServerDouble().layer,
      makeDnsControlDouble().layer,
      Layer.succeed(MetricsExport, { run: () => Effect.void }),
      Layer.succeed(ClientConfig, settings(changes)),
      Layer.succeed(DeviceIdentity, { facts: Effect.succeed({ id: "device" }) }),
      Layer.mock(TokenStore, { read: Effect.succeed(Redacted.make("token")) }),
      Logger.remove(Logger.defaultLogger)
    )
    return { tunnel, manager, running: yield* Effect.fork(Effect.provide(connect, layers)) }
  })

describe("what a service manager is told", () => {
  it.effect("is how it stands, that the client is ready once its interface is up, and that it stops (host 18.36)", () =>
    Effect.gen(function*() {
      const { manager, running, tunnel } = yield* client()
      const online = { ...tunnelStatus(), interface: undefined, resources: [] }
      tunnel.status = { ...online, portal: { state: "connecting", lastError: "no route" } }
      tunnel.emit({ _tag: "PortalLost", reason: "no route", retryInMillis: 1000 })
      yield* waitFor("the first status", () => manager.told.length === 1)
      tunnel.status = online
      tunnel.emit({ _tag: "SignedIn" })
      yield* waitFor("the second status", () => manager.told.length === 2)
      tunnel.status = tunnelStatus()
      tunnel.emit({ _tag: "Reset", reason: "roamed" })
      tunnel.emit(interfaceUp)
      yield* waitFor("ready", () => manager.told.length === 4)
      yield* Fiber.interrupt(running)
      expect(manager.told).toEqual([
        "not signed in yet: no route",
        "signed in; resources: 0, online: 0",
        "signed in; resources: 1, online: 1",
        "ready",
        "stopping"
      ])
    }))

  it.effect("is that it stops when the session cannot go on, and never that it was ready", () =>
    Effect.gen(function*() {
      const { manager, running, tunnel } = yield* client()
      tunnel.fail(new TokenRejected({ detail: "401" }))
      expect((yield* Fiber.await(running))._tag).toBe("Failure")
      expect(manager.told).toEqual(["stopping"])
    }))

  it.effect("is nothing when only the configuration is checked", () =>
    Effect.gen(function*() {
      const { manager, running, tunnel } = yield* client({ check: true })
      yield* Fiber.join(running)
      expect(tunnel.started).toBe(0)
      expect(manager.told).toEqual([])
    }))

  it.effect("comes before the end of a client that ends once it is ready", () =>
    Effect.gen(function*() {
      const { manager, running, tunnel } = yield* client({ exit: true })
      tunnel.emit(interfaceUp)
      yield* Fiber.join(running)
      expect(manager.told).toEqual(["signed in; resources: 1, online: 1", "ready", "stopping"])
    }))

  it("tells a portal that was lost from one that was never there", () => {
    const portal = { state: "disconnected" } as const
    expect(serviceText(tunnelStatus({ portal }))).toBe("portal out of reach, existing access goes on")
    expect(serviceText(tunnelStatus({ portal, interface: undefined }))).toBe("not signed in yet")
  })
})
