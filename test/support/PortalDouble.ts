/** A portal that the test plays: it sends the events and sees the requests. */
import * as Effect from "effect/Effect"
import * as Layer from "effect/Layer"
import * as Queue from "effect/Queue"
import type {
  PortalConnection,
  PortalEvent,
  PortalOptions,
  PortalProtocol,
  PortalRole
} from "../../src/services/Portal.ts"
import { Portal } from "../../src/services/Portal.ts"

export interface PortalDouble<Role extends PortalRole> {
  /** Reaches every connection that is open; `Connected` and `Disconnected` switch `unsafeSend` as in the real one. */
  readonly emit: (event: PortalEvent<PortalProtocol[Role]["push"]>) => void
  /** Accepted requests, oldest first; the test may empty it. */
  readonly sent: Array<PortalProtocol[Role]["request"]>
  /** The keys of `reconnect`, oldest first. */
  readonly reconnects: Array<Uint8Array>
  /** The options of every `open`, oldest first. */
  readonly opened: Array<PortalOptions<Role>>
  readonly layer: Layer.Layer<Portal>
}

/** Plays the portal for one role. */
export const makePortalDouble = <Role extends PortalRole>(): PortalDouble<Role> => {
  type Push = PortalProtocol[Role]["push"]
  type Request = PortalProtocol[Role]["request"]
  const queues = new Set<Queue.Queue<PortalEvent<Push>>>()
  const sent: Array<Request> = []
  const reconnects: Array<Uint8Array> = []
  const opened: Array<PortalOptions<Role>> = []
  let connected = false
  let joins = 0
  const open = (options: PortalOptions<Role>) =>
    Effect.gen(function*() {
      opened.push(options)
      const events = yield* Effect.acquireRelease(Queue.unbounded<PortalEvent<Push>>(), (queue) =>
        Effect.suspend(() => {
          queues.delete(queue)
          return Queue.shutdown(queue)
        }))
      queues.add(events)
      const connection: PortalConnection<Role> = {
        events,
        unsafeSend: (request) => {
          if (connected) sent.push(request)
          return connected
        },
        reconnect: (publicKey) =>
          Effect.sync(() => {
            connected = false
            reconnects.push(publicKey)
          }),
        status: () => ({ state: connected ? "connected" : "connecting", joins })
      }
      return connection
    })
  return {
    emit: (event) => {
      if (event._tag !== "Message") connected = event._tag === "Connected"
      if (connected && event._tag === "Connected") joins += 1
      for (const queue of queues) queue.unsafeOffer(event)
    },
    sent,
    reconnects,
    opened,
    // The double plays one role; a test that opens another would see the wrong messages.
    layer: Layer.succeed(Portal, Portal.of({ open: open as unknown as Portal["Type"]["open"] }))
  }
}
