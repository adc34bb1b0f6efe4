/** A status as lines for a person. */
import type { StatusReport } from "../model/status.ts"

const CODES = { bold: 1, dim: 2, red: 31, green: 32, yellow: 33, cyan: 36 } as const
type Style = keyof typeof CODES

/** Colours a text, or leaves it. */
export type Paint = (style: Style, text: string) => string
export const colours: Paint = (style, text) => `\x1b[${CODES[style]}m${text}\x1b[0m`
export const plain: Paint = (_style, text) => text

type Cell = string | { readonly style: Style; readonly text: string }
type Row = ReadonlyArray<Cell>
const styled = (style: Style, text: string): Cell => ({ style, text })
type Resource = StatusReport["resources"][number]
type Peer = StatusReport["peers"][number]

/** Names come from the portal: nothing in them may move the cursor or turn the text around. */
export const printable = (text: string): string => text.replaceAll(/[\p{Cc}\p{Cf}\p{Zl}\p{Zp}]/gu, "\u{fffd}")

const textOf = (cell: Cell): string => printable(typeof cell === "string" ? cell : cell.text)

/** Columns as wide as their widest cell, two spaces apart; the last one is not filled up. */
const table = (rows: ReadonlyArray<Row>, paint: Paint): ReadonlyArray<string> => {
  const widths: Array<number> = []
  for (const row of rows) {
    row.forEach((cell, column) => (widths[column] = Math.max(widths[column] ?? 0, textOf(cell).length)))
  }
  return rows.map((row) => {
    const cells = row.map((cell, column) => {
      const text = textOf(cell)
      const space = column === row.length - 1 ? "" : " ".repeat((widths[column] ?? 0) - text.length)
      return (typeof cell === "string" ? text : paint(cell.style, text)) + space
    })
    return `  ${cells.join("  ")}`.trimEnd()
  })
}

export const bytes = (count: number): string => {
  const units = ["B", "kB", "MB", "GB", "TB", "PB"]
  let unit = 0
  let value = count
  // 999.95 would be shown as 1000.0.
  for (; value >= (unit === 0 ? 1000 : 999.95) && unit < units.length - 1; unit++) value /= 1000
  return `${unit === 0 ? value : value.toFixed(1)} ${units[unit]}`
}

export const duration = (millis: number): string => {
  const seconds = Math.floor(millis / 1000)
  const parts: ReadonlyArray<readonly [number, string]> = [
    [Math.floor(seconds / 86_400), "d"],
    [Math.floor(seconds / 3600) % 24, "h"],
    [Math.floor(seconds / 60) % 60, "min"],
    [seconds % 60, "s"]
  ]
  const first = parts.findIndex(([count]) => count > 0)
  return first < 0
    ? "0 s"
    : parts.slice(first, first + 2).filter(([count]) => count > 0).map(([count, unit]) => `${count} ${unit}`).join(" ")
}

const count = (number: number): string => String(number).replaceAll(/\B(?=(\d{3})+$)/g, ",")

const reasons = (counts: { readonly [reason: string]: number }): string =>
  Object.entries(counts).filter(([, n]) => n > 0).sort(([, a], [, b]) => b - a)
    .map(([reason, n]) => `${reason} ${count(n)}`).join(", ")

const portalCell = ({ interface: link, portal, signedIn }: StatusReport): Cell =>
  signedIn
    ? styled("green", "signed in")
    : portal.state === "connecting"
    ? styled("yellow", "not signed in, connecting")
    : styled("red", `not signed in, the portal is out of reach${link === undefined ? "" : "; existing access goes on"}`)

const interfaceText = ({ interface: link }: StatusReport): Cell => {
  if (link === undefined) return styled("yellow", "not set up yet")
  const families = [link.works.ipv4 ? link.ipv4 : "no IPv4", link.works.ipv6 ? link.ipv6 : "no IPv6"]
  return `${link.name}  ${families.join("  ")}`
}

const dnsRows = ({ dns }: StatusReport): ReadonlyArray<Row> =>
  dns === undefined ? [] : [
    ["DNS", dns.method === "disabled" ? "not controlled" : `by ${dns.method}`],
    ...dns.servers.map(({ address, upstream }) => ["", `${address} asks ${upstream}`]),
    ...(dns.searchDomain === undefined ? [] : [["", `search domain ${dns.searchDomain}`]])
  ]

const overview = (report: StatusReport): ReadonlyArray<Row> => {
  const { client, internetResourceActive, portal, resources } = report
  return [
    ["Client", `${client.version}, process ${client.pid}, up ${duration(client.uptimeMillis)}`],
    ["Portal", portalCell(report)],
    ["", styled("dim", portal.url)],
    ...(portal.lastError === undefined ? [] : [["Last error", portal.lastError]]),
    ["Interface", interfaceText(report)],
    ...dnsRows(report),
    ...(resources.some(({ type }) => type === "internet")
      ? [["All traffic", internetResourceActive ? "through the tunnel" : "not through the tunnel"]]
      : [])
  ]
}

const STATUS_STYLE: { readonly [status in Resource["status"]]: Style } = {
  Online: "green",
  Offline: "red",
  Unknown: "dim"
}

/** As much of an id as tells gateways apart. */
const SHORT_ID = 8

const resourceRow = ({ address, gateway, name, sites, status, type }: Resource): Row => [
  styled(STATUS_STYLE[status], status.toLowerCase()),
  name,
  type === "internet" ? "everything else" : address,
  styled("dim", sites.map(({ name }) => name).join(", ")),
  styled("dim", gateway === undefined ? "" : `through ${gateway.slice(0, SHORT_ID)}`)
]

export const PATHS: { readonly [kind in NonNullable<Peer["path"]>["kind"]]: string } = {
  direct: "direct",
  "relayed-by-us": "through our relay",
  "relayed-by-peer": "through its relay",
  "relayed-both": "through two relays"
}
const STATE_STYLE: { readonly [state in Peer["state"]]: Style } = {
  connected: "green",
  idle: "dim",
  connecting: "yellow"
}

export const millis = (value: number): string => `${value.toFixed(value < 10 ? 1 : 0)} ms`

const peerLines = (peer: Peer, paint: Paint): ReadonlyArray<string> => {
  const { path } = peer
  const facts: ReadonlyArray<Row> = [
    ...(path === undefined ? [] : [
      ["path", styled(path.kind === "direct" ? "green" : "yellow", PATHS[path.kind])],
      ["", `${path.local} to ${path.remote}`],
      ...(path.relay === undefined ? [] : [["relay", path.relay]])
    ]),
    ...(peer.rttMillis === undefined ? [] : [["round trip", millis(peer.rttMillis)]]),
    ...(peer.handshakeAgeMillis === undefined ? [] : [["handshake", `${duration(peer.handshakeAgeMillis)} ago`]]),
    ["traffic", `${bytes(peer.bytesSent)} sent, ${bytes(peer.bytesReceived)} received`]
  ]
  return [
    `  ${paint(STATE_STYLE[peer.state], peer.state)}  ${printable(peer.id)}`,
    ...table(facts, paint).map((line) => `  ${line}`)
  ]
}

const traffic = ({ dropped, routeCache, sockets, tun }: StatusReport): ReadonlyArray<Row> => {
  const asked = routeCache.hits + routeCache.misses
  const rate = asked === 0 ? "" : `, ${(100 * routeCache.hits / asked).toFixed(1)} % hits`
  const causes = reasons(routeCache.invalidations)
  const drops: ReadonlyArray<readonly [string, string]> = [
    ["by its rules", reasons(dropped)],
    ["at the interface", reasons(tun.dropped)],
    ["at the sockets", reasons(sockets.dropped)]
  ]
  const some = drops.filter(([, what]) => what !== "")
  return [
    ["Interface", `${bytes(tun.readBytes)} from this machine, ${bytes(tun.writtenBytes)} to it`],
    ["Network", `${bytes(sockets.sentBytes)} sent, ${bytes(sockets.receivedBytes)} received`],
    ["Offloads", tun.offloads === "" ? "none" : tun.offloads],
    [
      "Route cache",
      `generation ${routeCache.generation}, ${count(routeCache.size)} ${routeCache.size === 1 ? "route" : "routes"}, ${
        count(asked)
      } asked${rate}`
    ],
    ...(causes === "" ? [] : [["", `emptied: ${causes}`]]),
    ...(some.length === 0
      ? [["Dropped", "nothing"]]
      : some.map(([where, what], index) => [index === 0 ? "Dropped" : "", `${where}: ${what}`]))
  ]
}

/** Sections under headings, none wider than its widest line. */
export const statusLines = (report: StatusReport, paint: Paint): ReadonlyArray<string> => {
  const { peers, resources } = report
  return [
    ...table(overview(report), paint),
    "",
    paint("bold", `Resources (${resources.length})`),
    ...(resources.length === 0 ? ["  none"] : table(resources.map(resourceRow), paint)),
    "",
    paint("bold", `Gateways (${peers.length})`),
    ...(peers.length === 0
      ? ["  none; the first packet to a resource connects to one"]
      : peers.flatMap((peer) => peerLines(peer, paint))),
    "",
    paint("bold", "Traffic"),
    ...table(traffic(report), paint)
  ]
}
