/** A control server that the test asks directly. */
import * as Effect from "effect/Effect"
import * as Layer from "effect/Layer"
import { ControlServer, type ControlSocketTaken, type ControlUnavailable } from "../../src/services/ControlServer.ts"
import type { TunnelSession } from "../../src/services/Tunnel.ts"

export interface ControlServerDouble {
  /** The session that it serves now. */
  session: Pick<TunnelSession, "reset" | "status"> | undefined
  /** Fails the next `serve`s. */
  failure: ControlSocketTaken | ControlUnavailable | undefined
  readonly layer: Layer.Layer<ControlServer>
}

export const makeControlServerDouble = (): ControlServerDouble => {
  const double: ControlServerDouble = {
    session: undefined,
    failure: undefined,
    layer: Layer.succeed(ControlServer, {
      serve: (session) =>
        Effect.acquireRelease(
          Effect.suspend(() => {
            if (double.failure !== undefined) return Effect.fail(double.failure)
            double.session = session
            return Effect.void
          }),
          () => Effect.sync(() => (double.session = undefined))
        )
    })
  }
  return double
}
