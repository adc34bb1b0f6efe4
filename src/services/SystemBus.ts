import * as Context from "effect/Context"
import * as Data from "effect/Data"
import type * as Effect from "effect/Effect"
import type * as Stream from "effect/Stream"
import type { BusMessage, BusRequest, BusValue } from "../protocol/wire/dbus.ts"

/** There is no bus, it does not let us in, or it went away before the reply came. */
export class BusUnavailable extends Data.TaggedError("BusUnavailable")<{ readonly reason: string }> {
  override get message(): string {
    return `the system's D-Bus cannot be used: ${this.reason}`
  }
}

/** The program that was called, or the bus in its place, answered with an error. */
export class BusRefused extends Data.TaggedError("BusRefused")<{
  readonly member: string
  /** Of the error, such as `org.freedesktop.DBus.Error.ServiceUnknown`. */
  readonly error: string
  readonly reason: string
}> {
  override get message(): string {
    return `${this.member} over D-Bus: ${this.error}: ${this.reason}`
  }
}

export class BusTimedOut extends Data.TaggedError("BusTimedOut")<{
  readonly member: string
  readonly millis: number
}> {
  override get message(): string {
    return `${this.member} over D-Bus: no answer within ${this.millis} ms`
  }
}

export type BusError = BusUnavailable | BusRefused | BusTimedOut

/** Which signals: those that the present owner of the name `sender` sends. */
export interface SignalRule {
  readonly sender: string
  readonly path: string
  readonly interface: string
  readonly member: string
  /** What the signal's first value must be, if it is a string. */
  readonly firstValue?: string
}

/** `Listening` comes each time that we begin to: what was said before is unknown. */
export type BusSignal =
  | { readonly _tag: "Listening" }
  | { readonly _tag: "Signal"; readonly message: BusMessage }

/** The system's D-Bus message bus: one connection for all, made when it is first needed, and again when it was lost. */
export class SystemBus extends Context.Tag("firezone-headless-client/services/SystemBus")<SystemBus, {
  /** Calls a method and returns the values of its reply, which are what the program says: check them. */
  readonly call: (request: BusRequest, options?: {
    /** 5000 unless given; includes the time to connect. */
    readonly timeoutMillis?: number
  }) => Effect.Effect<ReadonlyArray<BusValue>, BusError>
  /**
   * Never fails: while there is no bus nothing comes. Two rules that differ in the sender only get each other's signals.
   * A slow subscriber loses the oldest: take a signal as a reason to look.
   */
  readonly signals: (rule: SignalRule) => Stream.Stream<BusSignal>
}>() {}
