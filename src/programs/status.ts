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
  readonly write: (text: string) => Effect.Effect<void>
}

export interface StatusOptions {
  readonly json: boolean
  readonly watch: boolean
}

const NO_CURSOR_NO_WRAP = "\x1b[?25l\x1b[?7l"
const CURSOR_AND_WRAP = "\x1b[?25h\x1b[?7h"
const CLEAR = "\x1b[2J"
const HOME = "\x1b[H"
const CLEAR_LINE = "\x1b[K"
const CLEAR_BELOW = "\x1b[J"

/** Over what is there, so that nothing flickers; what does not fit is left out, and says so. */
const redraw = (lines: ReadonlyArray<string>, rows: number): string => {
  const room = Math.max(1, rows - 1)
  const left = lines.length - room
  const shown = left <= 0 ? lines : [...lines.slice(0, room - 1), `  and ${left + 1} more lines: enlarge the terminal`]
  return HOME + shown.map((line) => `${line}${CLEAR_LINE}\n`).join("") + CLEAR_BELOW
}

/** Once, or one a second until the client ends. */
export const status = Effect.fn("status")(function*({ json, watch }: StatusOptions, screen: Screen) {
  const client = yield* ControlClient
  const paint = screen.hasColours ? colours : plain
  const print = (report: StatusReport) =>
    Console.log(json ? JSON.stringify(report) : statusLines(report, paint).join("\n"))
  if (!watch) {
    const report = yield* client.status
    yield* print(report)
    return report.signedIn ? undefined : yield* new NotSignedIn()
  }
  if (json || !screen.isTerminal) return yield* Stream.runForEach(client.statuses, print)

  let begun = false
  yield* client.statuses.pipe(
    Stream.runForEach((report) => {
      const start = begun ? "" : NO_CURSOR_NO_WRAP + CLEAR
      begun = true
      return screen.write(start + redraw(statusLines(report, paint), screen.rows()))
    }),
    Effect.ensuring(Effect.suspend(() => begun ? screen.write(CURSOR_AND_WRAP) : Effect.void))
  )
})
