import * as Context from "effect/Context"
import * as Data from "effect/Data"
import type * as Effect from "effect/Effect"
import type * as Scope from "effect/Scope"
import type { IpAddress, IpNetwork } from "../model/Route.ts"

/** The tunnel device could not be made or set up; exit code 4. */
export class TunFailed extends Data.TaggedError("TunFailed")<{
  /** The step that failed, such as `open /dev/net/tun`, `attach tun-firezone`, `add address`. */
  readonly step: string
  readonly cause: unknown
  readonly hint?: string | undefined
}> {
  override get message(): string {
    const cause = this.cause instanceof Error ? this.cause.message : String(this.cause)
    return `cannot set up the tunnel device: ${this.step}: ${cause}${this.hint === undefined ? "" : `; ${this.hint}`}`
  }
}

export interface TunOptions {
  readonly name: string
  /** Segmentation offloads; off for diagnosis, and given up by themselves when the kernel refuses. */
  readonly offloads: boolean
}

export interface TunInterfaceConfig {
  readonly ipv4: IpAddress
  readonly ipv6: IpAddress
  readonly routes: ReadonlyArray<IpNetwork>
}

export interface TunHandlers {
  /**
   * One IP packet of at most 1280 bytes, checksums complete, at `buffer[offset, offset + length)`. The
   * `CIPHER_HEADROOM` bytes before and `CIPHER_TAILROOM` after it may be overwritten, and the packet too. It stays until
   * `onBatchEnd` returns. Must not throw.
   */
  readonly onPacket: (buffer: Uint8Array, offset: number, length: number) => void
  /** After each batch: flush what the packets caused. */
  readonly onBatchEnd: () => void
}

export interface TunStats {
  readonly read: number
  readonly readBytes: number
  readonly written: number
  readonly writtenBytes: number
  readonly dropped: { readonly [reason: string]: number }
  /** The offloads in force, for diagnosis, such as `tso,uso,coalesce`. */
  readonly offloads: string
}

/** An open device; `write`, `flush` and the handlers are plain calls without allocation per packet. */
export interface Tun {
  readonly name: string
  readonly interfaceIndex: number
  /** Which one of the clients on this machine has it, from 0: later ones use other parts of the shared ranges. */
  readonly instance: number
  /** Starts reading. Packets that arrive before are left in the device's queue. */
  readonly start: (handlers: TunHandlers) => Effect.Effect<void, TunFailed, Scope.Scope>
  /**
   * Whether to read; on at first. Off leaves packets where they wait, and so holds up those who send them: for
   * short times only, because it holds up everybody. May be called from the handlers, and takes effect after their batch.
   */
  readonly setReading: (wanted: boolean) => void
  /** Queues one valid IP packet for `flush`; the bytes must stay until then. Trains of one flow may be merged. */
  readonly write: (buffer: Uint8Array, offset: number, length: number) => void
  readonly flush: () => void
  /**
   * Addresses (/32, /128), MTU 1280, link up, rules and routes, replacing what an earlier call set. Tells which families
   * work; routes of the others are left out. Fails only if neither does.
   */
  readonly configure: (
    config: TunInterfaceConfig
  ) => Effect.Effect<{ readonly ipv4: boolean; readonly ipv6: boolean }, TunFailed>
  readonly stats: () => TunStats
  /** Completes, failing, when the device has gone (somebody deleted the interface). */
  readonly closed: Effect.Effect<never, TunFailed>
}

/** The TUN device (host spec sections 8 and 9). The scope removes device, routes and rules. */
export class TunDevice extends Context.Tag("firezone-headless-client/services/TunDevice")<TunDevice, {
  readonly open: (options: TunOptions) => Effect.Effect<Tun, TunFailed, Scope.Scope>
}>() {}
