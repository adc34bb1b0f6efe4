/** The level syntax of `RUST_LOG`: `target=level` directives and a bare level, comma separated (host spec section 4). */
import * as Either from "effect/Either"
import * as LogLevel from "effect/LogLevel"

const levels: { readonly [name: string]: LogLevel.LogLevel } = {
  off: LogLevel.None,
  error: LogLevel.Error,
  warn: LogLevel.Warning,
  warning: LogLevel.Warning,
  info: LogLevel.Info,
  debug: LogLevel.Debug,
  trace: LogLevel.Trace,
  0: LogLevel.None,
  1: LogLevel.Error,
  2: LogLevel.Warning,
  3: LogLevel.Info,
  4: LogLevel.Debug,
  5: LogLevel.Trace
}

const levelOf = (name: string): LogLevel.LogLevel | undefined =>
  Object.hasOwn(levels, name.toLowerCase()) ? levels[name.toLowerCase()] : undefined

export interface LogFilter {
  /** Nothing below this is ever wanted. */
  readonly minimum: LogLevel.LogLevel
  readonly wants: (target: string, level: LogLevel.LogLevel) => boolean
}

/**
 * The longest target prefix wins, then the later directive. A bare target means trace. Span filters (`[...]`) of the
 * original syntax are accepted and ignored, and so is a directive that has nothing else: there are no spans here. Fails
 * with what is wrong, for a person.
 */
export const parseLogFilter = (text: string): Either.Either<LogFilter, string> => {
  const directives: Array<{ readonly target: string; readonly level: LogLevel.LogLevel }> = []
  let fallback: LogLevel.LogLevel | undefined
  // The commas inside a span filter are its own.
  for (const part of text.split(/,(?![^[]*\])/).map((part) => part.trim()).filter((part) => part !== "")) {
    const match = /^([\w:.-]*)(?:\[[^\]]*\])?(?:=([A-Za-z0-9]+))?$/.exec(part)
    if (match === null) return Either.left(`"${part}" is not a level or target=level`)
    const [, name = "", value] = match
    const level = levelOf(value ?? name)
    const isOfSpansOnly = name === "" && part.startsWith("[")
    if (isOfSpansOnly && (value === undefined || level !== undefined)) continue
    if (value === undefined && level !== undefined) fallback = level
    else if (value === undefined && name !== "") directives.push({ target: name, level: LogLevel.Trace })
    else if (level !== undefined) directives.push({ target: name, level })
    else return Either.left(`"${value ?? part}" is none of off, error, warn, info, debug, trace`)
  }
  const bare = fallback ?? (directives.length === 0 ? LogLevel.Info : LogLevel.Error)
  const minimum = directives.reduce(
    (lowest, { level }) => LogLevel.lessThan(level, lowest) ? level : lowest,
    bare
  )
  const wants = (target: string, level: LogLevel.LogLevel): boolean => {
    let best = bare
    let length = -1
    for (const directive of directives) {
      if (directive.target.length >= length && target.startsWith(directive.target)) {
        best = directive.level
        length = directive.target.length
      }
    }
    return LogLevel.greaterThanEqual(level, best)
  }
  return Either.right({ minimum, wants })
}
