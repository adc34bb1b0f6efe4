import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import * as Scope from "effect/Scope"
import type { PeerSockets } from "../../services/PeerSocket.ts"

export interface SessionSockets<E> {
  /** `undefined` while there are none. */
  readonly current: () => PeerSockets | undefined
  /** Closes those that are open, so that their port is free, and opens others. */
  readonly rebind: Effect.Effect<void, E>
}

/** The peer sockets of a session, closed with the scope. `use` is told which there are, before old ones are closed. */
export const makeSessionSockets = <E>(
  open: Effect.Effect<PeerSockets, E, Scope.Scope>,
  use: (sockets: PeerSockets | undefined) => void
): Effect.Effect<SessionSockets<E>, E, Scope.Scope> =>
  Effect.gen(function*() {
    let sockets: PeerSockets | undefined
    // A scope of their own, which ends with every move.
    let scope = yield* Scope.make()
    yield* Effect.addFinalizer((exit) => Effect.suspend(() => Scope.close(scope, exit)))
    const bind = Effect.gen(function*() {
      sockets = yield* Scope.extend(open, scope)
      use(sockets)
    })
    const close = Effect.gen(function*() {
      use(undefined)
      sockets = undefined
      const old = scope
      scope = yield* Scope.make()
      yield* Scope.close(old, Exit.void)
    })
    yield* bind
    return { current: () => sockets, rebind: Effect.zipRight(close, bind) }
  })
