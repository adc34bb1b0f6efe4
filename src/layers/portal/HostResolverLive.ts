import * as Effect from "effect/Effect"
import * as Layer from "effect/Layer"
import { randomInt } from "node:crypto"
import * as fs from "node:fs"
import { SENTINEL_RANGES } from "../../protocol/tunnel/ranges.ts"
import {
  familyOf,
  type IpAddress,
  ipToBytes,
  networkContains,
  parseIp,
  SocketAddress
} from "../../protocol/wire/address.ts"
import {
  decodeDns,
  encodeQuery,
  isDomainName,
  isResponseTo,
  RecordType,
  ResponseCode
} from "../../protocol/wire/dns.ts"
import { DnsSocket } from "../../services/DnsSocket.ts"
import { HostResolver, HostUnresolved } from "../../services/HostResolver.ts"
import { SystemResolvers } from "../../services/SystemResolvers.ts"

const QUERY_TIMEOUT_MILLIS = 2000
const DNS_PORT = 53
/** Of each family: whoever dials them dials all at once. */
const MAX_ADDRESSES = 16

export interface HostResolverOptions {
  /** `undefined` where there is none. */
  readonly hostsFile: string | undefined
}

/** What one query brought; a server that did not answer, or with an error, brought `Nothing`. */
type Answer =
  | { readonly _tag: "Addresses"; readonly addresses: ReadonlyArray<IpAddress> }
  | { readonly _tag: "NameError" }
  | { readonly _tag: "Nothing" }

const make = (options: HostResolverOptions) =>
  Effect.gen(function*() {
    const socket = yield* DnsSocket
    const system = yield* SystemResolvers
    let configured: ReadonlyArray<SocketAddress> | undefined
    /** The system's, asked each time, until `setServers` says otherwise. */
    const servers = Effect.suspend(() =>
      configured !== undefined
        ? Effect.succeed(configured)
        : Effect.map(
          system.current,
          (addresses) => usable(addresses.map((address) => new SocketAddress(address, DNS_PORT)))
        )
    )

    const ask = (transport: "udp" | "tcp", server: SocketAddress, query: Uint8Array): Effect.Effect<Answer> =>
      socket[transport](query, server, QUERY_TIMEOUT_MILLIS).pipe(
        Effect.map((bytes) => readAnswer(query, bytes)),
        Effect.tapError((error) =>
          Effect.logDebug("query for a host of ours failed").pipe(
            Effect.annotateLogs({ transport, server: server.text, reason: error.message })
          )
        ),
        Effect.catchAll(() => Effect.succeed<Answer>({ _tag: "Nothing" }))
      )

    const askAll = (
      transport: "udp" | "tcp",
      to: ReadonlyArray<SocketAddress>,
      queries: () => ReadonlyArray<Uint8Array>
    ) =>
      Effect.forEach(
        to.flatMap((server) => queries().map((query) => [server, query] as const)),
        ([server, query]) => ask(transport, server, query),
        { concurrency: "unbounded" }
      )

    const lookUp = Effect.fnUntraced(function*(host: string) {
      const to = yield* servers
      if (to.length === 0) return { addresses: [], why: "no DNS server is known" }
      if (!isDomainName(host)) return { addresses: [], why: "that is no host name" }
      const queries = () =>
        [RecordType.A, RecordType.AAAA].flatMap((type) => encodeQuery(randomInt(0x10000), host, type) ?? [])
      const answers = yield* askAll("udp", to, queries)
      const addresses = addressesOf(answers)
      if (addresses.length > 0) return { addresses, why: "" }
      if (answers.every(({ _tag }) => _tag === "NameError")) return { addresses, why: "the name does not exist" }
      return { addresses: addressesOf(yield* askAll("tcp", to, queries)), why: "no DNS server has one" }
    })

    const resolve = Effect.fn("HostResolver.resolve")(function*(host: string) {
      const literal = parseIp(host.startsWith("[") && host.endsWith("]") ? host.slice(1, -1) : host)
      if (literal !== undefined) return [literal]
      const { addresses, why } = yield* lookUp(host)
      const found = unique([...addresses, ...hostsEntries(options.hostsFile, host)])
      if (found.length === 0) return yield* new HostUnresolved({ host, reason: why })
      return bounded(found)
    })

    return HostResolver.of({
      resolve,
      servers,
      setServers: (wanted) =>
        Effect.sync(() => {
          configured = usable(wanted)
        })
    })
  })

const unique = <A>(items: ReadonlyArray<A>): ReadonlyArray<A> => [...new Set(items)]

const bounded = (addresses: ReadonlyArray<IpAddress>): ReadonlyArray<IpAddress> => {
  const left = { 4: MAX_ADDRESSES, 6: MAX_ADDRESSES }
  return addresses.filter((address) => left[familyOf(address)]-- > 0)
}

/** Without our own sentinels, which lead back into the tunnel, and without repetitions. */
const usable = (servers: ReadonlyArray<SocketAddress>): ReadonlyArray<SocketAddress> =>
  [...new Map(servers.map((server) => [server.text, server])).values()].filter(({ address }) =>
    !SENTINEL_RANGES.some((range) => networkContains(range, address))
  )

const readAnswer = (query: Uint8Array, bytes: Uint8Array): Answer => {
  const asked = decodeDns(query)
  const message = decodeDns(bytes)
  if (asked === undefined || message === undefined || !isResponseTo(message, asked)) return { _tag: "Nothing" }
  if (message.responseCode === ResponseCode.NameError) return { _tag: "NameError" }
  if (message.responseCode !== ResponseCode.NoError) return { _tag: "Nothing" }
  return {
    _tag: "Addresses",
    addresses: message.answers.flatMap(({ data }) => data._tag === "Address" ? [data.address] : [])
  }
}

const addressesOf = (answers: ReadonlyArray<Answer>): ReadonlyArray<IpAddress> =>
  unique(answers.flatMap((answer) => answer._tag === "Addresses" ? answer.addresses : [])).toSorted(byValue)

/** IPv4 first. */
const byValue = (a: IpAddress, b: IpAddress): number => {
  const families = familyOf(a) - familyOf(b)
  return families === 0 ? Buffer.compare(ipToBytes(a), ipToBytes(b)) : families
}

/** The addresses that hosts(5) has for exactly this name. */
const hostsEntries = (file: string | undefined, host: string): ReadonlyArray<IpAddress> => {
  let text = ""
  try {
    text = file === undefined ? "" : fs.readFileSync(file, "utf8")
  } catch {
    return []
  }
  return text.split("\n").flatMap((line) => {
    const [address = "", ...names] = line.replace(/#.*/, "").trim().toLowerCase().split(/\s+/)
    return names.includes(host.toLowerCase()) ? parseIp(address) ?? [] : []
  })
}

export const layerWith = (
  options: HostResolverOptions
): Layer.Layer<HostResolver, never, DnsSocket | SystemResolvers> => Layer.effect(HostResolver, make(options))

export const layer = layerWith({
  hostsFile: process.platform === "win32" ? undefined : "/etc/hosts"
})
