/** The address that a client or gateway dials (portal spec section 2.1). */
import { sha256 } from "@noble/hashes/sha2.js"
import { bytesToHex, utf8ToBytes } from "@noble/hashes/utils.js"
import { parseIp } from "../wire/address.ts"

export interface LoginParameters {
  readonly externalId: string
  readonly name: string
  readonly deviceSerial?: string | undefined
  readonly deviceUuid?: string | undefined
  /** WireGuard public key, 32 bytes. */
  readonly publicKey: Uint8Array
}

/** `v1` is what portals before mid-2026 know (portal spec section 12.3). */
export type Endpoint = "v2" | "v1"

const HEX = "[0-9a-f]"
const hyphenated = `${HEX}{8}-${HEX}{4}-${HEX}{4}-${HEX}{4}-${HEX}{12}`
/** Hyphenated, as URN, in braces, or 32 hex digits; any case. */
const uuid = new RegExp(`^(?:${HEX}{32}|${hyphenated}|urn:uuid:${hyphenated}|\\{${hyphenated}\\})$`, "i")

/** The id that the portal sees: an id that is a UUID in any usual spelling is hashed as it is spelled. */
export const wireExternalId = (id: string): string => uuid.test(id) ? bytesToHex(sha256(utf8ToBytes(id))) : id

/** Standard base64 with padding. */
export const toBase64 = (bytes: Uint8Array): string => btoa(String.fromCharCode(...bytes))

const schemes: { readonly [protocol: string]: string | undefined } = {
  "http:": "ws:",
  "https:": "wss:",
  "ws:": "ws:",
  "wss:": "wss:"
}

/** `undefined` for a base URL whose scheme is none of http, https, ws and wss. */
export const loginUrl = (
  base: URL,
  role: "client" | "gateway",
  endpoint: Endpoint,
  parameters: LoginParameters
): URL | undefined => {
  const scheme = schemes[base.protocol]
  if (scheme === undefined) return undefined
  // Built from text: `URL` refuses to turn one special scheme into another only sometimes.
  const path = base.pathname.endsWith("/") ? base.pathname.slice(0, -1) : base.pathname
  const pairs: ReadonlyArray<readonly [string, string]> = [
    ["external_id", wireExternalId(parameters.externalId)],
    ["name", parameters.name],
    ...(parameters.deviceSerial === undefined ? [] : [["device_serial", parameters.deviceSerial] as const]),
    ...(parameters.deviceUuid === undefined ? [] : [["device_uuid", parameters.deviceUuid] as const]),
    ["public_key", toBase64(parameters.publicKey)]
  ]
  const query = new URLSearchParams(pairs.map(([name, value]): [string, string] => [name, value]))
  const suffix = endpoint === "v2" ? "/v2/websocket" : "/websocket"
  return new URL(`${scheme}//${base.host}${path}/${role}${suffix}?${query.toString()}`)
}

/** Where to dial: the port is 443 unless the URL has another one than its scheme's default (portal spec section 2.1). */
export const dialTarget = (url: URL): { readonly host: string; readonly port: number; readonly secure: boolean } => ({
  host: url.hostname.startsWith("[") ? url.hostname.slice(1, -1) : url.hostname,
  port: url.port === "" ? 443 : Number(url.port),
  secure: url.protocol === "wss:"
})

/** Whether a host is an IP literal, which has no name to verify or to look up. */
export const isIpLiteral = (host: string): boolean => parseIp(host) !== undefined
