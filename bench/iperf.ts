/** One run of iperf3 from the client's host. */
import * as Effect from "effect/Effect"
import { LabError } from "../src/lab/LabError.ts"
import type { Topology } from "../src/lab/topology.ts"

export type Direction = "up" | "down"
export const directions: ReadonlyArray<Direction> = ["up", "down"]

interface Sum {
  readonly bits_per_second: number
  readonly bytes: number
  readonly seconds: number
  readonly retransmits?: number
  readonly lost_percent?: number
}

interface Answer {
  readonly error?: string
  readonly end?: { readonly sum?: Sum; readonly sum_sent?: Sum; readonly sum_received?: Sum }
}

export interface IperfResult {
  /** Received, without headers. */
  readonly megabitsPerSecond: number
  readonly bytes: number
  readonly retransmits: number
  readonly sentMegabitsPerSecond: number
  /** Of datagrams. */
  readonly lostPercent: number
}

/** `arguments` says what is sent and for how long. */
export const iperf = (
  network: Topology,
  target: string,
  direction: Direction,
  options: ReadonlyArray<string>
): Effect.Effect<IperfResult, LabError> =>
  Effect.gen(function*() {
    const { stderr, stdout } = yield* network.run(
      "client",
      ["iperf3", "-J", "-c", target, ...(direction === "down" ? ["-R"] : []), ...options],
      { timeoutMillis: 900_000 }
    )
    const failure = (why: string) =>
      new LabError({ what: `iperf3 to ${target}, ${direction}, ${options.join(" ")}`, why })
    const answer = yield* Effect.try({
      try: () => JSON.parse(stdout) as Answer,
      catch: () => failure(stderr.trim() || "said nothing")
    })
    const received = answer.end?.sum_received ?? answer.end?.sum
    const sent = answer.end?.sum_sent ?? answer.end?.sum
    if (answer.error !== undefined || received === undefined || sent === undefined) {
      return yield* failure(answer.error ?? "gave no sums")
    }
    const lostPercent = answer.end?.sum?.lost_percent ?? received.lost_percent ?? 0
    return {
      megabitsPerSecond: received.bits_per_second / 1e6,
      bytes: received.bytes,
      retransmits: sent.retransmits ?? 0,
      sentMegabitsPerSecond: sent.bits_per_second / 1e6,
      lostPercent
    }
  }).pipe(
    // It sometimes loses its own control connection, more so on a busy machine.
    Effect.tapError((error) => Effect.sync(() => process.stderr.write(`${error.message}\n`))),
    Effect.retry({ times: 2 })
  )
