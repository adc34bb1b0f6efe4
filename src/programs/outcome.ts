/** What became of a program: its exit code, and what to tell a person. */
import * as ValidationError from "@effect/cli/ValidationError"
import * as Cause from "effect/Cause"
import * as Exit from "effect/Exit"
import * as Option from "effect/Option"

export const EXIT = {
  done: 0,
  failed: 1,
  usage: 2,
  signedOut: 3,
  noTunnel: 4,
  portalUnreachable: 5,
  /** `doctor` found nothing worse than something odd. */
  warned: 10,
  /** `doctor` found something that cannot work. */
  unwell: 11,
  interrupted: 130
} as const

const exitCodes: { readonly [tag: string]: number } = {
  TokenRejected: EXIT.signedOut,
  TunFailed: EXIT.noTunnel,
  RoutingLoopPreventionFailed: EXIT.noTunnel,
  ControlNotPermitted: EXIT.noTunnel,
  RetriesExhausted: EXIT.portalUnreachable,
  NotSignedIn: EXIT.portalUnreachable,
  DoctorWarned: EXIT.warned,
  DoctorFailed: EXIT.unwell,
  UsageError: EXIT.usage
}

/** The exit code of a program that ended, and what to tell a person about it, if it has not been told. */
export const outcome = (exit: Exit.Exit<unknown, unknown>): { readonly code: number; readonly message?: string } => {
  if (Exit.isSuccess(exit)) return { code: EXIT.done }
  if (Cause.isInterruptedOnly(exit.cause)) return { code: EXIT.done }
  const failure = Cause.failureOption(exit.cause)
  if (Option.isSome(failure)) {
    const error = failure.value as { readonly _tag?: string; readonly message?: string; readonly reported?: boolean }
    // @effect/cli has printed those.
    if (ValidationError.isValidationError(error)) return { code: EXIT.usage }
    const code = exitCodes[error._tag ?? ""] ?? EXIT.failed
    return error.reported === true ? { code } : { code, message: describe(error) }
  }
  return { code: EXIT.failed, message: `internal error:\n${Cause.pretty(exit.cause)}` }
}

/** The messages of an error and its causes, joined by `: `, without repeating what an outer one already says. */
export const describe = (error: unknown): string => {
  const parts: Array<string> = []
  for (let current = error, depth = 0; current !== undefined && current !== null && depth < 8; depth++) {
    const text = current instanceof Error || typeof (current as { message?: unknown }).message === "string"
      ? (current as { message: string }).message
      : String(current)
    if (text !== "" && !parts.some((part) => part.includes(text))) parts.push(text)
    current = (current as { readonly cause?: unknown }).cause
  }
  return parts.join(": ")
}
