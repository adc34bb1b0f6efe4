/** Routes, rules and programs of others that may be in the way. */
import * as Effect from "effect/Effect"
import { failed, type Finding, ok, skipped, warning } from "../../model/doctor.ts"
import { isOurTable, SOCKET_MARK, TABLES } from "../../model/policyRouting.ts"
import { PROXY_RANGES, SENTINEL_RANGES, TUNNEL_RANGES } from "../../protocol/tunnel/ranges.ts"
import { familyOf, formatNetwork, type IpNetwork, networkContains, parseNetwork } from "../../protocol/wire/address.ts"
import { ClientConfig } from "../../services/ClientConfig.ts"
import { HostCommands } from "../../services/HostCommands.ts"
import { type LinkFacts, NetworkInventory, type RouteFacts } from "../../services/NetworkInventory.ts"
import { AS_ROOT, type Check, plural, reportOf, type Session } from "./check.ts"

const MAIN = 254

/** Drivers of tunnels, and names that VPN programs give theirs. */
const TUNNEL_KINDS: ReadonlySet<string> = new Set([
  "wireguard",
  "amneziawg",
  "tun",
  "ppp",
  "xfrm",
  "vti",
  "vti6",
  "ipip",
  "ip6tnl",
  "sit",
  "gre",
  "ovpn",
  "ovpn-dco",
  "l2tp"
])
const TUNNEL_NAMES =
  /^(tailscale|wg|nebula|zt|utun|tun|tap|ppp|cscotun|gpd|nordlynx|proton|mullvad|warp|CloudflareWARP)/i

interface Everything {
  readonly links: ReadonlyArray<LinkFacts>
  readonly routes: ReadonlyArray<RouteFacts>
  /** Ours. */
  readonly tunName: string
}

const everything = Effect.gen(function*() {
  const inventory = yield* NetworkInventory
  const { tunName } = yield* ClientConfig
  const everything: Everything = { links: yield* inventory.links, routes: yield* inventory.routes, tunName }
  return everything
})

const judging = (judge: (facts: Everything) => Finding) =>
  Effect.catchAll(Effect.map(everything, judge), (error) => Effect.succeed(skipped(error.message)))

const nameOf = (links: ReadonlyArray<LinkFacts>, index: number | undefined): string =>
  links.find((link) => link.index === index)?.name ?? "several interfaces"

const isDefault = ({ destination }: RouteFacts): boolean => destination.bits === 0
/** Halves of everything are how VPNs beat the default route without touching it. */
const takesAll = ({ destination }: RouteFacts): boolean => destination.bits <= 1
const isForeign = ({ table }: RouteFacts): boolean => !isOurTable(table)

const uplinks = judging(({ links, routes, tunName }) => {
  const ways = routes.filter((route) =>
    isDefault(route) && route.table === MAIN && nameOf(links, route.interfaceIndex) !== tunName
  )
  const words = ways.map(({ destination, interfaceIndex, metric, nextHop }) =>
    `IPv${familyOf(destination.address)}: ${nameOf(links, interfaceIndex)}${
      nextHop === undefined ? "" : ` by way of ${nextHop}`
    }, metric ${metric}`
  )
  return words.length === 0
    ? failed(
      "there is no default route: this machine has no way to the Internet",
      "connect it: look at the cable, the Wi-Fi or DHCP"
    )
    : ok(words)
})

const isTunnel = ({ isLoopback, isUp, kind, name }: LinkFacts): boolean =>
  isUp && !isLoopback && (kind === undefined ? TUNNEL_NAMES.test(name) : TUNNEL_KINDS.has(kind))

const vpns = judging(({ links, routes, tunName }) => {
  const tunnels = links.filter((link) => isTunnel(link) && link.name !== tunName)
  if (tunnels.length === 0) return ok("there is no other")
  const described = tunnels.map(({ index, kind, name }) => {
    const own = routes.filter((route) => route.interfaceIndex === index && isForeign(route))
    const takes = own.some(takesAll)
    return {
      takes,
      name,
      words: `${name}${kind === undefined ? "" : ` (${kind})`}: ${
        takes ? "takes ALL traffic" : plural(own.length, "route")
      }`
    }
  })
  const words = described.map(({ words }) => words)
  if (described.some(({ name }) => name.startsWith("tailscale"))) {
    return warning(
      words,
      "Tailscale's firewall drops packets with addresses of 100.64.0.0/10 that do not come from it, and so answers of "
        + "resources with names: set its option --netfilter-mode=off, or stop one of the two"
    )
  }
  return described.some(({ takes }) => takes)
    ? warning(
      words,
      "our traffic goes through it too: if gateways cannot be reached or it is slow, stop it and try again"
    )
    : ok(words)
})

const overlaps = (left: IpNetwork, right: IpNetwork): boolean =>
  networkContains(left, right.address) || networkContains(right, left.address)

const RESERVED: ReadonlyArray<readonly [IpNetwork, string]> = [
  ...SENTINEL_RANGES.map((network) => [network, "the client's DNS servers"] as const),
  ...TUNNEL_RANGES.map((network) => [network, "addresses of clients"] as const),
  ...PROXY_RANGES.map((network) => [network, "addresses of resources with names"] as const)
]

const MOST_LINES = 5
const shortened = (lines: ReadonlyArray<string>): ReadonlyArray<string> =>
  lines.length <= MOST_LINES ? lines : [...lines.slice(0, MOST_LINES), `and ${lines.length - MOST_LINES} more`]

const reserved = judging(({ links, routes, tunName }) => {
  const lines = routes.filter((route) =>
    isForeign(route) && !takesAll(route) && nameOf(links, route.interfaceIndex) !== tunName
  ).flatMap((route) => {
    const hit = RESERVED.find(([network]) => overlaps(network, route.destination))
    return hit === undefined ? [] : [
      `${formatNetwork(route.destination)} through ${nameOf(links, route.interfaceIndex)}: ${
        formatNetwork(hit[0])
      } is for ${hit[1]}`
    ]
  })
  return lines.length === 0
    ? ok("nobody else routes them")
    : warning(
      shortened(lines),
      "while the client runs, its own routes win, and what these lead to cannot be reached: give that network other "
        + "addresses, or stop one of the two"
    )
})

/** Resources win over local networks: that may be wanted, or cut this machine off. */
const localNetworks = (session: Session) =>
  judging(({ links, routes, tunName }) => {
    const report = reportOf(session)
    if (report === undefined) return skipped("the resources are not known: no client runs")
    const local = routes.filter((route) =>
      isForeign(route) && !takesAll(route) && route.nextHop === undefined && route.table === MAIN &&
      nameOf(links, route.interfaceIndex) !== tunName
    )
    const lines = report.resources.flatMap(({ address, name, type }) => {
      const network = type === "cidr"
        ? parseNetwork(address.includes("/") ? address : `${address}/${address.includes(":") ? 128 : 32}`)
        : undefined
      if (network === undefined) return []
      return local.filter(({ destination }) => overlaps(network, destination)).map(({ destination, interfaceIndex }) =>
        `the resource ${name} (${address}) covers ${formatNetwork(destination)} on ${nameOf(links, interfaceIndex)}`
      )
    })
    return lines.length === 0
      ? ok("no resource covers a network that this machine is in")
      : warning(
        shortened(lines),
        "the resource wins: local machines with such addresses are looked for behind its gateway"
      )
  })

const LOWEST = Math.min(...Object.values(TABLES).map(({ priority }) => priority))
const HIGHEST = Math.max(...Object.values(TABLES).map(({ priority }) => priority))

const rules = Effect.gen(function*() {
  const found = yield* (yield* NetworkInventory).rules
  // 0 is the kernel's own for local addresses.
  const foreign = found.filter(({ mark, priority, table }) =>
    priority > 0 && !(table !== undefined && isOurTable(table)) && (priority <= HIGHEST || mark === SOCKET_MARK)
  )
  if (foreign.length === 0) return ok("nobody else's come before ours")
  const lines = foreign.map(({ family, mark, priority, table }) =>
    `IPv${family}, priority ${priority}: ${table === undefined ? "no table" : `table ${table}`}${
      mark === undefined ? "" : `, mark 0x${mark.toString(16)}`
    }`
  )
  return warning(
    shortened([...new Set(lines)]),
    `ours have the priorities ${LOWEST} to ${HIGHEST}: what matches one before never gets to resources; give it a later one`
  )
}).pipe(Effect.catchAll((error) => Effect.succeed(skipped(error.message))))

interface Chain {
  readonly family: string
  readonly table: string
  readonly name: string
  readonly hook?: string
  readonly policy?: string
}

const chainsOf = (text: string): ReadonlyArray<Chain> => {
  try {
    const { nftables } = JSON.parse(text) as { readonly nftables?: ReadonlyArray<{ readonly chain?: Chain }> }
    return (nftables ?? []).flatMap(({ chain }) => chain ?? [])
  } catch {
    return []
  }
}

/** What it lets through is seen by the other checks; here is told where to look when they fail. */
const firewall = (uid: number) =>
  Effect.gen(function*() {
    if (uid !== 0) return skipped("its rules are for root to see", AS_ROOT)
    const text = yield* (yield* HostCommands).output("nft", "-j", "list", "chains")
    if (text === undefined) return skipped("nft is not here, or gave no answer")
    const strict = chainsOf(text).filter(({ hook, policy }) =>
      policy === "drop" && (hook === "input" || hook === "output")
    )
    return ok(
      strict.length === 0
        ? "nothing is dropped by default"
        : strict.map(({ family, hook, name, table }) =>
          `${hook}: what no rule allows is dropped (${family} ${table} ${name})`
        )
    )
  })

export const networkChecks = (
  session: Session,
  uid: number
): ReadonlyArray<Check<ClientConfig | HostCommands | NetworkInventory>> => [
  { id: "uplinks", group: "network", title: "Uplinks", run: uplinks },
  { id: "vpns", group: "network", title: "Other VPNs", run: vpns },
  { id: "reserved-ranges", group: "network", title: "Reserved addresses", run: reserved },
  { id: "local-networks", group: "network", title: "Local networks", run: localNetworks(session) },
  { id: "rules", group: "network", title: "Policy rules", run: rules },
  { id: "firewall", group: "network", title: "Firewall", run: firewall(uid) }
]
