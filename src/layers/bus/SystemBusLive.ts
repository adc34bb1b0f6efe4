import * as Effect from "effect/Effect"
import * as Layer from "effect/Layer"
import * as Queue from "effect/Queue"
import * as Runtime from "effect/Runtime"
import * as Schedule from "effect/Schedule"
import * as Stream from "effect/Stream"
import { busSocketPath, SYSTEM_BUS_ADDRESS } from "../../protocol/dbus/busAddress.ts"
import { type BusReply, busRequest } from "../../protocol/dbus/BusConnection.ts"
import { type BusMessage, type BusRequest, type BusValue, readBody } from "../../protocol/wire/dbus.ts"
import {
  type BusError,
  BusRefused,
  type BusSignal,
  BusTimedOut,
  BusUnavailable,
  type SignalRule,
  SystemBus
} from "../../services/SystemBus.ts"
import { BusSocket } from "./BusSocket.ts"

/** A bus that is there answers in a millisecond. */
const CONNECT_MILLIS = 2000
const CALL_MILLIS = 5000
/** At most so often, as a bus may let us in and throw us out for ever. */
const BETWEEN_CONNECTIONS = "1 second"
/** Hosts without a bus are asked for ever, hence seldom. */
const RECONNECT = Schedule.union(Schedule.exponential("1 second"), Schedule.spaced("30 seconds"))
/** Elements that a slow subscriber may be behind; of more the oldest go. */
const BUFFERED = 16

export interface SystemBusOptions {
  /** As in `DBUS_SYSTEM_BUS_ADDRESS`. */
  readonly address: string
}

interface Subscription {
  readonly rule: SignalRule
  readonly offer: (signal: BusSignal) => void
}

/** As the bus wants it (D-Bus specification, "Match Rules"); none of our values has a quote in it. */
const ruleText = ({ firstValue, ...rule }: SignalRule): string =>
  ["type='signal'", ...Object.entries(rule).map(([key, value]) => `${key}='${value}'`)]
    .concat(firstValue === undefined ? [] : `arg0='${firstValue}'`)
    .join()

const isOf = (message: BusMessage, { firstValue, ...rule }: SignalRule): boolean =>
  message.path === rule.path && message.interface === rule.interface && message.member === rule.member
  && (firstValue === undefined || readBody(message)?.[0] === firstValue)

const outcomeOf = (reply: BusReply | undefined, { member }: BusRequest): Effect.Effect<
  ReadonlyArray<BusValue>,
  BusError
> => {
  if (reply === undefined) return new BusUnavailable({ reason: "it went away" })
  return reply._tag === "Returned"
    ? Effect.succeed(reply.values)
    : new BusRefused({ member, error: reply.name, reason: reply.reason })
}

const make = ({ address }: SystemBusOptions) =>
  Effect.gen(function*() {
    const socketPath = busSocketPath(address)
    const uid = process.geteuid?.()
    const run = Runtime.runFork(yield* Effect.runtime<never>())
    const subscriptions = new Set<Subscription>()
    /** Ready for calls. */
    let current: BusSocket | undefined
    /** There may be subscriptions and no connection. */
    const lonely = yield* Queue.sliding<void>(1)

    const listen = (socket: BusSocket, { offer, rule }: Subscription): void => {
      socket.call(busRequest("AddMatch", ruleText(rule)), (reply) => {
        if (reply?._tag === "Returned") offer({ _tag: "Listening" })
        if (reply?._tag === "Refused") run(Effect.logDebug(`cannot listen to ${rule.sender}: ${reply.name}`))
      })
    }

    const open = Effect.async<BusSocket, BusUnavailable>((resume) => {
      if (socketPath === undefined || uid === undefined) {
        return resume(new BusUnavailable({ reason: "this system has none" }))
      }
      const socket = new BusSocket(socketPath, uid, {
        onReady: () => {
          current = socket
          for (const subscription of subscriptions) listen(socket, subscription)
          resume(Effect.succeed(socket))
        },
        onSignal: (message) => {
          for (const { offer, rule } of subscriptions) if (isOf(message, rule)) offer({ _tag: "Signal", message })
        },
        onEnd: (reason) => {
          if (current === socket) current = undefined
          Queue.unsafeOffer(lonely, undefined)
          resume(new BusUnavailable({ reason }))
        }
      })
      return Effect.sync(() => {
        if (current !== socket) socket.close()
      })
    })
    const serially = (yield* Effect.makeSemaphore(1)).withPermits(1)
    const connected = Effect.suspend(() => current === undefined ? open : Effect.succeed(current)).pipe(
      Effect.interruptible,
      Effect.timeoutFail({
        duration: CONNECT_MILLIS,
        onTimeout: () => new BusUnavailable({ reason: `it did not answer within ${CONNECT_MILLIS} ms` })
      }),
      serially
    )
    yield* Effect.addFinalizer(() => Effect.sync(() => current?.close()))

    const connectAgain = connected.pipe(
      Effect.tapError(({ message }) => Effect.logDebug(message)),
      Effect.retry({ schedule: RECONNECT, while: () => subscriptions.size > 0 }),
      Effect.ignore
    )
    yield* Queue.take(lonely).pipe(
      Effect.zipRight(Effect.when(connectAgain, () => socketPath !== undefined && subscriptions.size > 0)),
      Effect.zipRight(Effect.sleep(BETWEEN_CONNECTIONS)),
      Effect.forever,
      Effect.annotateLogs("module", "bus"),
      Effect.interruptible,
      Effect.forkScoped
    )

    const exchange = (socket: BusSocket, request: BusRequest) =>
      Effect.async<ReadonlyArray<BusValue>, BusError>((resume) => {
        const cancel = socket.call(request, (reply) => resume(outcomeOf(reply, request)))
        if (cancel !== undefined) return Effect.sync(cancel)
        return resume(new BusUnavailable({ reason: "too many calls wait for their answers" }))
      })
    const call = Effect.fn("SystemBus.call")(
      (request: BusRequest, { timeoutMillis = CALL_MILLIS }: { readonly timeoutMillis?: number } = {}) =>
        Effect.flatMap(connected, (socket) => exchange(socket, request)).pipe(
          // Ends in time also where the caller cannot be interrupted.
          Effect.interruptible,
          Effect.timeoutFail({
            duration: timeoutMillis,
            onTimeout: (): BusError => new BusTimedOut({ member: request.member, millis: timeoutMillis })
          })
        )
    )

    const signals = (rule: SignalRule): Stream.Stream<BusSignal> =>
      Stream.asyncPush<BusSignal>(
        (emit) =>
          Effect.acquireRelease(
            Effect.sync(() => {
              const subscription: Subscription = { rule, offer: (signal) => void emit.single(signal) }
              subscriptions.add(subscription)
              if (current === undefined) Queue.unsafeOffer(lonely, undefined)
              else listen(current, subscription)
              return subscription
            }),
            (subscription) =>
              Effect.sync(() => {
                subscriptions.delete(subscription)
                current?.call(busRequest("RemoveMatch", ruleText(rule)), () => undefined)
              })
          ),
        { bufferSize: BUFFERED, strategy: "sliding" }
      )

    return SystemBus.of({ call, signals })
  })

export const layerWith = (options: SystemBusOptions): Layer.Layer<SystemBus> => Layer.scoped(SystemBus, make(options))

export const layer: Layer.Layer<SystemBus> = Layer.suspend(() =>
  layerWith({ address: process.env["DBUS_SYSTEM_BUS_ADDRESS"] ?? SYSTEM_BUS_ADDRESS })
)
