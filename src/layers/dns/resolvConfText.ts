/** The text of resolv.conf(5), and what becomes of it while a session runs (host spec section 13.2). Pure. */
import { type IpAddress, parseScopedIp } from "../../protocol/wire/address.ts"

/** Begins the first line of a file that a session wrote. */
const MARKER = "# BEGIN Firezone DNS configuration"
/** systemd-resolved's own servers. */
const STUBS: ReadonlyArray<string> = ["127.0.0.53", "127.0.0.54"]

export const isOurs = (text: string): boolean => text.startsWith(MARKER)

/** A comment begins anywhere. */
const words = (line: string): ReadonlyArray<string> =>
  line.replace(/[#;].*/, "").trim().split(/\s+/).filter((word) => word !== "")

/** The addresses of `nameserver` lines, link-local ones with their zones; what cannot be read is left out. */
export const nameserversOf = (text: string): ReadonlyArray<IpAddress> =>
  text.split("\n").flatMap((line) => {
    const [keyword, address = ""] = words(line)
    const parsed = keyword === "nameserver" ? parseScopedIp(address) : undefined
    return parsed === undefined ? [] : [parsed]
  })

/** Whether the file names systemd-resolved and nobody else. */
export const asksOnlyStub = (servers: ReadonlyArray<IpAddress>): boolean =>
  servers.length > 0 && servers.every((server) => STUBS.includes(server))

export interface Pointing {
  readonly servers: ReadonlyArray<IpAddress>
  readonly searchDomain: string | undefined
  /** What resolvers search in when the file does not say (resolv.conf(5)): the host name without its first label. */
  readonly hostDomain: string | undefined
  /** Named in the comment, for whoever finds the file. */
  readonly backup: string
}

/**
 * The file that points at our servers. Of the original all but the servers, the comments and `ndots` stays, whether we know
 * it or not; the search domain comes before its own.
 */
export const pointedAt = (original: string, { backup, hostDomain, searchDomain, servers }: Pointing): string => {
  const kept: Array<string> = []
  let searched: ReadonlyArray<string> | undefined
  let isDomainLine = false
  for (const line of original.split("\n")) {
    const [keyword, ...values] = words(line)
    if (keyword === undefined || keyword === "nameserver") continue
    // The last of both counts.
    if (keyword === "search" || keyword === "domain") {
      searched = values
      isDomainLine = keyword === "domain"
    }
    if (keyword === "search") continue
    if (keyword !== "options") {
      kept.push(line.trim())
      continue
    }
    const options = values.filter((option) => !option.startsWith("ndots:"))
    if (options.length > 0) kept.push(`options ${options.join(" ")}`)
  }
  const own = searched ?? (hostDomain === undefined ? [] : [hostDomain])
  const search = searchDomain === undefined
    ? isDomainLine ? [] : searched ?? []
    : [searchDomain, ...own.filter((domain) => domain !== searchDomain)]
  return [
    MARKER,
    "# firezone-headless-client wrote this file, and takes it back when it stops. If it does not run, it has crashed:",
    "# `firezone-headless-client dns-cleanup`, or its next start, brings the file back from",
    `# ${backup}. To keep changes of your own, delete the first line.`,
    ...servers.map((server) => `nameserver ${server}`),
    ...kept,
    ...(search.length === 0 ? [] : [`search ${search.join(" ")}`]),
    ""
  ].join("\n")
}

/** A name of letters, digits, `-` and `_` (RFC 1035 section 2.3.1, and what is in use): nothing that could end a line or be an option. */
export const isSearchDomain = (text: string): boolean =>
  text.length <= 253 && text.split(".").every((label) => /^(?!-)[a-z0-9_-]{1,63}$/i.test(label))
