import * as Context from "effect/Context"
import * as Data from "effect/Data"
import type * as Effect from "effect/Effect"
import type * as Scope from "effect/Scope"
import type { SyscallError } from "../ffi/SyscallError.ts"
import type { IpAddress } from "../model/Route.ts"
import type { UnsupportedPlatform } from "../model/UnsupportedPlatform.ts"

export class ProbeFailed extends Data.TaggedError("ProbeFailed")<{
  readonly what: string
  readonly cause: SyscallError
}> {
  override get message(): string {
    return `${this.what}: ${this.cause.message}`
  }
}

/** Asked for something that must stay in the tunnel, and the system would send it elsewhere. Nothing was sent. */
export class OutsideTunnel extends Data.TaggedError("OutsideTunnel")<{
  readonly destination: IpAddress
  /** From which packets to it would leave. */
  readonly source: IpAddress
}> {
  override get message(): string {
    return `packets to ${this.destination} leave from ${this.source}, not through the tunnel: something else on this machine`
      + " has taken the route"
  }
}

export type EchoOutcome =
  | { readonly _tag: "Answered"; readonly millis: number }
  | {
    readonly _tag: "Refused"
    /** Whoever says so; absent if this machine does. */
    readonly from: IpAddress | undefined
    readonly isProhibited: boolean
    /** The system's word, such as `EHOSTUNREACH`. */
    readonly errno: string
    readonly millis: number
  }
  | { readonly _tag: "Silent" }

export interface Echoes {
  /** From which packets to the destination leave: the kernel's choice, as for every program. */
  readonly source: IpAddress
  /** Sends one request and waits for what comes of it. Each has a sequence number of its own, 16 bits. */
  readonly echo: (sequence: number, patienceMillis: number) => Effect.Effect<EchoOutcome, ProbeFailed>
}

export type LookUp =
  | { readonly _tag: "Addresses"; readonly addresses: ReadonlyArray<IpAddress> }
  /** A response code of DNS other than 0. */
  | { readonly _tag: "Refused"; readonly responseCode: number }
  | { readonly _tag: "Silent" }

/** Does what applications do with a resource, through the kernel: looks a name up, and sends echo requests. */
export class ResourceProbe extends Context.Tag("firezone-headless-client/services/ResourceProbe")<ResourceProbe, {
  /**
   * Asks a DNS server of the client's own for the addresses of a name of one family. Sends nothing unless packets to the
   * server leave from `source`, the tunnel's address: names of resources are nobody else's business.
   */
  readonly lookUp: (
    name: string,
    family: 4 | 6,
    server: IpAddress,
    source: IpAddress,
    patienceMillis: number
  ) => Effect.Effect<LookUp, ProbeFailed | OutsideTunnel | UnsupportedPlatform>
  /** Sends nothing yet. */
  readonly open: (destination: IpAddress) => Effect.Effect<Echoes, ProbeFailed | UnsupportedPlatform, Scope.Scope>
}>() {}
