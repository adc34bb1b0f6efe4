/** Prometheus' text format, version 0.0.4. */
import * as Arr from "effect/Array"
import type * as MetricPair from "effect/MetricPair"
import * as MetricState from "effect/MetricState"
import { catalog, type Definition } from "./catalog.ts"

export const CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"

type Labels = ReadonlyArray<readonly [name: string, value: string]>

const escapeHelp = (text: string): string => text.replaceAll("\\", "\\\\").replaceAll("\n", "\\n")
const escapeValue = (text: string): string => escapeHelp(text).replaceAll("\"", "\\\"")

const number = (value: number): string =>
  value === Number.POSITIVE_INFINITY ? "+Inf" : value === Number.NEGATIVE_INFINITY ? "-Inf" : String(value)

const line = (name: string, labels: Labels, value: number): string => {
  const inBraces = labels.map(([label, text]) => `${label}="${escapeValue(text)}"`).join(",")
  return `${name}${inBraces === "" ? "" : `{${inBraces}}`} ${number(value)}\n`
}

const linesOf = ({ metricKey: { name, tags }, metricState: state }: MetricPair.MetricPair.Untyped): string => {
  const labels: Labels = tags.map(({ key, value }) => [key, value])
  if (MetricState.isCounterState(state)) return line(name, labels, Number(state.count))
  if (MetricState.isGaugeState(state)) return line(name, labels, Number(state.value))
  if (!MetricState.isHistogramState(state)) return ""
  return state.buckets.map(([bound, count]) => line(`${name}_bucket`, [...labels, ["le", number(bound)]], count)).join(
    ""
  )
    + line(`${name}_sum`, labels, state.sum)
    + line(`${name}_count`, labels, state.count)
}

const text = ({ help, kind, name }: Definition, pairs: ReadonlyArray<MetricPair.MetricPair.Untyped>): string =>
  `# HELP ${name} ${escapeHelp(help)}\n# TYPE ${name} ${kind}\n${pairs.map(linesOf).join("")}`

/** In the catalog's order, each metric in one piece. Those without a figure are left out. */
export const prometheusText = (pairs: ReadonlyArray<MetricPair.MetricPair.Untyped>): string => {
  const byName = Arr.groupBy(pairs, ({ metricKey }) => metricKey.name)
  return catalog.flatMap((definition) => {
    const ofIt = byName[definition.name]
    return ofIt === undefined ? [] : [text(definition, ofIt)]
  }).join("")
}
