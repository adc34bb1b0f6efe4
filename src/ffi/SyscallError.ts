import * as Data from "effect/Data"

/** A system call that failed. `syscall` names it with what it was about; `hint` says what a person can do, if known. */
export class SyscallError extends Data.TaggedError("SyscallError")<{
  readonly syscall: string
  /** The errno (Linux) or Win32 error code. */
  readonly code: number
  /** Its name, such as `EPERM`. */
  readonly errno: string
  readonly hint?: string | undefined
}> {
  override get message(): string {
    return `${this.syscall}: ${this.errno} (${this.code})${this.hint === undefined ? "" : `; ${this.hint}`}`
  }
}
