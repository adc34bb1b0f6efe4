/** The name servers that this system is configured with (host spec sections 13.2 and 14). */
import * as dns from "node:dns"
import * as fs from "node:fs"
import { type IpAddress, parseIp } from "../../protocol/wire/address.ts"
import { asksOnlyStub, isOurs, nameserversOf } from "./resolvConfText.ts"

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

export const readResolvConf = (paths: ResolvConfPaths): ReadonlyArray<IpAddress> => {
  const current = readText(paths.resolvConf)
  const servers = nameserversOf(isOurs(current) ? readText(paths.backup) : current)
  if (!asksOnlyStub(servers)) return servers
  const behind = nameserversOf(readText(paths.resolved))
  return behind.length === 0 ? servers : behind
}

/** Empty if it cannot be read. */
export const readText = (file: string): string => {
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
