/** The request that asks for access and makes the connection, while the client tells how it goes. */
import * as Clock from "effect/Clock"
import * as Effect from "effect/Effect"
import * as Fiber from "effect/Fiber"
import type { StageLine } from "../../model/ping.ts"
import type { StatusReport } from "../../model/status.ts"
import { ControlClient } from "../../services/ControlClient.ts"
import type { EchoOutcome } from "../../services/ResourceProbe.ts"
import { type Reachable, reachables, type Target } from "./target.ts"
import { accessStage, pathStage, stage } from "./verdicts.ts"

type Found = Extract<Target, { readonly _tag: "Found" }>

/** Between questions to the client. */
const STATUS_MILLIS = 200
/** What the client knew of a site before may be old: the first packet has it ask again. */
const OLD_NEWS_MILLIS = 2000

export const now = Effect.map(Clock.currentTimeNanos, (nanos) => Number(nanos) / 1e6)

/** Of the resource, or of another one that holds the host and was granted in its place. */
export const serving = (report: StatusReport, { alternatives, resource }: Found): Reachable | undefined => {
  const all = reachables(report)
  const own = all.find(({ id }) => id === resource.id)
  if (own?.peer !== undefined) return own
  return all.find(({ id, peer }) => peer !== undefined && alternatives.has(id)) ?? own
}

/** Whether the portal has refused it since the first packet. */
const isRefused = ({ refusal }: Reachable, sinceMillis: number): boolean =>
  refusal !== undefined && refusal.ageMillis < sinceMillis

/** How it went, what there is to say about access and path, and whether to send more. */
export const firstEcho = <E, R>(before: StatusReport, target: Found, echo: Effect.Effect<EchoOutcome, E, R>) =>
  Effect.gen(function*() {
    const client = yield* ControlClient
    const { id, peer, status } = target.resource
    const began = yield* now
    let grantedMillis: number | undefined
    const watch = Effect.gen(function*() {
      for (;; yield* Effect.sleep(STATUS_MILLIS)) {
        const report = yield* client.status
        const found = serving(report, target)
        const millis = (yield* now) - began
        if (found?.peer !== undefined) grantedMillis = millis
        const isOffline = found?.status === "Offline" && (status !== "Offline" || millis > OLD_NEWS_MILLIS)
        if (
          grantedMillis !== undefined || found === undefined || isOffline || found.isNameOnly ||
          isRefused(found, millis)
        ) {
          return found?.peer !== undefined
        }
      }
    })
    const asked = yield* Effect.fork(echo)
    // Nobody will answer where nobody was asked. A client that is gone is noticed below.
    const mayCome = peer !== undefined || (yield* Effect.raceFirst(
      Effect.orElseSucceed(watch, () => true),
      Effect.as(Fiber.await(asked), true)
    ))
    if (!mayCome) yield* Fiber.interrupt(asked)
    const first: EchoOutcome = mayCome ? yield* Fiber.join(asked) : { _tag: "Silent" }

    const waitedMillis = (yield* now) - began
    const report = yield* client.status
    const resource = serving(report, target)
    if (resource === undefined) {
      const gone = stage("access", "failed", "the portal has taken the resource away")
      return { first, lines: [gone] as ReadonlyArray<StageLine>, goesOn: false }
    }
    const isFiltered = first._tag === "Refused" && first.isProhibited &&
      (report.dropped["prohibited"] ?? 0) > (before.dropped["prohibited"] ?? 0)
    const isNew = peer === undefined && resource.peer !== undefined
    const path = pathStage({ report, resource })
    const access = accessStage({
      resource,
      insteadOf: resource.id === id ? undefined : target.resource,
      report,
      isFiltered,
      waitedMillis,
      grantedMillis: isNew ? grantedMillis ?? waitedMillis : undefined
    })
    // More of the same would tell nothing.
    const isHopeless = resource.peer === undefined || path?.verdict === "failed" || isFiltered
    return {
      first,
      lines: path === undefined ? [access] : [access, path],
      goesOn: first._tag === "Answered" || !isHopeless
    }
  })
