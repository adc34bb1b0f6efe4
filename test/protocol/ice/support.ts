import { makeCrypto } from "../../../src/layers/crypto/makeCrypto.ts"
import { parseSocketAddress, type SocketAddress } from "../../../src/protocol/wire/address.ts"

export const { crypto } = makeCrypto()

export const fromHex = (hex: string): Uint8Array => Uint8Array.from(Buffer.from(hex.replaceAll(/\s/g, ""), "hex"))
export const toHex = (bytes: Uint8Array): string => Buffer.from(bytes).toString("hex")

/** `203.0.113.9:3478` or `[2001:db8::9]:3478`. */
export const at = (text: string): SocketAddress => {
  const address = parseSocketAddress(text)
  if (address === undefined) throw new RangeError(`not a socket address: ${text}`)
  return address
}
