/** Sends the figures to a receiver, by OTLP over HTTP. */
import * as OtlpSerialization from "@effect/opentelemetry/OtlpSerialization"
import * as HttpClient from "@effect/platform/HttpClient"
import type { HttpClientError } from "@effect/platform/HttpClientError"
import * as HttpClientRequest from "@effect/platform/HttpClientRequest"
import type * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Redacted from "effect/Redacted"
import * as Schedule from "effect/Schedule"
import type * as Scope from "effect/Scope"
import type { otlpData } from "./otlpData.ts"

/** For one request, from the look-up of the name to the head of the answer. */
const PATIENCE = "10 seconds"
/** For the last one: a client that stops does not wait longer. */
const LAST_PATIENCE = "1 second"

export interface OtlpOptions {
  /** Of the receiver's `metrics`. */
  readonly url: URL
  /** They may hold a key. */
  readonly headers: Redacted.Redacted<Readonly<Record<string, string>>>
  readonly interval: Duration.DurationInput
}

/** Without the request, whose headers may hold a key. */
const whyOf = (error: HttpClientError): string =>
  error._tag === "ResponseError"
    ? `it answers with status ${error.response.status}`
    : error.cause instanceof Error
    ? error.cause.message
    : error.message

/**
 * Sends what `data` yields each interval, and once more at the end of the scope. What could not be sent is not repeated: the
 * next request says the same and more, because sums are since the start. The first failure of a row is logged as a warning.
 */
export const sendOtlp = (
  { headers, interval, url }: OtlpOptions,
  data: Effect.Effect<ReturnType<typeof otlpData>>
): Effect.Effect<void, never, HttpClient.HttpClient | OtlpSerialization.OtlpSerialization | Scope.Scope> =>
  Effect.gen(function*() {
    const client = (yield* HttpClient.HttpClient).pipe(
      HttpClient.withTracerPropagation(false),
      HttpClient.filterStatusOk,
      // Nobody reads the answer: the end of the scope closes its connection.
      HttpClient.withScope
    )
    const serialization = yield* OtlpSerialization.OtlpSerialization
    let isFailing = false
    const send = Effect.gen(function*() {
      const body = serialization.metrics(yield* data)
      const request = HttpClientRequest.post(url, { body, headers: Redacted.value(headers) })
      yield* Effect.scoped(client.execute(request))
    })
    const worked = Effect.suspend(() => {
      if (!isFailing) return Effect.void
      isFailing = false
      return Effect.logInfo("metrics reach their receiver again")
    })
    const failed = (why: string) =>
      Effect.suspend(() => {
        const isNews = !isFailing
        isFailing = true
        const told = "metrics do not reach their receiver, trying again; the tunnel works without"
        return (isNews ? Effect.logWarning(told) : Effect.logDebug(told)).pipe(
          Effect.annotateLogs({ receiver: url.host, why })
        )
      })
    yield* Effect.addFinalizer(() =>
      send.pipe(Effect.ignore, Effect.interruptible, Effect.timeoutOption(LAST_PATIENCE), Effect.asVoid)
    )
    yield* send.pipe(
      Effect.mapError(whyOf),
      Effect.timeoutFail({ duration: PATIENCE, onTimeout: () => "no answer in time" }),
      Effect.matchEffect({ onFailure: failed, onSuccess: () => worked }),
      Effect.catchAllDefect((cause) => failed(String(cause))),
      Effect.repeat(Schedule.spaced(interval)),
      Effect.annotateLogs("module", "metrics"),
      Effect.interruptible,
      Effect.forkScoped
    )
  })
