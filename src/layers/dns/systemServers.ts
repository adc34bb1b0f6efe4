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

/** The system's own text, not what a session made of it. */
const ownText = (paths: ResolvConfPaths): string => {
  const current = readText(paths.resolvConf)
  return isOurs(current) ? readText(paths.backup) : current
}

/** Whether systemd-resolved knows better which servers there are. */
export const asksResolved = (paths: ResolvConfPaths): boolean => asksOnlyStub(nameserversOf(ownText(paths)))

export const readResolvConf = (paths: ResolvConfPaths): ReadonlyArray<IpAddress> => {
  const servers = nameserversOf(ownText(paths))
  if (!asksOnlyStub(servers)) return servers
  const behind = readText(paths.resolved)
  // Where its file is seen it says that there are none: to ask the stub would be to ask ourselves while it asks us.
  return behind === "" ? servers : nameserversOf(behind)
}

/** All that says which servers there are, comparable with `===`. */
export const resolvConfTexts = (paths: ResolvConfPaths): string =>
  [paths.resolvConf, paths.backup, paths.resolved].map(readText).join("\0")

/** Empty if it cannot be read. */
export const readText = (file: string): string => {
  try {
    return fs.readFileSync(file, "utf8")
  } catch {
    return ""
  }
}

/** Those that Node finds, on systems without such files. */
export const nodeServers = (): ReadonlyArray<IpAddress> =>
  new dns.Resolver().getServers().flatMap((server) => parseIp(server.replace(/%.*/, "")) ?? [])
