import { expect, it } from "vitest"
import { CIPHER_HEADROOM } from "../../../src/protocol/crypto.ts"
import {
  consumeInitiation,
  consumeResponse,
  createInitiation,
  createResponse,
  decryptInitiatorKey,
  makeIdentity
} from "../../../src/protocol/wireguard/handshake.ts"
import { hash, HASH_LENGTH, mac } from "../../../src/protocol/wireguard/primitives.ts"
import { Tai64nClock } from "../../../src/protocol/wireguard/Tai64nClock.ts"
import {
  bytes,
  crypto,
  drain,
  fromHex,
  initiator,
  initiatorPrivate,
  initiatorPublic,
  openMessage,
  responder,
  responderPrivate,
  responderPublic,
  sealPacket,
  take,
  toHex,
  withRandomness
} from "./peers.ts"

// Connectivity spec 16.4.
const INITIATION = `0100000001cdab005dfedd3b6bd47f6fa28ee15d969d5bb0ea53774d488bdaf9df1c6e0124b3ef22
  0a26599fb2188bb723276fc173af67616c817fc32fd04d686d87ec152fac10eed2bda3bb3b6f1eded6977684082284d8
  17fb46b3a99b6bccba7cf3c3679c8f0dd0b972953a817ee10f697fde4dded303b2105d785642e6d5553a7e87
  00000000000000000000000000000000`.replaceAll(/\s/g, "")
const RESPONSE = `020000000134120001cdab00ac01b2209e86354fb853237b5de0f4fab13c7fcbf433a61c019369617fecf10b
  c70eef332b933d05c0c55e16e8f8bc54b3cc58e8a13e9c8df01686e340ac2e47
  00000000000000000000000000000000`.replaceAll(/\s/g, "")
const KEEPALIVE = "040000000134120000000000000000002573d3030aabba0c616df8e5a1bab60b"
// Connectivity spec 16.5.
const PROBE = "6000000000083a4001000000000000000000dead01ce000101000000000000000000dead01ce00028000541612345678"
const PROBE_MESSAGE =
  `040000000134120001000000000000009af40f88ad1e1f1272b63db4f6f85215233a81f6e3df591701a9e13645a953528d31
  c823b47c2b46516296edd43cc8b0550fdd758ce97913a8d524f809e447fe`.replaceAll(/\s/g, "")

const epoch = { unixEpochMillis: 1_700_000_000_000 }
const now = 123.456789

it("derives the public keys", () => {
  expect(toHex(initiatorPublic)).toBe("a4e09292b651c278b9772c569f5fa9bb13d906b46ab68c9df9dc2b4409f8a209")
  expect(toHex(responderPublic)).toBe("ce8d3ad1ccb633ec7b70c17814a5c76ecd029685050d344745ba05870e587d59")
})

it("makes the messages of a whole handshake, byte for byte", () => {
  const left = initiator({ ...epoch, crypto: withRandomness(bytes(3)) })
  const right = responder({ ...epoch, crypto: withRandomness(bytes(4)) })
  left.initiate(now)
  const initiation = take(left, 1)
  expect(toHex(initiation)).toBe(INITIATION)
  expect(right.handleInitiation(initiation, now)).toBe("SessionPending")
  const response = take(right, 2)
  expect(toHex(response)).toBe(RESPONSE)
  expect(left.handleResponse(response, now)).toBe("SessionEstablished")
  const keepalive = take(left, 4)
  expect(toHex(keepalive)).toBe(KEEPALIVE)
  const probe = sealPacket(left, fromHex(PROBE), now)
  expect(toHex(probe ?? bytes(0))).toBe(PROBE_MESSAGE)
  expect(openMessage(right, keepalive, now)).toEqual(new Uint8Array(0))
  expect(toHex(openMessage(right, fromHex(PROBE_MESSAGE), now) ?? bytes(0))).toBe(PROBE)
})

it("opens in the middle of a buffer and leaves its neighbours alone", () => {
  const right = responder({ ...epoch, crypto: withRandomness(bytes(4)) })
  right.handleInitiation(fromHex(INITIATION), now)
  drain(right)
  const message = fromHex(PROBE_MESSAGE)
  const input = Uint8Array.from([...bytes(9, 77), ...message, ...bytes(9, 5)])
  const before = input.slice()
  const output = new Uint8Array(200)
  expect(right.open(input, 77, message.length, output, CIPHER_HEADROOM + 3, now)).toBe(48)
  expect(toHex(output.slice(CIPHER_HEADROOM + 3, CIPHER_HEADROOM + 51))).toBe(PROBE)
  expect(input).toEqual(before)
})

it("derives the transport keys on both ends", () => {
  const left = makeIdentity(withRandomness(bytes(3)), initiatorPrivate, responderPublic, bytes(5))
  const right = makeIdentity(withRandomness(bytes(4)), responderPrivate, initiatorPublic, bytes(5))
  if (left === undefined || right === undefined) throw new Error("identities")
  const initiation = createInitiation(left, 0x00abcd01, fromHex("400000006553f125075bcd15"))
  const received = initiation && consumeInitiation(right, initiation.message)
  expect(received?.remoteIndex).toBe(0x00abcd01)
  expect(received?.remoteKey).toEqual(initiatorPublic)
  expect(toHex(received?.timestamp ?? bytes(0))).toBe("400000006553f125075bcd15")
  const response = received && createResponse(right, received, 0x00123401)
  const keys = {
    send: fromHex("a18cc809fd05b6b5f99644cf506f89dce368c2f54a9dbeb9a384f36c274317ef"),
    receive: fromHex("b1aa1b797d3a45da97552b8084ade493aa767f15af95854bc86557f6dacd851d")
  }
  expect(initiation && response && consumeResponse(left, initiation.sent, response.message)).toEqual(keys)
  expect(response?.keys).toEqual({ send: keys.receive, receive: keys.send })
})

it("finds the initiator of a message by its own key only", () => {
  expect(decryptInitiatorKey(crypto, responderPrivate, responderPublic, fromHex(INITIATION))).toEqual(initiatorPublic)
  expect(decryptInitiatorKey(crypto, initiatorPrivate, initiatorPublic, fromHex(INITIATION))).toBeUndefined()
  expect(decryptInitiatorKey(crypto, responderPrivate, responderPublic, fromHex(RESPONSE))).toBeUndefined()
})

it("labels time with nanoseconds, later each time", () => {
  expect(toHex(new Tai64nClock(1_700_000_000_000).next(now))).toBe("400000006553f125075bcd15")
  expect(toHex(new Tai64nClock(1_700_000_000_122.5).next(0.956789))).toBe("400000006553f125075bcd15")
  const clock = new Tai64nClock(1_700_000_000_999)
  expect(toHex(clock.next(0.9999996))).toBe("400000006553f12600000000")
  expect(toHex(clock.next(0))).toBe("400000006553f12600000001")
})

// RFC 7693 appendix B.
it("hashes as BLAKE2s does", () => {
  expect(toHex(hash(Uint8Array.of(0x61, 0x62), Uint8Array.of(0x63)))).toBe(
    "508c5e8c327c14e2e1a72ba34eeb452f37458b209ed63a294d999b4c86675982"
  )
  expect(hash().length).toBe(HASH_LENGTH)
  expect(mac(bytes(1), bytes(2)).length).toBe(16)
  expect(toHex(mac(bytes(1), bytes(2, 3)))).toBe(toHex(mac(bytes(1), bytes(2, 1), bytes(2, 2))))
})
