/** Sealing and opening one packet of the tunnel's MTU, by implementation; handshakes; OpenSSL's own figure beside them. */
import { execFileSync } from "node:child_process"
import { type Aead, AEADS, AeadUnavailable, makeCrypto } from "../src/layers/crypto/makeCrypto.ts"
import { TUNNEL_MTU } from "../src/model/policyRouting.ts"
import { CIPHER_HEADROOM, CIPHER_TAILROOM, type Crypto } from "../src/protocol/crypto.ts"
import {
  consumeInitiation,
  consumeResponse,
  createInitiation,
  createResponse,
  type Identity,
  makeIdentity
} from "../src/protocol/wireguard/handshake.ts"
import type { BenchResult } from "./report.ts"
import { nanosPerCall } from "./timing.ts"

const TAG = 16

const packets = (aead: Aead): ReadonlyArray<BenchResult> => {
  let crypto: Crypto
  try {
    crypto = makeCrypto({ aead }).crypto
  } catch (error) {
    if (!(error instanceof AeadUnavailable)) throw error
    process.stderr.write(`${error.message}\n`)
    return []
  }
  const cipher = crypto.dataCipher(crypto.randomBytes(32))
  const sealed = new Uint8Array(CIPHER_HEADROOM + TUNNEL_MTU + CIPHER_TAILROOM)
  const opened = new Uint8Array(sealed.length)
  const calls = aead === "node" ? 5000 : 50_000
  const seal = nanosPerCall(calls, (calls) => {
    for (let i = 0; i < calls; i++) cipher.seal(i, sealed, CIPHER_HEADROOM, TUNNEL_MTU)
  })
  cipher.seal(7, sealed, CIPHER_HEADROOM, TUNNEL_MTU)
  const open = nanosPerCall(calls, (calls) => {
    for (let i = 0; i < calls; i++) {
      if (!cipher.open(7, sealed, CIPHER_HEADROOM, TUNNEL_MTU + TAG, opened, CIPHER_HEADROOM)) {
        throw new Error("refused")
      }
    }
  })
  return [
    { name: `seal ${TUNNEL_MTU} bytes, ${aead}`, value: seal / 1000, unit: "us" },
    { name: `open ${TUNNEL_MTU} bytes, ${aead}`, value: open / 1000, unit: "us" }
  ]
}

const handshakes = (): ReadonlyArray<BenchResult> => {
  const { crypto } = makeCrypto()
  const [ours, theirs] = [crypto.randomBytes(32), crypto.randomBytes(32)]
  const presharedKey = crypto.randomBytes(32)
  const identity = (own: Uint8Array, remote: Uint8Array): Identity =>
    present(makeIdentity(crypto, own, crypto.x25519PublicKey(remote), presharedKey))
  const initiator = identity(ours, theirs)
  const responder = identity(theirs, ours)
  const timestamp = new Uint8Array(12)
  const initiation = present(createInitiation(initiator, 1, timestamp))
  const response = present(createResponse(responder, present(consumeInitiation(responder, initiation.message)), 2))
  const millis = (round: () => unknown): number =>
    nanosPerCall(100, (calls) => {
      for (let i = 0; i < calls; i++) present(round())
    }) / 1e6
  const result = (name: string, round: () => unknown): BenchResult => ({ name, value: millis(round), unit: "ms" })
  return [
    result("handshake, initiator: write initiation", () => createInitiation(initiator, 1, timestamp)),
    result(
      "handshake, responder: read it, write response",
      () => createResponse(responder, present(consumeInitiation(responder, initiation.message)), 2)
    ),
    result("handshake, initiator: read response", () => consumeResponse(initiator, initiation.sent, response.message))
  ]
}

const present = <A>(value: A | undefined): A => {
  if (value === undefined) throw new Error("the handshake failed")
  return value
}

/** The system's `openssl speed`, which seals in a loop in C: what the calls from JavaScript are measured against. */
const openssl = (): ReadonlyArray<BenchResult> => {
  try {
    const args = ["speed", "-mr", "-seconds", "1", "-bytes", String(TUNNEL_MTU), "-aead", "-evp", "chacha20-poly1305"]
    const output = execFileSync("openssl", args, { encoding: "utf8", stdio: ["ignore", "pipe", "ignore"] })
    const bytesPerSecond = Number(/^\+F:\d+:[^:]*:([0-9.]+)/m.exec(output)?.[1])
    return Number.isFinite(bytesPerSecond)
      ? [{ name: `${TUNNEL_MTU} bytes, openssl speed`, value: TUNNEL_MTU / bytesPerSecond * 1e6, unit: "us" }]
      : []
  } catch (error) {
    process.stderr.write(`no figure of openssl speed: ${String(error)}\n`)
    return []
  }
}

export const run = async (): Promise<ReadonlyArray<BenchResult>> => [
  ...AEADS.flatMap(packets),
  ...openssl(),
  ...handshakes()
]
