import * as Context from "effect/Context"
import type * as Effect from "effect/Effect"
import type * as Scope from "effect/Scope"
import type { SyscallError } from "../ffi/SyscallError.ts"

export interface Watch {
  /** Whether to be called when the descriptor is readable; on at first. Errors may be told of even when it is off. */
  readonly setReadable: (wanted: boolean) => void
  /** Whether to be called when the descriptor is writable too; off at first. */
  readonly setWritable: (wanted: boolean) => void
}

/**
 * Runs callbacks on the main thread when a descriptor that Node cannot watch itself becomes readable (design section 3).
 * The only caller of `koffi.node.poll`; holds every handle, because a collected one stops without a word.
 */
export class ReadinessPoller extends Context.Tag("firezone-headless-client/services/ReadinessPoller")<ReadinessPoller, {
  /**
   * Level-triggered: the callback runs again while something is left to read. It must drain with non-blocking calls
   * within a budget. It must not throw: an exception is a defect and ends the process. The scope ends the watch; close
   * the descriptor after that.
   */
  readonly watch: (
    fd: number,
    onReady: (readable: boolean, writable: boolean) => void
  ) => Effect.Effect<Watch, SyscallError, Scope.Scope>
}>() {}
