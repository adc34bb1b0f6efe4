/** Our client's and gateway's control channel against the emulator: neither may find fault with the other. */
import { assert, describe, it } from "@effect/vitest"
import * as Effect from "effect/Effect"
import * as Layer from "effect/Layer"
import * as Logger from "effect/Logger"
import * as LogLevel from "effect/LogLevel"
import * as Queue from "effect/Queue"
import * as Redacted from "effect/Redacted"
import { type PortalConfig, run } from "../../../src/lab/portal/portalProcess.ts"
import * as PortalLive from "../../../src/layers/portal/PortalLive.ts"
import { ip } from "../../../src/protocol/wire/address.ts"
import { HostResolver } from "../../../src/services/HostResolver.ts"
import { Portal, type PortalConnection, type PortalEvent, type PortalProtocol } from "../../../src/services/Portal.ts"
import { makeSocketFactoryDouble } from "../../support/SocketFactoryDouble.ts"
import { candidate, CIDR, config, keyFrom } from "./support.ts"

type Role = "client" | "gateway"

const layer = PortalLive.layer.pipe(
  Layer.provide(makeSocketFactoryDouble().layer),
  Layer.provide(Layer.mock(HostResolver, { resolve: () => Effect.succeed([ip("127.0.0.1")]) })),
  Layer.merge(Logger.minimumLogLevel(LogLevel.None))
)

const start = Effect.fnUntraced(function*(changes: Partial<PortalConfig> = {}) {
  const emulator = yield* run({ ...config, ...changes })
  const portal = yield* Portal
  const open = <R extends Role>(role: R) =>
    portal.open<R>({
      role,
      url: new URL(`ws://127.0.0.1:${emulator.port}/`),
      token: Redacted.make(`.${role}`),
      externalId: `our-${role}`,
      name: `our ${role}`,
      deviceSerial: role === "client" ? "serial+1/2=" : undefined,
      publicKey: Buffer.from(keyFrom(role === "client" ? 0 : 32), "base64")
    })
  return { emulator, open }
})

type Push<R extends Role> = PortalProtocol[R]["push"]

/** The next event with this tag, of the connection or pushed. */
const next = <R extends Role, Tag extends PortalEvent<Push<R>>["_tag"]>(connection: PortalConnection<R>, tag: Tag) =>
  Effect.gen(function*() {
    for (;;) {
      const event = yield* Queue.take(connection.events)
      if (event._tag === tag) return event as Extract<PortalEvent<Push<R>>, { readonly _tag: Tag }>
      if (event._tag === "Failed") throw event.error
    }
  })
const nextPush = <R extends Role, Tag extends Push<R>["_tag"]>(connection: PortalConnection<R>, tag: Tag) =>
  Effect.gen(function*() {
    for (;;) {
      const { push } = yield* next(connection, "Message")
      if (push._tag === tag) return push as Extract<Push<R>, { readonly _tag: Tag }>
    }
  })

describe("our control channel and the portal emulator", () => {
  for (const endpoint of ["v2", "v1"] as const) {
    it.scopedLive(`agree on a whole authorization, ${endpoint}`, () =>
      Effect.gen(function*() {
        const { emulator, open } = yield* start()
        emulator.control("/knobs", { onlyV1: endpoint === "v1" })
        const gateway = yield* open("gateway")
        yield* nextPush(gateway, "GatewayInit")
        const client = yield* open("client")
        const { init } = yield* nextPush(client, "Init")
        assert.deepStrictEqual(init.resources.map(({ id, type }) => [type, id]).at(0), ["cidr", CIDR])
        assert.strictEqual(init.relays[0]?.v6?.text, "[2001:db8::9]:3478")
        for (const connection of [client, gateway]) {
          connection.unsafeSend({ _tag: "SetSnownetCapabilities", iceless: false })
        }
        client.unsafeSend({ _tag: "RequestAuthorization", resourceId: CIDR, connectedGatewayIds: [] })
        const { authorization: told } = yield* nextPush(gateway, "CreateAuthorization")
        gateway.unsafeSend({ _tag: "AuthorizationConfirmed", ref: told.ref })
        gateway.unsafeSend({ _tag: "BroadcastIceCandidates", clientIds: [told.client.id], candidates: [candidate] })
        const { authorization } = yield* nextPush(client, "AuthorizationCreated")
        assert.deepStrictEqual(authorization.presharedKey, told.client.presharedKey)
        assert.deepStrictEqual(authorization.clientIceCredentials, told.clientIceCredentials)
        const { candidates, gatewayId } = yield* nextPush(client, "IceCandidates")
        assert.deepStrictEqual([gatewayId, candidates], [authorization.gatewayId, [candidate]])
        client.unsafeSend({ _tag: "NewGatewayIceCandidates", gatewayId, candidates: [candidate] })
        const { clientId } = yield* nextPush(gateway, "GatewayIceCandidates")
        assert.strictEqual(clientId, told.client.id)
        const state = emulator.control("/state")
        assert.deepStrictEqual(state.violations, [])
        assert.deepInclude(state.clients[0], { endpoint, connected: true, externalId: "our-client" })
      }).pipe(Effect.provide(layer)))
  }

  it.scopedLive("find each other again after a restart and a refusal, and part when the token ends", () =>
    Effect.gen(function*() {
      const { emulator, open } = yield* start()
      const client = yield* open("client")
      yield* nextPush(client, "Init")
      emulator.control("/refuse", { count: 1, status: 503, retryAfter: "1", code: "rate_limit" })
      emulator.control("/restart")
      yield* next(client, "Disconnected")
      const { error, retryInMillis } = yield* next(client, "Disconnected")
      assert.include(error.message, "503")
      assert.strictEqual(retryInMillis, 1000)
      yield* nextPush(client, "Init")
      emulator.control("/tokens/expire", { token: ".client" })
      const failed = yield* Queue.take(client.events)
      assert.deepInclude(failed, { _tag: "Failed" })
      assert.deepStrictEqual(emulator.control("/state").violations, [])
      const again = yield* open("client")
      const refused = yield* Queue.take(again.events)
      assert.strictEqual(refused._tag === "Failed" && refused.error._tag, "TokenRejected")
    }).pipe(Effect.provide(layer)))
})
