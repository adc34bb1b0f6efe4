import type * as Effect from "effect/Effect"
import type * as Stream from "effect/Stream"
import type { DnsControlFailed, DnsTarget } from "../../services/DnsControl.ts"

/** How a method of DNS control does it. What `prepare` and `apply` fail with is fatal for a session, else logged. */
export interface Backend {
  readonly prepare: Effect.Effect<void, DnsControlFailed>
  /** May be interrupted; what it has done by then is for `revert` or for the next one. */
  readonly apply: (target: DnsTarget) => Effect.Effect<void, DnsControlFailed>
  /**
   * What others made of it since, as a text that stays the same while they leave it; `undefined` while all is well.
   * `isHinted`: one of `hints` was the reason to look.
   */
  readonly damage: (target: DnsTarget, isHinted: boolean) => Effect.Effect<string | undefined>
  /** Reasons to look at once; it is looked from time to time all the same. */
  readonly hints: Stream.Stream<void>
  /** Within 2 s. */
  readonly revert: Effect.Effect<void, DnsControlFailed>
  readonly flush: Effect.Effect<void, DnsControlFailed>
}
