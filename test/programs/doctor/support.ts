import * as Effect from "effect/Effect"
import { statusReport } from "../../../src/layers/control/statusReport.ts"
import type { Finding } from "../../../src/model/doctor.ts"
import type { StatusReport } from "../../../src/model/status.ts"
import type { Check, Session } from "../../../src/programs/doctor/check.ts"
import type { SystemFacts } from "../../../src/programs/doctor/system.ts"
import type { TunnelStatus } from "../../../src/services/Tunnel.ts"
import { tunnelStatus } from "../../support/TunnelDouble.ts"

export const none: Session = { _tag: "None" }

export const running = (changes: Partial<TunnelStatus> = {}): Session & { readonly report: StatusReport } => ({
  _tag: "Running",
  report: statusReport(
    tunnelStatus(changes),
    { version: "1.2.3", pid: 42, uptimeMillis: 60_000 },
    new URL("wss://api.firezone.dev/")
  )
})

export const asRoot: SystemFacts = {
  platform: "linux",
  release: "6.12.0",
  arch: "x64",
  nodeVersion: "20.0.0",
  uid: 0
}

export const asUser: SystemFacts = { ...asRoot, uid: 1000 }

/** What one of the checks came to. */
export const find = <R>(checks: ReadonlyArray<Check<R>>, id: string): Effect.Effect<Finding, never, R> =>
  checks.find((check) => check.id === id)?.run ?? Effect.dieMessage(`there is no check ${id}`)

export const textOf = ({ evidence, nextStep, verdict }: Finding): string =>
  `${verdict}: ${evidence.join("; ")}${nextStep === undefined ? "" : ` -> ${nextStep}`}`
