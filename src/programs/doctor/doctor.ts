/** `doctor`: looks at everything that a person who helps would ask for, and says what to do next. */
import * as Clock from "effect/Clock"
import * as Console from "effect/Console"
import type * as Context from "effect/Context"
import * as Data from "effect/Data"
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import { type CheckReport, doctorReport, failed, type Finding } from "../../model/doctor.ts"
import { version } from "../../model/version.ts"
import type { SocketAddress } from "../../protocol/wire/address.ts"
import { ClientConfig, type ClientSettings } from "../../services/ClientConfig.ts"
import { colours, plain } from "../statusScreen.ts"
import { type Check, readSession, reportOf, type Session } from "./check.ts"
import { clientChecks } from "./client.ts"
import { dnsChecks } from "./dns.ts"
import { networkChecks } from "./network.ts"
import { askRelays, pathChecks } from "./paths.ts"
import { askPortal, portalChecks } from "./portal.ts"
import { doctorLines } from "./screen.ts"
import { systemChecks, type SystemFacts } from "./system.ts"

/** Exit code 10. It has been said on stdout. */
export class DoctorWarned extends Data.TaggedError("DoctorWarned") {
  readonly reported = true
}
/** Exit code 11. It has been said on stdout. */
export class DoctorFailed extends Data.TaggedError("DoctorFailed") {
  readonly reported = true
}

export interface DoctorOptions {
  readonly json: boolean
  /** To be asked in the place of the running client's relays. */
  readonly stun: ReadonlyArray<SocketAddress>
}

/** Where it is shown. */
export interface DoctorScreen {
  readonly isTerminal: boolean
  readonly hasColours: boolean
  /** Where lines are broken. */
  readonly columns: number
  readonly write: (text: string) => Effect.Effect<void>
}

export interface Surroundings extends SystemFacts {
  /** Whether FIREZONE_TOKEN is set. */
  readonly hasTokenVariable: boolean
}

/** For all of it: every step has a limit of its own, and this is for those that have not. */
const LIMIT_MILLIS = 9500

const run = (leftMillis: number) => <R>({ group, id, run, title }: Check<R>): Effect.Effect<CheckReport, never, R> =>
  run.pipe(
    Effect.timeoutTo({
      duration: leftMillis,
      onSuccess: (finding) => finding,
      onTimeout: (): Finding => failed("this did not come to an end in time", "try again; if it lasts, report it")
    }),
    Effect.catchAllDefect((defect) =>
      Effect.succeed(
        failed(`internal error: ${defect instanceof Error ? defect.message : String(defect)}`, "report it")
      )
    ),
    Effect.map((finding) => ({ id, group, title, ...finding }))
  )

/** The running client may have another portal than the one that this command was told of. */
const settingsFor = (session: Session) =>
  Effect.map(ClientConfig, (settings): ClientSettings => {
    const url = reportOf(session)?.portal.url ?? ""
    return URL.canParse(url) ? { ...settings, apiUrl: new URL(url) } : settings
  })

/** Every group of checks, all at once. */
const examine = (
  session: Session,
  surroundings: Surroundings,
  stun: ReadonlyArray<SocketAddress>,
  each: ReturnType<typeof run>
) =>
  Effect.gen(function*() {
    const portal = yield* Effect.cached(askPortal)
    const relays = yield* Effect.cached(askRelays(session, stun))
    const { uid } = surroundings
    const all = { concurrency: "unbounded" } as const
    return yield* Effect.all([
      Effect.forEach(clientChecks(session, surroundings), each, all),
      Effect.forEach(systemChecks(session, surroundings), each, all),
      Effect.forEach(networkChecks(session, uid), each, all),
      Effect.forEach(dnsChecks(session, uid), each, all),
      // Both come with their needs, so that these checks have none but their own.
      Effect.contextWithEffect((context: Context.Context<Effect.Effect.Context<typeof portal>>) =>
        Effect.forEach(portalChecks(Effect.provide(portal, context)), each, all)
      ),
      Effect.contextWithEffect((context: Context.Context<Effect.Effect.Context<typeof relays>>) =>
        Effect.forEach(pathChecks(session, Effect.provide(relays, context)), each, all)
      )
    ], all)
  })

const LOOKING = "Looking at this machine, its network and the portal ..."

/** Prints what it found. Fails, after printing, with the worst verdict: a script can tell by the exit code. */
export const doctor = Effect.fn("doctor")(function*(
  { json, stun }: DoctorOptions,
  surroundings: Surroundings,
  screen: DoctorScreen
) {
  const time = new Date(yield* Clock.currentTimeMillis).toISOString()
  const tellsProgress = screen.isTerminal && !json
  if (tellsProgress) yield* screen.write(LOOKING)
  const [took, session] = yield* Effect.timed(readSession)
  const each = run(LIMIT_MILLIS - Duration.toMillis(took))
  const reports = yield* examine(session, surroundings, stun, each).pipe(
    Effect.provideServiceEffect(ClientConfig, settingsFor(session))
  )
  const report = doctorReport(reports.flat(), { time, version })
  if (tellsProgress) yield* screen.write("\r\x1b[K")
  const lines = () => doctorLines(report, screen.hasColours ? colours : plain, screen.columns)
  yield* Console.log(json ? JSON.stringify(report) : lines().join("\n"))
  if (report.verdict === "failed") return yield* new DoctorFailed()
  if (report.verdict === "warning") return yield* new DoctorWarned()
  return undefined
})
