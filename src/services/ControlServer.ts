import * as Context from "effect/Context"
import * as Data from "effect/Data"
import type * as Effect from "effect/Effect"
import type * as Scope from "effect/Scope"
import type { UnsupportedPlatform } from "../model/UnsupportedPlatform.ts"
import type { TunnelSession } from "./Tunnel.ts"

/** Another client answers there: a mistake that its operator should hear of. */
export class ControlSocketTaken extends Data.TaggedError("ControlSocketTaken")<{ readonly socket: string }> {
  override get message(): string {
    return `control socket ${this.socket}: another client answers on it; stop that one, or choose another with --control-socket`
  }
}

/** The socket cannot be made. The tunnel does not need it. */
export class ControlUnavailable extends Data.TaggedError("ControlUnavailable")<{
  readonly socket: string
  readonly why: string
}> {
  override get message(): string {
    return `control socket ${this.socket}: ${this.why}`
  }
}

/**
 * Answers what an operator asks a running client (the messages are in `model/control.ts`), to root and to the owner of the
 * process. However many ask, and however badly, the tunnel goes on.
 */
export class ControlServer extends Context.Tag("firezone-headless-client/services/ControlServer")<ControlServer, {
  /**
   * Returns once it listens on the configured socket; the scope ends it and removes the socket. What a killed client left
   * there is replaced.
   */
  readonly serve: (
    session: Pick<TunnelSession, "reset" | "status">
  ) => Effect.Effect<void, ControlSocketTaken | ControlUnavailable | UnsupportedPlatform, Scope.Scope>
}>() {}
