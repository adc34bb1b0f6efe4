/** UDP: whether relays answer, how the NAT behaves, and whether datagrams of full size arrive. */
import * as Effect from "effect/Effect"
import * as Either from "effect/Either"
import { failed, type Finding, ok, skipped, warning } from "../../model/doctor.ts"
import { dialTarget } from "../../protocol/portal/loginUrl.ts"
import { familyOf, type IpAddress, parseSocketAddress, type SocketAddress } from "../../protocol/wire/address.ts"
import { ClientConfig } from "../../services/ClientConfig.ts"
import { HostResolver } from "../../services/HostResolver.ts"
import { KernelProbe } from "../../services/KernelProbe.ts"
import { RouteCache } from "../../services/RouteCache.ts"
import { type Check, plural, reportOf, type Session } from "./check.ts"
import { askServers, FULL_SIZE, mappingOf, type StunFindings } from "./stun.ts"

/** Why nobody was asked. */
type Unasked = { readonly _tag: "Unasked"; readonly finding: Finding }
type Asked = { readonly _tag: "Asked"; readonly stun: StunFindings; readonly unrouted: ReadonlyArray<SocketAddress> }

/** Those that a person named, else those of the running client. Two addresses of one relay count as two. */
const serversOf = (session: Session, named: ReadonlyArray<SocketAddress>): ReadonlyArray<SocketAddress> | Finding => {
  if (named.length > 0) return named
  const report = reportOf(session)
  if (report === undefined) {
    return skipped(
      "no relay is known: a client that is signed in knows them",
      "start the client, or name one: --stun ADDRESS:PORT"
    )
  }
  const relays = report.relays ?? []
  if (relays.length > 0) {
    return relays.flatMap(({ addresses }) => addresses.flatMap((text) => parseSocketAddress(text) ?? []))
  }
  return report.signedIn && report.relays !== undefined
    ? failed("the portal named no relay", "tell whoever runs the portal: without relays no connection can be made")
    : skipped("the client knows no relay yet", "let it sign in first")
}

export const askRelays = (session: Session, named: ReadonlyArray<SocketAddress>) =>
  Effect.gen(function*() {
    const servers = serversOf(session, named)
    if ("verdict" in servers) return { _tag: "Unasked", finding: servers } satisfies Unasked
    const routes = yield* RouteCache
    const [unrouted, routed] = yield* Effect.partition(servers, (server) =>
      Effect.mapBoth(routes.get(server.address), { onFailure: () => server, onSuccess: () => server }))
    if (routed.length === 0) {
      return {
        _tag: "Unasked",
        finding: failed("no relay can be reached: there is no route to any", "see Uplinks")
      } satisfies Unasked
    }
    const stun = yield* Effect.either(askServers(routed))
    return Either.isRight(stun)
      ? { _tag: "Asked", stun: stun.right, unrouted } satisfies Asked
      : {
        _tag: "Unasked",
        finding: failed(stun.left.message, "UDP sockets cannot be opened here: see Sockets")
      } satisfies Unasked
  })

type Answers = Effect.Effect<Unasked | Asked>

const isAnswered = ({ echoes }: StunFindings, server: SocketAddress): boolean =>
  echoes.some((echo) => echo.server.text === server.text)

const relays = (answers: Answers): Effect.Effect<Finding> =>
  Effect.map(answers, (answer) => {
    if (answer._tag === "Unasked") return answer.finding
    const { stun, unrouted } = answer
    const words = [
      ...stun.echoes.map(({ mapped, millis, server }) =>
        `${server.text} answers in ${Math.round(millis)} ms${
          mapped === undefined ? "" : ` and sees us as ${mapped.text}`
        }`
      ),
      ...stun.asked.filter((server) => !isAnswered(stun, server)).map((server) => `${server.text} does NOT answer`),
      ...unrouted.map((server) => `${server.text}: no route to it`)
    ]
    const facts = { asked: stun.asked.length, answered: stun.echoes.length }
    if (stun.echoes.length === 0) {
      const ports = [...new Set(stun.asked.map(({ port }) => port))].join(", ")
      return failed(
        words,
        `have the firewall let UDP out to port ${ports} of these addresses, and the answers in: no traffic can flow without`,
        facts
      )
    }
    return stun.echoes.length < stun.asked.length
      ? warning(words, "the client uses those that answer; tell whoever runs the others or the network", facts)
      : ok(words, facts)
  })

const NO_ANSWER = skipped("no relay answers over UDP")

const nat = (answers: Answers): Effect.Effect<Finding> =>
  Effect.map(answers, (answer) => {
    if (answer._tag === "Unasked") return skipped("needs relays to ask")
    const echoes = [...answer.stun.echoes, ...answer.stun.others].filter(({ server }) => server.family === 4)
    if (echoes.length === 0) {
      return answer.stun.echoes.length === 0
        ? NO_ANSWER
        : skipped("only relays with IPv6 answer, where nothing is translated")
    }
    const mapping = mappingOf(echoes)
    const seen = [...new Set(echoes.flatMap(({ mapped }) => mapped === undefined ? [] : [mapped.text]))]
    const facts = { mapping }
    const local = echoes[0]?.local
    switch (mapping) {
      case "none":
        return ok(`none: ${local?.address} is a public address`, facts)
      case "endpoint-independent":
        return ok([
          `${local?.text} is seen as ${seen.join(" and ")} by every relay`,
          "direct paths to peers can be made (endpoint-independent mapping)"
        ], facts)
      case "address-dependent":
        return warning(
          [
            `symmetric: one socket is seen as ${seen.join(" and ")}`,
            "direct paths can only be made to peers that are not behind such a NAT"
          ],
          "it works through relays, and is slower; a router with endpoint-independent mapping, or IPv6, makes direct paths",
          facts
        )
      case "unknown":
        return {
          ...skipped(
            `there is one (${local?.address} is seen as ${seen.join(" and ")}), but its kind takes two relays to tell`,
            "name another server to ask with --stun ADDRESS:PORT"
          ),
          facts
        }
    }
  })

/** Of IP and UDP. */
const HEADERS = { 4: 28, 6: 48 } as const
const neededFor = (address: IpAddress): number => FULL_SIZE + HEADERS[familyOf(address)]

const TOO_SMALL =
  "raise the MTU of the interface, or of the VPN, PPPoE or cloud network beneath it; packets of full size get lost"

const mtu = (answers: Answers) =>
  Effect.gen(function*() {
    const probe = yield* KernelProbe
    const known = (address: IpAddress) =>
      Effect.map(Effect.either(probe.pathMtu(address)), (found) => Either.isRight(found) ? found.right : undefined)
    const answer = yield* answers
    if (answer._tag === "Asked" && answer.stun.echoes.length > 0) {
      const { echoes, fullSize } = answer.stun
      const [first] = echoes
      const local = first === undefined ? undefined : yield* known(first.server.address)
      const link = local === undefined ? "" : `; the kernel takes packets of up to ${local} bytes there`
      const lost = echoes.filter(({ server }) => !fullSize.some(({ text }) => text === server.text))
      if (lost.length === 0) return ok(`datagrams of full size (${FULL_SIZE} bytes) arrive${link}`)
      return failed(
        [`datagrams of full size (${FULL_SIZE} bytes) do not arrive at ${
          lost.map(({ server }) => server.text).join(", ")
        }${link}`],
        TOO_SMALL
      )
    }
    const { host } = dialTarget((yield* ClientConfig).apiUrl)
    const [address] = yield* Effect.orElseSucceed((yield* HostResolver).resolve(host), () => [])
    const found = address === undefined ? undefined : yield* known(address)
    if (address === undefined || found === undefined) return skipped("there is nobody to ask")
    return found < neededFor(address)
      ? warning(
        `the way to the portal takes packets of up to ${found} bytes; ${neededFor(address)} are needed`,
        TOO_SMALL
      )
      : ok(`the way to the portal takes packets of up to ${found} bytes as far as the kernel knows`)
  })

const gateways = (session: Session): Effect.Effect<Finding> =>
  Effect.sync(() => {
    const peers = reportOf(session)?.peers ?? []
    if (peers.length === 0) return skipped("the client is connected to none")
    const count = (isIt: (peer: typeof peers[number]) => boolean): number => peers.filter(isIt).length
    const direct = count(({ path }) => path?.kind === "direct")
    const relayed = count(({ path }) => path !== undefined && path.kind !== "direct")
    const pending = peers.length - direct - relayed
    const words = `${plural(peers.length, "peer")}: ${direct} direct, ${relayed} through a relay`
    return ok(pending === 0 ? words : `${words}, ${pending} not connected yet`, { direct, relayed, pending })
  })

/** `answers` is asked for once, however many look at it. */
export const pathChecks = (
  session: Session,
  answers: Answers
): ReadonlyArray<Check<ClientConfig | HostResolver | KernelProbe>> => [
  { id: "relays", group: "paths", title: "Relays over UDP", run: relays(answers) },
  { id: "nat", group: "paths", title: "NAT", run: nat(answers) },
  { id: "mtu", group: "paths", title: "Packet size", run: mtu(answers) },
  { id: "gateways", group: "paths", title: "Paths in use", run: gateways(session) }
]
