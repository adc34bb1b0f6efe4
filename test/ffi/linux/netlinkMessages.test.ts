import * as FastCheck from "fast-check"
import { assert, describe, it } from "vitest"
import {
  decodeAddress,
  decodeError,
  decodeLink,
  decodeRoute,
  decodeRule,
  readAttributes,
  readMessages
} from "../../../src/ffi/linux/rtnetlinkDecode.ts"
import type { Envelope } from "../../../src/ffi/linux/rtnetlinkDecode.ts"
import * as encode from "../../../src/ffi/linux/rtnetlinkEncode.ts"
import { AF_INET, AF_INET6, NLM_F, NLMSG, ROUTE_TYPE, RTM, RTM_F } from "../../../src/ffi/linux/rtnetlinkLayout.ts"
import { SOCKET_MARK, TABLES, TUNNEL_MTU } from "../../../src/model/policyRouting.ts"
import { ip, ipToBytes } from "../../../src/protocol/wire/address.ts"

const bytesOf = (hex: string): Uint8Array => Uint8Array.from(Buffer.from(hex.replaceAll(/\s/g, ""), "hex"))
/** As hexadecimal text, with the sequence number that the socket would fill in. */
const hexOf = (message: Uint8Array): string => {
  message[8] = 1
  return Buffer.from(message).toString("hex")
}
const only = (bytes: Uint8Array): Envelope => {
  const [message] = readMessages(bytes, bytes.length)
  assert.isDefined(message)
  return message
}
const plain = (hex: string): string => hex.replaceAll(/\s/g, "")
const fd5 = "fd002021111100000000000000000005"

const route10 = {
  destination: ipToBytes(ip("10.9.0.0")),
  prefixLength: 16,
  table: TABLES.user.table,
  index: 2
}

// host spec section 8.6: accepted by a kernel, interface index 2, sequence number 1
const vectors: ReadonlyArray<readonly [name: string, message: Uint8Array, hex: string]> = [
  [
    "GETLINK by name",
    encode.getLinkByName("tun-firezone"),
    `34000000 12000100 01000000 00000000  00000000 00000000 00000000 00000000
     11000300 ${Buffer.from("tun-firezone\0").toString("hex")} 000000`
  ],
  [
    "SETLINK addrgen none",
    encode.setAddressGenerationNone(2),
    "30000000 13000506 01000000 00000000  00000000 02000000 00000000 00000000  10001a00 0c000a00 05000800 01000000"
  ],
  [
    "SETLINK mtu 1280",
    encode.setMtu(2, TUNNEL_MTU),
    "28000000 13000506 01000000 00000000  00000000 02000000 00000000 00000000  08000400 00050000"
  ],
  [
    "SETLINK up",
    encode.setUp(2),
    "20000000 13000506 01000000 00000000  00000000 02000000 01000000 01000000"
  ],
  [
    "SETLINK txqlen",
    encode.setTxQueueLength(2, 10_000),
    "28000000 13000506 01000000 00000000  00000000 02000000 00000000 00000000  08000d00 10270000"
  ],
  [
    "NEWADDR 100.64.0.5",
    encode.addAddress(2, ipToBytes(ip("100.64.0.5")), 32),
    "28000000 14000506 01000000 00000000  02200000 02000000  08000100 64400005 08000200 64400005"
  ],
  [
    "NEWADDR fd00:2021:1111::5/128",
    encode.addAddress(2, ipToBytes(ip("fd00:2021:1111::5")), 128),
    `40000000 14000506 01000000 00000000  0a800000 02000000  14000100 ${fd5} 14000200 ${fd5}`
  ],
  [
    "NEWRULE v4 100",
    encode.addInvertedMarkRule({ family: AF_INET, mark: SOCKET_MARK, ...TABLES.user }),
    `3c000000 20000506 01000000 00000000  02000000 fe000001 02000000
     08000a00 212000fd 08000f00 00fd2120 08000600 64000000 05001500 02000000`
  ],
  [
    "NEWROUTE 10.9.0.0/16",
    encode.addDeviceRoute(route10),
    `34000000 18000506 01000000 00000000  02100000 fe040001 00000000
     08000400 02000000 08000f00 00fd2120 08000100 0a090000`
  ],
  [ // section 11.5
    "GETROUTE 8.8.8.8 with the mark",
    encode.getRoute(ipToBytes(ip("8.8.8.8")), { mark: SOCKET_MARK }),
    "2c000000 1a000100 01000000 00000000  02200000 00000000 00000000  08000100 08080808  08001000 212000fd"
  ],
  [
    "GETROUTE IPv6 with the mark",
    encode.getRoute(ipToBytes(ip("fd00:2021:1111::5")), { mark: SOCKET_MARK }),
    `38000000 1a000100 01000000 00000000  0a800000 00000000 00000000  14000100 ${fd5}  08001000 212000fd`
  ]
]

describe("requests (host 18.13)", () => {
  it.each(vectors)("%s", (_, message, hex) => {
    assert.strictEqual(hexOf(message), plain(hex))
  })

  it("restricts a lookup to an interface and asks for the matching entry", () => {
    const message = encode.getRoute(ipToBytes(ip("8.8.8.8")), {
      mark: 1,
      flags: RTM_F.FIB_MATCH | RTM_F.LOOKUP_TABLE,
      outputInterface: 7
    })
    assert.strictEqual(
      hexOf(message),
      plain(`34000000 1a000100 01000000 00000000  02200000 00000000 00300000
             08000100 08080808 08000400 07000000 08001000 01000000`)
    )
  })

  it("copies a dumped route to another table without what the kernel does not accept back", () => {
    const body = bytesOf(`02180000 fe02fd01 10000000
      08000f00 fe000000 08000100 c0000200 08000700 c0000202 08000400 03000000 08000c00 00000000`)
    const copy = only(encode.copyRoute(body, TABLES.linkScope.table))
    assert.strictEqual(copy.type, RTM.NEWROUTE)
    assert.strictEqual(copy.flags, NLM_F.APPEND)
    const route = decodeRoute(copy.body)
    assert.deepStrictEqual(
      route,
      {
        ...decodeRoute(body),
        table: TABLES.linkScope.table,
        flags: 0
      } as typeof route
    )
    assert.isFalse(readAttributes(copy.body, 12).has(12))
  })

  it("deletes the very route that a dump showed", () => {
    const route = decodeRoute(bytesOf(`0a403000 fc020001 00000000
      08000f00 00fd2120 14000100 20010db8000000000000000000000000 08000400 03000000 08000600 00010000`))
    assert.isDefined(route)
    const deletion = only(encode.deleteRoute(route))
    assert.strictEqual(deletion.type, RTM.DELROUTE)
    assert.deepStrictEqual(decodeRoute(deletion.body), route)
  })
})

describe("answers", () => {
  it("reads the reply of host spec section 11.5", () => {
    const body = bytesOf(`02200000 fe000001 00020000
      08000f00 fe000000 08000100 08080808 08000400 03000000 08000700 c0000202 08000500 c0000201
      08001000 212000fd 08001900 00000000`)
    assert.deepStrictEqual(decodeRoute(body), {
      family: AF_INET,
      prefixLength: 32,
      tos: 0,
      table: 254,
      protocol: 0,
      scope: 0,
      type: ROUTE_TYPE.UNICAST,
      flags: RTM_F.CLONED,
      destination: Uint8Array.of(8, 8, 8, 8),
      outputInterface: 3,
      gateway: Uint8Array.of(192, 0, 2, 1),
      priority: undefined,
      preferredSource: Uint8Array.of(192, 0, 2, 2)
    })
  })

  it("reads an IPv6 gateway of an IPv4 route", () => {
    const route = decodeRoute(bytesOf(`02000000 fe040001 00000000 16001200 0a00 ${fd5} 0000`))
    assert.deepStrictEqual(route?.gateway, bytesOf(fd5))
  })

  it("reads the local end of a point-to-point link, and the long form of the flags", () => {
    const address = decodeAddress(bytesOf(`02208000 07000000
      08000100 0a000002 08000200 0a000001 08000800 81000000`))
    assert.deepStrictEqual(address, {
      family: AF_INET,
      prefixLength: 32,
      flags: 0x81,
      scope: 0,
      index: 7,
      address: Uint8Array.of(10, 0, 0, 1)
    })
  })

  it("reads a link", () => {
    const link = decodeLink(bytesOf(`00000100 05000000 43100100 00000000
      08000300 65746800 05001000 06000000 08000400 dc050000`))
    assert.deepInclude(link, { family: 0, index: 5, flags: 0x11043, name: "eth", operState: 6, mtu: 1500 })
  })

  it("reads a rule", () => {
    const request = encode.addInvertedMarkRule({ family: AF_INET6, mark: SOCKET_MARK, ...TABLES.internet })
    assert.deepStrictEqual(decodeRule(request.subarray(16)), {
      family: AF_INET6,
      table: TABLES.internet.table,
      action: 1,
      flags: 2,
      priority: 300,
      mark: SOCKET_MARK,
      protocol: 2
    })
  })

  it("reads an error, its kernel's words, and an ack", () => {
    const error = only(bytesOf(`2c000000 02000003 01000000 00000000  efffffff 00000000000000000000000000000000
        06000100 6e6f 0000`))
    assert.strictEqual(error.type, NLMSG.ERROR)
    assert.deepStrictEqual(decodeError(error), { code: 17, words: "no" })
    const ack = only(bytesOf("14000000 02000000 01000000 00000000 00000000"))
    assert.strictEqual(decodeError(ack).code, 0)
  })

  it("stops at a message that claims more than there is", () => {
    const bytes = bytesOf("14000000 03000200 01000000 00000000 00000000  40000000 18000200 01000000 00000000")
    assert.deepStrictEqual(readMessages(bytes, bytes.length).map(({ type }) => type), [NLMSG.DONE])
    assert.deepStrictEqual(readMessages(bytes, 19), [])
    assert.deepStrictEqual(readMessages(new Uint8Array(64), 64), []) // length 0 must not loop for ever
  })

  it("stops at an attribute that claims more than there is", () => {
    assert.deepStrictEqual([...readAttributes(bytesOf("05000100 ff000000 09000200 01020304"), 0).keys()], [1])
    assert.deepStrictEqual([...readAttributes(bytesOf("00000100 00000000"), 0).keys()], [])
  })

  it("never throws, whatever the bytes", () => {
    const whole = vectors.map(([, message]) => message.slice(16))
    const damaged = FastCheck.tuple(
      FastCheck.constantFrom(...whole),
      FastCheck.nat(80),
      FastCheck.array(FastCheck.tuple(FastCheck.nat(80), FastCheck.nat(255)), { maxLength: 6 })
    ).map(([message, length, changes]) => {
      const bytes = message.slice(0, length)
      for (const [at, value] of changes) if (at < bytes.length) bytes[at] = value
      return bytes
    })
    FastCheck.assert(
      FastCheck.property(FastCheck.oneof(FastCheck.uint8Array({ maxLength: 200 }), damaged), (bytes) => {
        for (const decode of [decodeLink, decodeAddress, decodeRoute, decodeRule]) decode(bytes)
        decodeError({ type: NLMSG.ERROR, flags: NLM_F.ACK_TLVS, sequence: 1, body: bytes })
        for (const { body } of readMessages(bytes, bytes.length)) decodeRoute(body)
        const copy = encode.copyRoute(bytes, 7)
        assert.strictEqual(readMessages(copy, copy.length).length, 1)
      }),
      { numRuns: 2000 }
    )
  })
})
