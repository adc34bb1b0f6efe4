import * as Context from "effect/Context"
import type * as Effect from "effect/Effect"

/**
 * Tells whoever started the client as a service how it does, and that its event loop turns. Without one it does nothing.
 * Never fails: what cannot be told is logged, the tunnel does not need it.
 */
export class ServiceManager extends Context.Tag("firezone-headless-client/services/ServiceManager")<ServiceManager, {
  /** The client does what it is for. Told once, however often this runs. */
  readonly ready: Effect.Effect<void>
  /** One line for a person, without names or addresses. The same text again is not told again. */
  readonly status: (text: string) => Effect.Effect<void>
  /** The client has begun to stop: nothing of the above is told after it. */
  readonly stopping: Effect.Effect<void>
}>() {}
