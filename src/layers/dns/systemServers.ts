/** The name servers that this system is configured with (host spec sections 13.2 and 14). */
import * as dns from "node:dns"
import * as fs from "node:fs"
import { type IpAddress, parseIp } from "../../protocol/wire/address.ts"

/** Where Linux keeps them; tests have their own. */
export interface ResolvConfPaths {
  readonly resolvConf: string
  /** What `resolvConf` was before a session replaced it. */
  readonly backup: string
  /** The servers behind systemd-resolved's own. */
  readonly resolved: string
}

export const resolvConfPaths: ResolvConfPaths = {
  resolvConf: "/etc/resolv.conf",
  backup: "/etc/resolv.conf.before-firezone",
  resolved: "/run/systemd/resolve/resolv.conf"
}

/** The first line of a file that a session wrote. */
const MARKER = "# BEGIN Firezone DNS configuration"
/** systemd-resolved's stub: while a session runs it sends everything to us. */
const STUBS: ReadonlyArray<string> = ["127.0.0.53", "127.0.0.54"]

/** The addresses of `nameserver` lines, IPv6 scopes dropped; what cannot be read is left out. */
export const nameserversOf = (resolvConf: string): ReadonlyArray<IpAddress> =>
  resolvConf.split("\n").flatMap((line) => {
    const [keyword, address = ""] = line.replace(/[#;].*/, "").trim().split(/\s+/)
    const parsed = keyword === "nameserver" ? parseIp(address.replace(/%.*/, "")) : undefined
    return parsed === undefined ? [] : [parsed]
  })

export const readResolvConf = (paths: ResolvConfPaths): ReadonlyArray<IpAddress> => {
  const current = read(paths.resolvConf)
  const servers = nameserversOf(current.startsWith(MARKER) ? read(paths.backup) : current)
  if (!servers.every((server) => STUBS.includes(server))) return servers
  const behind = nameserversOf(read(paths.resolved))
  return behind.length === 0 ? servers : behind
}

const read = (file: string): string => {
  try {
    return fs.readFileSync(file, "utf8")
  } catch {
    return ""
  }
}

/** Read anew each time. Empty if there are none or the system does not tell. */
export const systemServers = (): ReadonlyArray<IpAddress> =>
  process.platform === "linux"
    ? readResolvConf(resolvConfPaths)
    : new dns.Resolver().getServers().flatMap((server) => parseIp(server.replace(/%.*/, "")) ?? [])
