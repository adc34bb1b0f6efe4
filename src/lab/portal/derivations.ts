/** The values that the portal computes for both ends (portal spec section 9; TURN credentials are the relay's folder's). */
import { createHash, createHmac, pbkdf2Sync } from "node:crypto"

/** 2038-01-01: a gateway's relay credentials have to survive its reconnects. */
export const GATEWAY_RELAY_EXPIRY = 2_145_916_800
const ACCOUNT = "33333333-3333-4333-8333-333333333333"
const POLICY = "55555555-5555-4555-8555-555555555555"
const INGEST_GRACE = 30 * 24 * 3600

export interface Device {
  readonly id: string
  /** Base64. */
  readonly publicKey: string
  /** Random bytes that the portal keeps for the device. */
  readonly pskBase: Uint8Array
}

const sha256 = (text: string): Buffer => createHash("sha256").update(text).digest()

/** The first 16 bytes as a UUID of version 4. */
const uuidOf = (bytes: Uint8Array): string => {
  const hex = Buffer.from(bytes.subarray(0, 16))
  hex[6] = (hex[6] as number) & 0x0f | 0x40
  hex[8] = (hex[8] as number) & 0x3f | 0x80
  return hex.toString("hex").replace(/^(.{8})(.{4})(.{4})(.{4})(.{12})$/, "$1-$2-$3-$4-$5")
}

export const relayId = (stampSecret: string): string => uuidOf(sha256(stampSecret))

/** The same in every run, so that logs of two runs can be compared. */
export const deviceId = (role: string, externalId: string): string => uuidOf(sha256(`${role}:${externalId}`))

/** Base64. */
export const presharedKey = (client: Device, gateway: Device): string =>
  pbkdf2Sync(
    Buffer.concat([client.pskBase, gateway.pskBase]),
    `WG_PSK|C_ID:${client.id}|G_ID:${gateway.id}|C_PK:${client.publicKey}|G_PK:${gateway.publicKey}`,
    1,
    32,
    "sha256"
  ).toString("base64")

/** Of two clients; who asks comes first. */
export const clientPresharedKey = (initiator: Device, target: Device): string =>
  pbkdf2Sync(
    Buffer.concat([initiator.pskBase, target.pskBase]),
    `WG_PSK_CC|CA_ID:${initiator.id}|CB_ID:${target.id}|CA_PK:${initiator.publicKey}|CB_PK:${target.publicKey}`,
    1,
    32,
    "sha256"
  ).toString("base64")

const base32 = (bytes: Uint8Array): string => {
  const bits = Array.from(bytes, (byte) => byte.toString(2).padStart(8, "0")).join("")
  return (bits.match(/.{1,5}/g) ?? [])
    .map((group) => "abcdefghijklmnopqrstuvwxyz234567"[Number.parseInt(group.padEnd(5, "0"), 2)])
    .join("")
}

export interface IceCredentials {
  readonly username: string
  readonly password: string
}

export const iceCredentials = (
  client: Device,
  gateway: Device
): { readonly client: IceCredentials; readonly gateway: IceCredentials } => {
  const text = base32(sha256(`${client.id}:${client.publicKey}:${gateway.id}:${gateway.publicKey}`))
  return {
    client: { username: text.slice(0, 4), password: text.slice(4, 26) },
    gateway: { username: text.slice(26, 30), password: text.slice(30, 52) }
  }
}

/** For flow logs, which are switched off. Receivers read the claims but do not verify the signature. */
export const ingestToken = (claims: {
  readonly role: "initiator" | "responder"
  readonly authorizationId: string
  readonly initiatorId: string
  readonly responderId: string
  readonly resource: { readonly id: string; readonly name: string; readonly address?: string | undefined }
  /** Unix seconds. */
  readonly authorizedAt: number
  readonly expiresAt: number
}): string => {
  const segment = (value: unknown): string => Buffer.from(JSON.stringify(value)).toString("base64url")
  const iso = (seconds: number): string => new Date(seconds * 1000).toISOString()
  const signed = `${segment({ alg: "HS256", typ: "JWT" })}.${
    segment({
      account_id: ACCOUNT,
      iat: claims.authorizedAt,
      exp: claims.expiresAt + INGEST_GRACE,
      uploads_enabled: false,
      role: claims.role,
      initiator_device_id: claims.initiatorId,
      responder_device_id: claims.responderId,
      policy_authorization_id: claims.authorizationId,
      policy_id: POLICY,
      resource_id: claims.resource.id,
      resource_name: claims.resource.name,
      ...(claims.resource.address === undefined ? {} : { resource_address: claims.resource.address }),
      initiator_actor_id: claims.initiatorId,
      initiator_actor_name: "Lab",
      authorized_at: iso(claims.authorizedAt),
      authorization_expires_at: iso(claims.expiresAt)
    })
  }`
  return `${signed}.${createHmac("sha256", "emulator-key").update(signed).digest("base64url")}`
}

/** A name for one authorization. */
export const authorizationId = (ref: string): string => uuidOf(sha256(ref))
