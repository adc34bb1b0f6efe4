import * as Context from "effect/Context"
import * as Data from "effect/Data"
import type * as Effect from "effect/Effect"
import type { IpAddress } from "../model/Route.ts"
import type { DnsControlMethod } from "./ClientConfig.ts"

/** The system's DNS could not be pointed at the tunnel, or not back; exit code 1. */
export class DnsControlFailed extends Data.TaggedError("DnsControlFailed")<{
  /** The step that failed, such as `resolvectl domain`, `write /etc/resolv.conf`. */
  readonly step: string
  readonly cause: unknown
  /** What to do about it. */
  readonly hint: string
}> {
  override get message(): string {
    const cause = this.cause instanceof Error ? this.cause.message : String(this.cause)
    return `cannot control the system's DNS: ${this.step}: ${cause}; ${this.hint}`
  }
}

/** Where the system's DNS is to point. */
export interface DnsTarget {
  readonly interfaceName: string
  /** The client's own, in the order in which they are to be asked. Without any the system is left alone. */
  readonly servers: ReadonlyArray<IpAddress>
  /** Comes before the system's own search domains, which stay. From the network: one that is no name is left out. */
  readonly searchDomain: string | undefined
}

/** Points the system's DNS at the tunnel (host spec section 13). One client at a time on a machine. */
export class DnsControl extends Context.Tag("firezone-headless-client/services/DnsControl")<DnsControl, {
  /** What is in force: `auto` has become one of the others. */
  readonly method: Exclude<DnsControlMethod, "auto">
  /**
   * Begins a run: takes back what one that died has left, and fails if the method cannot work here. Says in the log what
   * `auto` has become.
   */
  readonly prepare: Effect.Effect<void, DnsControlFailed>
  /**
   * Replaces what an earlier call set. When another program undoes it, it is noticed and done again, until `revert`. So is
   * what cannot be done now but could before: only the first call fails for that. The interface must be up.
   */
  readonly set: (target: DnsTarget) => Effect.Effect<void, DnsControlFailed>
  /** As it was before, and as others have changed it since. Idempotent; also done at the end of the layer's scope. */
  readonly revert: Effect.Effect<void, DnsControlFailed>
  /** Makes the system forget answers, soon: does not wait for it. Failure is only logged. */
  readonly flush: Effect.Effect<void>
}>() {}
