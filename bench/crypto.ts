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
import { type BenchOptions, type BenchResult, figure, ratios } from "./report.ts"
import { nanosPerCall } from "./timing.ts"

const TAG = 16
const CALLS = 50_000
const WANTED_PERCENT = 60

/** Both ways, over and over with one packet. */
const calls = (crypto: Crypto) => {
  const cipher = crypto.dataCipher(crypto.randomBytes(32))
  const sealed = new Uint8Array(CIPHER_HEADROOM + TUNNEL_MTU + CIPHER_TAILROOM)
  const opened = new Uint8Array(sealed.length)
  const intact = new Uint8Array(sealed.length)
  cipher.seal(7, intact, CIPHER_HEADROOM, TUNNEL_MTU)
  return {
    seal: (calls: number): void => {
      for (let i = 0; i < calls; i++) cipher.seal(i, sealed, CIPHER_HEADROOM, TUNNEL_MTU)
    },
    open: (calls: number): void => {
      for (let i = 0; i < calls; i++) {
        if (!cipher.open(7, intact, CIPHER_HEADROOM, TUNNEL_MTU + TAG, opened, CIPHER_HEADROOM)) {
          throw new Error("refused")
        }
      }
    }
  }
}

const make = (aead: Aead): Crypto | undefined => {
  try {
    return makeCrypto({ aead }).crypto
  } catch (error) {
    if (!(error instanceof AeadUnavailable)) throw error
    process.stderr.write(`${error.message}\n`)
    return undefined
  }
}

const packets = (aead: Aead): ReadonlyArray<BenchResult> => {
  const crypto = make(aead)
  if (crypto === undefined) return []
  const { open, seal } = calls(crypto)
  const count = aead === "node" ? CALLS / 10 : CALLS
  return [
    { name: `seal ${TUNNEL_MTU} bytes, ${aead}`, value: nanosPerCall(count, seal) / 1000, unit: "us", better: "lower" },
    { name: `open ${TUNNEL_MTU} bytes, ${aead}`, value: nanosPerCall(count, open) / 1000, unit: "us", better: "lower" }
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

/** Bytes a second of the system's `openssl speed`, which seals in a loop in C; `undefined` if it gives none. */
const opensslRate = (): number | undefined => {
  try {
    const args = ["speed", "-mr", "-seconds", "1", "-bytes", String(TUNNEL_MTU), "-aead", "-evp", "chacha20-poly1305"]
    const output = execFileSync("openssl", args, { encoding: "utf8", stdio: ["ignore", "pipe", "ignore"] })
    const bytesPerSecond = Number(/^\+F:\d+:[^:]*:([0-9.]+)/m.exec(output)?.[1])
    return Number.isFinite(bytesPerSecond) ? bytesPerSecond : undefined
  } catch (error) {
    process.stderr.write(`no figure of openssl speed: ${String(error)}\n`)
    return undefined
  }
}

/** What the client would take on this machine, by turns with OpenSSL. */
const beside = (rounds: number): ReadonlyArray<BenchResult> => {
  const { aead, crypto } = makeCrypto()
  const { open, seal } = calls(crypto)
  const [seals, opens, theirs]: [Array<number>, Array<number>, Array<number>] = [[], [], []]
  for (let round = 0; round < rounds; round++) {
    seals.push(nanosPerCall(CALLS, seal))
    opens.push(nanosPerCall(CALLS, open))
    const rate = opensslRate()
    if (rate !== undefined) theirs.push(TUNNEL_MTU / rate * 1e9)
  }
  const micros = (nanos: ReadonlyArray<number>) => nanos.map((value) => value / 1000)
  const shares = (ours: ReadonlyArray<number>) => ratios(theirs, ours).map((share) => share * 100)
  return [
    figure(`seal ${TUNNEL_MTU} bytes, this client (${aead})`, "us", micros(seals), { better: "lower" }),
    figure(`open ${TUNNEL_MTU} bytes, this client (${aead})`, "us", micros(opens), { better: "lower" }),
    ...theirs.length < rounds ? [] : [
      figure(`${TUNNEL_MTU} bytes, openssl speed`, "us", micros(theirs), { better: "lower" }),
      figure("seal, share of the rate of openssl speed", "%", shares(seals), { atLeast: WANTED_PERCENT }),
      figure("open, share of the rate of openssl speed", "%", shares(opens), { atLeast: WANTED_PERCENT })
    ]
  ]
}

export const settings = ({ rounds }: BenchOptions): ReadonlyArray<string> => [
  `packets of ${TUNNEL_MTU} bytes, one core, each packet sealed and opened by itself; the best of nine series is one round`,
  `openssl speed -evp chacha20-poly1305 -aead for 1 s, ${rounds} rounds by turns, medians (smallest .. largest)`
]

export const run = async ({ rounds }: BenchOptions): Promise<ReadonlyArray<BenchResult>> => [
  ...beside(rounds),
  ...AEADS.flatMap(packets),
  ...handshakes()
]
