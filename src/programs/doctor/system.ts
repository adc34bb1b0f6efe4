/** What the kernel has, and what it lets the client do. */
import * as Effect from "effect/Effect"
import * as Either from "effect/Either"
import { failed, type Finding, ok, skipped, warning } from "../../model/doctor.ts"
import { TABLES } from "../../model/policyRouting.ts"
import { ClientConfig } from "../../services/ClientConfig.ts"
import { HostFiles } from "../../services/HostFiles.ts"
import { KernelProbe } from "../../services/KernelProbe.ts"
import { NetworkInventory } from "../../services/NetworkInventory.ts"
import { Processes } from "../../services/Processes.ts"
import { AS_ROOT, type Check, reportOf, type Session } from "./check.ts"

// linux/capability.h
const CAP_NET_ADMIN = 1n << 12n
const CAP_MKNOD = 1n << 27n

export interface SystemFacts {
  readonly platform: string
  readonly release: string
  readonly arch: string
  readonly nodeVersion: string
  readonly uid: number
}

const releaseAtLeast = (release: string, major: number, minor: number): boolean => {
  const [, a = "0", b = "0"] = /^(\d+)\.(\d+)/.exec(release) ?? []
  return Number(a) > major || (Number(a) === major && Number(b) >= minor)
}

const kernel = ({ arch, nodeVersion, platform, release }: SystemFacts): Effect.Effect<Finding> =>
  Effect.sync(() => {
    const words = `${platform === "linux" ? "Linux" : platform} ${release} on ${arch}, Node ${nodeVersion}`
    return releaseAtLeast(release, 4, 18)
      ? ok(words)
      : warning(words, "Linux 4.18 or later sends many packets with one call; this one works, and is slower")
  })

const privileges = (session: Session, { uid }: SystemFacts) =>
  Effect.gen(function*() {
    const processes = yield* Processes
    const report = reportOf(session)
    const who = report === undefined ? "self" : report.client.pid
    const held = yield* processes.capabilities(who)
    const subject = report === undefined ? `this user (id ${uid})` : `the running client (process ${report.client.pid})`
    if (held === undefined) return skipped(`the system does not tell what ${subject} may do`)
    if ((held & CAP_NET_ADMIN) !== 0n) return ok(`${subject} has CAP_NET_ADMIN`)
    return report === undefined && uid !== 0
      ? skipped(`${subject} lacks CAP_NET_ADMIN, which the client needs; it may run as another user`, AS_ROOT)
      : failed(
        `${subject} lacks CAP_NET_ADMIN`,
        "give it the capability: a container with --cap-add NET_ADMIN, a service with AmbientCapabilities=CAP_NET_ADMIN"
      )
  })

const marks = (session: Session, { uid }: SystemFacts) =>
  Effect.gen(function*() {
    const abilities = yield* Effect.either((yield* KernelProbe).sockets)
    if (Either.isLeft(abilities)) return failed(abilities.left.message, "this system has no UDP over IPv4")
    const { coalescing, mark, segmentation } = abilities.right
    if (Either.isLeft(mark)) {
      return uid === 0 || mark.left.errno !== "EPERM"
        ? failed(
          `sockets cannot be marked: ${mark.left.message}`,
          "the client cannot keep its own packets out of the tunnel: it needs root or CAP_NET_ADMIN"
        )
        : skipped(
          ["only root may mark sockets", "the network checks below may go through a tunnel that is up"],
          AS_ROOT
        )
    }
    const { offloads } = yield* ClientConfig
    const has = [segmentation ? "UDP segmentation" : "", coalescing ? "UDP coalescing" : ""].filter((part) =>
      part !== ""
    )
    if (!offloads) return ok("sockets can be marked; offloads are switched off")
    return has.length === 2 || session._tag === "Running"
      ? ok(`sockets can be marked; ${has.join(" and ") || "no UDP offloads"}`)
      : warning(
        `sockets can be marked; ${has.length === 0 ? "neither UDP segmentation nor coalescing" : `only ${has[0]}`}`,
        "it works, and is slower; Linux 5.0 or later has both"
      )
  })

const TUN = "/dev/net/tun"
const NO_NODE = "a container: --device /dev/net/tun; else load the driver with modprobe tun"

const tunHint = (errno: string): string =>
  errno === "EPERM" || errno === "EACCES"
    ? "give the client CAP_NET_ADMIN and the device; a container: --cap-add NET_ADMIN --device /dev/net/tun"
    : errno === "ENOENT"
    ? "load the driver with modprobe tun, or in a container add --device /dev/net/tun"
    : "the kernel has no TUN driver: load it with modprobe tun"

/** Tried for real only where no client runs: that one has it already. */
const tun = (session: Session, { uid }: SystemFacts) =>
  Effect.gen(function*() {
    const { tunName } = yield* ClientConfig
    const report = reportOf(session)
    if (report !== undefined) {
      const { interface: link, tun } = report
      return link === undefined
        ? skipped("the client has not set its interface up yet: it waits for the portal")
        : ok(`the client has ${link.name} open, offloads ${tun.offloads || "none"}`)
    }
    const node = yield* Effect.either((yield* HostFiles).look(TUN))
    if (Either.isRight(node) && node.right === undefined) {
      if (uid !== 0) return skipped(`there is no ${TUN}; a client that runs as root makes it where it may`, AS_ROOT)
      const held = (yield* (yield* Processes).capabilities("self")) ?? 0n
      return (held & CAP_MKNOD) === 0n
        ? failed(`there is no ${TUN}, and it may not be made here`, NO_NODE)
        : warning(`there is no ${TUN}; the client will try to make it`, NO_NODE)
    }
    if (uid !== 0) return skipped(`${TUN} is there; to try it needs root`, AS_ROOT)
    const probed = yield* (yield* KernelProbe).tun
    if (Either.isLeft(probed)) {
      const { cause, step } = probed.left
      return failed(`cannot ${step}: ${cause.message}`, tunHint(cause.errno))
    }
    const holder = yield* Effect.either((yield* NetworkInventory).links)
    const isTaken = Either.isRight(holder) && holder.right.some(({ name }) => name === tunName)
    if (!isTaken) return ok(`a test interface could be made, offloads ${probed.right || "none"}; ${tunName} is free`)
    const process = yield* (yield* Processes).holderOfTun(tunName)
    return process === undefined
      ? failed(
        `there is an interface ${tunName} that no process has open`,
        `remove it (ip link delete ${tunName}) or choose another --tun-name`
      )
      : failed(
        `process ${process.pid} (${process.name}) has the interface ${tunName}, and does not answer here`,
        "stop it, or choose another --tun-name; if it is a client, say the --control-socket that it has"
      )
  })

const families = [[4, "IPv4"], [6, "IPv6"]] as const

/** With a client that is up, its rules must be there; without one, the kernel must have policy routing. */
const policyRouting = (session: Session) =>
  Effect.gen(function*() {
    const rules = yield* (yield* NetworkInventory).rules
    const works = reportOf(session)?.interface?.works
    const missing: Array<string> = []
    for (const [family, name] of families) {
      const those = rules.filter((rule) => rule.family === family)
      if (works === undefined) {
        if (family === 4 && those.length === 0) missing.push(`the kernel has no policy routing for ${name}`)
      } else if (family === 4 ? works.ipv4 : works.ipv6) {
        for (const { priority, table } of Object.values(TABLES)) {
          if (!those.some((rule) => rule.table === table && rule.priority === priority && rule.isInverted)) {
            missing.push(`the client's rule with priority ${priority} for ${name} is gone`)
          }
        }
      }
    }
    if (missing.length > 0) {
      return failed(
        missing,
        works === undefined
          ? "a kernel with CONFIG_IP_MULTIPLE_TABLES is needed"
          : "another program removes foreign rules: find it (systemd-networkd: ManageForeignRoutingPolicyRules=no), "
            + "then restart the client"
      )
    }
    return ok(works === undefined ? "the kernel has it" : "the client's rules are all there")
  }).pipe(Effect.catchAll((error) => Effect.succeed(skipped(error.message))))

const readNumber = (file: string) =>
  Effect.flatMap(HostFiles, (files) =>
    files.text(file).pipe(
      Effect.map((text) => text === undefined || text.trim() === "" ? undefined : Number(text)),
      Effect.orElseSucceed(() => undefined)
    ))

const ipv6 = Effect.gen(function*() {
  const disabled = yield* readNumber("/proc/sys/net/ipv6/conf/all/disable_ipv6")
  if (disabled === undefined) return ok("the kernel has no IPv6: addresses of that kind will not work in the tunnel")
  return disabled === 0
    ? ok("on")
    : ok("switched off (net.ipv6.conf.all.disable_ipv6): such addresses will not work in the tunnel")
})

const STRICT = 1

/** A strict filter asks where an answer would go, without our mark: with all traffic in the tunnel, into the tunnel. */
const reversePath = (session: Session) =>
  Effect.gen(function*() {
    const { activateInternetResource } = yield* ClientConfig
    const isFull = reportOf(session)?.internetResourceActive ?? activateInternetResource
    const { links, routes } = yield* Effect.all({
      links: Effect.flatMap(NetworkInventory, (inventory) => inventory.links),
      routes: Effect.flatMap(NetworkInventory, (inventory) => inventory.routes)
    })
    const all = yield* readNumber("/proc/sys/net/ipv4/conf/all/rp_filter")
    const uplinks = new Set(
      routes.filter(({ destination, table }) => destination.bits === 0 && table === 254).map((route) =>
        route.interfaceIndex
      )
    )
    const strict: Array<string> = []
    for (const { index, name } of links) {
      if (!uplinks.has(index)) continue
      const own = yield* readNumber(`/proc/sys/net/ipv4/conf/${name}/rp_filter`)
      // ip-sysctl: the greater of both is in force.
      if (Math.max(own ?? 0, all ?? 0) === STRICT) strict.push(name)
    }
    if (strict.length === 0) return ok("not strict where packets come in from the Internet")
    const words = `strict on ${strict.join(", ")} (net.ipv4.conf.*.rp_filter = 1)`
    return isFull
      ? failed(
        `${words}: with all traffic in the tunnel it drops what gateways and relays send us`,
        `sysctl -w ${strict.map((name) => `net.ipv4.conf.${name}.rp_filter=2`).join(" ")}`
      )
      : ok(`${words}; it would matter only with the Internet resource`)
  }).pipe(Effect.catchAll((error) => Effect.succeed(skipped(error.message))))

const WANTED = [["rmem_max", 16_777_216], ["wmem_max", 2_097_152]] as const

const buffers = (session: Session, { uid }: SystemFacts) =>
  Effect.gen(function*() {
    const processes = yield* Processes
    const held = yield* processes.capabilities(reportOf(session)?.client.pid ?? "self")
    const small: Array<string> = []
    const found: Array<string> = []
    for (const [name, wanted] of WANTED) {
      const limit = yield* readNumber(`/proc/sys/net/core/${name}`)
      if (limit === undefined) return skipped("the limits cannot be read here (a container hides them)")
      found.push(`${name} ${limit}`)
      if (limit < wanted) small.push(`net.core.${name}=${wanted}`)
    }
    if (small.length === 0) return ok(found.join(", "))
    // What another user lacks says nothing of a client that runs as root.
    if ((held !== undefined && (held & CAP_NET_ADMIN) !== 0n) || (session._tag !== "Running" && uid !== 0)) {
      return ok(`${found.join(", ")}; with CAP_NET_ADMIN the client is not bound by them`)
    }
    return warning(
      `${found.join(", ")}: at high rates packets get lost before the client reads them`,
      `sysctl -w ${small.join(" ")}, or run the client with CAP_NET_ADMIN`
    )
  })

export const systemChecks = (
  session: Session,
  facts: SystemFacts
): ReadonlyArray<Check<ClientConfig | HostFiles | KernelProbe | NetworkInventory | Processes>> => [
  { id: "kernel", group: "system", title: "Kernel", run: kernel(facts) },
  { id: "privileges", group: "system", title: "Privileges", run: privileges(session, facts) },
  { id: "tun", group: "system", title: "TUN device", run: tun(session, facts) },
  { id: "sockets", group: "system", title: "Sockets", run: marks(session, facts) },
  { id: "policy-routing", group: "system", title: "Policy routing", run: policyRouting(session) },
  { id: "ipv6", group: "system", title: "IPv6", run: ipv6 },
  { id: "reverse-path", group: "system", title: "Reverse path filter", run: reversePath(session) },
  { id: "buffers", group: "system", title: "Socket buffers", run: buffers(session, facts) }
]
