import { assert, describe, it } from "@effect/vitest"
import * as FastCheck from "effect/FastCheck"
import { makeCrypto } from "../../../src/layers/crypto/makeCrypto.ts"
import { ip, SocketAddress } from "../../../src/protocol/wire/address.ts"
import {
  Attribute,
  Class,
  crc32,
  longTermKey,
  Method,
  parseStun,
  StunBuilder,
  type StunMessage
} from "../../../src/protocol/wire/stun.ts"

const { crypto } = makeCrypto()
const fromHex = (hex: string): Uint8Array => Uint8Array.from(Buffer.from(hex.replaceAll(/\s/g, ""), "hex"))
const toHex = (bytes: Uint8Array): string => Buffer.from(bytes).toString("hex")
const text = (value: string): Uint8Array => new TextEncoder().encode(value)
const parsed = (bytes: Uint8Array): StunMessage => {
  const message = parseStun(bytes)
  if (message === undefined) throw new Error(`not STUN: ${toHex(bytes)}`)
  return message
}

const id = fromHex("0102030405060708090a0b0c")
const username = "1685984278:uvdgKvS9GXYZ_vmv"
const key = longTermKey(username, "firezone", "6xUIoZ+QvxKhRasLifwfRkMXl+ETLJUsFkHlXjlHAkg", crypto)
const peer = new SocketAddress(ip("203.0.113.7"), 52625)

// Connectivity spec section 16.3.
const bindingToRelay = fromHex("0001000c2112a4420102030405060708090a0b0c80220007736e6f776e657400")
const allocate = fromHex(`
  000300602112a4420102030405060708090a0b0c0019000411000000800000040200000080220007736e6f776e657400
  0006001b313638353938343237383a757664674b7653394758595a5f766d760000140008666972657a6f6e65
  00080014acef96e05f9ceb4653ce6ecca4647aee1e5f4ed1`)
const channelBind = fromHex(`
  0009008c2112a4420102030405060708090a0b0c001200080001ec83ea12d545000c00044000000080220007736e6f776e657400
  0006001b313638353938343237383a757664674b7653394758595a5f766d760000140008666972657a6f6e65
  0015002430303030303030302d303030302d343030302d383030302d30303030303030303030303100080014
  1cd9e758a327793a5e6f5de506b2842c9f0e07b4`)
const check = fromHex(`
  000100482112a4420102030405060708090a0b0c000600096a6269343a72657363000000802a0008010203040506070800240004
  6efffeff00250000000800144ca631077c0072fe130660fa7f1c6cb33d0833fe80280004e52ff3cb`)
const checkResponse = fromHex(`
  0101002c2112a4420102030405060708090a0b0c002000080001ec83ea12d54500080014ddc2647a50081664ae574f692c48ff9a
  dc7536558028000466b574a9`)
const password = text("a6oeevhlutevykcifd5r2a")

describe("vectors of the connectivity spec", () => {
  it("builds the requests of a TURN client", () => {
    assert.strictEqual(toHex(key), "a1628ea75a65270505a90953534885c2")
    const binding = new StunBuilder(Method.Binding, Class.Request, id).text(Attribute.Software, "snownet").build()
    assert.strictEqual(toHex(binding), toHex(bindingToRelay))
    const allocation = new StunBuilder(Method.Allocate, Class.Request, id)
      .u32(Attribute.RequestedTransport, 0x1100_0000)
      .u32(Attribute.AdditionalAddressFamily, 0x0200_0000)
      .text(Attribute.Software, "snownet")
      .text(Attribute.Username, username)
      .text(Attribute.Realm, "firezone")
      .sign(key, crypto)
      .build()
    assert.strictEqual(toHex(allocation), toHex(allocate))
    const bind = new StunBuilder(Method.ChannelBind, Class.Request, id)
      .address(Attribute.XorPeerAddress, peer)
      .u32(Attribute.ChannelNumber, 0x4000_0000)
      .text(Attribute.Software, "snownet")
      .text(Attribute.Username, username)
      .text(Attribute.Realm, "firezone")
      .text(Attribute.Nonce, "00000000-0000-4000-8000-000000000001")
      .sign(key, crypto)
      .build()
    assert.strictEqual(toHex(bind), toHex(channelBind))
  })

  it("builds a connectivity check and its answer", () => {
    const request = new StunBuilder(Method.Binding, Class.Request, id)
      .text(Attribute.Username, "jbi4:resc")
      .u64(Attribute.IceControlling, 0x0102030405060708n)
      .u32(Attribute.Priority, 1862270719)
      .add(Attribute.UseCandidate, new Uint8Array(0))
      .sign(password, crypto)
      .fingerprint()
      .build()
    assert.strictEqual(toHex(request), toHex(check))
    const response = new StunBuilder(Method.Binding, Class.Success, id)
      .address(Attribute.XorMappedAddress, peer)
      .sign(password, crypto)
      .fingerprint()
      .build()
    assert.strictEqual(toHex(response), toHex(checkResponse))
  })

  it("reads them back", () => {
    const bind = parsed(channelBind)
    assert.deepStrictEqual([bind.method, bind.class], [Method.ChannelBind, Class.Request])
    assert.strictEqual(bind.address(Attribute.XorPeerAddress)?.text, "203.0.113.7:52625")
    assert.strictEqual(bind.u32(Attribute.ChannelNumber), 0x4000_0000)
    assert.strictEqual(bind.text(Attribute.Username), username)
    assert.strictEqual(bind.text(Attribute.Nonce), "00000000-0000-4000-8000-000000000001")
    assert.isTrue(bind.verify(key, crypto))
    assert.isFalse(bind.verify(password, crypto))
    const request = parsed(check)
    assert.strictEqual(request.u64(Attribute.IceControlling), 0x0102030405060708n)
    assert.strictEqual(request.u32(Attribute.Priority), 1862270719)
    assert.isTrue(request.has(Attribute.UseCandidate))
    assert.isTrue(request.verify(password, crypto))
    assert.isFalse(request.hasWrongFingerprint)
    assert.deepStrictEqual([parsed(checkResponse).method, parsed(checkResponse).class], [Method.Binding, Class.Success])
  })
})

// RFC 5769 section 2. Padding is with spaces, which readers have to ignore.
const rfcId = fromHex("b7e7a701bc34d686fa87dfae")
const rfcPassword = text("VOkJxbRl1RmTxUk/WvJxBt")
const rfcRequest = fromHex(`
  000100582112a442b7e7a701bc34d686fa87dfae802200105354554e207465737420636c69656e74002400046e0001ff
  80290008932ff9b151263b36000600096576746a3a68367659202020000800149aeaa70cbfd8cb56781ef2b5b2d3f249
  c1b571a280280004e57a3bcf`)
const rfcResponse4 = fromHex(`
  0101003c2112a442b7e7a701bc34d686fa87dfae8022000b7465737420766563746f7220002000080001a147e112a643
  000800142b91f599fd9e90c38c7489f92af9ba53f06be7d780280004c07d4c96`)
const rfcResponse6 = fromHex(`
  010100482112a442b7e7a701bc34d686fa87dfae8022000b7465737420766563746f7220002000140002a1470113a9fa
  a5d3f179bc25f4b5bed2b9d900080014a382954e4be67bf11784c97c8292c275bfe3ed4180280004c8fb0b4c`)
const rfcLongTerm = fromHex(`
  000100602112a44278ad3433c6ad72c029da412e00060012e3839ee38388e383aae38383e382afe382b900000015001c
  662f2f3439396b39353464364f4c33346f4c394653547679363473410014000b6578616d706c652e6f72670000080014
  f67024656dd64a3e02b8e0712e85c9a28ca89666`)

describe("RFC 5769", () => {
  it("request with short-term credentials", () => {
    const message = parsed(rfcRequest)
    assert.deepStrictEqual(message.transactionId, rfcId)
    assert.strictEqual(message.text(Attribute.Software), "STUN test client")
    assert.strictEqual(message.u32(Attribute.Priority), 0x6e0001ff)
    assert.strictEqual(message.u64(Attribute.IceControlled), 0x932ff9b151263b36n)
    assert.strictEqual(message.text(Attribute.Username), "evtj:h6vY")
    assert.isTrue(message.verify(rfcPassword, crypto))
    assert.isFalse(message.hasWrongFingerprint)
  })

  it("responses over IPv4 and IPv6", () => {
    const v4 = parsed(rfcResponse4)
    assert.strictEqual(v4.address(Attribute.XorMappedAddress)?.text, "192.0.2.1:32853")
    const v6 = parsed(rfcResponse6)
    assert.strictEqual(v6.address(Attribute.XorMappedAddress)?.text, "[2001:db8:1234:5678:11:2233:4455:6677]:32853")
    for (const message of [v4, v6]) {
      assert.strictEqual(message.text(Attribute.Software), "test vector")
      assert.isTrue(message.verify(rfcPassword, crypto))
      assert.isFalse(message.hasWrongFingerprint)
    }
  })

  it("request with long-term credentials; SASLprep of the password is the caller's", () => {
    const message = parsed(rfcLongTerm)
    const name = message.text(Attribute.Username) ?? ""
    assert.strictEqual(name, "マトリックス")
    assert.isTrue(message.verify(longTermKey(name, message.text(Attribute.Realm) ?? "", "TheMatrIX", crypto), crypto))
  })
})

describe("framing", () => {
  it("CRC-32 check value", () => assert.strictEqual(crc32(text("123456789")), 0xcbf43926))

  it("refuses what is cut, too long, without cookie, or has the top bits set", () => {
    const refused = (bytes: Uint8Array) => assert.isUndefined(parseStun(bytes))
    refused(check.subarray(0, 19))
    refused(check.subarray(0, check.length - 4))
    refused(Uint8Array.of(...check, 0))
    refused(check.with(4, 0x20))
    refused(check.with(0, 0x80))
    refused(channelBind.with(23, 0xff)) // the first attribute reaches beyond the message
    refused(allocate.with(allocate.length - 21, 16)) // an integrity of 16 bytes
  })

  it("does not read attributes behind MESSAGE-INTEGRITY, except FINGERPRINT", () => {
    const message = parsed(
      new StunBuilder(Method.Allocate, Class.Success, id)
        .u32(Attribute.Lifetime, 600)
        .sign(key, crypto)
        .address(Attribute.XorMappedAddress, peer)
        .fingerprint()
        .build()
    )
    assert.isUndefined(message.address(Attribute.XorMappedAddress))
    assert.strictEqual(message.u32(Attribute.Lifetime), 600)
    assert.isTrue(message.verify(key, crypto))
    assert.isFalse(message.hasWrongFingerprint)
  })

  it("sees a wrong fingerprint", () => {
    assert.isTrue(parsed(check.with(check.length - 1, 0)).hasWrongFingerprint)
    assert.isTrue(parsed(check.with(8, 0xff)).hasWrongFingerprint)
  })

  it("reads an error, and every address of a kind", () => {
    const relayed = [peer, new SocketAddress(ip("2001:db8::7"), 50000)] as const
    const message = parsed(
      new StunBuilder(Method.Allocate, Class.Error, id)
        .error(437, "Allocation Mismatch")
        .address(Attribute.XorRelayedAddress, relayed[0])
        .address(Attribute.XorRelayedAddress, relayed[1])
        .build()
    )
    assert.deepStrictEqual(message.error, { code: 437, reason: "Allocation Mismatch" })
    assert.deepStrictEqual(message.addresses(Attribute.XorRelayedAddress).map(String), relayed.map(String))
  })

  it("yields nothing for attributes of the wrong size or form", () => {
    const message = parsed(
      new StunBuilder(Method.Binding, Class.Success, id)
        .add(Attribute.Lifetime, new Uint8Array(3))
        .add(Attribute.IceControlling, new Uint8Array(4))
        .add(Attribute.XorMappedAddress, Uint8Array.of(0, 1, 0, 0, 0, 0))
        .add(Attribute.XorPeerAddress, Uint8Array.of(0, 3, 0, 0, 0, 0, 0, 0))
        .add(Attribute.ErrorCode, Uint8Array.of(0, 0))
        .add(Attribute.Realm, Uint8Array.of(0xff, 0xfe))
        .add(Attribute.Nonce, new Uint8Array(764))
        .build()
    )
    assert.isUndefined(message.u32(Attribute.Lifetime))
    assert.isUndefined(message.u64(Attribute.IceControlling))
    assert.isUndefined(message.address(Attribute.XorMappedAddress))
    assert.isUndefined(message.address(Attribute.XorPeerAddress))
    assert.isUndefined(message.error)
    assert.isUndefined(message.text(Attribute.Realm))
    assert.isUndefined(message.text(Attribute.Nonce))
  })
})

const readEverything = (bytes: Uint8Array): void => {
  const message = parseStun(bytes)
  if (message === undefined) return
  for (const type of Object.values(Attribute)) {
    message.attribute(type)
    message.text(type)
    message.u32(type)
    message.u64(type)
    message.addresses(type)
  }
  assert.isBoolean(message.verify(key, crypto))
  assert.isBoolean(message.hasWrongFingerprint)
  assert.isTrue(message.error === undefined || message.error.code < 1000)
}

/** A header that passes, then noise: random bytes alone hardly ever get beyond the cookie. */
const withHeader = FastCheck.uint8Array({ maxLength: 200 }).map((body) => {
  const bytes = new Uint8Array(20 + (body.length & ~3))
  bytes.set([0x01, 0x01, 0, bytes.length - 20, 0x21, 0x12, 0xa4, 0x42])
  bytes.set(body.subarray(0, body.length & ~3), 20)
  return bytes
})
const mutated = FastCheck.tuple(
  FastCheck.constantFrom(allocate, channelBind, check, checkResponse, rfcResponse6, rfcLongTerm),
  FastCheck.array(FastCheck.tuple(FastCheck.nat(200), FastCheck.nat(255)), { maxLength: 4 })
).map(([bytes, changes]) => changes.reduce((result, [at, value]) => result.with(at % bytes.length, value), bytes))

describe("properties", () => {
  it.prop("reading returns, whatever the network sends", [
    FastCheck.oneof(FastCheck.uint8Array({ maxLength: 64 }), withHeader, mutated)
  ], ([bytes]) => readEverything(bytes))

  it.prop("what is built reads back the same", [
    FastCheck.constantFrom(...Object.values(Method)),
    FastCheck.constantFrom(...Object.values(Class)),
    FastCheck.uint8Array({ minLength: 12, maxLength: 12 }),
    FastCheck.nat(0xffff_ffff),
    FastCheck.bigInt(0n, 0xffff_ffff_ffff_ffffn),
    FastCheck.fullUnicodeString({ maxLength: 60 }),
    FastCheck.oneof(
      FastCheck.uint8Array({ minLength: 4, maxLength: 4 }).map((four) => four.join(".")),
      FastCheck.nat(0xffff).map((group) => `2001:db8::${group.toString(16)}`)
    ),
    FastCheck.nat(0xffff)
  ], ([method, kind, transactionId, number, wide, words, address, port]) => {
    const socketAddress = new SocketAddress(ip(address), port)
    const message = parsed(
      new StunBuilder(method, kind, transactionId)
        .u32(Attribute.Lifetime, number)
        .u64(Attribute.IceControlled, wide)
        .text(Attribute.Software, words)
        .address(Attribute.XorPeerAddress, socketAddress)
        .sign(key, crypto)
        .fingerprint()
        .build()
    )
    assert.deepStrictEqual([message.method, message.class], [method, kind])
    assert.deepStrictEqual(message.transactionId, transactionId)
    assert.strictEqual(message.u32(Attribute.Lifetime), number)
    assert.strictEqual(message.u64(Attribute.IceControlled), wide)
    assert.strictEqual(message.text(Attribute.Software), words)
    assert.strictEqual(message.address(Attribute.XorPeerAddress)?.text, socketAddress.text)
    assert.isTrue(message.verify(key, crypto))
    assert.isFalse(message.hasWrongFingerprint)
  })
})
