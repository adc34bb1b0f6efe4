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
import * as LogFile from "./LogFile.ts"
import { type LogFilter, parseLogFilter } from "./logFilter.ts"
import { formatJson, formatLine, type LogRecord, recordOf } from "./logRecord.ts"

export interface LogOptions {
  /** As in `RUST_LOG`; `info` if absent. */
  readonly filter: string | undefined
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
const console = (stream: NodeJS.WriteStream, journal: boolean): (record: LogRecord) => void => {
  const colour = stream.isTTY === true && process.env["NO_COLOR"] === undefined
  return (record) => {
    const line = formatLine(record, colour)
    stream.write(
      journal
        ? `${line.split("\n").map((part) => `<${priorities[record.level._tag] ?? 6}>${part}`).join("\n")}\n`
        : `${line}\n`
    )
  }
}

const parse = (text: string, what: string) =>
  Either.mapLeft(parseLogFilter(text), (why) => new ConfigInvalid({ what, why }))

const make = (options: LogOptions) =>
  Effect.gen(function*() {
    let filter = yield* parse(options.filter ?? "info", "log level (RUST_LOG)")
    const stream = options.stream ?? process.stdout
    const toConsole = console(stream, isJournal(stream, options.journal))
    const append = options.folder === undefined ? undefined : yield* LogFile.open(options.folder, options.base)
    const logger = Logger.make((event) => {
      if (LogLevel.lessThan(event.logLevel, filter.minimum)) return
      const isFileOnly = HashMap.has(event.annotations, FILE_ONLY)
      const record = recordOf({ ...event, annotations: HashMap.remove(event.annotations, FILE_ONLY) })
      if (!filter.wants(record.target, record.level)) return
      if (!isFileOnly) toConsole(record)
      append?.(formatJson(record))
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
          clear: options.folder === undefined ? Effect.void : LogFile.clear(options.folder)
        })
      ))
  )
