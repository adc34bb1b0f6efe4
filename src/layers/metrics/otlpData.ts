/** The figures as OpenTelemetry's protocol has them, ready for its encoding. */
import * as OtlpResource from "@effect/opentelemetry/OtlpResource"
import * as Arr from "effect/Array"
import type * as MetricPair from "effect/MetricPair"
import * as MetricState from "effect/MetricState"
import { catalog } from "./catalog.ts"

const SCOPE = "firezone-headless-client"
/** AGGREGATION_TEMPORALITY_CUMULATIVE: since the client started. */
const CUMULATIVE = 2

export interface OtlpTimes {
  /** Nanoseconds since 1970. */
  readonly start: bigint
  readonly now: bigint
}

type Pair = MetricPair.MetricPair.Untyped

const point = ({ metricKey }: Pair, { now, start }: OtlpTimes) => ({
  attributes: metricKey.tags.map(({ key, value }) => ({ key, value: { stringValue: value } })),
  startTimeUnixNano: String(start),
  timeUnixNano: String(now)
})

const isCounter = (pair: Pair) => MetricState.isCounterState(pair.metricState)
const isHistogram = (pair: Pair) => MetricState.isHistogramState(pair.metricState)

const numbers = (pairs: ReadonlyArray<Pair>, times: OtlpTimes) =>
  pairs.flatMap((pair) => {
    const { metricState: state } = pair
    const value = MetricState.isCounterState(state)
      ? state.count
      : MetricState.isGaugeState(state)
      ? state.value
      : undefined
    return value === undefined ? [] : [{ ...point(pair, times), asDouble: Number(value) }]
  })

const histograms = (pairs: ReadonlyArray<Pair>, times: OtlpTimes) =>
  pairs.flatMap((pair) => {
    const { metricState: state } = pair
    if (!MetricState.isHistogramState(state)) return []
    return [{
      ...point(pair, times),
      count: state.count,
      sum: state.sum,
      // Effect's are cumulative, and the last of them has no bound.
      bucketCounts: state.buckets.map(([, count], i) => count - (state.buckets[i - 1]?.[1] ?? 0)),
      explicitBounds: state.buckets.slice(0, -1).map(([bound]) => bound)
    }]
  })

const dataOf = (pairs: Arr.NonEmptyReadonlyArray<Pair>, times: OtlpTimes) => {
  const [first] = pairs
  if (isHistogram(first)) {
    return { histogram: { dataPoints: histograms(pairs, times), aggregationTemporality: CUMULATIVE } }
  }
  const dataPoints = numbers(pairs, times)
  return isCounter(first)
    ? { sum: { dataPoints, aggregationTemporality: CUMULATIVE, isMonotonic: true } }
    : { gauge: { dataPoints } }
}

/** An export request for `OtlpSerialization.metrics`. */
export const otlpData = (pairs: ReadonlyArray<Pair>, times: OtlpTimes, serviceVersion: string) => {
  const byName = Arr.groupBy(pairs, ({ metricKey }) => metricKey.name)
  return {
    resourceMetrics: [{
      resource: OtlpResource.make({ serviceName: SCOPE, serviceVersion }),
      scopeMetrics: [{
        scope: { name: SCOPE, version: serviceVersion },
        metrics: catalog.flatMap(({ help, name, unit }) => {
          const ofIt = byName[name]
          return ofIt === undefined ? [] : [{ name, description: help, unit, ...dataOf(ofIt, times) }]
        })
      }]
    }]
  }
}
