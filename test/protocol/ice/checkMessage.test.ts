import * as fc from "fast-check"
import { describe, expect, it } from "vitest"
import {
  hasIntegrity,
  looksLikeStun,
  parseCheck,
  passwordKey,
  writeCheckRequest,
  writeCheckSuccess,
  writeRoleConflict
} from "../../../src/protocol/ice/checkMessage.ts"
import { at, crypto, fromHex, toHex } from "./support.ts"

// Connectivity spec 16.3.
const transactionId = Uint8Array.from({ length: 12 }, (_, i) => i + 1)
const key = passwordKey("a6oeevhlutevykcifd5r2a")
const requestHex = "000100482112a4420102030405060708090a0b0c000600096a6269343a72657363000000802a00080102030405060708"
  + "002400046efffeff00250000000800144ca631077c0072fe130660fa7f1c6cb33d0833fe80280004e52ff3cb"
const successHex = "0101002c2112a4420102030405060708090a0b0c002000080001ec83ea12d54500080014ddc2647a50081664ae574f69"
  + "2c48ff9adc7536558028000466b574a9"
const fields = {
  transactionId,
  username: "jbi4:resc",
  controlling: true,
  tieBreaker: 0x0102030405060708n,
  priority: 1_862_270_719,
  useCandidate: true,
  key
}

describe("connectivity checks on the wire", () => {
  it("writes the request of the spec", () => {
    expect(toHex(writeCheckRequest(crypto, fields).message)).toBe(requestHex)
    const without = writeCheckRequest(crypto, { ...fields, username: "jbi4:resc", useCandidate: false })
    expect(without.message.length).toBe(88)
    expect(without.transaction).toBe("0102030405060708090a0b0c")
  })

  it("reads the request of the spec", () => {
    const request = parseCheck(fromHex(requestHex))
    expect(request).toMatchObject({
      _tag: "Request",
      localUfrag: "jbi4",
      remoteUfrag: "resc",
      priority: 1_862_270_719,
      useCandidate: true,
      controlling: true,
      tieBreaker: 0x0102030405060708n,
      transaction: "0102030405060708090a0b0c"
    })
    expect(hasIntegrity(crypto, fromHex(requestHex), key)).toBe(true)
    expect(hasIntegrity(crypto, fromHex(requestHex), passwordKey("zafkb5xaun54giizc53axq"))).toBe(false)
  })

  it("writes and reads the response of the spec", () => {
    const mapped = at("203.0.113.7:52625")
    expect(toHex(writeCheckSuccess(crypto, transactionId, mapped, key))).toBe(successHex)
    expect(parseCheck(fromHex(successHex))).toMatchObject({ _tag: "Success", mapped })
    expect(hasIntegrity(crypto, fromHex(successHex), key)).toBe(true)
  })

  it("carries an IPv6 address in 76 bytes", () => {
    const mapped = at("[2001:db8::5]:1")
    const message = writeCheckSuccess(crypto, transactionId, mapped, key)
    expect(message.length).toBe(76)
    expect(parseCheck(message)).toMatchObject({ mapped })
  })

  it("answers a role conflict with an authentic error", () => {
    const message = writeRoleConflict(crypto, transactionId, key)
    expect(parseCheck(message)).toEqual({ _tag: "Other" })
    expect(hasIntegrity(crypto, message, key)).toBe(true)
  })

  it("refuses a request that lacks what a check needs", () => {
    const username = "000600096a6269343a72657363000000"
    const priority = "002400046efffeff"
    const integrity = `00080014${"00".repeat(20)}`
    const request = (...attributes: ReadonlyArray<string>) => {
      const body = attributes.join("")
      const length = (body.length / 2).toString(16).padStart(4, "0")
      return parseCheck(fromHex(`0001${length}2112a442${"01".repeat(12)}${body}`))
    }
    expect(request(username, priority, integrity)?._tag).toBe("Request")
    expect(request(priority, integrity)).toBeUndefined()
    expect(request(username, integrity)).toBeUndefined()
    expect(request(username, priority)).toBeUndefined()
    expect(request(username, integrity, priority), "attributes behind the integrity do not count").toBeUndefined()
    expect(request("000600056a6269343a000000", priority, integrity), "nothing behind the colon").toBeUndefined()
  })

  it("never throws, and never takes a changed message for authentic", () => {
    fc.assert(fc.property(fc.uint8Array({ maxLength: 200 }), (bytes) => {
      parseCheck(bytes)
      hasIntegrity(crypto, bytes, key)
    }))
    const valid = fromHex(requestHex)
    fc.assert(fc.property(fc.nat(valid.length - 9), fc.integer({ min: 1, max: 255 }), (index, flip) => {
      const bytes = valid.slice()
      bytes[index] = (bytes[index] as number) ^ flip
      // The length field is replaced for the sum, but then the message is not well-formed.
      return parseCheck(bytes) === undefined || !hasIntegrity(crypto, bytes, key)
    }))
  })

  it("does not mistake WireGuard data for STUN, even if the receiver index is the cookie", () => {
    const data = new Uint8Array(80)
    data.set([4, 0, 0, 0, 0x21, 0x12, 0xa4, 0x42])
    expect(looksLikeStun(data, 0, data.length)).toBe(false)
  })
})
