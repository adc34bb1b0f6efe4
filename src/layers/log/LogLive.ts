/** Where log lines go: the console, and the log folder if one is configured. */
import * as Effect from "effect/Effect"
import * as Either from "effect/Either"
import * as Layer from "effect/Layer"
import * as Logger from "effect/Logger"
import * as fs from "node:fs"
import { ConfigInvalid } from "../../services/ClientConfig.ts"
import * as LogFile from "./LogFile.ts"
import { parseLogFilter } from "./logFilter.ts"
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

export const layer = (options: LogOptions): Layer.Layer<never, ConfigInvalid> =>
  Layer.unwrapScoped(Effect.gen(function*() {
    const filter = yield* Either.mapLeft(
      parseLogFilter(options.filter ?? "info"),
      (why) => new ConfigInvalid({ what: "log level (RUST_LOG)", why })
    )
    const stream = options.stream ?? process.stdout
    const sinks = [console(stream, isJournal(stream, options.journal))]
    if (options.folder !== undefined) {
      const append = yield* LogFile.open(options.folder, options.base)
      sinks.push((record) => append(formatJson(record)))
    }
    const logger = Logger.make((event) => {
      const record = recordOf(event)
      if (!filter.wants(record.target, record.level)) return
      for (const sink of sinks) sink(record)
    })
    return Layer.merge(Logger.replace(Logger.defaultLogger, logger), Logger.minimumLogLevel(filter.minimum))
  }))
