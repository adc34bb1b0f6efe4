/** Where log lines go: the console, and the log folder if one is configured. */
import * as Effect from "effect/Effect"
import * as Either from "effect/Either"
import * as HashMap from "effect/HashMap"
import * as Layer from "effect/Layer"
import * as Logger from "effect/Logger"
import * as LogLevel from "effect/LogLevel"
import * as fs from "node:fs"
import { ConfigInvalid } from "../../services/ClientConfig.ts"
import { LogControl } from "../../services/LogControl.ts"
import { consoleSink } from "./consoleSink.ts"
import * as LineQueue from "./LineQueue.ts"
import { clear } from "./logCleanUp.ts"
import * as LogFile from "./LogFile.ts"
import { type LogFilter, parseLogFilter } from "./logFilter.ts"
import { formatJson, formatLine, type LogRecord, recordOf } from "./logRecord.ts"

export interface LogOptions {
  /** As in `RUST_LOG`; `info` if absent. */
  readonly filter: string | undefined
  /** The variable that it is from, for whoever has to correct it. */
  readonly filterSource?: string
  readonly folder: string | undefined
  /** First part of the log files' names. */
  readonly base: string
  /** Defaults to stdout; commands that print a result use stderr. */
  readonly stream?: NodeJS.WriteStream
  /** `JOURNAL_STREAM` of the environment: device and inode of the journal's stream, if a unit was started with one. */
  readonly journal?: string | undefined
}

const FILE_ONLY = "file-only"
/** Keeps what is logged off the console, where it is told in another way. */
export const fileOnly = Effect.annotateLogs(FILE_ONLY, true)

/** syslog(3) priorities, which the journal reads from `<N>`. */
const priorities: { readonly [tag: string]: number } = { Fatal: 3, Error: 3, Warning: 4, Info: 6, Debug: 7, Trace: 7 }

/** The variable is inherited by whoever writes elsewhere, so the stream itself has to be that one (systemd.exec(5)). */
const isJournal = (stream: NodeJS.WriteStream & { readonly fd?: number }, variable: string | undefined): boolean => {
  if (variable === undefined || stream.fd === undefined) return false
  try {
    const { dev, ino } = fs.fstatSync(stream.fd, { bigint: true })
    return variable === `${dev}:${ino}`
  } catch {
    return false // closed
  }
}

/** The journal takes a priority in front of each line. */
const consoleText = (stream: NodeJS.WriteStream, journal: boolean): (record: LogRecord) => string => {
  const colour = stream.isTTY === true && !process.env["NO_COLOR"]
  return (record) => {
    const line = formatLine(record, colour)
    return journal
      ? line.split("\n").map((part) => `<${priorities[record.level._tag] ?? 6}>${part}`).join("\n")
      : line
  }
}

const ofLog = (level: LogLevel.LogLevel, message: string, fields: LogRecord["fields"] = []): LogRecord => ({
  time: new Date(),
  level,
  target: "log",
  message,
  fields
})

const queue = (sink: LineQueue.Sink, format: (record: LogRecord) => string) =>
  Effect.map(
    LineQueue.make(
      sink,
      (lines) => format(ofLog(LogLevel.Warning, "lines were dropped, the log is too slow", [["lines", lines]]))
    ),
    (push) => (record: LogRecord): void => push(format(record))
  )

/** A bug outside of every fiber: the process tells it on stderr (programs/main.ts), and whoever reads the files hears of it. */
const recordCrashes = (toFile: (record: LogRecord) => void) =>
  Effect.acquireRelease(
    Effect.sync(() => {
      const listener = (error: unknown): void => {
        const cause = error instanceof Error ? error.stack : String(error)
        toFile(ofLog(LogLevel.Fatal, "internal error", [["cause", cause]]))
      }
      process.on("uncaughtExceptionMonitor", listener)
      return listener
    }),
    (listener) => Effect.sync(() => process.off("uncaughtExceptionMonitor", listener))
  )

const parse = (text: string, what: string) =>
  Either.mapLeft(
    parseLogFilter(text),
    (why) => new ConfigInvalid({ what, why, next: "Write a level such as debug, or target=level,target=level" })
  )

const make = (options: LogOptions) =>
  Effect.gen(function*() {
    let filter = yield* parse(options.filter ?? "info", `log level (${options.filterSource ?? "RUST_LOG"})`)
    const stream = options.stream ?? process.stdout
    const toFile = options.folder === undefined
      ? undefined
      : yield* queue(yield* LogFile.open(options.folder, options.base), formatJson)
    if (toFile !== undefined) yield* recordCrashes(toFile)
    const toConsole = yield* queue(consoleSink(stream), consoleText(stream, isJournal(stream, options.journal)))
    const logger = Logger.make((event) => {
      if (LogLevel.lessThan(event.logLevel, filter.minimum)) return
      const isFileOnly = HashMap.has(event.annotations, FILE_ONLY)
      const record = recordOf({ ...event, annotations: HashMap.remove(event.annotations, FILE_ONLY) })
      if (!filter.wants(record.target, record.level)) return
      if (!isFileOnly) toConsole(record)
      toFile?.(record)
    })
    return {
      logger: Logger.replace(Logger.defaultLogger, logger),
      minimum: filter.minimum,
      setFilter: (next: LogFilter) => {
        filter = next
      }
    }
  })

export const layer = (options: LogOptions): Layer.Layer<never, ConfigInvalid> =>
  Layer.unwrapScoped(
    Effect.map(make(options), ({ logger, minimum }) => Layer.merge(logger, Logger.minimumLogLevel(minimum)))
  )

/** As `layer`, with what may be changed while it runs. */
export const controlled = (options: LogOptions): Layer.Layer<LogControl, ConfigInvalid> =>
  Layer.unwrapScoped(
    Effect.map(make(options), ({ logger, setFilter }) =>
      Layer.mergeAll(
        logger,
        Logger.minimumLogLevel(LogLevel.All),
        Layer.succeed(LogControl, {
          filter: (text) => Either.map(parse(text, "log filter"), (next) => Effect.sync(() => setFilter(next))),
          clear: options.folder === undefined ? Effect.void : clear(options.folder)
        })
      ))
  )
