import * as Context from "effect/Context"
import * as Data from "effect/Data"
import type * as Effect from "effect/Effect"

/** It is there, or may be, and cannot be looked at. */
export class FileUnreadable extends Data.TaggedError("FileUnreadable")<{
  readonly file: string
  /** The system's word, such as `EACCES`. */
  readonly code: string
}> {
  override get message(): string {
    return `cannot look at ${this.file} (${this.code})`
  }
}

export interface FileFacts {
  readonly kind: "file" | "folder" | "link" | "device" | "socket" | "other"
  readonly uid: number
  readonly gid: number
  /** The permission bits alone. */
  readonly mode: number
  /** Unix milliseconds. */
  readonly modifiedAt: number
  /** Where a link leads to, as an absolute path. */
  readonly target?: string | undefined
}

/** The files of this machine, looked at and never changed. */
export class HostFiles extends Context.Tag("firezone-headless-client/services/HostFiles")<HostFiles, {
  /** Of a link the link itself; `undefined` if there is no such file. */
  readonly look: (file: string) => Effect.Effect<FileFacts | undefined, FileUnreadable>
  /** The first 64 KiB; `undefined` if there is no such file. */
  readonly text: (file: string) => Effect.Effect<string | undefined, FileUnreadable>
  /** In a folder; none if it cannot be read. */
  readonly names: (folder: string) => Effect.Effect<ReadonlyArray<string>>
  readonly isWritable: (file: string) => Effect.Effect<boolean>
  /** Of the file system that holds `folder`, for this user; `undefined` if it does not tell. */
  readonly freeBytes: (folder: string) => Effect.Effect<number | undefined>
}>() {}
