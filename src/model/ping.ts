/** The lines that `ping --json` prints, one object each; docs/ping.md explains them to those who read them. */
import * as Schema from "effect/Schema"

/** Raised when a member changes its meaning or goes away; new members come without. */
export const PING_VERSION = 1

const version = Schema.Literal(PING_VERSION)
const Millis = Schema.Number

/** The way of a packet, in its order. Those behind one that failed are not reached. */
export const STAGES = ["client", "resource", "name", "route", "access", "path"] as const

export const StageLine = Schema.Struct({
  version,
  type: Schema.Literal("stage"),
  stage: Schema.Literal(...STAGES),
  /** `unknown`: nothing speaks against it, and nothing for it. */
  verdict: Schema.Literal("ok", "failed", "unknown"),
  /** What was found, for a person. */
  text: Schema.String,
  nextStep: Schema.optional(Schema.String),
  /** How long it took, where it took time. */
  millis: Schema.optional(Millis)
})
export type StageLine = typeof StageLine.Type

export const EchoLine = Schema.Struct({
  version,
  type: Schema.Literal("echo"),
  sequence: Schema.Int,
  address: Schema.String,
  /** `prohibited` and `unreachable`: somebody says so; `silent`: nothing came back in time. */
  outcome: Schema.Literal("answered", "prohibited", "unreachable", "silent"),
  millis: Schema.optional(Millis),
  /** Who refused; absent if it was this machine. */
  from: Schema.optional(Schema.String)
})
export type EchoLine = typeof EchoLine.Type

export const SummaryLine = Schema.Struct({
  version,
  type: Schema.Literal("summary"),
  target: Schema.String,
  /** The id of the resource, if one was found. */
  resource: Schema.optional(Schema.String),
  /** What was sent echo requests. */
  address: Schema.optional(Schema.String),
  sent: Schema.NonNegativeInt,
  answered: Schema.NonNegativeInt,
  /** Of those that were answered. */
  minMillis: Schema.optional(Millis),
  averageMillis: Schema.optional(Millis),
  maxMillis: Schema.optional(Millis),
  /** To the gateway, as the client measures it all the time. */
  gatewayMillis: Schema.optional(Millis),
  /** What decides the exit code. */
  works: Schema.Boolean,
  /** What was measured and what it means, for a person. */
  text: Schema.String
})
export type SummaryLine = typeof SummaryLine.Type

export const PingLine = Schema.Union(StageLine, EchoLine, SummaryLine)
export type PingLine = typeof PingLine.Type
