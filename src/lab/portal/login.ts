/** An upgrade request as the portal judges it (portal spec sections 2.1, 2.2 and 2.5). */
import type { Endpoint } from "../../protocol/portal/loginUrl.ts"
import { familyOf, parseIp } from "../../protocol/wire/address.ts"
import { type Agent, isWellLaidOut, parseAgent, type Role } from "./agent.ts"

export interface UpgradeRequest {
  readonly method: string
  /** Path and query. */
  readonly url: string
  /** Lower-case names. */
  readonly headers: { readonly [name: string]: string | ReadonlyArray<string> | undefined }
  readonly remoteAddress: string
}

export interface Refusal {
  readonly _tag: "Refused"
  readonly status: number
  readonly code?: string | undefined
  readonly detail?: string | undefined
  /** The header, as it is. */
  readonly retryAfter?: string | undefined
  /** Instead of a problem document. */
  readonly body?: { readonly type: string; readonly text: string } | undefined
}

export interface Route {
  readonly role: Role
  readonly endpoint: Endpoint
}

export interface Login extends Route {
  readonly _tag: "Login"
  readonly token: string
  readonly userAgent: string
  readonly agent: Agent
  readonly remoteAddress: string
  readonly externalId: string
  readonly name: string
  /** Base64; empty for a relay. */
  readonly publicKey: string
  /** Of a relay. */
  readonly relay: { readonly ipv4?: string | undefined; readonly ipv6?: string | undefined; readonly port: number }
  /** What the portal puts up with but no client should do. */
  readonly oddities: ReadonlyArray<string>
}

const routes: { readonly [path: string]: Route } = {
  "/client/v2/websocket": { role: "client", endpoint: "v2" },
  "/client/websocket": { role: "client", endpoint: "v1" },
  "/gateway/v2/websocket": { role: "gateway", endpoint: "v2" },
  "/gateway/websocket": { role: "gateway", endpoint: "v1" },
  "/relay/websocket": { role: "relay", endpoint: "v1" }
}

export const routeOf = (url: string): Route | undefined => {
  const [path = ""] = url.split("?", 1)
  return Object.hasOwn(routes, path) ? routes[path] : undefined
}

/** The parameters of a role in the order in which they have to come. */
const parameters: { readonly [role in Role]: ReadonlyArray<string> } = {
  client: [
    "external_id",
    "name",
    "device_serial",
    "device_uuid",
    "identifier_for_vendor",
    "firebase_installation_id",
    "public_key"
  ],
  gateway: ["external_id", "name", "public_key"],
  relay: ["name", "ipv4", "ipv6", "port"]
}
const MAX_FIELD = 255

export const refused = (status: number, code?: string, detail?: string): Refusal => ({
  _tag: "Refused",
  status,
  code,
  detail
})

const headerOf = ({ headers }: UpgradeRequest, name: string): string | undefined => {
  const value = headers[name]
  return typeof value === "object" ? value.join(", ") : value
}

const hasToken = (header: string | undefined, token: string): boolean =>
  (header ?? "").toLowerCase().split(",").some((part) => part.trim() === token)

/** What keeps a request from being a WebSocket that this portal speaks; `undefined` if nothing does. */
export const refuseHandshake = (request: UpgradeRequest): Refusal | undefined => {
  const header = (name: string) => headerOf(request, name)
  if (
    request.method !== "GET"
    || !hasToken(header("connection"), "upgrade")
    || !hasToken(header("upgrade"), "websocket")
    || header("sec-websocket-version") !== "13"
    || !/^[+/0-9A-Za-z]{22}==$/.test(header("sec-websocket-key") ?? "")
    || !header("host")
  ) return refused(400)
  const origin = header("origin")
  if (origin !== undefined && hostOf(origin) !== header("host")) return { _tag: "Refused", status: 403, body: empty }
  const version = queryOf(request.url).get("vsn")
  if (version !== null && version !== "1.0.0") return { _tag: "Refused", status: 403, body: empty }
  return undefined
}

const empty = { type: "text/plain", text: "" }
const hostOf = (origin: string): string => origin.replace(/^[a-z]+:\/\//i, "")
const queryOf = (url: string): URLSearchParams => new URLSearchParams(url.slice(url.indexOf("?") + 1 || url.length))

/** `undefined` if there is none. The header wins over the query. */
export const tokenOf = (request: UpgradeRequest): string | undefined =>
  /^Bearer (.+)$/.exec(headerOf(request, "x-authorization") ?? "")?.[1]
    ?? (queryOf(request.url).get("token") || undefined)

/** The rest of a request whose handshake and token are in order. */
export const readLogin = (route: Route, request: UpgradeRequest, token: string): Login | Refusal => {
  const { role } = route
  const query = queryOf(request.url)
  const bad = (detail: string): Refusal => refused(400, "invalid_connect_params", detail)
  const field = (name: string): string | undefined => {
    const value = query.get(name)
    return value === null || value === "" ? undefined : value
  }
  const tooLong = parameters[role].find((name) => (query.get(name)?.length ?? 0) > MAX_FIELD)
  if (tooLong !== undefined) return bad(`${tooLong} is longer than ${MAX_FIELD} characters`)

  const userAgent = (headerOf(request, "user-agent") ?? "").slice(0, MAX_FIELD)
  const agent = parseAgent(role, userAgent)
  if (agent === undefined && role === "client") return bad("the user agent names no known client")

  const externalId = field("external_id") ?? field("firezone_id")
  const publicKey = field("public_key")
  if (role !== "relay") {
    if (externalId === undefined) return bad("external_id is missing")
    if (query.get("name") === "") return bad("name is empty")
    if (publicKey === undefined) return bad("public_key is missing")
    if (!isKey(publicKey)) return bad("public_key is not 32 bytes in base64 with padding")
  }
  const relay = { ipv4: addressOf(field("ipv4"), 4), ipv6: addressOf(field("ipv6"), 6), port: portOf(field("port")) }
  if (role === "relay") {
    if (relay.port === undefined) return bad("port is not a port")
    // The portal in the field trips over this one.
    if (relay.ipv4 === undefined && relay.ipv6 === undefined) return refused(500, "unhandled_connect_error")
  }
  return {
    ...route,
    _tag: "Login",
    token,
    userAgent,
    agent: agent ?? { component: "", version: undefined },
    remoteAddress: request.remoteAddress,
    externalId: externalId ?? "",
    name: field("name") ?? `${role} without a name`,
    publicKey: publicKey ?? "",
    relay: { ...relay, port: relay.port ?? DEFAULT_RELAY_PORT },
    oddities: odditiesOf(role, request, query, userAgent, agent)
  }
}

const DEFAULT_RELAY_PORT = 3478

const isKey = (text: string): boolean => {
  const bytes = Buffer.from(text, "base64")
  return bytes.length === 32 && bytes.toString("base64") === text
}

const addressOf = (text: string | undefined, family: 4 | 6): string | undefined => {
  const address = text === undefined ? undefined : parseIp(text)
  return address !== undefined && familyOf(address) === family ? address : undefined
}

const portOf = (text: string | undefined): number | undefined => {
  if (text === undefined) return DEFAULT_RELAY_PORT
  return /^\d{1,5}$/.test(text) && Number(text) > 0 && Number(text) < 65_536 ? Number(text) : undefined
}

const odditiesOf = (
  role: Role,
  request: UpgradeRequest,
  query: URLSearchParams,
  userAgent: string,
  agent: Agent | undefined
): ReadonlyArray<string> => {
  const names = [...query.keys()]
  const places = names.map((name) => parameters[role].indexOf(name))
  return [
    ...names.filter((_, index) => places[index] === -1).map((name) => `query parameter ${name.slice(0, 50)}`),
    ...(places.some((place, index) => place !== -1 && places.indexOf(place) !== index) ? ["a parameter twice"] : []),
    ...(places.every((place, index) => place === -1 || place >= Math.max(...places.slice(0, index), 0))
      ? []
      : [`query parameters out of order: ${names.join(", ").slice(0, 200)}`]),
    ...(agent !== undefined && isWellLaidOut(userAgent, agent) ? [] : ["a user agent of another layout"]),
    ...["origin", "sec-websocket-extensions", "sec-websocket-protocol", "authorization"]
      .filter((name) => headerOf(request, name) !== undefined)
      .map((name) => `header ${name}`)
  ]
}
