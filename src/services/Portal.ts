import * as Context from "effect/Context"
import * as Data from "effect/Data"
import type * as Duration from "effect/Duration"
import type * as Effect from "effect/Effect"
import type * as Queue from "effect/Queue"
import type * as Redacted from "effect/Redacted"
import type * as Scope from "effect/Scope"
import type { ClientPush, ClientRequest, GatewayPush, GatewayRequest } from "../protocol/portal/types.ts"

/** The portal does not know the token, or it ended: the only failure that needs a new one (portal spec section 4). */
export class TokenRejected extends Data.TaggedError("TokenRejected")<{ readonly detail: string }> {
  override get message(): string {
    return `the portal does not accept the token (${this.detail}); it may have expired or been deleted: create a new one`
  }
}

/** The portal refused to authenticate this device; the token may still be good. */
export class AuthenticationFailed extends Data.TaggedError("AuthenticationFailed")<{ readonly detail: string }> {
  override get message(): string {
    return `the portal refused to authenticate this device: ${this.detail}`
  }
}

/** Reconnecting took longer than allowed. */
export class RetriesExhausted extends Data.TaggedError("RetriesExhausted")<{
  /** Host and port of the portal. */
  readonly portal: string
  readonly lastError: PortalDisconnected
  /** The sum of the delays between attempts. */
  readonly budgetMillis: number
}> {
  override get message(): string {
    return `no connection to the portal at ${this.portal} after retrying for ${
      Math.round(this.budgetMillis / 1000)
    } s: ${this.lastError.message}; check the network, and that FIREZONE_API_URL is right`
  }
}

/** The portal refused the join, or its address cannot be used. */
export class LoginFailed extends Data.TaggedError("LoginFailed")<{ readonly reason: string }> {
  override get message(): string {
    return `login to the portal failed: ${this.reason}`
  }
}

/** What ends the portal connection for good. */
export type PortalFatal = TokenRejected | AuthenticationFailed | RetriesExhausted | LoginFailed

/** Why an attempt or a connection ended; it is tried again. */
export class PortalDisconnected extends Data.TaggedError("PortalDisconnected")<{
  readonly reason: string
  /** Whether `reconnect` caused it. */
  readonly requested: boolean
  readonly cause?: unknown
}> {
  override get message(): string {
    return this.reason
  }
}

export type PortalEvent<Push> =
  /** Joined: the portal answers from here on; `Init` follows. */
  | { readonly _tag: "Connected" }
  /** An attempt failed or a connection ended; the next attempt begins after `retryInMillis`. */
  | { readonly _tag: "Disconnected"; readonly error: PortalDisconnected; readonly retryInMillis: number }
  | { readonly _tag: "Message"; readonly push: Push }
  /** The last event. */
  | { readonly _tag: "Failed"; readonly error: PortalFatal }

/** What each role hears and says. */
export interface PortalProtocol {
  readonly client: { readonly push: ClientPush; readonly request: ClientRequest }
  readonly gateway: { readonly push: GatewayPush; readonly request: GatewayRequest }
}
export type PortalRole = keyof PortalProtocol

export interface PortalOptions<Role extends PortalRole = PortalRole> {
  readonly role: Role
  /** The API's base URL; `ws`, `wss`, `http` or `https`. Port 443 unless it names one, also for `ws`. */
  readonly url: URL
  readonly token: Redacted.Redacted
  /** As configured; the UUID rule of the login URL is applied to it. */
  readonly externalId: string
  readonly name: string
  readonly deviceSerial?: string | undefined
  readonly deviceUuid?: string | undefined
  /** WireGuard public key, 32 bytes. */
  readonly publicKey: Uint8Array
  /** Budget for reconnecting after a first success; without one it goes on for ever. */
  readonly maxPartitionTime?: Duration.Duration | undefined
}

export interface PortalStatus {
  readonly state: "connecting" | "connected" | "disconnected" | "failed"
  /** Of the connection, or of the latest one. */
  readonly endpoint?: "v2" | "v1" | undefined
  readonly remote?: string | undefined
  readonly lastError?: string | undefined
  /** How often a join succeeded. */
  readonly joins: number
}

export interface PortalConnection<Role extends PortalRole> {
  /** In order. Bounded: a reader that stalls makes the portal wait. */
  readonly events: Queue.Dequeue<PortalEvent<PortalProtocol[Role]["push"]>>
  /**
   * Sends at once, or after the join if that is under way. Returns whether it was accepted; while there is no
   * connection it is dropped, and nothing is replayed later.
   */
  readonly unsafeSend: (request: PortalProtocol[Role]["request"]) => boolean
  /** Closes the connection (code 1000) and dials anew at once under a new key; forgets what was queued and the backoff. */
  readonly reconnect: (publicKey: Uint8Array) => Effect.Effect<void>
  readonly status: () => PortalStatus
}

/** The control channel: typed messages in and out, reconnecting (portal spec sections 2 to 4). */
export class Portal extends Context.Tag("firezone-headless-client/services/Portal")<Portal, {
  /** Starts connecting. The scope ends it with close code 1000. */
  readonly open: <Role extends PortalRole>(
    options: PortalOptions<Role>
  ) => Effect.Effect<PortalConnection<Role>, never, Scope.Scope>
}>() {}
