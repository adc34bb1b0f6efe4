import * as Context from "effect/Context"
import * as Data from "effect/Data"
import type * as Effect from "effect/Effect"

export class BundleNotWritten extends Data.TaggedError("BundleNotWritten")<{
  readonly file: string
  readonly why: string
}> {
  override get message(): string {
    return `cannot write ${this.file}: ${this.why}`
  }
}

/** The end of a log file. */
export interface LogTail {
  readonly name: string
  readonly text: string
  /** Of the whole file. */
  readonly size: number
}

export interface LogLimits {
  readonly perFile: number
  readonly total: number
}

/** What `debug bundle` reads and writes besides what others look at. */
export class BundleStore extends Context.Tag("firezone-headless-client/services/BundleStore")<BundleStore, {
  /** The ends of a folder's log files, the newest file first, and how many did not fit. Links are not followed. */
  readonly logs: (
    folder: string,
    limits: LogLimits
  ) => Effect.Effect<{ readonly tails: ReadonlyArray<LogTail>; readonly leftOut: number }, BundleNotWritten>
  /** Fails as `write` would if there is a file already: better before the work than after. */
  readonly free: (file: string) => Effect.Effect<void, BundleNotWritten>
  /** A file that only its owner can read from the moment that it is there; whole or not at all. */
  readonly write: (
    file: string,
    bytes: Uint8Array,
    options: { readonly replaces: boolean }
  ) => Effect.Effect<void, BundleNotWritten>
  readonly writeStdout: (bytes: Uint8Array) => Effect.Effect<void, BundleNotWritten>
}>() {}
