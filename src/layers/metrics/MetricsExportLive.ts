import * as OtlpSerialization from "@effect/opentelemetry/OtlpSerialization"
import * as NodeHttpClient from "@effect/platform-node/NodeHttpClient"
import * as Effect from "effect/Effect"
import * as Layer from "effect/Layer"
import * as Schedule from "effect/Schedule"
import { version } from "../../model/version.ts"
import { ClientConfig } from "../../services/ClientConfig.ts"
import { EventLoop } from "../../services/EventLoop.ts"
import { type MetricsAddress, metricsAddressText, MetricsExport } from "../../services/MetricsExport.ts"
import type { TunnelSession } from "../../services/Tunnel.ts"
import type { Facts } from "./catalog.ts"
import { serve } from "./MetricsServer.ts"
import { otlpData } from "./otlpData.ts"
import { type OtlpOptions, sendOtlp } from "./OtlpExport.ts"
import { prometheusText } from "./prometheusText.ts"
import { Registry } from "./Registry.ts"

/** Whoever asks more often gets the same text again: figures cost time of the event loop that carries the packets. */
const FRESH = "1 second"
const TRY_AGAIN = Schedule.spaced("30 seconds")

/** Once: by two clocks it would be another one each time, and look like a restart. */
const startSeconds = Date.now() / 1000 - process.uptime()

const processFacts = (): Facts["process"] => {
  const { system, user } = process.cpuUsage()
  return {
    version,
    startSeconds,
    cpuSeconds: (system + user) / 1e6,
    residentBytes: process.memoryUsage.rss()
  }
}

/** Tries until it can. */
const showText = (address: MetricsAddress, text: Effect.Effect<string>) =>
  Effect.gen(function*() {
    let told = ""
    const bound = yield* serve(address, text).pipe(
      Effect.tapError((error) =>
        Effect.suspend(() => {
          if (told === error.message) return Effect.void
          told = error.message
          return Effect.logWarning(told)
        })
      ),
      Effect.retry(TRY_AGAIN)
    )
    yield* Effect.logInfo("metrics are shown").pipe(Effect.annotateLogs("address", metricsAddressText(bound)))
    yield* Effect.never
  }).pipe(
    Effect.scoped,
    Effect.catchAllDefect((cause) => Effect.logError("metrics cannot be shown any more", cause))
  )

export interface MetricsExportOptions {
  /** If the settings name a receiver. */
  readonly otlp: Pick<OtlpOptions, "headers" | "interval">
}

const make = ({ otlp }: MetricsExportOptions) =>
  Effect.gen(function*() {
    const { metricsAddress, otlpEndpoint } = yield* ClientConfig
    const loop = yield* EventLoop
    const context = yield* Effect.context<OtlpSerialization.OtlpSerialization | NodeHttpClient.HttpAgent>()
    return MetricsExport.of({
      run: (session: Pick<TunnelSession, "status">) =>
        Effect.gen(function*() {
          if (metricsAddress === undefined && otlpEndpoint === undefined) return
          const registry = new Registry()
          const pairs = Effect.gen(function*() {
            registry.update({ status: yield* session.status, lag: yield* loop.lag, process: processFacts() })
            return registry.snapshot()
          })
          if (metricsAddress !== undefined) {
            const text = yield* Effect.cachedWithTTL(Effect.map(pairs, prometheusText), FRESH)
            yield* showText(metricsAddress, text).pipe(
              Effect.annotateLogs("module", "metrics"),
              Effect.interruptible,
              Effect.forkScoped
            )
          }
          if (otlpEndpoint !== undefined) {
            const start = BigInt(Date.now()) * 1_000_000n
            const data = Effect.map(
              pairs,
              (pairs) => otlpData(pairs, { start, now: BigInt(Date.now()) * 1_000_000n }, version)
            )
            yield* sendOtlp({ ...otlp, url: otlpEndpoint }, data).pipe(
              Effect.provide(NodeHttpClient.layerWithoutAgent),
              Effect.provide(context)
            )
          }
        })
    })
  })

export const layerWith = (options: MetricsExportOptions): Layer.Layer<MetricsExport, never, ClientConfig | EventLoop> =>
  Layer.effect(MetricsExport, make(options)).pipe(
    Layer.provide(OtlpSerialization.layerProtobuf),
    // A connection for each request: they are a minute apart.
    Layer.provide(NodeHttpClient.makeAgentLayer({ keepAlive: false }))
  )
