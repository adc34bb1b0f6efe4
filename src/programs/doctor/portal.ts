/** The way to the portal, layer by layer, without signing in. */
import * as Clock from "effect/Clock"
import * as Effect from "effect/Effect"
import { failed, type Finding, ok, skipped, warning } from "../../model/doctor.ts"
import { dialTarget } from "../../protocol/portal/loginUrl.ts"
import { SocketAddress } from "../../protocol/wire/address.ts"
import { ClientConfig } from "../../services/ClientConfig.ts"
import { HostResolver } from "../../services/HostResolver.ts"
import { type HttpFacts, type PortalAnswer, PortalProbe, type TlsFacts } from "../../services/PortalProbe.ts"
import { duration } from "../statusScreen.ts"
import type { Check } from "./check.ts"

/** Of each family; the others are behind the same way. */
const MOST_ADDRESSES = 2

/** What each address of the portal answered; none if its name has no address. */
export const askPortal = Effect.gen(function*() {
  const { apiUrl } = yield* ClientConfig
  const { host, port } = dialTarget(apiUrl)
  const addresses = yield* Effect.orElseSucceed((yield* HostResolver).resolve(host), () => [])
  const remotes = addresses.map((address) => new SocketAddress(address, port))
  const chosen = ([4, 6] as const).flatMap((family) =>
    remotes.filter((remote) => remote.family === family).slice(0, MOST_ADDRESSES)
  )
  const probe = yield* PortalProbe
  return yield* Effect.forEach(chosen, (remote) => probe.ask(remote, apiUrl), { concurrency: "unbounded" })
})

type Answers = Effect.Effect<ReadonlyArray<PortalAnswer>>

const NO_ADDRESS = skipped("the portal has no address")
const NO_TCP = skipped("there is no TCP connection to the portal")

const tcp = (answers: Answers): Effect.Effect<Finding> =>
  Effect.map(answers, (all) => {
    if (all.length === 0) return NO_ADDRESS
    const words = all.map(({ failure, remote, tcp }) =>
      tcp === undefined
        ? `${remote.text}: ${failure}`
        : `${remote.text} from ${tcp.source} in ${Math.round(tcp.millis)} ms`
    )
    const good = all.filter(({ tcp }) => tcp !== undefined)
    if (good.length === 0) {
      const isLost = all.every(({ hasNoRoute }) => hasNoRoute === true)
      return failed(
        words,
        isLost
          ? "this machine is not connected to a network that leads there: see Uplinks"
          : "the portal is down, --api-url has another port than it, or a firewall or VPN keeps TCP from it; "
            + `firezone-headless-client route explain ${all[0]?.remote.address} shows the way taken`
      )
    }
    // A machine without IPv6 is no news.
    return all.some(({ hasNoRoute, tcp }) => tcp === undefined && hasNoRoute !== true)
      ? warning(words, "it works over the others; ask whoever runs the network about the one that fails")
      : ok(words)
  })

const EXPIRY_WARNING_MILLIS = 7 * 86_400_000
const UNTRUSTED: ReadonlySet<string> = new Set([
  "DEPTH_ZERO_SELF_SIGNED_CERT",
  "SELF_SIGNED_CERT_IN_CHAIN",
  "UNABLE_TO_GET_ISSUER_CERT",
  "UNABLE_TO_GET_ISSUER_CERT_LOCALLY",
  "UNABLE_TO_VERIFY_LEAF_SIGNATURE"
])

const dateOf = (time: number): string => new Date(time).toISOString().slice(0, 10)

const judgeTls = (facts: TlsFacts, host: string, now: number): Finding => {
  const { issuer, protocol, refusal, subject, validFrom, validTo } = facts
  const words = [
    `${protocol}, certificate of ${subject || "nobody"}, issued by ${issuer || "nobody"}`,
    `valid from ${dateOf(validFrom)} to ${dateOf(validTo)}`
  ]
  if (refusal === undefined) {
    return validTo - now < EXPIRY_WARNING_MILLIS
      ? warning([`its certificate ends in ${duration(validTo - now)}`, ...words], "tell whoever runs the portal")
      : ok(words)
  }
  if (refusal === "CERT_HAS_EXPIRED" || refusal === "CERT_NOT_YET_VALID") {
    const what = refusal === "CERT_HAS_EXPIRED" ? "has expired" : "is not valid yet"
    return failed(
      [`the certificate ${what}, by this machine's clock (${dateOf(now)})`, ...words],
      "if the clock is right (see Clock), tell whoever runs the portal"
    )
  }
  if (refusal === "ERR_TLS_CERT_ALTNAME_INVALID") {
    return failed(
      [`the certificate is not for ${host}`, ...words],
      "something else answers in the portal's place, or --api-url has another name than the portal"
    )
  }
  return failed(
    [UNTRUSTED.has(refusal) ? `nobody whom we trust issued the certificate (${refusal})` : refusal, ...words],
    "a proxy that opens TLS: have it leave the portal alone; a portal with a CA of its own: NODE_EXTRA_CA_CERTS=FILE"
  )
}

const tlsCheck = (answers: Answers) =>
  Effect.gen(function*() {
    const { apiUrl } = yield* ClientConfig
    if (apiUrl.protocol !== "wss:") {
      return warning(
        `${apiUrl.protocol}//: nothing is encrypted, and whoever is on the way can take the token`,
        "use wss:// unless this is a lab"
      )
    }
    const all = yield* answers
    if (all.length === 0) return NO_ADDRESS
    const reached = all.filter(({ tcp }) => tcp !== undefined)
    if (reached.length === 0) return NO_TCP
    const now = yield* Clock.currentTimeMillis
    const { host } = dialTarget(apiUrl)
    const found = reached.map(({ failure, tls }) =>
      tls === undefined
        ? failed(
          failure ?? "no TLS",
          "what answers on that port does not speak TLS, or something on the way cuts it off"
        )
        : judgeTls(tls, host, now)
    )
    return found.find(({ verdict }) => verdict === "failed") ?? found.find(({ verdict }) => verdict === "warning")
      ?? found[0] ?? NO_TCP
  })

/** As much of a foreign header as is of use; the screen makes it harmless. */
const cut = (text: string): string => text.length <= 100 ? text : `${text.slice(0, 100)}...`

const judgeHttp = ({ code, location, status }: HttpFacts): Finding => {
  const words = `HTTP status ${status}${code === undefined ? "" : `, ${code}`}`
  const facts = { status }
  if (status === 401) return ok(`it asks for a token, as it should (${words})`, facts)
  if (status === 101) return ok("it opens a WebSocket", facts)
  if (status === 400 || status === 426) return ok(`it answers (${words})`, facts)
  if (status === 403) {
    return warning(
      `it refuses this machine (${words})`,
      "ask the admin of the account: device trust, a disabled account or a blocked country",
      facts
    )
  }
  if (status === 429 || status >= 500) {
    return warning(`it has trouble (${words})`, "wait; if it lasts, look at the portal's status page", facts)
  }
  if (status >= 300 && status < 400) {
    return failed(
      `it sends us to ${location === undefined ? "another place" : cut(location)} (${words})`,
      "a network that wants a person to log in first, or a wrong --api-url",
      facts
    )
  }
  return failed(
    `what answers is no Firezone portal (${words})`,
    "check --api-url; or a proxy answers in the portal's place",
    facts
  )
}

const answersHttp = (answers: Answers): Effect.Effect<Finding> =>
  Effect.map(answers, (all) => {
    if (all.length === 0) return NO_ADDRESS
    const reached = all.filter(({ tcp }) => tcp !== undefined)
    if (reached.length === 0) return NO_TCP
    const { failure, http } = reached.find(({ http }) => http !== undefined) ?? reached[0] as PortalAnswer
    return http === undefined
      ? failed(failure ?? "no answer", "a proxy or firewall that looks into connections may cut off WebSockets")
      : judgeHttp(http)
  })

const MINUTE = 60_000
/** A certificate that was made today seems not to be valid yet. */
const FAR_OFF = 60 * MINUTE

/** The portal's word for the time is good to a second and the way there. */
const clock = (answers: Answers): Effect.Effect<Finding> =>
  Effect.map(answers, (all) => {
    const told = all.find(({ http }) => http?.clock !== undefined)?.http?.clock
    if (told === undefined) return skipped("nobody told us the time")
    const skewMillis = told.ours - told.theirs
    const off = Math.abs(skewMillis)
    const facts = { skewMillis }
    if (off < MINUTE) return ok(`within ${off < 2000 ? "2 s" : duration(off)} of the portal's`, facts)
    const words = `${duration(off)} ${skewMillis > 0 ? "ahead of" : "behind"} the portal's`
    const next = "let this machine keep the time: timedatectl set-ntp true, or chrony"
    return off < FAR_OFF
      ? warning(words, next, facts)
      : failed(`${words}: certificates and tokens seem to be from another time`, next, facts)
  })

/** `answers` is asked for once, however many look at it. */
export const portalChecks = (answers: Answers): ReadonlyArray<Check<ClientConfig>> => [
  { id: "portal-tcp", group: "portal", title: "TCP", run: tcp(answers) },
  { id: "portal-tls", group: "portal", title: "TLS", run: tlsCheck(answers) },
  { id: "portal-answer", group: "portal", title: "Answer", run: answersHttp(answers) },
  { id: "clock", group: "portal", title: "Clock", run: clock(answers) }
]
