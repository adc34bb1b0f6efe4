import * as Context from "effect/Context"
import * as Data from "effect/Data"
import type * as Effect from "effect/Effect"
import type * as Stream from "effect/Stream"
import type { StatusReport } from "../model/status.ts"
import type { UnsupportedPlatform } from "../model/UnsupportedPlatform.ts"

/** Nobody listens on the socket. */
export class ClientNotRunning extends Data.TaggedError("ClientNotRunning")<{ readonly socket: string }> {
  override get message(): string {
    return `no client is running: nobody answers on ${this.socket}. Start one or, if one runs with another --tun-name or --control-socket, say the same here`
  }
}

/** It ended while it was watched. */
export class ClientStopped extends Data.TaggedError("ClientStopped")<{ readonly socket: string }> {
  override get message(): string {
    return `the client on ${this.socket} has stopped`
  }
}

/** Only root and the user that the client runs as may ask; exit code 4. */
export class ControlNotPermitted extends Data.TaggedError("ControlNotPermitted")<{ readonly socket: string }> {
  override get message(): string {
    return `not permitted to ask the client on ${this.socket}; try again with sudo`
  }
}

/** No answer, or none that this version understands. */
export class ControlFailed extends Data.TaggedError("ControlFailed")<{
  readonly socket: string
  readonly why: string
}> {
  override get message(): string {
    return `the client on ${this.socket}: ${this.why}`
  }
}

export type ControlError = ClientNotRunning | ClientStopped | ControlNotPermitted | ControlFailed | UnsupportedPlatform

/** Asks the client that runs on this machine with the configured control socket. */
export class ControlClient extends Context.Tag("firezone-headless-client/services/ControlClient")<ControlClient, {
  readonly status: Effect.Effect<StatusReport, ControlError>
  /** One now and then one a second; fails when the client ends. */
  readonly statuses: Stream.Stream<StatusReport, ControlError>
}>() {}
