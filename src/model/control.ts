/**
 * The control socket's messages: a line of JSON each way, UTF-8, ended by a newline. A connection carries one request and
 * its answer; only `watch` has many, one a second, until either side closes. docs/status.md explains them to others.
 */
import * as Schema from "effect/Schema"
import { StatusReport } from "./status.ts"

export const CONTROL_VERSION = 1
const version = Schema.Literal(CONTROL_VERSION)

/** The newline included. */
export const MAX_REQUEST_BYTES = 1024
/** Ten thousand resources with long names and their sites fit well. */
export const MAX_RESPONSE_BYTES = 16 * 1024 * 1024

export const ControlRequest = Schema.Struct({
  version,
  request: Schema.Literal("status", "watch", "reset", "routes")
})
export type ControlRequest = typeof ControlRequest.Type

/** An entry of the route cache. */
export const RouteReport = Schema.Struct({
  destination: Schema.String,
  source: Schema.String,
  interfaceName: Schema.String,
  nextHop: Schema.optional(Schema.String),
  prefixLength: Schema.Number,
  metric: Schema.Number,
  generation: Schema.Number,
  ageMillis: Schema.Number
})

export const ControlResponse = Schema.Union(
  Schema.Struct({ version, type: Schema.Literal("status"), status: StatusReport }),
  /** The session has started over. */
  Schema.Struct({ version, type: Schema.Literal("reset") }),
  Schema.Struct({ version, type: Schema.Literal("routes"), routes: Schema.Array(RouteReport) }),
  Schema.Struct({
    version,
    type: Schema.Literal("error"),
    code: Schema.Literal("bad-request", "unsupported-version", "not-permitted", "busy"),
    message: Schema.String
  })
)
export type ControlResponse = typeof ControlResponse.Type
