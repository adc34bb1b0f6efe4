/** Whom this system asks for names, and how the client would get in between. */
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Either from "effect/Either"
import { randomInt } from "node:crypto"
import { choose, type ResolverFacts } from "../../layers/dns/chooseMethod.ts"
import { isOurs, nameserversOf } from "../../layers/dns/resolvConfText.ts"
import { failed, type Finding, ok, skipped, warning } from "../../model/doctor.ts"
import { dialTarget, isIpLiteral } from "../../protocol/portal/loginUrl.ts"
import type { SocketAddress } from "../../protocol/wire/address.ts"
import { decodeDns, encodeQuery, RecordType, ResponseCode } from "../../protocol/wire/dns.ts"
import { ClientConfig } from "../../services/ClientConfig.ts"
import { DnsSocket, type DnsSocketError } from "../../services/DnsSocket.ts"
import { type FileFacts, type FileUnreadable, HostFiles } from "../../services/HostFiles.ts"
import { HostResolver } from "../../services/HostResolver.ts"
import { type Check, plural, reportOf, type Session } from "./check.ts"

const FILE = "/etc/resolv.conf"
const BACKUP = `${FILE}.before-firezone`
const RESOLVED = "/run/systemd/resolve"
const CLEAN_UP = "sudo firezone-headless-client dns-cleanup brings the original back"

/** Who says in a comment that the file is theirs. */
const OWNERS: ReadonlyArray<readonly [RegExp, string]> = [
  [/NetworkManager/, "NetworkManager"],
  [/systemd-resolved/, "systemd-resolved"],
  [/resolvconf/, "resolvconf"],
  [/tailscale/i, "Tailscale"],
  [/dhcpcd/, "dhcpcd"],
  [/dhclient/, "dhclient"],
  [/cloud-init/, "cloud-init"],
  [/Docker/, "Docker"],
  [/podman/i, "Podman"],
  [/WSL/, "WSL"],
  [/netconfig/, "netconfig"],
  [/NetBird/i, "NetBird"],
  [/mullvad/i, "Mullvad"]
]

const ownerOf = (text: string): string | undefined => {
  const comments = text.split("\n").filter((line) => /^\s*[#;]/.test(line)).join("\n")
  return OWNERS.find(([pattern]) => pattern.test(comments))?.[1]
}

interface ResolvConf {
  readonly facts: FileFacts | undefined
  /** Of the file, or of where the link leads to. */
  readonly text: string
  readonly isMount: boolean
}

const readResolvConf: Effect.Effect<ResolvConf, FileUnreadable, HostFiles> = Effect.gen(function*() {
  const files = yield* HostFiles
  const facts = yield* files.look(FILE)
  const text = (yield* files.text(FILE)) ?? ""
  const mounts = yield* Effect.orElseSucceed(files.text("/proc/self/mountinfo"), () => undefined)
  return { facts, text, isMount: (mounts ?? "").includes(` ${FILE} `) }
})

const orSkip = <R>(judge: Effect.Effect<Finding, FileUnreadable, R>): Effect.Effect<Finding, never, R> =>
  Effect.catchAll(judge, (error) => Effect.succeed(skipped(error.message)))

const owner = (session: Session) =>
  orSkip(Effect.map(readResolvConf, ({ facts, isMount, text }) => {
    if (facts === undefined) {
      return warning(`there is no ${FILE}`, `create it with the servers of this network: "nameserver ADDRESS"`)
    }
    const servers = nameserversOf(text)
    const asks = servers.length === 0 ? "it names no server" : `it names ${servers.join(", ")}`
    const method = reportOf(session)?.dns?.method
    if (facts.kind === "link") {
      return servers.length === 0
        ? warning(
          [`a link to ${facts.target}`, asks],
          "the program that writes that file does not run, or knows no server"
        )
        : ok([`a link to ${facts.target}`, asks])
    }
    if (isOurs(text)) {
      return session._tag === "None"
        ? failed(
          [`${FILE} still points at a client that does not run: it did not stop properly`, asks],
          CLEAN_UP
        )
        : ok([`the running client has written it; the original is ${BACKUP}`, asks])
    }
    if (method === "etc-resolv-conf") {
      return warning(
        [`the client has written ${FILE}, and another program has replaced it`, asks],
        "the client repairs it within seconds; if this comes again and again, make the other program leave the file alone"
      )
    }
    const by = ownerOf(text)
    const words = `a ${isMount ? "mount, as in a container" : "file"}, ${
      by === undefined ? "nobody claims it" : `written by ${by}`
    }`
    return servers.length === 0 ? warning([words, asks], `add "nameserver ADDRESS" to ${FILE}`) : ok([words, asks])
  }))

/** Any of them lets the client tell systemd-resolved what it wants. */
const RESOLVED_ENDS = ["/run/dbus/system_bus_socket", "/usr/bin/resolvectl", "/bin/resolvectl"]

const resolverFacts: Effect.Effect<ResolverFacts, FileUnreadable, HostFiles> = Effect.gen(function*() {
  const files = yield* HostFiles
  const { facts, text } = yield* readResolvConf
  const found = yield* Effect.forEach(RESOLVED_ENDS, (file) => Effect.orElseSucceed(files.look(file), () => undefined))
  const canTellResolved = found.some((facts) => facts !== undefined)
  const kind = facts === undefined ? "missing" : facts.kind === "file" || facts.kind === "link" ? facts.kind : "other"
  return {
    kind,
    link: facts?.target ?? "",
    text: kind === "file" ? text : "",
    isWritable: kind === "file" && (yield* files.isWritable(FILE)),
    canTellResolved
  }
})

const NO_NAMES = "names of resources will not resolve; addresses and networks work"

const method = (session: Session, uid: number) =>
  orSkip(Effect.gen(function*() {
    const { dnsControl } = yield* ClientConfig
    const report = reportOf(session)
    if (report !== undefined) {
      if (report.dns === undefined) return skipped("the client has not set DNS up yet: it waits for the portal")
      const { method, servers } = report.dns
      if (method === "disabled") {
        return warning(`the client does not control the system's DNS: ${NO_NAMES}`, "start it with --dns-control auto")
      }
      return servers.length === 0
        ? warning(`by ${method}, but there is no server to ask in turn`, "see whether this network has a DNS server")
        : ok(`by ${method}; ${servers.map(({ address, upstream }) => `${address} asks ${upstream}`).join(", ")}`)
    }
    const facts = yield* resolverFacts
    if (dnsControl === "disabled") return ok(`disabled by the settings: ${NO_NAMES}`)
    if (dnsControl === "auto") {
      // Root may write what another user may not.
      const choice = choose(FILE, { ...facts, isWritable: facts.isWritable || uid !== 0 })
      return choice.method === "disabled"
        ? warning(choice.reason, "see which program writes the file; --dns-control says what to do in its place")
        : ok(`auto becomes ${choice.method}: ${choice.reason}`)
    }
    if (dnsControl === "etc-resolv-conf" && facts.kind !== "file") {
      return failed(
        `etc-resolv-conf is set, and ${FILE} is ${facts.kind === "link" ? "a link" : facts.kind}`,
        "use --dns-control auto"
      )
    }
    if (dnsControl === "systemd-resolved") {
      const runs = yield* (yield* HostFiles).look(RESOLVED)
      if (runs === undefined) {
        return failed("systemd-resolved is set, and it does not run here", "start it, or use --dns-control auto")
      }
      if (facts.kind !== "link") {
        return warning(
          `systemd-resolved is set, and ${FILE} does not lead to it: programs that read the file will not ask it`,
          "use --dns-control auto"
        )
      }
    }
    return ok(`${dnsControl}, by the settings`)
  }))

const QUERY_MILLIS = 2000
const MOST_SERVERS = 8
/** Asked for where the portal's name is an address: any answer will do. */
const ANY_NAME = "firezone.dev"
const CODES = new Map<number, string>(Object.entries(ResponseCode).map(([name, code]) => [code, name]))

interface Answered {
  readonly words: string
  readonly isGood: boolean
}

const whyNot = (error: DnsSocketError): string => {
  switch (error._tag) {
    case "DnsTimedOut":
      return "within 2 s"
    case "NoRoute":
      return `no route to it, ${error.reason}`
    case "SocketFailed":
      return error.cause.errno
    default:
      return error.message
  }
}

/** Whoever is asked for the portal's name must know it; else it is enough that there is somebody. */
const askResolver = (server: SocketAddress, name: string, mustKnow: boolean) =>
  Effect.gen(function*() {
    const query = encodeQuery(randomInt(0x10000), name, RecordType.A)
    if (query === undefined) return { words: `${server.address}: not asked`, isGood: false }
    const [took, answer] = yield* Effect.timed(Effect.either((yield* DnsSocket).udp(query, server, QUERY_MILLIS)))
    if (Either.isLeft(answer)) {
      return { words: `${server.address} does not answer (${whyNot(answer.left)})`, isGood: false }
    }
    const code = decodeDns(answer.right)?.responseCode
    const isGood = code === ResponseCode.NoError || code === ResponseCode.NameError || (code !== undefined && !mustKnow)
    const millis = Math.round(Duration.toMillis(took))
    return {
      words: isGood
        ? `${server.address} answers in ${millis} ms`
        : `${server.address} answers ${code === undefined ? "nothing that is DNS" : CODES.get(code) ?? `code ${code}`}`,
      isGood
    }
  })

const judgeResolvers = (answers: ReadonlyArray<Answered>): Finding => {
  const words = answers.map(({ words }) => words)
  const bad = answers.filter(({ isGood }) => !isGood).length
  if (bad === 0) return ok(words)
  return bad === answers.length
    ? failed(words, "the network's DNS is down or blocked: ask whoever runs it, or set other servers")
    : warning(words, `remove or repair ${bad === 1 ? "the one" : `the ${bad}`} that fails: programs wait for it`)
}

const resolvers = Effect.gen(function*() {
  const { host } = dialTarget((yield* ClientConfig).apiUrl)
  const servers = yield* (yield* HostResolver).servers
  if (servers.length === 0) {
    return isIpLiteral(host)
      ? warning("this system knows no DNS server", `add "nameserver ADDRESS" to ${FILE}`)
      : failed("this system knows no DNS server, so the portal cannot be found", `add "nameserver ADDRESS" to ${FILE}`)
  }
  const ask = (server: SocketAddress) =>
    isIpLiteral(host) ? askResolver(server, ANY_NAME, false) : askResolver(server, host, true)
  return judgeResolvers(yield* Effect.forEach(servers.slice(0, MOST_SERVERS), ask, { concurrency: "unbounded" }))
})

const portalName = Effect.gen(function*() {
  const { host } = dialTarget((yield* ClientConfig).apiUrl)
  if (isIpLiteral(host)) return ok(`${host} is an address: there is nothing to look up`)
  const found = yield* Effect.either((yield* HostResolver).resolve(host))
  if (Either.isRight(found)) {
    return ok(`${host} has ${plural(found.right.length, "address", "addresses")}: ${found.right.join(", ")}`)
  }
  return failed(
    found.left.message,
    found.left.reason.includes("does not exist") ? "check --api-url: the name is wrong" : "see DNS servers above"
  )
})

export const dnsChecks = (
  session: Session,
  uid: number
): ReadonlyArray<Check<ClientConfig | DnsSocket | HostFiles | HostResolver>> => [
  { id: "resolv-conf", group: "dns", title: "Owner of resolv.conf", run: owner(session) },
  { id: "dns-method", group: "dns", title: "DNS control", run: method(session, uid) },
  { id: "resolvers", group: "dns", title: "DNS servers", run: resolvers },
  { id: "portal-name", group: "dns", title: "Portal's name", run: portalName }
]
