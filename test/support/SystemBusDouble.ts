/** A system bus that the test plays. */
import * as Effect from "effect/Effect"
import * as Layer from "effect/Layer"
import * as PubSub from "effect/PubSub"
import * as Stream from "effect/Stream"
import type { BusMessage, BusRequest, BusValue } from "../../src/protocol/wire/dbus.ts"
import { type BusError, type BusSignal, BusTimedOut, BusUnavailable, SystemBus } from "../../src/services/SystemBus.ts"

export interface SystemBusDouble {
  /** What was called, oldest first. */
  readonly calls: Array<BusRequest>
  /** What becomes of calls; there is no bus unless set. */
  answer: (request: BusRequest) => Effect.Effect<ReadonlyArray<BusValue>, BusError>
  /** Says it to whoever listens to this member. */
  readonly say: (signal: Partial<BusMessage>) => Effect.Effect<void>
  /** As after a connection was made. */
  readonly listening: Effect.Effect<void>
  readonly layer: Layer.Layer<SystemBus>
}

export const makeSystemBusDouble = (): SystemBusDouble => {
  const said = Effect.runSync(PubSub.unbounded<BusSignal>())
  const double: SystemBusDouble = {
    calls: [],
    answer: () => new BusUnavailable({ reason: "the test has none" }),
    say: (signal) => Effect.asVoid(PubSub.publish(said, { _tag: "Signal", message: signal as BusMessage })),
    listening: Effect.asVoid(Effect.suspend(() => PubSub.publish(said, { _tag: "Listening" }))),
    layer: Layer.sync(SystemBus, () =>
      SystemBus.of({
        call: (request, { timeoutMillis = 5000 } = {}) =>
          Effect.suspend(() => {
            double.calls.push(request)
            return double.answer(request)
          }).pipe(
            Effect.interruptible,
            Effect.timeoutFail({
              duration: timeoutMillis,
              onTimeout: () => new BusTimedOut({ member: request.member, millis: timeoutMillis })
            })
          ),
        signals: ({ member }) =>
          Stream.filter(
            Stream.fromPubSub(said),
            (signal) => signal._tag === "Listening" || signal.message.member === member
          )
      }))
  }
  return double
}

/** A machine without a bus. */
export const noBus: Layer.Layer<SystemBus> = Layer.suspend(() => makeSystemBusDouble().layer)
