/** Resources by name, and names that only a server behind the gateway knows. */
import * as Effect from "effect/Effect"
import type * as Scope from "effect/Scope"
import { type Answer, dig } from "../dig.ts"
import * as dnsmasq from "../dnsmasq.ts"
import type { LabError } from "../LabError.ts"
import type { ResourceConfig } from "../portal/config.ts"
import type { Daemon } from "../processes.ts"
import { type Recorder, type Scenario } from "../scenario.ts"
import { ids, type Lab } from "../services.ts"
import { addresses } from "../topology.ts"
import { PAGE } from "../web.ts"
import { bringUp, download, noViolations, ping } from "./checks.ts"

/** Where a client answers first for servers of each family (tunnel spec 12.2). */
const SENTINEL_4 = "100.100.111.1"
const SENTINEL_6 = "fd00:2021:1111:8000:100:100:111:0"
/** For an answer that needs nobody else, or fails without a time limit running out. */
const QUICK_MILLIS = 2000
const FILE_BYTES = 10_000_000

const isProxy = (address: string): boolean =>
  /^100\.(9[6-9]|1[01]\d|12[0-7])\./.test(address) || address.startsWith("fd00:2021:1111:8000:")

export const named = (number: number, address: string, ip_stack: "dual" | "ipv4_only" = "dual"): ResourceConfig => ({
  type: "dns",
  id: `77777777-7777-4777-8777-${String(number).padStart(12, "0")}`,
  name: address,
  address,
  address_description: null,
  ip_stack,
  sites: [ids.site],
  filters: []
})

const resources = [
  named(1, "www.corp.test"),
  named(2, "four.corp.test"),
  named(3, "only4.corp.test", "ipv4_only"),
  named(4, "*.star.test"),
  named(5, "**.glob.test"),
  named(6, "db?.mark.test")
]

export const hostRecords = (name: string): string => `host-record=${name},${addresses.resource4},${addresses.resource6}`

const LETTERS = 220
/**
 * More than fits into one packet, in records of `letter`. Over UDP dnsmasq sends five of them, in 1217 bytes and more: as
 * much as fits into 1232, but more than a client or gateway lets pass.
 */
const largeText = (name: string, letter: string): ReadonlyArray<string> =>
  Array.from(
    { length: 12 },
    (_, index) => `txt-record=${name},${String(index).padStart(2, "0")}${letter.repeat(LETTERS)}`
  )

/** Behind the gateway. */
const insideRecords = [
  hostRecords("www.corp.test"),
  `host-record=four.corp.test,only4.corp.test,${addresses.resource4}`,
  ...["star.test", "glob.test", "mark.test"].flatMap((domain) => [
    `address=/${domain}/${addresses.resource4}`,
    `address=/${domain}/${addresses.resource6}`
  ]),
  "txt-record=www.corp.test,known behind the gateway",
  ...largeText("only4.corp.test", "x"),
  "srv-host=_http._tcp.glob.test,www.corp.test,80",
  hostRecords("plain.corp.test"),
  ...largeText("plain.corp.test", "y"),
  "local=/corp.test/"
]

/** On the Internet, which has other addresses for the names of resources: whoever sees these has asked the wrong server. */
const outsideRecords = [
  ...["www.corp.test", "a.star.test", "deep.a.glob.test", "db1.mark.test"].map((name) =>
    `host-record=${name},203.0.113.66,2001:db8::66`
  ),
  "host-record=public.example,203.0.113.2,2001:db8::2",
  "host-record=a.b.star.test,db12.mark.test,203.0.113.77",
  "mx-host=www.corp.test,mail.example,10",
  ...largeText("large.example", "z"),
  "local=/example/",
  "local=/test/"
]

/** Asks on the client's host, and judges the answer. */
export const asking = (lab: Lab, recorder: Recorder) =>
(
  title: string,
  query: ReadonlyArray<string>,
  isRight: (answer: Answer) => boolean,
  server: string = SENTINEL_4
): Effect.Effect<Answer, LabError> =>
  Effect.gen(function*() {
    const answer = yield* dig(lab.topology, "client", [`@${server}`, ...query])
    yield* recorder.check(title, isRight(answer), `dig ${query.join(" ")}: ${answer.text}`)
    return answer
  })

type Ask = ReturnType<typeof asking>

export const is = (status: string, ...data: ReadonlyArray<string>) => (answer: Answer): boolean =>
  answer.status === status && answer.data.toSorted().join() === data.toSorted().join()

/** Four of one family, made by the client itself. */
export const isProxies = ({ data, flags, millis, records, status }: Answer): boolean =>
  status === "NOERROR" && data.length === 4 && data.every(isProxy) && records.every(({ ttl }) => ttl === 1) &&
  flags.join() === "qr,rd" && millis < QUICK_MILLIS

const isLargeText = (letter: string) => ({ data, flags, status }: Answer): boolean =>
  status === "NOERROR" && data.length === 12 && data.every((text) => text.includes(letter.repeat(LETTERS))) &&
  !flags.includes("tc")

const isTruncated = ({ data, flags, status }: Answer): boolean =>
  status === "NOERROR" && data.length === 0 && flags.includes("tc")

/** Fetches the page of a name at an address that was found for it. */
export const fetchByName = (lab: Lab, recorder: Recorder, name: string, address: string) =>
  Effect.gen(function*() {
    const { code, stderr, stdout } = yield* lab.topology.run("client", [
      ...["curl", "-sS", "-m", "20", "--resolve", `${name}:80:${address}`, `http://${name}/`]
    ])
    yield* recorder.check(
      `page of ${name} at ${address}`,
      code === 0 && stdout.includes(PAGE),
      code === 0 ? stdout.trim().replaceAll("\n", " ") : stderr.trim()
    )
  })

/** Whether a server was asked for a name and type. */
const wasAsked = (server: Daemon, type: string, name: string): boolean =>
  server.log().includes(`query[${type}] ${name} `)

const localAnswers = (ask: Ask) =>
  Effect.gen(function*() {
    yield* ask("A of a resource", ["www.corp.test", "A"], isProxies)
    const aaaa = yield* ask("AAAA of a resource", ["www.corp.test", "AAAA"], isProxies)
    yield* ask("A over TCP", ["+tcp", "www.corp.test", "A"], isProxies)
    yield* ask("in any case", ["WWW.Corp.TEST", "A"], isProxies)
    yield* ask("HTTPS of a resource", ["www.corp.test", "TYPE65"], is("NOERROR"))
    yield* ask("PTR of an address of a resource", ["-x", aaaa.data[0] ?? "::"], is("NOERROR", "www.corp.test."))
    yield* ask("AAAA of a resource with IPv4 alone", ["only4.corp.test", "AAAA"], is("NOERROR"))
    yield* ask("* is one label", ["a.star.test", "A"], isProxies)
    yield* ask("or none", ["star.test", "A"], isProxies)
    yield* ask("but not two", ["a.b.star.test", "A"], is("NOERROR", "203.0.113.77"))
    yield* ask("** is any number of labels", ["deep.a.glob.test", "AAAA"], isProxies)
    yield* ask("? is one character", ["db1.mark.test", "A"], isProxies)
    yield* ask("and not two", ["db12.mark.test", "A"], is("NOERROR", "203.0.113.77"))
    yield* ask("the browsers' canary", ["use-application-dns.net", "A"], is("NXDOMAIN"))
  })

const forwardedAnswers = (ask: Ask, outside: Daemon, recorder: Recorder) =>
  Effect.gen(function*() {
    yield* ask("A of anybody else", ["public.example", "A"], is("NOERROR", "203.0.113.2"))
    yield* ask("AAAA of anybody else", ["public.example", "AAAA"], is("NOERROR", "2001:db8::2"))
    yield* ask("A of anybody else over TCP", ["+tcp", "public.example", "A"], is("NOERROR", "203.0.113.2"))
    yield* ask("PTR of anybody else", ["-x", "203.0.113.2"], is("NOERROR", "public.example."))
    yield* ask("a name that does not exist", ["missing.example", "A"], is("NXDOMAIN"))
    yield* ask("MX of a resource", ["www.corp.test", "MX"], is("NOERROR", "10 mail.example."))
    yield* ask("a large answer over UDP", ["+bufsize=4096", "+ignore", "large.example", "TXT"], isTruncated)
    yield* ask("a large answer over TCP", ["large.example", "TXT"], isLargeText("z"))
    const from = /query\[A\] public\.example from (\S+)/.exec(outside.log())?.[1]
    yield* recorder.check(
      "outside the tunnel",
      from === addresses.clientRouter4,
      `the server on the Internet was asked by ${from}`
    )
    const leaked = ["A", "AAAA", "TXT", "type=65", "HTTPS"].filter((type) => wasAsked(outside, type, "www.corp.test"))
    yield* recorder.check(
      "no name of a resource left the machine",
      leaked.length === 0,
      leaked.length === 0
        ? "but in the query for MX, of which the client knows nothing"
        : `it was asked for ${leaked.join()}`
    )
  })

const siteAnswers = (ask: Ask, inside: Daemon, recorder: Recorder) =>
  Effect.gen(function*() {
    yield* ask("TXT of a resource", ["www.corp.test", "TXT"], is("NOERROR", "\"known behind the gateway\""))
    yield* ask("SRV of a resource", ["_http._tcp.glob.test", "SRV"], is("NOERROR", "0 0 80 www.corp.test."))
    yield* ask("TXT over TCP", ["+tcp", "www.corp.test", "TXT"], is("NOERROR", "\"known behind the gateway\""))
    yield* ask("a large TXT over UDP", ["+bufsize=4096", "+ignore", "only4.corp.test", "TXT"], isTruncated)
    yield* ask("a large TXT over TCP", ["only4.corp.test", "TXT"], isLargeText("x"))
    yield* recorder.check(
      "asked in the site",
      wasAsked(inside, "TXT", "www.corp.test"),
      "the server behind the gateway has seen the query"
    )
  })

const packets = (lab: Lab, recorder: Recorder, ask: Ask) =>
  Effect.gen(function*() {
    for (
      const [name, type] of [["www.corp.test", "A"], ["www.corp.test", "AAAA"], ["b.star.test", "A"], [
        "x.y.glob.test",
        "AAAA"
      ]] as const
    ) {
      const { data } = yield* ask(`${type} of ${name}`, [name, type], isProxies)
      yield* fetchByName(lab, recorder, name, data[1] ?? "")
    }
    const { data: [proxy = ""] } = yield* ask("AAAA of a name with IPv4 alone", ["four.corp.test", "AAAA"], isProxies)
    const began = Date.now()
    const { code, stdout } = yield* lab.topology.run("client", ["ping", "-n", "-c", "1", "-W", "10", proxy])
    yield* recorder.check(
      "leads nowhere, at once",
      code !== 0 && /Destination unreachable: Address unreachable/.test(stdout) && Date.now() - began < QUICK_MILLIS,
      stdout.split("\n")[1] ?? ""
    )
  })

/** Echoes, errors and many bytes, with the addresses that applications know. */
const translation = (lab: Lab, recorder: Recorder, ask: Ask) =>
  Effect.gen(function*() {
    for (const type of ["A", "AAAA"]) {
      const { data: [proxy = ""] } = yield* ask(`${type} of a.star.test`, ["a.star.test", type], isProxies)
      const times = yield* ping(lab, proxy, 3)
      yield* recorder.check(`ping ${proxy}`, times.length === 3, `${times.length} of 3 answers`)
      const { detail, right } = yield* download(lab, proxy, FILE_BYTES)
      yield* recorder.check(`${FILE_BYTES / 1e6} MB from ${proxy}`, right, detail)
      // dig hears of the ICMP error only if it quotes what dig has sent.
      const { stdout } = yield* lab.topology.run("client", [
        ...["dig", `@${proxy}`, "-p", "9", "+time=5", "+tries=1", "a.star.test"]
      ])
      yield* recorder.check(
        `closed port of ${proxy}`,
        stdout.includes("connection refused"),
        stdout.split("\n").find((line) => line.includes(proxy) && line.startsWith(";; ")) ?? "no error"
      )
    }
  })

const runDns = (lab: Lab, recorder: Recorder): Effect.Effect<void, LabError, Scope.Scope> =>
  Effect.gen(function*() {
    const outside = yield* dnsmasq.start(lab.topology, "inet", outsideRecords)
    const inside = yield* dnsmasq.start(lab.topology, "res", insideRecords)
    yield* dnsmasq.forGateway(lab.topology)
    yield* bringUp(lab, recorder)
    const ask = asking(lab, recorder)
    yield* localAnswers(ask)
    const { grants, pending } = yield* lab.portal.state
    yield* recorder.check(
      "without a gateway",
      grants.length === 0 && pending.length === 0,
      `so far the portal was asked for ${grants.length + pending.length} authorizations`
    )
    yield* packets(lab, recorder, ask)
    yield* translation(lab, recorder, ask)
    yield* siteAnswers(ask, inside, recorder)
    yield* forwardedAnswers(ask, outside, recorder)
    yield* noViolations(lab, recorder)
  })

export const dns: Scenario = {
  name: "dns",
  about: "resources by name, with every kind of pattern and record; everything else is asked outside",
  equipment: { resources },
  run: runDns
}

const runInTunnel = (lab: Lab, recorder: Recorder): Effect.Effect<void, LabError, Scope.Scope> =>
  Effect.gen(function*() {
    const inside = yield* dnsmasq.start(lab.topology, "res", insideRecords)
    yield* bringUp(lab, recorder)
    const ask = asking(lab, recorder)
    yield* ask("the first query makes the connection", ["plain.corp.test", "A"], is("NOERROR", addresses.resource4))
    yield* fetchByName(lab, recorder, "plain.corp.test", addresses.resource4)
    yield* ask("AAAA", ["plain.corp.test", "AAAA"], is("NOERROR", addresses.resource6))
    yield* ask("A over TCP", ["+tcp", "plain.corp.test", "A"], is("NOERROR", addresses.resource4))
    yield* ask("A of a server with IPv6", ["www.corp.test", "A"], is("NOERROR", addresses.resource4), SENTINEL_6)
    yield* ask(
      "A of a server with IPv6 over TCP",
      ["+tcp", "www.corp.test", "A"],
      is("NOERROR", addresses.resource4),
      SENTINEL_6
    )
    yield* ask("a name that does not exist", ["missing.corp.test", "A"], is("NXDOMAIN"))
    yield* ask("a large answer over UDP", ["+bufsize=4096", "+ignore", "plain.corp.test", "TXT"], isTruncated)
    yield* ask("a large answer over TCP", ["plain.corp.test", "TXT"], isLargeText("y"))
    const from = new Set(
      [...inside.log().matchAll(/query\[A\] \S+\.corp\.test from (\S+)/g)].map(([, address]) => address)
    )
    yield* recorder.check(
      "through the tunnel",
      from.size === 2 && from.has("172.20.0.1") && from.has("fd20::1"),
      `the server behind the gateway was asked by ${[...from].join(" and ")}`
    )
    // Not SIGKILL: its children, one for each connection, would keep its sockets.
    inside.signal("SIGTERM")
    yield* inside.exit
    const hasFailed = (answer: Answer) => is("SERVFAIL")(answer) && answer.millis < QUICK_MILLIS
    yield* ask("a server that is gone, over UDP", ["+notcp", "other.corp.test", "A"], hasFailed)
    yield* ask("a server that is gone, over TCP", ["+tcp", "other.corp.test", "A"], hasFailed)
    yield* noViolations(lab, recorder)
  })

export const dnsInTunnel: Scenario = {
  name: "dns-in-tunnel",
  about: "the account's DNS servers are behind the gateway: queries take the tunnel, over UDP and TCP",
  equipment: { dns: { upstreamDo53: [addresses.resourceDns4, addresses.resourceDns6] } },
  run: runInTunnel
}
