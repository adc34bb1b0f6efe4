/** What `ping` makes of what it found: each stage's words, and those at the end. */
import { PING_VERSION, type StageLine } from "../../model/ping.ts"
import type { StatusReport } from "../../model/status.ts"
import type { IpAddress } from "../../protocol/wire/address.ts"
import { ResponseCode } from "../../protocol/wire/dns.ts"
import type { LookUp } from "../../services/ResourceProbe.ts"
import { explainRefusal } from "../refusal.ts"
import { duration, millis, PATHS } from "../statusScreen.ts"
import type { Reachable } from "./target.ts"

type Peer = StatusReport["peers"][number]

export const stage = (
  stage: StageLine["stage"],
  verdict: StageLine["verdict"],
  text: string,
  more: Pick<StageLine, "millis" | "nextStep"> = {}
): StageLine => ({ version: PING_VERSION, type: "stage", stage, verdict, text, ...more })

export const clientStage = ({ client, portal, signedIn }: StatusReport, took: number): StageLine => {
  const who = `${client.version}, process ${client.pid}`
  return signedIn
    ? stage("client", "ok", `${who}, signed in`, { millis: took })
    : stage(
      "client",
      "unknown",
      `${who}, not signed in now${portal.lastError === undefined ? "" : `: ${portal.lastError}`}`,
      {
        millis: took,
        nextStep: "Access that was granted goes on, more is not granted before the portal is back"
      }
    )
}

const placesOf = ({ places, type }: Reachable): string =>
  type === "device"
    ? `a device of ${places.join(", ")}`
    : places.length === 0
    ? "of no site"
    : `in ${places.join(", ")}`

/** Through whom it is reached. */
const peerName = ({ peer, type }: Reachable): string => `${type === "device" ? "device" : "gateway"} ${peer}`

export const resourceStage = (resource: Reachable): StageLine =>
  stage(
    "resource",
    "ok",
    [resource.name, resource.type === "internet" ? "everything else" : resource.address, placesOf(resource)].join(", ")
  )

/** `server` is the client's own that was asked. */
export const nameFailed = (name: string, server: IpAddress, answers: ReadonlyArray<LookUp>): StageLine => {
  const refused = answers.find((answer) => answer._tag === "Refused")
  const code = Object.entries(ResponseCode).find(([, code]) => code === refused?.responseCode)?.[0]
  return refused !== undefined
    ? stage("name", "failed", `${server} says of ${name}: ${code ?? `error ${refused.responseCode}`}`, {
      nextStep: "Look at the client's log; another resource may have taken the name"
    })
    : answers.some(({ _tag }) => _tag === "Silent")
    ? stage("name", "failed", `${server}, the client's own DNS server, does not answer`, {
      nextStep: "Look at the client's log and at this machine's packet filters"
    })
    : stage("name", "failed", `${server} knows no address for ${name}`, {
      nextStep: "Look at which kinds of addresses the resource has in the admin portal"
    })
}

export interface Access {
  readonly resource: Reachable
  /** Holds the host as well, and was not granted. */
  readonly insteadOf: Reachable | undefined
  readonly report: StatusReport
  /** Of the first echo request: this machine's client refused it. */
  readonly isFiltered: boolean
  /** Since that request was sent. */
  readonly waitedMillis: number
  /** It was not there before; milliseconds after the request. */
  readonly grantedMillis: number | undefined
}

export const accessStage = (
  { grantedMillis, insteadOf, isFiltered, report, resource, waitedMillis }: Access
): StageLine => {
  if (insteadOf !== undefined) {
    const text = `granted for ${resource.name}, which holds the host as well, through ${peerName(resource)}`
    return stage("access", "ok", text)
  }
  if (resource.peer !== undefined) {
    return grantedMillis === undefined
      ? stage("access", "ok", `granted before, through ${peerName(resource)}`)
      : stage("access", "ok", `granted, through ${peerName(resource)}`, { millis: grantedMillis })
  }
  if (isFiltered) {
    return stage("access", "unknown", "not asked for: the resource's policy lets no echo requests through", {
      nextStep: "Try a port that it lets through, then ping again to see the way to the gateway"
    })
  }
  if (resource.isNameOnly) {
    return stage("access", "failed", "no static device pool lists the device: there is nothing to ask access to", {
      nextStep: "Have the device added to a static pool in the admin portal"
    })
  }
  const { refusal } = resource
  const explained = refusal && explainRefusal(refusal, resource.type === "device" ? "device" : "resource")
  const isOffline = resource.status === "Offline" && (refusal === undefined || refusal.reason === "offline")
  if (refusal !== undefined && explained !== undefined && !isOffline && refusal.ageMillis <= waitedMillis) {
    return stage("access", "failed", `the portal has refused it: ${explained.means}`, { nextStep: explained.nextStep })
  }
  if (isOffline) {
    return stage("access", "failed", `the portal says that no gateway ${placesOf(resource)} is online`, {
      nextStep: "Start a gateway of the site, or see in the admin portal why it is not connected"
    })
  }
  if (!report.signedIn) {
    return stage("access", "failed", "the portal is out of reach, so nobody can grant it", {
      nextStep: "See why with: firezone-headless-client doctor"
    })
  }
  const before = refusal === undefined || explained === undefined
    ? ""
    : `; ${duration(refusal.ageMillis)} ago it refused: ${explained.means}`
  return stage("access", "failed", `the portal has not granted it within ${millis(waitedMillis)}${before}`, {
    nextStep: explained?.nextStep ??
      "Look at the policies of the resource in the admin portal, and at the client's log"
  })
}

const wayOf = ({ path, rttMillis }: Peer): string =>
  path === undefined
    ? "none yet"
    : `${PATHS[path.kind]}, ${path.local} to ${path.remote}${
      rttMillis === undefined ? "" : `, round trip ${millis(rttMillis)}`
    }`

/** `undefined` if there is nothing to say: no gateway. */
export const pathStage = ({ report, resource }: Pick<Access, "report" | "resource">): StageLine | undefined => {
  if (resource.peer === undefined) return undefined
  const isDevice = resource.type === "device"
  const peer = report.peers.find(({ id }) => id === resource.peer)
  return peer === undefined || peer.path === undefined
    ? stage("path", "failed", `no way to ${peerName(resource)} was found`, {
      nextStep: `UDP may be blocked on this network or on the ${
        isDevice ? "device" : "gateway"
      }'s: see firezone-headless-client doctor`
    })
    : peer.state === "connecting"
    ? stage("path", "unknown", `${wayOf(peer)}; the ${isDevice ? "device" : "gateway"} has not answered yet`)
    : stage("path", "ok", wayOf(peer))
}

export interface Outcome {
  readonly target: string
  readonly address: IpAddress
  /** Nobody said that there is a host. */
  readonly isGuess: boolean
  readonly answered: number
  readonly prohibited: number
  readonly peer: Peer | undefined
}

/** What was measured, what it means, and whether the resource works as far as can be told. */
export const conclude = (
  { address, answered, isGuess, peer, prohibited, target }: Outcome
): { readonly works: boolean; readonly text: string } => {
  const hasPath = peer?.state === "connected" && peer.path !== undefined
  const who = peer?.kind ?? "gateway"
  const toGateway = peer?.rttMillis === undefined
    ? `the ${who} is connected, its round trip is not measured yet`
    : `the round trip to the ${who} is ${millis(peer.rttMillis)}, as the client measures it`
  if (answered > 0) {
    return { works: true, text: `${target} works: the times are of echo requests to ${address} and back` }
  }
  if (prohibited > 0) {
    return {
      works: false,
      text: `Policy lets no echo requests through, so that ${address} could not be measured${
        hasPath ? `; ${toGateway}` : ""
      }`
    }
  }
  if (!hasPath) return { works: false, text: `${target} cannot be reached` }
  return isGuess
    ? {
      works: true,
      text:
        `${target} is reached as far as its gateway: ${toGateway}. Whether a host answers is not known: ${address} was `
        + "a guess. Give the address of one"
    }
    : {
      works: false,
      text: `${address} does not answer, though ${toGateway}. It may ${
        who === "device"
          ? "leave echo requests unanswered"
          : "be down, leave echo requests unanswered, or not know the way back to the gateway"
      }`
    }
}
