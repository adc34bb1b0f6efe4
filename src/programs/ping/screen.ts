/** The lines of `ping` for a person. */
import type { EchoLine, PingLine, StageLine, SummaryLine } from "../../model/ping.ts"
import { millis, type Paint, printable, wrap } from "../statusScreen.ts"

const WIDTH = 10
const STYLE = { ok: "green", failed: "red", unknown: "yellow" } as const

const stageLines = (
  { millis: took, nextStep, stage, text, verdict }: StageLine,
  paint: Paint,
  width: number
): ReadonlyArray<string> => {
  const margin = " ".repeat(2 + WIDTH)
  const [first = "", ...more] = wrap(printable(text), width - margin.length)
  return [
    `  ${paint(STYLE[verdict], stage.padEnd(WIDTH))}${first}${
      took === undefined ? "" : paint("dim", `  ${millis(took)}`)
    }`,
    ...more.map((text) => margin + text),
    ...(nextStep === undefined
      ? []
      : wrap(printable(nextStep), width - margin.length).map((text) => margin + paint("bold", text)))
  ]
}

const echoText = ({ address, from, millis: took, outcome }: EchoLine): string => {
  const who = from === undefined ? "this machine" : from
  switch (outcome) {
    case "answered":
      return `${address} answered after ${millis(took ?? 0)}`
    case "prohibited":
      return `refused in the name of ${from ?? address}: policy lets no echo requests through`
    case "unreachable":
      return `${who} says that ${address} cannot be reached`
    case "silent":
      return `no answer from ${address}`
  }
}

const echoLine = (line: EchoLine, paint: Paint): string =>
  `  ${paint(line.outcome === "answered" ? "green" : "red", `echo ${line.sequence}`.padEnd(WIDTH))}${echoText(line)}`

const summaryLines = (line: SummaryLine, paint: Paint, width: number): ReadonlyArray<string> => {
  const { answered, averageMillis, maxMillis, minMillis, sent } = line
  const lost = sent === 0 ? "" : `, ${Math.round(100 * (sent - answered) / sent)} % lost`
  const times = minMillis === undefined
    ? ""
    : `; ${
      [minMillis, averageMillis ?? 0, maxMillis ?? 0].map((time) => time.toFixed(1)).join(" / ")
    } ms (least, average, most)`
  return [
    ...(sent === 0 ? [] : ["", `${sent} sent, ${answered} answered${lost}${times}`]),
    ...wrap(printable(line.text), width).map((text) => paint(line.works ? "green" : "red", text))
  ]
}

/** `width` is where lines are broken. */
export const pingLines = (
  line: PingLine,
  paint: Paint,
  width = Number.POSITIVE_INFINITY
): ReadonlyArray<string> =>
  line.type === "stage"
    ? stageLines(line, paint, width)
    : line.type === "echo"
    ? [echoLine(line, paint)]
    : summaryLines(line, paint, width)
