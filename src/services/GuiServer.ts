import * as Context from "effect/Context"
import * as Data from "effect/Data"
import type * as Effect from "effect/Effect"
import type * as Scope from "effect/Scope"
import type { ClientMessage, ServiceMessage } from "../model/gui.ts"
import type { UnsupportedPlatform } from "../model/UnsupportedPlatform.ts"

/** The socket cannot be made: without it the service is of no use; exit code 1. */
export class GuiSocketFailed extends Data.TaggedError("GuiSocketFailed")<{
  readonly socket: string
  readonly why: string
}> {
  override get message(): string {
    return `socket ${this.socket} for the GUI: ${this.why}`
  }
}

/** The GUI has closed the connection, or was sent away because of what it sent or did not read. */
export class GuiGone extends Data.TaggedError("GuiGone")<{ readonly reason: string }> {
  override get message(): string {
    return this.reason
  }
}

export interface GuiConnection {
  /** The next message, no sooner than the GUI may have one more. */
  readonly receive: Effect.Effect<ClientMessage, GuiGone>
  /** Once the system has taken it; of several at a time one after the other. One longer than a frame is left out. */
  readonly send: (message: ServiceMessage) => Effect.Effect<void, GuiGone>
}

export interface GuiListener {
  /**
   * The next GUI in the order in which they came; the scope sends it away. Whoever is no GUI has been sent away before.
   * Those that wait hear nothing, and what they send waits too.
   */
  readonly accept: Effect.Effect<GuiConnection, never, Scope.Scope>
}

/**
 * Where a GUI finds the tunnel service (host spec sections 7.1 and 7.2). However many connect, and whatever they send or do
 * not read: the memory and the time that they cost have a limit.
 */
export class GuiServer extends Context.Tag("firezone-headless-client/services/GuiServer")<GuiServer, {
  /** Returns once it listens; the scope ends it and removes the socket. */
  readonly listen: Effect.Effect<GuiListener, GuiSocketFailed | UnsupportedPlatform, Scope.Scope>
}>() {}
