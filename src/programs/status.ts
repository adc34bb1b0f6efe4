/** `status`: what the running client says of itself. */
import * as Console from "effect/Console"
import * as Data from "effect/Data"
import * as Effect from "effect/Effect"
import * as Stream from "effect/Stream"
import type { StatusReport } from "../model/status.ts"
import { ControlClient } from "../services/ControlClient.ts"
import { colours, plain, statusLines } from "./statusScreen.ts"

/** It runs, but the portal does not answer it now; exit code 5. It has been said on stdout. */
export class NotSignedIn extends Data.TaggedError("NotSignedIn") {
  readonly reported = true
}

/** Where it is shown. */
export interface Screen {
  readonly isTerminal: boolean
  readonly hasColours: boolean
  /** Of the terminal, now. */
  readonly rows: () => number
  /** As `rows`; without end where there is no terminal. */
  readonly columns: () => number
  readonly write: (text: string) => Effect.Effect<void>
  /** Returns when the person has pressed a key to leave; for ever where there is no keyboard. */
  readonly quit: Effect.Effect<void>
}

export interface StatusOptions {
  readonly json: boolean
  readonly watch: boolean
}

/** The alternate screen, without a cursor and without wrapping: what was on the terminal comes back. */
const ENTER = "\x1b[?1049h\x1b[?25l\x1b[?7l\x1b[2J"
const LEAVE = "\x1b[?7h\x1b[?25h\x1b[?1049l"
const HOME = "\x1b[H"
const CLEAR_LINE = "\x1b[K"
const CLEAR_BELOW = "\x1b[J"
const HINT = "q to leave"

/** One column is left: in the last one, without wrapping, to clear the rest of the line would take its own end. */
const MARGIN = 1

/** Over what is there, so that nothing flickers; what does not fit is left out, and says so. */
const redraw = (lines: ReadonlyArray<string>, rows: number, hint: string): string => {
  const room = Math.max(1, rows - 1)
  const left = lines.length - room
  const shown = left <= 0 ? lines : [...lines.slice(0, room - 1), `  ${left + 1} more lines need a larger terminal`]
  return HOME + shown.map((line) => `${line}${CLEAR_LINE}\n`).join("") + CLEAR_BELOW + `\x1b[${rows}H${hint}`
}

/** Once, or one a second until the client ends. */
export const status = Effect.fn("status")(function*({ json, watch }: StatusOptions, screen: Screen) {
  const client = yield* ControlClient
  const paint = screen.hasColours ? colours : plain
  const print = (report: StatusReport) =>
    Console.log(json ? JSON.stringify(report) : statusLines(report, paint, screen.columns()).join("\n"))
  if (!watch) {
    const report = yield* client.status
    yield* print(report)
    return report.signedIn ? undefined : yield* new NotSignedIn()
  }
  if (json || !screen.isTerminal) return yield* Stream.runForEach(client.statuses, print)

  let shown: StatusReport | undefined
  yield* client.statuses.pipe(
    Stream.runForEach((report) => {
      const start = shown === undefined ? ENTER : ""
      shown = report
      return screen.write(
        start + redraw(statusLines(report, paint, screen.columns() - MARGIN), screen.rows(), paint("dim", HINT))
      )
    }),
    Effect.raceFirst(screen.quit),
    Effect.ensuring(Effect.suspend(() => shown === undefined ? Effect.void : screen.write(LEAVE))),
    // Of a client that ends while nobody looks, the last that it said is to be found.
    Effect.tapError(() => Effect.suspend(() => shown === undefined ? Effect.void : print(shown)))
  )
})
