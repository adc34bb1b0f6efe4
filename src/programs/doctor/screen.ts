/** A report as lines for a person. */
import { type CheckReport, type DoctorReport, type Group, GROUPS, type Verdict } from "../../model/doctor.ts"
import { type Paint, printable, wrap } from "../statusScreen.ts"
import { AS_ROOT, plural } from "./check.ts"

const HEADINGS: { readonly [group in Group]: string } = {
  client: "Client",
  system: "System",
  network: "Network",
  dns: "DNS",
  portal: "Portal",
  paths: "Paths to gateways"
}

const MARKS: { readonly [verdict in Verdict]: string } = {
  ok: " ok ",
  warning: "WARN",
  failed: "FAIL",
  skipped: " -- "
}

const STYLES = { ok: "green", warning: "yellow", failed: "red", skipped: "dim" } as const

const NARROWEST = 30

const checkLines = (
  { evidence, nextStep, title, verdict }: CheckReport,
  titleWidth: number,
  width: number,
  paint: Paint
): ReadonlyArray<string> => {
  const margin = " ".repeat(1 + 4 + 2 + titleWidth + 2)
  const room = Math.max(NARROWEST, width - margin.length)
  const style = STYLES[verdict]
  const found = evidence.flatMap((text) => wrap(printable(text), room))
  // Whatever root alone can see is told once, at the end.
  const next = nextStep === undefined || nextStep === AS_ROOT ? [] : wrap(printable(`next: ${nextStep}`), room)
  return [
    ...found.map((text, index) =>
      index === 0
        ? ` ${paint(style, MARKS[verdict])}  ${title.padEnd(titleWidth)}  ${
          verdict === "skipped" ? paint("dim", text) : text
        }`
        : `${margin}${verdict === "skipped" ? paint("dim", text) : text}`
    ),
    ...next.map((text) => `${margin}${paint(verdict === "skipped" ? "dim" : "cyan", text)}`)
  ]
}

const summary = ({ checks, counts, verdict }: DoctorReport, paint: Paint): ReadonlyArray<string> => {
  const parts = [
    counts.failed === 0 ? "" : paint("red", `${counts.failed} failed`),
    counts.warning === 0 ? "" : paint("yellow", plural(counts.warning, "warning")),
    paint("green", `${counts.ok} ok`),
    counts.skipped === 0 ? "" : paint("dim", `${counts.skipped} not looked at`)
  ].filter((part) => part !== "")
  const bad = checks.filter((check) => check.verdict === verdict).map(({ title }) => title)
  return [
    parts.join(", "),
    ...(verdict === "failed" || verdict === "warning" ? [`Look first at: ${bad.slice(0, 4).join(", ")}`] : []),
    ...(checks.some(({ nextStep }) => nextStep === AS_ROOT) ? ["Run it with sudo to look at everything."] : [])
  ]
}

/** `width` is where lines are broken. */
export const doctorLines = (report: DoctorReport, paint: Paint, width: number): ReadonlyArray<string> => {
  const titleWidth = Math.max(0, ...report.checks.map(({ title }) => title.length))
  return [
    ...GROUPS.flatMap((group) => {
      const checks = report.checks.filter((check) => check.group === group)
      return checks.length === 0 ? [] : [
        paint("bold", HEADINGS[group]),
        ...checks.flatMap((check) => checkLines(check, titleWidth, width, paint)),
        ""
      ]
    }),
    ...summary(report, paint)
  ]
}
