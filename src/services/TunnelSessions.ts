import * as Context from "effect/Context"
import type * as Effect from "effect/Effect"
import type * as Redacted from "effect/Redacted"
import type * as Scope from "effect/Scope"
import type { SyscallError } from "../ffi/SyscallError.ts"
import type { UnsupportedPlatform } from "../model/UnsupportedPlatform.ts"
import type { ConfigInvalid } from "./ClientConfig.ts"
import type { TunnelError, TunnelSession } from "./Tunnel.ts"

export interface SessionOptions {
  readonly apiUrl: URL
  readonly token: Redacted.Redacted
  readonly activateInternetResource: boolean
}

/** Sessions one after the other in one process, each with settings of its own. */
export class TunnelSessions extends Context.Tag("firezone-headless-client/services/TunnelSessions")<TunnelSessions, {
  /**
   * Starts one with everything that it needs, route cache and sockets included; the scope ends it and gives all of it
   * back. Only one at a time: they share the name of the interface.
   */
  readonly open: (
    options: SessionOptions
  ) => Effect.Effect<TunnelSession, TunnelError | ConfigInvalid | SyscallError | UnsupportedPlatform, Scope.Scope>
  /** Takes back what a session has left of its DNS settings that did not end properly. Failure is only logged. */
  readonly restoreDns: Effect.Effect<void>
}>() {}
