/** `ping`: whether a resource works, and if not, where it breaks. */
import * as Console from "effect/Console"
import * as Data from "effect/Data"
import * as Effect from "effect/Effect"
import * as Either from "effect/Either"
import * as Fiber from "effect/Fiber"
import * as Ref from "effect/Ref"
import { type EchoLine, PING_VERSION, type PingLine, type SummaryLine } from "../../model/ping.ts"
import type { StatusReport } from "../../model/status.ts"
import { familyOf, type IpAddress, parseIp } from "../../protocol/wire/address.ts"
import { ControlClient } from "../../services/ControlClient.ts"
import { type Echoes, type EchoOutcome, type LookUp, ResourceProbe } from "../../services/ResourceProbe.ts"
import { colours, plain } from "../statusScreen.ts"
import { firstEcho, now, serving } from "./firstEcho.ts"
import { pingLines } from "./screen.ts"
import { findTarget, type Host, type Reachable } from "./target.ts"
import { clientStage, conclude, nameFailed, resourceStage, stage } from "./verdicts.ts"

/** It does not work; exit code 1. It has been said on stdout. */
export class DoesNotWork extends Data.TaggedError("DoesNotWork") {
  readonly reported = true
}

export interface PingOptions {
  readonly target: string
  readonly json: boolean
  readonly count: number
  readonly intervalMillis: number
  /** For the answer to each request; the first one has at least `FIRST_PATIENCE_MILLIS`, it has to make the connection. */
  readonly patienceMillis: number
  /** For all requests together. */
  readonly deadlineMillis: number | undefined
  /** Of names that have addresses of both; of none if `undefined`. */
  readonly family: 4 | 6 | undefined
  readonly hasColours: boolean
  /** Of the terminal; lines are not broken without one. */
  readonly columns?: number
}

/** Access and a connection may take as long through relays. */
export const FIRST_PATIENCE_MILLIS = 10_000
const LOOK_UP_MILLIS = 5000

type Tally = { readonly sent: number; readonly prohibited: number; readonly times: ReadonlyArray<number> }

const timed = <A, E, R>(effect: Effect.Effect<A, E, R>) =>
  Effect.gen(function*() {
    const began = yield* now
    const value = yield* effect
    return [(yield* now) - began, value] as const
  })

const echoLine = (sequence: number, address: IpAddress, outcome: EchoOutcome): EchoLine => {
  const line = { version: PING_VERSION, type: "echo", sequence, address } as const
  switch (outcome._tag) {
    case "Answered":
      return { ...line, outcome: "answered", millis: outcome.millis }
    case "Refused":
      return {
        ...line,
        outcome: outcome.isProhibited ? "prohibited" : "unreachable",
        millis: outcome.millis,
        ...(outcome.from === undefined ? {} : { from: outcome.from })
      }
    case "Silent":
      return { ...line, outcome: "silent" }
  }
}

export const ping = Effect.fn("ping")(function*(options: PingOptions) {
  const client = yield* ControlClient
  const probe = yield* ResourceProbe
  const paint = options.hasColours ? colours : plain
  const print = (line: PingLine) =>
    Console.log(options.json ? JSON.stringify(line) : pingLines(line, paint, options.columns).join("\n"))
  const end = (works: boolean, text: string, more: Partial<SummaryLine> = {}) =>
    print({
      version: PING_VERSION,
      type: "summary",
      target: options.target,
      sent: 0,
      answered: 0,
      works,
      text,
      ...more
    })
  const breakOff = (text: string, more?: Partial<SummaryLine>) =>
    Effect.zipRight(end(false, text, more), new DoesNotWork())

  const [took, report] = yield* timed(client.status)
  yield* print(clientStage(report, took))
  const target = findTarget(report, options.target, options.family)
  if (target._tag === "Unknown") {
    yield* print(
      stage("resource", "failed", target.why, { nextStep: "See all of them with: firezone-headless-client status" })
    )
    return yield* breakOff(`There is no such resource: ${options.target}`)
  }
  if (target._tag === "Unclear") {
    const ids = target.resources.map(({ address, id, resourceId }) =>
      id === resourceId ? `${id} (${address})` : address
    ).join(", ")
    yield* print(
      stage("resource", "failed", `several are called that: ${ids}`, { nextStep: "Give the id or an address of one" })
    )
    return yield* breakOff(`${options.target} is not one resource`)
  }
  const { host } = target
  const about = { resource: target.resource.resourceId }
  yield* print(resourceStage(target.resource))

  const address = yield* addressOf(host, report, options.family).pipe(
    Effect.tap(({ lines }) => Effect.forEach(lines, print)),
    Effect.map(({ address }) => address)
  )
  if (address === undefined) {
    const why = host._tag === "None"
      ? `${target.resource.name} as a whole cannot be pinged: ${host.why}`
      : `${options.target} cannot be reached`
    return yield* breakOff(why, about)
  }
  const isGuess = host._tag === "Address" && host.isGuess
  yield* Effect.scoped(Effect.gen(function*() {
    const opened = yield* Effect.either(probe.open(address))
    if (Either.isLeft(opened)) {
      yield* print(stage("route", "failed", opened.left.message, {
        nextStep: `See whether the client's interface is up and has a route there: ip route get ${address}`
      }))
      return yield* breakOff(`${options.target} cannot be reached`, { ...about, address })
    }
    const echoes = opened.right
    const route = routeStage(report, address, echoes)
    yield* print(route)
    if (route.verdict === "failed") return yield* breakOff(`${options.target} cannot be reached`, { ...about, address })

    const tally = yield* Ref.make<Tally>({ sent: 0, prohibited: 0, times: [] })
    const summary = Effect.gen(function*() {
      const { prohibited, sent, times } = yield* Ref.get(tally)
      // The client may be gone by now: then the last word is what came back.
      const last = yield* Effect.orElseSucceed(client.status, () => undefined)
      const peer = last && peerOf(last, serving(last, target))
      const { text, works } = conclude({
        target: options.target,
        address,
        isGuess,
        answered: times.length,
        prohibited,
        peer
      })
      yield* end(works, text, {
        ...about,
        address,
        sent,
        answered: times.length,
        ...(times.length === 0 ? {} : {
          minMillis: Math.min(...times),
          averageMillis: times.reduce((sum, time) => sum + time, 0) / times.length,
          maxMillis: Math.max(...times)
        }),
        ...(peer?.rttMillis === undefined ? {} : { gatewayMillis: peer.rttMillis })
      })
      return works
    })
    const echo = (sequence: number, patienceMillis: number) =>
      Effect.gen(function*() {
        yield* Ref.update(tally, (tally) => ({ ...tally, sent: tally.sent + 1 }))
        const outcome = yield* echoes.echo(sequence, patienceMillis)
        yield* Ref.update(tally, (tally) => ({
          ...tally,
          prohibited: tally.prohibited + (outcome._tag === "Refused" && outcome.isProhibited ? 1 : 0),
          times: outcome._tag === "Answered" ? [...tally.times, outcome.millis] : tally.times
        }))
        return outcome
      })
    const say = (sequence: number, outcome: EchoOutcome) => print(echoLine(sequence, address, outcome))
    const rest = Effect.gen(function*() {
      // It has no longer than all of them together.
      const patience = Math.min(
        Math.max(options.patienceMillis, FIRST_PATIENCE_MILLIS),
        options.deadlineMillis ?? Number.POSITIVE_INFINITY
      )
      const { first, goesOn, lines } = yield* firstEcho(report, target, echo(1, patience))
      yield* Effect.forEach(lines, print)
      yield* say(1, first)
      if (!goesOn) return
      const sent = []
      for (let sequence = 2; sequence <= options.count; sequence++) {
        yield* Effect.sleep(options.intervalMillis)
        sent.push(
          yield* Effect.fork(
            Effect.flatMap(echo(sequence, options.patienceMillis), (outcome) => say(sequence, outcome))
          )
        )
      }
      yield* Fiber.joinAll(sent)
    })
    yield* (options.deadlineMillis === undefined ? rest : Effect.timeoutOption(rest, options.deadlineMillis)).pipe(
      // As ping(8) does after Ctrl+C.
      Effect.onInterrupt(() => Effect.ignore(summary))
    )
    if (!(yield* summary)) return yield* new DoesNotWork()
  }))
})

const peerOf = (report: StatusReport, resource: Reachable | undefined) =>
  report.peers.find(({ id }) => id === resource?.peer)

/** What stands for a host on this machine, and what there is to say about that. */
const addressOf = (host: Host, { dns, interface: link }: StatusReport, family: 4 | 6 | undefined) =>
  Effect.gen(function*() {
    const none = { address: undefined }
    if (host._tag === "Address") {
      const lines = host.isGuess
        ? [stage("name", "unknown", `no host was given: ${host.address}, the first address of the network, may be one`)]
        : []
      return { address: host.address, lines }
    }
    if (host._tag === "None") return { ...none, lines: [] }
    const servers = (dns?.servers ?? []).flatMap(({ address }) => parseIp(address) ?? [])
    // Either server answers for both families.
    const server = servers.find((server) => familyOf(server) === 4 && link?.works.ipv4) ??
      servers.find((server) => familyOf(server) === 6 && link?.works.ipv6)
    if (link === undefined || server === undefined) {
      const text = "the client has no DNS server of its own yet"
      return { ...none, lines: [stage("name", "failed", text, { nextStep: "Try again once it is signed in" })] }
    }
    const source = parseIp(familyOf(server) === 4 ? link.ipv4 : link.ipv6)
    const families = ([4, 6] as const).filter((each) =>
      (family === undefined || family === each) && link.works[each === 4 ? "ipv4" : "ipv6"]
    )
    const probe = yield* ResourceProbe
    const [took, answers] = yield* timed(Effect.forEach(
      families,
      (each) => probe.lookUp(host.name, each, server, source ?? server, LOOK_UP_MILLIS),
      { concurrency: "unbounded" }
    ))
    const addresses = answers.flatMap((answer: LookUp) => answer._tag === "Addresses" ? answer.addresses : [])
    const [address] = addresses
    if (address === undefined) return { ...none, lines: [nameFailed(host.name, server, answers)] }
    const others = addresses.length === 1 ? "" : `, and has ${addresses.length - 1} more`
    return {
      address,
      lines: [stage("name", "ok", `${host.name} is ${address} on this machine${others}`, { millis: took })]
    }
  }).pipe(Effect.catchTag("OutsideTunnel", ({ message }) =>
    Effect.succeed({
      address: undefined,
      lines: [stage("name", "failed", `the client's own DNS server was not asked: ${message}`, {
        nextStep: "Look for another VPN: firezone-headless-client route explain ADDRESS"
      })]
    })))

const routeStage = ({ interface: link }: StatusReport, address: IpAddress, { source }: Echoes) => {
  const own = link === undefined ? undefined : parseIp(familyOf(address) === 4 ? link.ipv4 : link.ipv6)
  return link !== undefined && source === own
    ? stage("route", "ok", `through ${link.name}, from ${source}`)
    : stage("route", "failed", `packets to ${address} leave from ${source}, not through the tunnel`, {
      nextStep: "Another route on this machine wins, perhaps of another VPN: see ip route get and ip rule"
    })
}
