import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import * as Scope from "effect/Scope"
import type { PeerSockets, PeerSocketStats } from "../../services/PeerSocket.ts"

export interface SessionSockets<E> {
  /** `undefined` while there are none. */
  readonly current: () => PeerSockets | undefined
  /** Of these and all that were before them: it only grows. */
  readonly stats: () => PeerSocketStats
  /** Closes those that are open, so that their port is free, and opens others. */
  readonly rebind: Effect.Effect<void, E>
}

const nothing: PeerSocketStats = { received: 0, receivedBytes: 0, sent: 0, sentBytes: 0, dropped: {} }

const sum = (before: PeerSocketStats, now: PeerSocketStats): PeerSocketStats => {
  const dropped: Record<string, number> = { ...before.dropped }
  for (const [reason, count] of Object.entries(now.dropped)) dropped[reason] = (dropped[reason] ?? 0) + count
  return {
    received: before.received + now.received,
    receivedBytes: before.receivedBytes + now.receivedBytes,
    sent: before.sent + now.sent,
    sentBytes: before.sentBytes + now.sentBytes,
    dropped
  }
}

/** The peer sockets of a session, closed with the scope. `use` is told which there are, before old ones are closed. */
export const makeSessionSockets = <E>(
  open: Effect.Effect<PeerSockets, E, Scope.Scope>,
  use: (sockets: PeerSockets | undefined) => void
): Effect.Effect<SessionSockets<E>, E, Scope.Scope> =>
  Effect.gen(function*() {
    let sockets: PeerSockets | undefined
    let ofClosed = nothing
    // A scope of their own, which ends with every move.
    let scope = yield* Scope.make()
    yield* Effect.addFinalizer((exit) => Effect.suspend(() => Scope.close(scope, exit)))
    const bind = Effect.gen(function*() {
      sockets = yield* Scope.extend(open, scope)
      use(sockets)
    })
    const close = Effect.gen(function*() {
      use(undefined)
      const closing = sockets
      sockets = undefined
      const old = scope
      scope = yield* Scope.make()
      yield* Scope.close(old, Exit.void)
      // What was still in their queues is counted while they close.
      if (closing !== undefined) ofClosed = sum(ofClosed, closing.stats())
    })
    yield* bind
    return {
      current: () => sockets,
      stats: () => sockets === undefined ? ofClosed : sum(ofClosed, sockets.stats()),
      rebind: Effect.zipRight(close, bind)
    }
  })
