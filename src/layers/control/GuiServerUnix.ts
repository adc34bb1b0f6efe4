/** The GUI's socket on Linux. Whatever happens on a connection ends that connection, nothing else. */
import * as Clock from "effect/Clock"
import * as Effect from "effect/Effect"
import * as Either from "effect/Either"
import * as Layer from "effect/Layer"
import * as Queue from "effect/Queue"
import * as Runtime from "effect/Runtime"
import * as Schema from "effect/Schema"
import type * as net from "node:net"
import { ClientMessage, ServiceMessage } from "../../model/gui.ts"
import { Allowance } from "../../protocol/gui/Allowance.ts"
import { encodeFrame, MAX_FRAME_BYTES } from "../../protocol/gui/frames.ts"
import { type GuiConnection, GuiGone, type GuiListener, GuiServer, GuiSocketFailed } from "../../services/GuiServer.ts"
import { seldom } from "../seldom.ts"
import { GuiInput } from "./GuiInput.ts"
import { refusalOf } from "./guiPeer.ts"
import { listenOn } from "./unixSocket.ts"

/** Besides the one that is served; whoever comes beyond is sent away. */
export const MAX_WAITING = 16
/** A message costs one, and one more for each so many bytes: to take JSON apart is time that packets do not get. */
const BYTES_OF_COST = 64 * 1024
const COST_PER_SECOND = 20
const COST_AT_ONCE = 100

export interface GuiServerOptions {
  readonly socket: string
  /** The one program that may connect. */
  readonly guiPath: string
  /** To end a frame that has begun, and to read what it is told. */
  readonly patienceMillis?: number
}

interface Waiting {
  readonly socket: net.Socket
  readonly input: GuiInput
}

const decode = Schema.decodeUnknownEither(Schema.parseJson(ClientMessage))
const encode = Schema.encodeSync(Schema.parseJson(ServiceMessage))

const nowMillis = Effect.map(Clock.currentTimeNanos, (nanos) => Number(nanos / 1_000_000n))

const make = ({ guiPath, patienceMillis = 10_000, socket: file }: GuiServerOptions) =>
  Effect.gen(function*() {
    const runtime = yield* Effect.runtime<never>()
    const refused = seldom()

    const listen: (typeof GuiServer.Service)["listen"] = Effect.gen(function*() {
      const queue = yield* Queue.unbounded<Waiting>()
      const waiting = new Set<Waiting>()
      yield* Effect.addFinalizer(() =>
        Effect.sync(() => {
          for (const { socket } of waiting) socket.destroy()
        })
      )
      const refuse = (socket: net.Socket, why: string): void => {
        socket.destroy()
        Runtime.runFork(runtime)(refused(
          Effect.logWarning("a connection to the GUI's socket is refused").pipe(
            Effect.annotateLogs({ module: "gui", why })
          )
        ))
      }
      const onConnection = (socket: net.Socket): void => {
        socket.on("error", () => undefined)
        const why = refusalOf(socket, guiPath)
        if (why !== undefined) return refuse(socket, why)
        if (waiting.size >= MAX_WAITING) return refuse(socket, `${MAX_WAITING} are waiting already`)
        const each: Waiting = {
          socket,
          input: new GuiInput(socket, patienceMillis, () => {
            if (waiting.delete(each)) socket.destroy()
          })
        }
        waiting.add(each)
        Queue.unsafeOffer(queue, each)
      }
      yield* listenOn(file, 0o660, onConnection).pipe(
        Effect.catchTags({
          SocketTaken: () => new GuiSocketFailed({ socket: file, why: "another tunnel service answers on it" }),
          SocketUnusable: ({ why }) => new GuiSocketFailed({ socket: file, why })
        })
      )
      const accept = Effect.acquireRelease(
        Queue.take(queue).pipe(
          Effect.repeat({ until: (each) => waiting.delete(each) }),
          Effect.interruptible
        ),
        ({ socket }) => Effect.sync(() => socket.destroy())
      ).pipe(Effect.flatMap(serve(patienceMillis)))
      return { accept } satisfies GuiListener
    })
    return GuiServer.of({ listen })
  })

const serve = (patienceMillis: number) => ({ input, socket }: Waiting): Effect.Effect<GuiConnection> =>
  Effect.gen(function*() {
    const allowance = new Allowance(COST_PER_SECOND, COST_AT_ONCE, yield* nowMillis)
    const lock = yield* Effect.makeSemaphore(1)
    const tooLong = seldom()
    input.serve()
    const sendAway = (reason: string): Effect.Effect<never, GuiGone> => {
      input.end(reason)
      socket.destroy()
      return new GuiGone({ reason })
    }
    return {
      receive: Effect.gen(function*() {
        const frame = yield* input.next
        const wait = allowance.spend(1 + frame.length / BYTES_OF_COST, yield* nowMillis)
        if (wait > 0) yield* Effect.sleep(wait)
        // What is wrong with it is not told: there may be a token in it.
        const message = Either.flatMap(textOf(frame), decode)
        return Either.isRight(message)
          ? message.right
          : yield* sendAway(`a message of ${frame.length} bytes cannot be read`)
      }),
      send: (message) =>
        Effect.suspend(() => {
          const frame = encodeFrame(new TextEncoder().encode(encode(message)))
          if (frame === undefined) {
            return tooLong(
              Effect.logWarning(`a message is longer than ${MAX_FRAME_BYTES} bytes: the GUI is not told`).pipe(
                Effect.annotateLogs("message", message._tag)
              )
            )
          }
          return Effect.async<void, GuiGone>((resume) => {
            if (socket.destroyed) return resume(new GuiGone({ reason: "the connection is closed" }))
            socket.write(frame, (error) => resume(error ? new GuiGone({ reason: error.message }) : Effect.void))
          }).pipe(
            Effect.timeoutOption(patienceMillis),
            Effect.flatMap((sent) => sent._tag === "Some" ? Effect.void : sendAway("it does not read what it is told"))
          )
        }).pipe(lock.withPermits(1))
    }
  })

const textOf = (frame: Uint8Array): Either.Either<string, unknown> =>
  Either.try(() => new TextDecoder("utf-8", { fatal: true }).decode(frame))

export const layerWith = (options: GuiServerOptions): Layer.Layer<GuiServer> => Layer.effect(GuiServer, make(options))
