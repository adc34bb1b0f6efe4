/** What the checks share: their shape, and what the running client says. */
import * as Effect from "effect/Effect"
import type { Finding, Group } from "../../model/doctor.ts"
import type { StatusReport } from "../../model/status.ts"
import { ControlClient } from "../../services/ControlClient.ts"

export interface Check<R> {
  readonly id: string
  readonly group: Group
  readonly title: string
  readonly run: Effect.Effect<Finding, never, R>
}

/** Nothing that is asked on this machine takes that long. */
const CLIENT_LIMIT = "3 seconds"

/** The client that runs with the same control socket, if one does. */
export type Session =
  | { readonly _tag: "Running"; readonly report: StatusReport }
  | { readonly _tag: "None" }
  /** Only root and its own user may ask. */
  | { readonly _tag: "Hidden" }
  | { readonly _tag: "Stuck"; readonly why: string }

export const readSession: Effect.Effect<Session, never, ControlClient> = Effect.flatMap(
  ControlClient,
  (client) =>
    client.status.pipe(
      Effect.map((report): Session => ({ _tag: "Running", report })),
      Effect.catchAll((error): Effect.Effect<Session> =>
        Effect.succeed(
          error._tag === "ClientNotRunning" || error._tag === "ClientStopped" || error._tag === "UnsupportedPlatform"
            ? { _tag: "None" }
            : error._tag === "ControlNotPermitted"
            ? { _tag: "Hidden" }
            : { _tag: "Stuck", why: error.message }
        )
      ),
      Effect.timeoutTo({
        duration: CLIENT_LIMIT,
        onSuccess: (session) => session,
        onTimeout: (): Session => ({ _tag: "Stuck", why: `it did not answer within ${CLIENT_LIMIT}` })
      })
    )
)

export const reportOf = (session: Session): StatusReport | undefined =>
  session._tag === "Running" ? session.report : undefined

/** What everybody who is not root is told. */
export const AS_ROOT = "run doctor with sudo to look at this"

export const plural = (count: number, one: string, many = `${one}s`): string => `${count} ${count === 1 ? one : many}`
