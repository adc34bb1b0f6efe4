/** TURN credentials that a relay can check without asking anybody (connectivity spec 2.1). The portal makes them, too. */
import { createHash } from "node:crypto"

const sha256 = (text: string): string => createHash("sha256").update(text).digest("base64").replaceAll("=", "")

/** `deviceKey` is the base64 text of the device's public key: another key is another user name. */
export const relaySalt = (deviceKey: string): string => sha256(deviceKey)

/** `stampSecret` is what the relay told the portal at its start. */
export const relayPassword = (expiresAt: bigint | number, stampSecret: string, salt: string): string =>
  sha256(`${expiresAt}:${stampSecret}:${salt}`)

/** `expiresAt` is unix seconds. */
export const relayCredentials = (
  options: { readonly expiresAt: number; readonly stampSecret: string; readonly deviceKey: string }
): { readonly username: string; readonly password: string } => {
  const salt = relaySalt(options.deviceKey)
  return {
    username: `${options.expiresAt}:${salt}`,
    password: relayPassword(options.expiresAt, options.stampSecret, salt)
  }
}

const MAX_U64 = 0xffff_ffff_ffff_ffffn

/** `undefined` unless it is a decimal 64-bit number, a colon, and a text without one. */
export const parseRelayUsername = (
  username: string
): { readonly expiresAt: bigint; readonly salt: string } | undefined => {
  const [expiry, salt, ...more] = username.split(":")
  if (expiry === undefined || salt === undefined || more.length > 0 || !/^\d{1,20}$/.test(expiry)) return undefined
  const expiresAt = BigInt(expiry)
  return expiresAt > MAX_U64 ? undefined : { expiresAt, salt }
}
