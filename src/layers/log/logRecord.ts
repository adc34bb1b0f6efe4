/** One log event in the forms that people and programs read (host spec section 4). */
import * as Cause from "effect/Cause"
import * as HashMap from "effect/HashMap"
import * as Inspectable from "effect/Inspectable"
import type * as Logger from "effect/Logger"
import type * as LogLevel from "effect/LogLevel"

export interface LogRecord {
  readonly time: Date
  readonly level: LogLevel.LogLevel
  /** The module that speaks: the annotation `module`. */
  readonly target: string
  readonly message: string
  readonly fields: ReadonlyArray<readonly [string, unknown]>
}

const DEFAULT_TARGET = "firezone"

export const recordOf = (options: Logger.Logger.Options<unknown>): LogRecord => {
  const parts = Array.isArray(options.message) ? options.message : [options.message]
  const fields: Array<readonly [string, unknown]> = []
  let target = DEFAULT_TARGET
  for (const [key, value] of HashMap.toEntries(options.annotations)) {
    if (key === "module") target = String(value)
    else fields.push([key, value])
  }
  if (!Cause.isEmpty(options.cause)) fields.push(["cause", Cause.pretty(options.cause, { renderErrorCause: true })])
  return {
    time: options.date,
    level: options.logLevel,
    target,
    message: parts.map((part) => typeof part === "string" ? part : Inspectable.toStringUnknown(part, 0)).join(" "),
    fields
  }
}

const names: { readonly [tag: string]: string } = { Warning: "WARN", Fatal: "ERROR" }
const levelName = (level: LogLevel.LogLevel): string => names[level._tag] ?? level._tag.toUpperCase()

const plainValue = (value: unknown): string => {
  if (value instanceof Error) return JSON.stringify(value.message)
  if (typeof value !== "string") return Inspectable.toStringUnknown(value, 0)
  return /^[\w.:/@+-]+$/.test(value) ? value : JSON.stringify(value)
}

const colours: { readonly [name: string]: number } = { TRACE: 35, DEBUG: 34, INFO: 32, WARN: 33, ERROR: 31 }

/**
 * `<UTC time> <level> <target>: <message> k=v`. Nobody can forge a line or talk to the terminal: control characters are
 * replaced, and what follows a line break is indented.
 */
export const formatLine = (record: LogRecord, colour: boolean): string => {
  const paint = (code: number, text: string): string => colour ? `\u001b[${code}m${text}\u001b[0m` : text
  const level = levelName(record.level)
  const fields = record.fields.map(([key, value]) => ` ${key}=${plainValue(value)}`).join("")
  const text = `${record.message}${fields}`.replaceAll(/[\u0000-\u0008\u000b-\u001f\u007f-\u009f]/g, "\ufffd")
    .replaceAll("\n", "\n  ")
  return `${paint(2, record.time.toISOString())} ${paint(colours[level] ?? 37, level.padStart(5))} ${
    paint(2, `${record.target}:`)
  } ${text}`
}

/** Keys of the line itself: an annotation of that name gets another one. */
const RESERVED: ReadonlySet<string> = new Set(["timestamp", "level", "message", "target"])

/** A value that JSON can hold, whatever it was: a log line must not throw. */
const jsonValue = (value: unknown): unknown => {
  if (value instanceof Error) return value.message
  try {
    const json = Inspectable.toJSON(value)
    JSON.stringify(json) // refuses big integers and circles
    return json
  } catch {
    return Inspectable.toStringUnknown(value, 0)
  }
}

/** One JSON object: `timestamp`, `level`, the event's own fields (`message` first), `target`. */
export const formatJson = (record: LogRecord): string =>
  JSON.stringify({
    timestamp: record.time.toISOString(),
    level: levelName(record.level),
    message: record.message,
    ...Object.fromEntries(
      record.fields.map(([key, value]) => [RESERVED.has(key) ? `${key}_` : key, jsonValue(value)])
    ),
    target: record.target
  })
