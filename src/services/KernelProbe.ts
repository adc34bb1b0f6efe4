import * as Context from "effect/Context"
import type * as Effect from "effect/Effect"
import type * as Either from "effect/Either"
import type { SyscallError } from "../ffi/SyscallError.ts"
import type { IpAddress } from "../model/Route.ts"

export interface TunRefused {
  /** Such as `open /dev/net/tun`. */
  readonly step: string
  readonly cause: SyscallError
}

export interface SocketAbilities {
  /** Whether sockets may be marked, which keeps our packets out of our tunnel. */
  readonly mark: Either.Either<void, SyscallError>
  /** `UDP_SEGMENT`, `UDP_GRO`. */
  readonly segmentation: boolean
  readonly coalescing: boolean
}

/** What this kernel lets this process do: tried, not guessed from versions. Nothing stays behind. */
export class KernelProbe extends Context.Tag("firezone-headless-client/services/KernelProbe")<KernelProbe, {
  /** Makes a TUN device under a name of its own, which is gone when this returns; the offloads granted, joined by commas. */
  readonly tun: Effect.Effect<Either.Either<string, TunRefused>>
  readonly sockets: Effect.Effect<SocketAbilities, SyscallError>
  /** What the kernel knows of the way to there: the interface's MTU, or less if a router has said so. */
  readonly pathMtu: (destination: IpAddress) => Effect.Effect<number, SyscallError>
}>() {}
