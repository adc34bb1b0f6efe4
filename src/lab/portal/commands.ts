/**
 * The control socket's requests. Each answers with the state; a body that is not as described is refused.
 *
 * | path | body |
 * | --- | --- |
 * | `/state` | |
 * | `/resources/put` | a `ResourceConfig`: new, or in the place of the one with its id |
 * | `/resources/delete` | `id` |
 * | `/pools/put` | a `PoolConfig`: new, or in the place of the one with its id |
 * | `/pools/delete` | `id` |
 * | `/pools/reject` | `id`: ends what its clients may do, without a word to them |
 * | `/interface` | `device`, and `ipv4`, `ipv6` or both: other addresses for it; or `dns`: for all clients |
 * | `/tokens/expire` | `token` |
 * | `/relays` | `relays`: in the place of the static ones |
 * | `/drop` | an `Ending`, and `target`: a role, or the id or external id of a device; all unless given |
 * | `/send` | `text` for a frame, and `target` as above |
 * | `/refuse` | `count` of upgrades to answer with `status`; `role`, `code`, `detail`, `retryAfter`, `body` as wished |
 * | `/restart` | `downMillis`: how long nobody listens; 0 unless given |
 * | `/knobs` | those `Knobs` that are to change; `null` for none |
 */
import * as Schema from "effect/Schema"
import type { PoolConfig, ResourceConfig } from "./config.ts"
import type { PortalServer } from "./PortalServer.ts"
import { type PortalState, stateOf } from "./state.ts"

const Text = Schema.String
const Target = Schema.optional(Text)
const Role = Schema.Literal("client", "gateway", "relay")

const Ending = Schema.Union(
  Schema.Struct({
    how: Schema.Literal("close"),
    // The codes that may stand in a close frame (RFC 6455 section 7.4).
    code: Schema.Int.pipe(
      Schema.filter((code) =>
        (code >= 1000 && code <= 1014 && ![1004, 1005, 1006].includes(code)) || (code >= 3000 && code <= 4999)
      )
    ),
    reason: Schema.optional(Text.pipe(Schema.maxLength(100))),
    target: Target
  }),
  Schema.Struct({ how: Schema.Literal("abrupt", "phx_close"), target: Target }),
  Schema.Struct({ how: Schema.Literal("disconnect"), reason: Text, target: Target })
)
const Dns = Schema.Struct({
  upstreamDo53: Schema.optional(Schema.Array(Text)),
  upstreamDoh: Schema.optional(Schema.Array(Text)),
  searchDomain: Schema.optional(Text)
})
const Interface = Schema.Union(
  Schema.Struct({
    device: Text,
    ipv4: Schema.optionalWith(Text, { exact: true }),
    ipv6: Schema.optionalWith(Text, { exact: true })
  }),
  Schema.Struct({ dns: Dns })
)
const Relays = Schema.Struct({
  relays: Schema.Array(Schema.Struct({
    stampSecret: Schema.NonEmptyString,
    ipv4: Schema.optional(Text),
    ipv6: Schema.optional(Text),
    port: Schema.Int.pipe(Schema.between(1, 65_535))
  }))
})
const Refuse = Schema.Struct({
  count: Schema.NonNegativeInt,
  status: Schema.Int.pipe(Schema.between(200, 599)),
  role: Schema.optional(Role),
  code: Schema.optional(Text),
  detail: Schema.optional(Text),
  retryAfter: Schema.optional(Text),
  body: Schema.optional(Schema.Struct({ type: Text, text: Text }))
})
const Knobs = Schema.partialWith(
  Schema.Struct({
    holdJoins: Schema.Boolean,
    holdHeartbeats: Schema.Boolean,
    holdConfirmations: Schema.Boolean,
    failAuthorizations: Schema.NullOr(
      Schema.Struct({ reason: Text, violatedProperties: Schema.optional(Schema.Array(Text)) })
    ),
    grantSeconds: Schema.NullOr(Schema.NonNegativeInt),
    onlyV1: Schema.Boolean
  }),
  { exact: true }
)

const read = <A, I>(schema: Schema.Schema<A, I>, body: unknown): A =>
  Schema.decodeUnknownSync(schema, { onExcessProperty: "error" })(body)

export interface Controlled {
  readonly server: PortalServer
  readonly now: () => number
  readonly restart: (downMillis: number) => void
}

/** Throws if a request cannot be carried out. */
export const handleControl = ({ now, restart, server }: Controlled) => (path: string, body: unknown): PortalState => {
  switch (path) {
    case "/state":
      break
    case "/resources/put":
      // The account checks it as a client would.
      server.account.putResource(body as ResourceConfig)
      break
    case "/resources/delete":
      server.account.deleteResource(read(Schema.Struct({ id: Text }), body).id)
      break
    case "/pools/put":
      server.account.pools.put(body as PoolConfig)
      break
    case "/pools/delete":
      server.account.pools.delete(read(Schema.Struct({ id: Text }), body).id)
      break
    case "/pools/reject":
      server.account.pools.reject(read(Schema.Struct({ id: Text }), body).id)
      break
    case "/interface": {
      const change = read(Interface, body)
      if ("dns" in change) {
        server.account.setDns(change.dns)
        break
      }
      const { device: name, ...addresses } = change
      const device = server.account.devices.all.find(({ externalId, id }) => id === name || externalId === name)
      if (device === undefined) throw new Error(`no such device: ${name}`)
      server.account.readdress(device, addresses, now())
      break
    }
    case "/tokens/expire":
      server.expireToken(read(Schema.Struct({ token: Text }), body).token, now())
      break
    case "/relays":
      server.setRelays(read(Relays, body).relays, now())
      break
    case "/drop": {
      const { target, ...ending } = read(Ending, body)
      server.drop(target, ending, now())
      break
    }
    case "/send": {
      const { target, text } = read(Schema.Struct({ text: Text, target: Target }), body)
      server.sendText(target, text)
      break
    }
    case "/refuse":
      server.refuseNext(read(Refuse, body))
      break
    case "/restart":
      restart(read(Schema.Struct({ downMillis: Schema.optional(Schema.NonNegativeInt) }), body ?? {}).downMillis ?? 0)
      break
    case "/knobs": {
      const { failAuthorizations, grantSeconds, ...others } = read(Knobs, body)
      server.turn({
        ...others,
        ...(failAuthorizations === undefined ? {} : { failAuthorizations: failAuthorizations ?? undefined }),
        ...(grantSeconds === undefined ? {} : { grantSeconds: grantSeconds ?? undefined })
      })
      break
    }
    default:
      throw new Error(`no such request: ${path}`)
  }
  return stateOf(server)
}
