/** A status as lines for a person. */
import type { Refusal, StatusReport } from "../model/status.ts"
import { explainRefusal, type Refused } from "./refusal.ts"

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
type Pool = NonNullable<StatusReport["devicePools"]>[number]
type Device = Pool["devices"][number]

/** Names come from the portal: nothing in them may move the cursor or turn the text around. */
export const printable = (text: string): string => text.replaceAll(/[\p{Cc}\p{Cf}\p{Zl}\p{Zp}]/gu, "\u{fffd}")

const textOf = (cell: Cell): string => printable(typeof cell === "string" ? cell : cell.text)

/** At spaces; a word that is too long keeps its length. */
export const wrap = (text: string, width: number): ReadonlyArray<string> => {
  const lines: Array<string> = []
  for (const word of text.split(" ")) {
    const last = lines.at(-1)
    if (last !== undefined && last.length + 1 + word.length <= width) lines[lines.length - 1] = `${last} ${word}`
    else lines.push(word)
  }
  return lines
}

/** Where less than this is left of a line, it is not broken. */
const NARROWEST = 20

/**
 * Columns as wide as their widest cell, two spaces apart; the last cell of a row is not filled up, and broken at `width`.
 */
const table = (rows: ReadonlyArray<Row>, paint: Paint, width = Number.POSITIVE_INFINITY): ReadonlyArray<string> => {
  const widths: Array<number> = []
  for (const row of rows) {
    row.forEach((cell, column) => (widths[column] = Math.max(widths[column] ?? 0, textOf(cell).length)))
  }
  return rows.flatMap((row) => {
    const line = (cells: ReadonlyArray<string>) => `  ${cells.join("  ")}`.trimEnd()
    const painted = (cell: Cell, text: string) => typeof cell === "string" ? text : paint(cell.style, text)
    const filled = row.slice(0, -1).map((cell, column) => {
      const text = textOf(cell)
      return painted(cell, text) + " ".repeat((widths[column] ?? 0) - text.length)
    })
    const last = row.at(-1) ?? ""
    const room = width - row.slice(0, -1).reduce((sum, _, column) => sum + (widths[column] ?? 0) + 2, 2)
    const texts = wrap(textOf(last), Math.max(room, NARROWEST)).map((text) => painted(last, text))
    const spaces = filled.map((_, column) => " ".repeat(widths[column] ?? 0))
    return texts.map((text, index) => line([...(index === 0 ? filled : spaces), text]))
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

const portalCell = ({ portal, signedIn }: StatusReport): Cell =>
  signedIn
    ? styled("green", "signed in")
    : portal.state === "connecting"
    ? styled("yellow", "not signed in, connecting")
    : styled("red", "not signed in, the portal is out of reach")

const portalRows = (report: StatusReport): ReadonlyArray<Row> => {
  const { interface: link, portal } = report
  return [
    ["Portal", portalCell(report)],
    ...(portal.state === "disconnected"
      ? [
        ...(link === undefined ? [] : [["", "existing access goes on"]]),
        ["", "to see why: firezone-headless-client doctor"]
      ]
      : []),
    ["", styled("dim", portal.url)]
  ]
}

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
    ...portalRows(report),
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

const resourceRow = ({ address, gateway, name, sites, status, type }: Resource): readonly [Cell, string, ...Row] => [
  styled(STATUS_STYLE[status], status.toLowerCase()),
  name,
  type === "internet" ? "everything else" : address,
  styled("dim", sites.map(({ name }) => name).join(", ")),
  styled("dim", gateway === undefined ? "" : `through ${gateway.slice(0, SHORT_ID)}`)
]

/** A line for each, or two where one is too long. */
const resourceLines = (resources: ReadonlyArray<Resource>, paint: Paint, width: number): ReadonlyArray<string> => {
  const rows = resources.map(resourceRow)
  if (table(rows, plain).every((line) => line.length <= width)) return table(rows, paint)
  return table(
    rows.flatMap(([status, name, ...rest]) => [
      [status, name],
      ["", rest.map(textOf).filter((text) => text !== "").join("  ")]
    ]),
    paint,
    width
  )
}

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

const peerLines = (peer: Peer, paint: Paint, width: number): ReadonlyArray<string> => {
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
  const name = peer.name === undefined || peer.name === "" ? "" : `  ${printable(peer.name)}`
  return [
    `  ${paint(STATE_STYLE[peer.state], peer.state)}  ${printable(peer.id)}${name}`,
    ...table(facts, paint, width - 2).map((line) => `  ${line}`)
  ]
}

/** Devices of one pool that are shown: those that something was tried with come first. */
const MOST_DEVICES = 12

const deviceState = ({ granted, peer, refusal }: Device, peers: ReadonlyArray<Peer>): Cell => {
  const state = peers.find(({ id }) => id === peer)?.state
  if (state !== undefined) return styled(STATE_STYLE[state], state)
  return granted
    ? styled("yellow", "granted")
    : refusal === undefined
    ? styled("dim", "unknown")
    : styled("red", "refused")
}

const deviceRow = (device: Device, peers: ReadonlyArray<Peer>): Row => {
  const peer = peers.find(({ id }) => id === device.peer)
  const way = peer?.path === undefined ? "" : PATHS[peer.path.kind]
  return [
    deviceState(device, peers),
    device.name || device.id || "",
    device.ipv4.replace(/\/32$/, ""),
    device.ipv6.replace(/\/128$/, ""),
    styled("dim", peer !== undefined && !device.granted ? `${way}, by its wish alone` : way)
  ]
}

const isOfUse = ({ granted, peer, refusal }: Device): boolean => granted || peer !== undefined || refusal !== undefined

const poolLines = (pool: Pool, peers: ReadonlyArray<Peer>, paint: Paint): ReadonlyArray<string> => {
  const sorted = pool.devices.toSorted((a, b) => Number(isOfUse(b)) - Number(isOfUse(a)))
  const left = sorted.length - MOST_DEVICES
  const none = pool.type === "static" ? "no devices" : "no name of a device was looked up yet"
  return [
    `  ${printable(pool.name)}${pool.address === undefined ? "" : `  ${printable(pool.address)}`}`,
    ...(sorted.length === 0
      ? [`    ${paint("dim", none)}`]
      : table(sorted.slice(0, MOST_DEVICES).map((device) => deviceRow(device, peers)), paint).map((line) =>
        `  ${line}`
      )),
    ...(left > 0 ? [`    ${paint("dim", `and ${left} more: see --json`)}`] : [])
  ]
}

interface RefusedThing {
  readonly what: Refused
  readonly name: string
  readonly refusal: Refusal
}

const refusedThings = ({ devicePools = [], resources }: StatusReport): ReadonlyArray<RefusedThing> => [
  ...resources.flatMap(({ name, refusal }) =>
    refusal === undefined ? [] : [{ what: "resource", name, refusal } as const]
  ),
  ...devicePools.flatMap(({ devices, name: pool, refusal }) => [
    ...devices.flatMap(({ ipv4, name, refusal }) =>
      refusal === undefined ? [] : [{ what: "device", name: `${name || ipv4} of ${pool}`, refusal } as const]
    ),
    ...(refusal === undefined ? [] : [{ what: "name", name: refusal.domain, refusal } as const])
  ])
]

/** The latest first. */
const refusalLines = (report: StatusReport, paint: Paint, width: number): ReadonlyArray<string> => {
  const refused = refusedThings(report).toSorted((a, b) => a.refusal.ageMillis - b.refusal.ageMillis)
  if (refused.length === 0) return []
  return [
    "",
    paint("bold", `Refused by the portal (${refused.length})`),
    ...refused.flatMap(({ name, refusal, what }) => {
      const { means, nextStep } = explainRefusal(refusal, what)
      const called = printable(name)
      const [first = "", ...more] = wrap(`${duration(refusal.ageMillis)} ago: ${printable(means)}`, width - 4)
      const isOneLine = more.length === 0 && called.length + first.length + 4 <= width
      return [
        ...(isOneLine
          ? [`  ${paint("red", called)}, ${first}`]
          : [`  ${paint("red", called)}`, ...[first, ...more].map((text) => `    ${text}`)]),
        ...wrap(nextStep, width - 4).map((text) => `    ${text}`)
      ]
    })
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

/** Sections under headings. Lines are broken where a terminal of this width would, but between words. */
export const statusLines = (
  report: StatusReport,
  paint: Paint,
  width = Number.POSITIVE_INFINITY
): ReadonlyArray<string> => {
  const { devicePools = [], resources } = report
  const gateways = report.peers.filter(({ kind }) => kind !== "device")
  const devices = report.peers.filter(({ kind }) => kind === "device")
  return [
    ...table(overview(report), paint, width),
    "",
    paint("bold", `Resources (${resources.length})`),
    ...(resources.length === 0 ? ["  none"] : resourceLines(resources, paint, width)),
    ...(devicePools.length === 0 ? [] : [
      "",
      paint("bold", `Device pools (${devicePools.length})`),
      ...devicePools.flatMap((pool) => poolLines(pool, report.peers, paint))
    ]),
    ...refusalLines(report, paint, width),
    "",
    paint("bold", `Gateways (${gateways.length})`),
    ...(gateways.length === 0
      ? ["  none; the first packet to a resource connects to one"]
      : gateways.flatMap((peer) => peerLines(peer, paint, width))),
    ...(devices.length === 0
      ? []
      : [
        "",
        paint("bold", `Devices (${devices.length})`),
        ...devices.flatMap((peer) => peerLines(peer, paint, width))
      ]),
    "",
    paint("bold", "Traffic"),
    ...table(traffic(report), paint, width)
  ]
}
