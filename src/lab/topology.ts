/**
 * A small Internet in network namespaces.
 *
 *                 wifi0  192.168.10.2 --[ natw 203.0.113.10 ]--+
 *   [ client ]                                                 |            203.0.113.2  portal
 *                 lan0   192.168.20.2 --[ natl 203.0.113.20 ]--+--[ inet ]  203.0.113.3, .4  relays
 *                                                              |            203.0.113.5  public DNS
 *   [     ]-- 172.20.0.0/24 --[ gw ] 10.0.30.2 --[ natg 203.0.113.30 ]--+
 *   [ res ]                                                            |
 *   [     ]-- 172.20.1.0/24 --[ gw2 203.0.113.40 ]---------------------+
 *
 * IPv6: inet 2001:db8::/64, where gw2 is ::40; 2001:db8:10::/64 (wifi), :20: (lan) and :30: (gw) are routed behind stateful
 * firewalls, without NAT; res has fd20::/64 and, towards gw2, fd20:1::/64. Every host has its own /run and /etc besides its network, so nothing of a daemon that
 * runs on one is seen by another host or by this machine.
 */
import * as Effect from "effect/Effect"
import type * as Scope from "effect/Scope"
import * as fs from "node:fs"
import * as path from "node:path"
import { LabError } from "./LabError.ts"
import { folderOf, isOwnFolder, nameFor, namespaceFile, namespaceOf, remove, removeLeftovers } from "./labs.ts"
import { type Daemon, daemon, environment, must, type Output, run, type RunOptions, spawn } from "./processes.ts"
import { namespaceKey } from "./procfs.ts"

export const hosts = ["client", "natw", "natl", "natg", "inet", "gw", "gw2", "res"] as const
export type HostName = (typeof hosts)[number]
export type Router = "natw" | "natl" | "natg"
export type Uplink = "wifi" | "lan"
export type NatType = "home" | "symmetric" | "fullcone" | "udp-relay-only" | "udp-3478-only" | "udp-blocked"

export const addresses = {
  portal: "203.0.113.2",
  portal6: "2001:db8::2",
  portalPort: 8081,
  relay4: "203.0.113.3",
  relay6: "2001:db8::3",
  secondRelay4: "203.0.113.4",
  secondRelay6: "2001:db8::4",
  dns4: "203.0.113.5",
  dns6: "2001:db8::5",
  wifiRouter4: "203.0.113.10",
  /** Of the client on its preferred uplink. */
  clientRouter4: "203.0.113.20",
  client6: "2001:db8:20::2",
  gateway4: "10.0.30.2",
  gateway6: "2001:db8:30::2",
  gatewayRouter4: "203.0.113.30",
  secondGateway4: "203.0.113.40",
  secondGateway6: "2001:db8::40",
  resource4: "172.20.0.10",
  resource6: "fd20::10",
  resourceDns4: "172.20.0.53",
  resourceDns6: "fd20::53",
  resourceNetwork4: "172.20.0.0/24",
  resourceNetwork6: "fd20::/64"
} as const

const insideOf: { readonly [router in Router]: string } = {
  natw: "192.168.10.2",
  natl: "192.168.20.2",
  natg: "10.0.30.2"
}
const uplinks = {
  wifi: { device: "wifi0", n: 10, metric: 600 },
  lan: { device: "lan0", n: 20, metric: 100 }
} as const

export interface Topology {
  readonly name: string
  /** A folder for logs and sockets that every host sees; removed with the lab. */
  readonly folder: string
  /** The command line that runs `command` on a host, in our working directory. */
  readonly argv: (host: HostName, command: ReadonlyArray<string>) => Effect.Effect<ReadonlyArray<string>, LabError>
  readonly run: (
    host: HostName,
    command: ReadonlyArray<string>,
    options?: RunOptions
  ) => Effect.Effect<Output, LabError>
  readonly must: (
    host: HostName,
    command: ReadonlyArray<string>,
    options?: RunOptions
  ) => Effect.Effect<Output, LabError>
  /** A process on a host with its output in `folder/name.log`; the scope ends it. */
  readonly daemon: (
    host: HostName,
    name: string,
    command: ReadonlyArray<string>,
    env?: Readonly<Record<string, string>>
  ) => Effect.Effect<Daemon, LabError, Scope.Scope>
  readonly nat: (router: Router, type: NatType) => Effect.Effect<void, LabError>
  /** Random loss of forwarded UDP in per cent; 0 for none. */
  readonly loss: (router: Router, percent: number) => Effect.Effect<void, LabError>
  /** Makes one uplink the preferred default route; `none` goes back to the uplinks' own metrics. */
  readonly roam: (to: Uplink | "none") => Effect.Effect<void, LabError>
  readonly plug: (uplink: Uplink) => Effect.Effect<void, LabError>
  readonly unplug: (uplink: Uplink) => Effect.Effect<void, LabError>
  /** Forgets every mapping of a router. */
  readonly rebind: (router: Router) => Effect.Effect<void, LabError>
}

const linkCommands = (ns: (host: HostName) => string): string => `
link add wifi0 netns ${ns("client")} type veth peer name lan0 netns ${ns("natw")}
link add lan0 netns ${ns("client")} type veth peer name lan0 netns ${ns("natl")}
link add eth0 netns ${ns("gw")} type veth peer name lan0 netns ${ns("natg")}
link add wan0 netns ${ns("natw")} type veth peer name pw netns ${ns("inet")}
link add wan0 netns ${ns("natl")} type veth peer name pl netns ${ns("inet")}
link add wan0 netns ${ns("natg")} type veth peer name pg netns ${ns("inet")}
link add eth0 netns ${ns("gw2")} type veth peer name pg2 netns ${ns("inet")}
link add eth0 netns ${ns("res")} type veth peer name res0 netns ${ns("gw")}
link add eth1 netns ${ns("res")} type veth peer name res0 netns ${ns("gw2")}
`

/** Of the Internet, one for each who is connected to it. */
export const ports = ["pw", "pl", "pg", "pg2"] as const

const inetCommands = (): string =>
  [
    "link add br0 type bridge mcast_snooping 0",
    "link set br0 up",
    ...ports.flatMap((port) => [`link set ${port} master br0`, `link set ${port} up`]),
    "link set lo up",
    ...[1, 2, 3, 4, 5].flatMap((
      n
    ) => [`addr add 203.0.113.${n}/24 dev br0`, `addr add 2001:db8::${n}/64 dev br0 nodad`]),
    ...[10, 20, 30].map((n) => `route add 2001:db8:${n}::/64 via 2001:db8::${n}`),
    // What is sent to private addresses gets lost on the way, as it does out there, and is not refused at once.
    "link add sink0 type veth peer name sink1",
    "link set sink0 arp off up",
    "link set sink1 up",
    ...["10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16"].map((network) => `route add ${network} dev sink0`)
  ].join("\n")

const routerCommands = (n: number, lan: string): string => `
link set lo up
link set lan0 up
link set wan0 up
addr add ${lan}.1/24 dev lan0
addr add 2001:db8:${n}::1/64 dev lan0 nodad
addr add 203.0.113.${n}/24 dev wan0
addr add 2001:db8::${n}/64 dev wan0 nodad
route add default via 203.0.113.1
route add default via 2001:db8::1
`

const gatewayCommands = `
link set lo up
link set eth0 up
addr add 10.0.30.2/24 dev eth0
addr add 2001:db8:30::2/64 dev eth0 nodad
route add default via 10.0.30.1
route add default via 2001:db8:30::1
link set res0 up
addr add 172.20.0.1/24 dev res0
addr add fd20::1/64 dev res0 nodad
`

const secondGatewayCommands = `
link set lo up
link set eth0 up
addr add ${addresses.secondGateway4}/24 dev eth0
addr add ${addresses.secondGateway6}/64 dev eth0 nodad
route add default via 203.0.113.1
route add default via 2001:db8::1
link set res0 up
addr add 172.20.1.1/24 dev res0
addr add fd20:1::1/64 dev res0 nodad
route add ${addresses.resourceNetwork4} via 172.20.1.2
route add ${addresses.resourceNetwork6} via fd20:1::2
`

const resourceCommands = `
link set lo up
link set eth0 up
link set eth1 up
addr add 172.20.1.2/24 dev eth1
addr add fd20:1::2/64 dev eth1 nodad
addr add 172.20.0.10/24 dev eth0
addr add 172.20.0.53/24 dev eth0
addr add fd20::10/64 dev eth0 nodad
addr add fd20::53/64 dev eth0 nodad
route add default via 172.20.0.1
route add default via fd20::1
`

/**
 * What arrives unasked for is dropped, on `input` too: a router that takes it remembers the flow, and must then translate
 * an inside host's own packets of that flow to another port, which no two peers behind such routers can punch through.
 * nft 1.0.6 wants `;` or a newline before every closing brace.
 */
const natRules = (router: Router, type: NatType): string => {
  const relays4 = `{ ${addresses.relay4}, ${addresses.secondRelay4} }`
  const relays6 = `{ ${addresses.relay6}, ${addresses.secondRelay6} }`
  const destination = type === "fullcone" ? `iifname wan0 udp dport 1024-65535 dnat to ${insideOf[router]};` : ""
  const firewall = type === "udp-relay-only"
    ? `oifname wan0 meta l4proto udp ip daddr != ${relays4} drop; oifname wan0 meta l4proto udp ip6 daddr != ${relays6} drop;`
    : type === "udp-3478-only"
    ? "oifname wan0 udp dport != 3478 drop;"
    : type === "udp-blocked"
    ? "oifname wan0 meta l4proto udp drop;"
    : ""
  return `flush ruleset
table ip nat {
  chain pre { type nat hook prerouting priority dstnat; policy accept; ${destination} }
  chain post { type nat hook postrouting priority srcnat; policy accept; oifname wan0 masquerade${
    type === "symmetric" ? " fully-random" : ""
  }; }
}
table inet fw {
  chain loss { }
  chain input { type filter hook input priority filter; policy accept;
    iifname wan0 ct state new meta l4proto { tcp, udp } drop
  }
  chain forward { type filter hook forward priority filter; policy drop;
    jump loss
    ${firewall}
    ct state established,related accept
    iifname lan0 accept
    ct status dnat accept
    meta l4proto ipv6-icmp accept
  }
}
`
}

/** What only hosts of a lab have. */
const INSIDE = "/run/lab"

/**
 * Sets a host up and keeps its namespaces open; `argv` enters them. Stops at the first step that fails: what follows a
 * mount that did not happen would change this machine's own files. `$1`: host, `$2`: whether it forwards, `$3`: ready file.
 */
const holderScript = `set -e
echo "$1" > /proc/sys/kernel/hostname
cd /proc/sys/net
for which in default all; do
  echo 0 > ipv6/conf/$which/accept_dad
  echo 0 > ipv4/conf/$which/rp_filter
done
echo "$2" > ipv4/ip_forward
echo "$2" > ipv6/conf/all/forwarding
mount -t tmpfs -o mode=755 tmpfs /run
mkdir -p /run/dbus /run/lock /run/wireguard ${INSIDE}/up ${INSIDE}/wk
mount -t overlay overlay -o lowerdir=/etc,upperdir=${INSIDE}/up,workdir=${INSIDE}/wk /etc
rm -f /etc/resolv.conf
echo "nameserver ${addresses.dns4}" > /etc/resolv.conf
: > "$3"
exec sleep infinity`

/** What the lab runs, and the Debian package that has it. */
const programs: { readonly [program: string]: string } = {
  ip: "iproute2",
  nft: "nftables",
  conntrack: "conntrack",
  nsenter: "util-linux",
  unshare: "util-linux",
  mount: "mount"
}

/** The machine can hold a lab, and we may build one. */
export const requirePrivileges: Effect.Effect<void, LabError> = Effect.suspend(() => {
  if (process.platform !== "linux") {
    return new LabError({ what: "the lab needs Linux", why: "it builds network namespaces" })
  }
  if (process.getuid?.() !== 0) {
    return new LabError({ what: "the lab needs root", why: "it builds network namespaces; try again with sudo" })
  }
  if (fs.existsSync(INSIDE)) {
    return new LabError({ what: "this is a host of a lab", why: "labs are handled from the machine that they are on" })
  }
  const directories = (environment()["PATH"] ?? "").split(":")
  const missing = Object.keys(programs).filter((program) =>
    !directories.some((directory) => directory !== "" && fs.existsSync(path.join(directory, program)))
  )
  if (missing.length > 0) {
    const packages = [...new Set(missing.map((program) => programs[program]))].join(" ")
    return new LabError({
      what: `the lab needs ${missing.join(", ")}`,
      why: `not found; on Debian and Ubuntu: apt-get install ${packages}`
    })
  }
  if (!fs.existsSync("/dev/net/tun")) {
    return new LabError({ what: "the lab needs /dev/net/tun", why: "this machine or container has no TUN driver" })
  }
  return Effect.void
})

/** How to reach the hosts of a lab that exists. */
export const attach = (lab: string): Topology => {
  const folder = folderOf(lab)
  const ns = (host: HostName): string => namespaceOf(lab, host)
  const argv = (host: HostName, command: ReadonlyArray<string>) =>
    Effect.map(holderPid(lab, host), (pid) => [
      ...["nsenter", "-t", String(pid), "-m", "-u", "-n", "--"],
      // `nsenter -m` leaves us in `/`.
      ...["sh", "-c", "cd \"$1\" && shift && exec \"$@\"", "sh", process.cwd()],
      ...command
    ])
  const inNamespace = (host: HostName, command: ReadonlyArray<string>) => ["ip", "netns", "exec", ns(host), ...command]
  const batch = (host: HostName, commands: string) =>
    must(`network of ${host}`, ["ip", "-n", ns(host), "-batch", "-"], { input: commands })
  const rebind = (router: Router) =>
    Effect.asVoid(must(`mappings of ${router}`, inNamespace(router, ["conntrack", "-F"])))
  const defaults = (uplink: Uplink, verb: string, metric: number): string => {
    const { device, n } = uplinks[uplink]
    return `route ${verb} default via 192.168.${n}.1 dev ${device} metric ${metric}
route ${verb} default via 2001:db8:${n}::1 dev ${device} metric ${metric}
`
  }
  return {
    name: lab,
    folder,
    argv,
    run: (host, command, options) => Effect.flatMap(argv(host, command), (argv) => run(argv, options)),
    must: (host, command, options) =>
      Effect.flatMap(argv(host, command), (argv) => must(`${command[0] ?? ""} on ${host}`, argv, options)),
    daemon: (host, name, command, env) =>
      Effect.flatMap(argv(host, command), (argv) => daemon(argv, path.join(folder, `${name}.log`), env)),
    nat: (router, type) =>
      must(`NAT of ${router}`, inNamespace(router, ["nft", "-f", "-"]), { input: natRules(router, type) }).pipe(
        Effect.zipRight(rebind(router))
      ),
    loss: (router, percent) =>
      must(`loss on ${router}`, inNamespace(router, ["nft", "-f", "-"]), {
        input: `flush chain inet fw loss\n${
          percent === 0 ? "" : `add rule inet fw loss meta l4proto udp numgen random mod 100 < ${percent} drop\n`
        }`
      }).pipe(Effect.asVoid),
    roam: (to) =>
      Effect.gen(function*() {
        for (const uplink of ["wifi", "lan"] as const) {
          for (const line of defaults(uplink, "del", 50).trim().split("\n")) {
            yield* run(["ip", "-n", ns("client"), ...line.split(" ")])
          }
        }
        if (to !== "none") {
          yield* batch("client", defaults(to, "add", 50))
        }
      }),
    plug: (uplink) => {
      const { device, metric, n } = uplinks[uplink]
      return Effect.asVoid(batch(
        "client",
        `link set ${device} up
addr replace 192.168.${n}.2/24 dev ${device}
addr replace 2001:db8:${n}::2/64 dev ${device} nodad
${defaults(uplink, "replace", metric)}`
      ))
    },
    unplug: (uplink) => Effect.asVoid(batch("client", `link set ${uplinks[uplink].device} down\n`)),
    rebind
  }
}

/** Builds the lab; the caller removes it. Not to be interrupted, so that nothing is half-way when it is removed. */
export const create = (lab: string): Effect.Effect<Topology, LabError> =>
  Effect.gen(function*() {
    yield* requirePrivileges
    const folder = folderOf(lab)
    // 0700: the folder holds logs and control sockets, in a directory that everybody can write to. Whoever makes it owns
    // the lab: a second one of the same name fails here, and removes nothing.
    yield* Effect.try({
      try: () => fs.mkdirSync(folder, { mode: 0o700 }),
      catch: (error) => new LabError({ what: `cannot create ${folder}`, why: (error as Error).message })
    })
    return yield* build(lab).pipe(Effect.onError(() => remove(lab)))
  }).pipe(Effect.uninterruptible)

const build = (lab: string): Effect.Effect<Topology, LabError> =>
  Effect.gen(function*() {
    const ns = (host: HostName): string => namespaceOf(lab, host)
    const topology = attach(lab)
    for (const host of hosts) yield* must(`namespace of ${host}`, ["ip", "netns", "add", ns(host)])
    yield* Effect.forEach(hosts, (host) => holder(lab, host), { concurrency: "unbounded", discard: true })
    yield* must("links", ["ip", "-batch", "-"], { input: linkCommands(ns) })
    const batch = (host: HostName, commands: string) =>
      must(`network of ${host}`, ["ip", "-n", ns(host), "-batch", "-"], { input: commands })
    yield* batch("inet", inetCommands())
    yield* batch("natw", routerCommands(10, "192.168.10"))
    yield* batch("natl", routerCommands(20, "192.168.20"))
    yield* batch("natg", routerCommands(30, "10.0.30"))
    yield* batch("gw", gatewayCommands)
    yield* batch("gw2", secondGatewayCommands)
    yield* batch("res", resourceCommands)
    yield* batch("client", "link set lo up\n")
    yield* topology.plug("wifi")
    yield* topology.plug("lan")
    for (const router of ["natw", "natl", "natg"] as const) yield* topology.nat(router, "home")
    return topology
  })

const pidFile = (lab: string, host: HostName): string => path.join(folderOf(lab), `${host}.pid`)

/** Starts the process that holds a host's namespaces and waits until the host is set up; `remove` ends it. */
const holder = (lab: string, host: HostName): Effect.Effect<void, LabError> =>
  Effect.gen(function*() {
    const folder = folderOf(lab)
    const ready = path.join(folder, `${host}.ready`)
    const forwards = host === "client" || host === "res" ? "0" : "1"
    const process = yield* spawn([
      ...["ip", "netns", "exec", namespaceOf(lab, host), "unshare", "-m", "-u", "--propagation", "private"],
      ...["sh", "-c", holderScript, "sh", host, forwards, ready]
    ], path.join(folder, `${host}.host.log`))
    fs.writeFileSync(pidFile(lab, host), String(process.pid))
    for (const end = Date.now() + 10_000; !fs.existsSync(ready); yield* Effect.sleep(5)) {
      if (process.hasExited() || Date.now() >= end) {
        return yield* new LabError({ what: `host ${host}`, why: process.log().trim() || "did not come up within 10 s" })
      }
    }
  })

/** The process that holds a host's namespaces, if what the lab's folder says of it is still true. */
const holderPid = (lab: string, host: HostName): Effect.Effect<number, LabError> =>
  Effect.suspend(() => {
    try {
      const pid = Number(fs.readFileSync(pidFile(lab, host), "utf8"))
      const key = namespaceKey(namespaceFile(lab, host))
      if (isOwnFolder(folderOf(lab)) && key !== undefined && key === namespaceKey(`/proc/${pid}/ns/net`)) {
        return Effect.succeed(pid)
      }
    } catch {
      // The folder or the file has gone.
    }
    return new LabError({ what: `host ${host}`, why: "the lab is damaged; remove it with: lab down" })
  })

/** A lab that lives as long as the scope; leftovers of killed ones are removed first. */
export const scoped: Effect.Effect<Topology, LabError, Scope.Scope> = Effect.gen(function*() {
  yield* requirePrivileges
  yield* removeLeftovers
  return yield* Effect.acquireRelease(create(nameFor(process.pid)), (topology) => remove(topology.name))
})
