/** OpenTelemetry's own variables for whoever sends: they may hold a key, so they are no options. */
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Redacted from "effect/Redacted"
import { ConfigInvalid } from "../../services/ClientConfig.ts"
import type { OtlpOptions } from "./OtlpExport.ts"

const HEADERS = "OTEL_EXPORTER_OTLP_HEADERS"
const INTERVAL = "OTEL_METRIC_EXPORT_INTERVAL"
const DEFAULT_INTERVAL = 60_000
const MIN_INTERVAL = 1000
const MAX_INTERVAL = 86_400_000

/** As RFC 9110 has names of fields. */
const NAME = /^[!#$%&'*+.^`|~\w-]+$/

/** `name=value,name=value`, the values percent-encoded; `undefined` if it is something else. */
const parseHeaders = (text: string): Readonly<Record<string, string>> | undefined => {
  const headers: Record<string, string> = {}
  for (const part of text.split(",").map((part) => part.trim()).filter((part) => part !== "")) {
    const equals = part.indexOf("=")
    const name = part.slice(0, Math.max(0, equals)).trim()
    const value = decoded(part.slice(equals + 1).trim())
    if (!NAME.test(name) || value === undefined || /[^\t\x20-\x7e\x80-\xff]/.test(value)) return undefined
    headers[name] = value
  }
  return headers
}

const decoded = (text: string): string | undefined => {
  try {
    return decodeURIComponent(text)
  } catch {
    return undefined
  }
}

/** Takes them out of the environment, which children inherit. Fails without showing a value. */
export const takeOtlpVariables = (
  environment: NodeJS.ProcessEnv
): Effect.Effect<Pick<OtlpOptions, "headers" | "interval">, ConfigInvalid> =>
  Effect.suspend(() => {
    const headers = parseHeaders(environment[HEADERS] ?? "")
    delete environment[HEADERS]
    if (headers === undefined) {
      return new ConfigInvalid({ what: HEADERS, why: "is not name=value,name=value with percent-encoded values" })
    }
    const interval = environment[INTERVAL] === undefined ? DEFAULT_INTERVAL : Number(environment[INTERVAL])
    if (!(interval >= MIN_INTERVAL && interval <= MAX_INTERVAL)) {
      return new ConfigInvalid({
        what: INTERVAL,
        why: `"${environment[INTERVAL]}" is not a number of milliseconds from ${MIN_INTERVAL} to ${MAX_INTERVAL}`
      })
    }
    return Effect.succeed({ headers: Redacted.make(headers), interval: Duration.millis(interval) })
  })
