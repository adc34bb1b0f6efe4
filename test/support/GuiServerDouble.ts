/** GUIs that the test plays, with no socket between them and the service. */
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import * as Layer from "effect/Layer"
import * as Queue from "effect/Queue"
import type { ClientMessage, ServiceMessage } from "../../src/model/gui.ts"
import { type GuiConnection, GuiGone, GuiServer } from "../../src/services/GuiServer.ts"

export interface GuiDouble {
  /** Oldest first. */
  readonly heard: Array<ServiceMessage>
  readonly say: (message: ClientMessage) => void
  readonly leave: () => void
  /** Whether the service has let go of it. */
  isOver: boolean
}

export interface GuiServerDouble {
  readonly connect: () => GuiDouble
  isListening: boolean
  readonly layer: Layer.Layer<GuiServer>
}

export const makeGuiServerDouble: Effect.Effect<GuiServerDouble> = Effect.gen(function*() {
  const arrivals = yield* Queue.unbounded<readonly [GuiDouble, GuiConnection]>()
  const double: GuiServerDouble = {
    isListening: false,
    connect: () => {
      const said = Effect.runSync(Queue.unbounded<Exit.Exit<ClientMessage, GuiGone>>())
      const gui: GuiDouble = {
        heard: [],
        isOver: false,
        say: (message) => void said.unsafeOffer(Exit.succeed(message)),
        leave: () => void said.unsafeOffer(Exit.fail(new GuiGone({ reason: "it left" })))
      }
      arrivals.unsafeOffer([gui, {
        receive: Effect.flatten(Queue.take(said)),
        send: (message) => Effect.sync(() => void gui.heard.push(message))
      }])
      return gui
    },
    layer: Layer.succeed(GuiServer, {
      listen: Effect.acquireRelease(
        Effect.sync(() => {
          double.isListening = true
          return {
            accept: Effect.acquireRelease(
              Effect.interruptible(Queue.take(arrivals)),
              ([gui]) => Effect.sync(() => (gui.isOver = true))
            ).pipe(Effect.map(([, connection]) => connection))
          }
        }),
        () => Effect.sync(() => (double.isListening = false))
      )
    })
  }
  return double
})
