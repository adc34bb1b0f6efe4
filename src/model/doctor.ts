/** What `doctor --json` prints; docs/doctor.md explains it to those who read it. */
import * as Schema from "effect/Schema"

/** Raised when a member changes its meaning or goes away; new members and new checks come without. */
export const DOCTOR_VERSION = 1

/** From good to bad. `skipped`: it could not be looked at, or there is nothing to look at; the evidence says why. */
export const VERDICTS = ["skipped", "ok", "warning", "failed"] as const
export const Verdict = Schema.Literal(...VERDICTS)
export type Verdict = typeof Verdict.Type

/** In the order in which they are shown. */
export const GROUPS = ["client", "system", "network", "dns", "portal", "paths"] as const
export const Group = Schema.Literal(...GROUPS)
export type Group = typeof Group.Type

export const CheckReport = Schema.Struct({
  /** Stays the same from version to version. */
  id: Schema.String,
  group: Group,
  title: Schema.String,
  verdict: Verdict,
  /** What was found, for a person; the most important first. */
  evidence: Schema.Array(Schema.String),
  /** What to do about it. */
  nextStep: Schema.optional(Schema.String),
  /** The same for a program, where there is more to it than the verdict. */
  facts: Schema.optional(
    Schema.Record({ key: Schema.String, value: Schema.Union(Schema.String, Schema.Number, Schema.Boolean) })
  )
})
export type CheckReport = typeof CheckReport.Type

export const DoctorReport = Schema.Struct({
  version: Schema.Literal(DOCTOR_VERSION),
  /** Of the program that looked. */
  client: Schema.Struct({ version: Schema.String }),
  /** When it began, RFC 3339. */
  time: Schema.String,
  /** The worst one. */
  verdict: Verdict,
  counts: Schema.Struct({
    ok: Schema.NonNegativeInt,
    warning: Schema.NonNegativeInt,
    failed: Schema.NonNegativeInt,
    skipped: Schema.NonNegativeInt
  }),
  checks: Schema.Array(CheckReport)
})
export type DoctorReport = typeof DoctorReport.Type

/** What a check came to. */
export type Finding = Pick<CheckReport, "verdict" | "evidence" | "nextStep" | "facts">

type Facts = CheckReport["facts"]
type Evidence = string | ReadonlyArray<string>

const finding = (verdict: Verdict, evidence: Evidence, nextStep?: string, facts?: Facts): Finding => ({
  verdict,
  evidence: typeof evidence === "string" ? [evidence] : evidence,
  ...(nextStep === undefined ? {} : { nextStep }),
  ...(facts === undefined ? {} : { facts })
})

export const ok = (evidence: Evidence, facts?: Facts): Finding => finding("ok", evidence, undefined, facts)
export const skipped = (evidence: Evidence, nextStep?: string): Finding => finding("skipped", evidence, nextStep)
export const warning = (evidence: Evidence, nextStep: string, facts?: Facts): Finding =>
  finding("warning", evidence, nextStep, facts)
export const failed = (evidence: Evidence, nextStep: string, facts?: Facts): Finding =>
  finding("failed", evidence, nextStep, facts)

export const worst = (verdicts: Iterable<Verdict>): Verdict => {
  let index = 0
  for (const verdict of verdicts) index = Math.max(index, VERDICTS.indexOf(verdict))
  return VERDICTS[index] as Verdict
}

export const doctorReport = (
  checks: ReadonlyArray<CheckReport>,
  { time, version }: { readonly time: string; readonly version: string }
): DoctorReport => {
  const count = (verdict: Verdict): number => checks.filter((check) => check.verdict === verdict).length
  return {
    version: DOCTOR_VERSION,
    client: { version },
    time,
    verdict: worst(checks.map(({ verdict }) => verdict)),
    counts: { ok: count("ok"), warning: count("warning"), failed: count("failed"), skipped: count("skipped") },
    checks
  }
}
