/**
 * A strict reader of Prometheus' text format 0.0.4, after its description: every line is a comment, a HELP, a TYPE or a
 * sample, the lines of a metric are together with HELP and TYPE before them, no sample comes twice, and a histogram's
 * buckets grow up to `+Inf`, which is its count.
 */
export interface Family {
  readonly name: string
  readonly help: string
  readonly type: string
  /** By the whole of name and labels as written. */
  readonly samples: Map<string, number>
  readonly labels: Array<
    { readonly name: string; readonly labels: ReadonlyMap<string, string>; readonly value: number }
  >
}

const NAME = "[a-zA-Z_:][a-zA-Z0-9_:]*"
const LABEL = /^([a-zA-Z_][a-zA-Z0-9_]*)="((?:[^"\\\n]|\\\\|\\"|\\n)*)"(,|$)/

const fail = (line: string, why: string): never => {
  throw new Error(`${why}: ${JSON.stringify(line)}`)
}

const parseLabels = (line: string, text: string): Map<string, string> => {
  const labels = new Map<string, string>()
  for (let rest = text; rest !== "";) {
    const [whole = "", name = "", value = ""] = LABEL.exec(rest) ?? fail(line, "not a label")
    if (labels.has(name)) fail(line, "label twice")
    labels.set(name, value.replaceAll(/\\(.)/g, (_, escaped: string) => escaped === "n" ? "\n" : escaped))
    rest = rest.slice(whole.length)
  }
  return labels
}

const parseNumber = (line: string, text: string): number => {
  if (text === "+Inf") return Number.POSITIVE_INFINITY
  if (text === "-Inf") return Number.NEGATIVE_INFINITY
  if (text === "NaN") return Number.NaN
  return /^[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?$/.test(text) ? Number(text) : fail(line, "not a number")
}

const checkHistogram = ({ labels, name }: Family): void => {
  const at = (suffix: string) => labels.filter((sample) => sample.name === `${name}${suffix}`)
  let last = { bound: Number.NEGATIVE_INFINITY, count: 0 }
  for (const { labels, value } of at("_bucket")) {
    const bound = parseNumber(name, labels.get("le") ?? fail(name, "bucket without le"))
    if (bound <= last.bound || value < last.count) fail(name, "buckets do not grow")
    last = { bound, count: value }
  }
  if (last.bound !== Number.POSITIVE_INFINITY || last.count !== at("_count")[0]?.value) {
    fail(name, "no +Inf, or not the count")
  }
  if (at("_sum").length !== 1) fail(name, "no sum")
}

export const parseExposition = (text: string): ReadonlyMap<string, Family> => {
  if (!text.endsWith("\n")) fail(text.slice(-20), "the last line has no end")
  const families = new Map<string, Family>()
  let help: { readonly name: string; readonly text: string } | undefined
  let current: Family | undefined
  for (const line of text.slice(0, -1).split("\n")) {
    const comment = new RegExp(`^# (HELP|TYPE) (${NAME}) (.*)$`).exec(line)
    if (comment?.[1] === "HELP") {
      help = { name: comment[2] ?? "", text: comment[3] ?? "" }
    } else if (comment?.[1] === "TYPE") {
      const [, , name = "", type = ""] = comment
      if (help?.name !== name) throw fail(line, "TYPE without HELP")
      if (!["counter", "gauge", "histogram", "summary", "untyped"].includes(type)) fail(line, "no such type")
      if (families.has(name)) fail(line, "metric twice")
      current = { name, help: help.text, type, samples: new Map(), labels: [] }
      families.set(name, current)
    } else {
      const match = new RegExp(`^(${NAME})(?:\\{(.*)\\})? (\\S+)$`).exec(line) ?? fail(line, "not a sample")
      const [, name = "", inBraces = "", number = ""] = match
      const base = current?.type === "histogram" ? name.replace(/_(bucket|sum|count)$/, "") : name
      if (current === undefined || base !== current.name) throw fail(line, "sample of another metric")
      const key = line.slice(0, line.lastIndexOf(" "))
      if (current.samples.has(key)) fail(line, "sample twice")
      const value = parseNumber(line, number)
      current.samples.set(key, value)
      current.labels.push({ name, labels: parseLabels(line, inBraces), value })
    }
  }
  for (const family of families.values()) if (family.type === "histogram") checkHistogram(family)
  return families
}
