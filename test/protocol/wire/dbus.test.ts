import { assert, describe, it } from "@effect/vitest"
import * as fc from "fast-check"
import {
  type BusValue,
  encodeCall,
  FIXED_HEADER_LENGTH,
  messageLength,
  MessageType,
  parseMessage,
  parsePropertiesChanged,
  readBody
} from "../../../src/protocol/wire/dbus.ts"
import { encodeMessage, PRIMARY, propertiesChanged, types, type Value } from "../../support/dbusMessages.ts"

/** A complete type and a value of it. */
type Typed = readonly [type: string, value: Value]

const text = fc.string({ unit: "grapheme", maxLength: 12 })
const basic: fc.Arbitrary<Typed> = fc.oneof(
  fc.tuple(fc.constantFrom("y", "n", "q", "i", "u", "h"), fc.nat(200)),
  fc.tuple(fc.constant("b"), fc.nat(1)),
  fc.tuple(fc.constantFrom("x", "t", "d"), fc.bigInt({ min: 0n, max: (1n << 64n) - 1n })),
  fc.tuple(fc.constantFrom("s", "o"), text),
  fc.tuple(fc.constant("g"), fc.constantFrom("", "s", "a{sv}"))
)
const { typed } = fc.letrec<{ typed: Typed }>((tie) => ({
  typed: fc.oneof(
    { depthSize: "small" },
    basic,
    tie("typed").map((inner): Typed => ["v", inner]),
    // Elements of an array are of one type: the same value several times.
    fc.tuple(tie("typed"), fc.nat(3)).map(([[type, value], count]): Typed => [`a${type}`, Array(count).fill(value)]),
    fc.array(tie("typed"), { minLength: 1, maxLength: 3 }).map((members): Typed => [
      `(${members.map(([type]) => type).join("")})`,
      members.map(([, value]) => value)
    ]),
    fc.tuple(basic, tie("typed"), fc.nat(3)).map(([[key, k], [type, v], count]): Typed => [
      `a{${key}${type}}`,
      Array(count).fill([k, v])
    ])
  )
}))
const properties = fc.array(fc.tuple(text, typed).map(([name, [type, value]]) => [name, type, value] as const), {
  maxLength: 6
})
const parsed = (bytes: Uint8Array) => {
  const message = parseMessage(bytes)
  return message && parsePropertiesChanged(message)
}

describe("D-Bus messages", () => {
  it("of changed properties are read whatever the values and the byte order", () => {
    fc.assert(
      fc.property(properties, fc.array(text, { maxLength: 4 }), fc.boolean(), (changed, invalidated, isBigEndian) => {
        const bytes = propertiesChanged(changed, invalidated, { isBigEndian, sender: ":1.7" })
        assert.strictEqual(messageLength(bytes.subarray(0, FIXED_HEADER_LENGTH)), bytes.length)
        assert.strictEqual(parseMessage(bytes)?.sender, ":1.7")
        assert.deepStrictEqual(parsed(bytes), { changed: changed.map(([name]) => name), invalidated })
      })
    )
  })

  it("are read wherever they are in a buffer", () => {
    const bytes = propertiesChanged(PRIMARY)
    const buffer = new Uint8Array(bytes.length + 3)
    buffer.set(bytes, 3)
    assert.deepStrictEqual(parsed(buffer.subarray(3)), {
      changed: ["PrimaryConnection", "ActiveConnections"],
      invalidated: []
    })
  })

  it("that end too early, or go on, are none", () => {
    const bytes = propertiesChanged(PRIMARY, ["Version"])
    for (let length = 0; length < bytes.length; length++) {
      assert.isUndefined(parseMessage(bytes.subarray(0, length)), `${length}`)
    }
    assert.isUndefined(parseMessage(Uint8Array.from([...bytes, 0])))
  })

  it("with a body cut short change no properties", () => {
    const whole = propertiesChanged(PRIMARY, ["Version"])
    const bodyLength = new DataView(whole.buffer).getUint32(4, true)
    for (let less = 1; less <= bodyLength; less++) {
      const bytes = whole.slice(0, whole.length - less)
      new DataView(bytes.buffer).setUint32(4, bodyLength - less, true)
      assert.isDefined(parseMessage(bytes))
      assert.isUndefined(parsed(bytes), `${less}`)
    }
  })

  it("of other kinds change no properties", () => {
    const fields = [[1, "o", "/"], [2, "s", "org.freedesktop.DBus.Properties"], [3, "s", "PropertiesChanged"]] as const
    const body = ["x", [], []]
    const signature = "sa{sv}as"
    const [path, ofInterface, member] = fields
    assert.isDefined(parsed(encodeMessage({ fields, signature, body })))
    for (
      const other of [
        { fields, signature, body, type: MessageType.Call },
        { fields: [path, [2, "s", "a.b"] as const, member], signature, body },
        { fields: [path, ofInterface, [3, "s", "Set"] as const], signature, body },
        { fields, signature: "sa{ss}as", body },
        { fields }
      ]
    ) {
      const bytes = encodeMessage(other)
      assert.isDefined(parseMessage(bytes))
      assert.isUndefined(parsed(bytes))
    }
  })

  it("may have header fields that we do not know, but none of another type than theirs", () => {
    const known = [7, "s", ":1.1"] as const
    assert.strictEqual(
      parseMessage(encodeMessage({ fields: [[77, "a(sv)", [["a", ["u", 1]]]], known] }))?.sender,
      ":1.1"
    )
    assert.isUndefined(parseMessage(encodeMessage({ fields: [[7, "u", 1]] })))
    assert.isUndefined(parseMessage(encodeMessage({ fields: [[5, "s", "1"]] })))
  })

  it("with types in each other without end are refused", () => {
    const nested = (depth: number): Value => {
      let value: Value = ["u", 1]
      for (let i = 0; i < depth; i++) value = ["v", value]
      return value
    }
    const within = (depth: number) => {
      const [type, value] = nested(depth) as [string, Value]
      return parsed(propertiesChanged([["Deep", type, value]]))
    }
    assert.isDefined(within(60))
    assert.isUndefined(within(70))
    const arrays = (depth: number) => parsed(propertiesChanged([["Deep", `${"a".repeat(depth)}u`, []]]))
    assert.isDefined(arrays(32))
    assert.isUndefined(arrays(200))
  })

  it("are as long as their header says, within the limits", () => {
    const header = (bodyLength: number, fieldsLength: number) => {
      const bytes = new Uint8Array(FIXED_HEADER_LENGTH)
      bytes.set([0x6c, 4, 1, 1])
      const view = new DataView(bytes.buffer)
      view.setUint32(4, bodyLength, true)
      view.setUint32(12, fieldsLength, true)
      return bytes
    }
    assert.strictEqual(messageLength(header(0, 0)), 16)
    assert.strictEqual(messageLength(header(3, 9)), 16 + 16 + 3)
    assert.strictEqual(messageLength(header((1 << 27) - 16, 0)), 1 << 27)
    assert.isUndefined(messageLength(header((1 << 27) - 15, 0)))
    assert.isUndefined(messageLength(header(0, (1 << 26) + 1)))
    assert.isUndefined(messageLength(header(0xffff_ffff, 0xffff_ffff)))
    const [another, version] = [header(0, 0), header(0, 0)]
    another[0] = 0x4c
    version[3] = 2
    assert.isUndefined(messageLength(another))
    assert.isUndefined(messageLength(version))
  })

  it("have bodies of values that another encoder wrote, and none with a byte less or more", () => {
    fc.assert(
      fc.property(fc.array(typed, { maxLength: 4 }), fc.boolean(), (members, isBigEndian) => {
        const signature = members.map(([type]) => type).join("")
        fc.pre(signature.length < 256)
        const body = members.map(([, value]) => value)
        const bytes = encodeMessage({ fields: [], signature, body, isBigEndian })
        const message = parseMessage(bytes)
        const values = message && readBody(message)
        assert.deepStrictEqual(values, members.map(([type, value]) => asRead(type, value)))
        for (const change of [1, -1]) {
          const length = new DataView(bytes.buffer).getUint32(4, !isBigEndian) + change
          if (length < 0) continue
          const other = new Uint8Array(bytes.length + change)
          other.set(bytes.subarray(0, other.length))
          new DataView(other.buffer).setUint32(4, length, !isBigEndian)
          const cut = parseMessage(other)
          assert.isUndefined(cut && readBody(cut))
        }
      })
    )
  })

  it("have bodies that are read or not, whatever their bytes and types", () => {
    const type = fc.string({ unit: fc.constantFrom(..."ynqbiuhxtdsogva(){}"), maxLength: 20 })
    fc.assert(
      fc.property(type, fc.uint8Array({ maxLength: 64 }), (signature, junk) => {
        const bytes = encodeMessage({ fields: [[8, "g", signature]] })
        const whole = Uint8Array.from([...bytes, ...junk])
        new DataView(whole.buffer).setUint32(4, junk.length, true)
        const message = parseMessage(whole)
        assert.isDefined(message)
        const values = message && readBody(message)
        assert.isTrue(values === undefined || signature !== "" || junk.length === 0)
      })
    )
  })

  it("have no structs without members, which an array could hold without end", () => {
    const bytes = encodeMessage({ fields: [[8, "g", "a()"]] })
    const whole = Uint8Array.from([...bytes, 8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0])
    new DataView(whole.buffer).setUint32(4, 16, true)
    const message = parseMessage(whole)
    assert.isDefined(message)
    assert.isUndefined(message && readBody(message))
  })

  const call = {
    destination: "org.freedesktop.DBus",
    path: "/org/freedesktop/DBus",
    interface: "a.b",
    member: "Call"
  }
  const fields = [[1, "o", call.path], [2, "s", "a.b"], [3, "s", "Call"], [6, "s", call.destination]] as const

  it("that call are written as another encoder writes them", () => {
    const server = fc.tuple(fc.constantFrom(2, 10), fc.uint8Array({ maxLength: 16 }))
    const domain = fc.tuple(text, fc.boolean())
    const body = fc.tuple(
      fc.integer({ min: -1, max: 0x7fff_ffff }),
      fc.array(server, { maxLength: 3 }),
      fc.array(domain, { maxLength: 3 }),
      fc.boolean(),
      text,
      fc.nat(0xffff_ffff)
    )
    const signature = "ia(iay)a(sb)bsu"
    fc.assert(
      fc.property(body, fc.integer({ min: 1, max: 0xffff_ffff }), fc.boolean(), (values, serial, mayStart) => {
        const [index, servers, domains, flag, word, count] = values
        const expected = encodeMessage({
          type: 1,
          serial,
          fields,
          signature,
          body: [
            index,
            servers.map(([family, bytes]) => [family, [...bytes]]),
            domains.map(([name, isRoute]) => [name, Number(isRoute)]),
            Number(flag),
            word,
            count
          ]
        })
        expected[2] = mayStart ? 0 : 2 // a reply is expected; whether the bus may start a program for it
        assert.deepStrictEqual(encodeCall(serial, { ...call, signature, body: values, mayStart }), expected)
      })
    )
    const bare = encodeMessage({ type: 1, serial: 7, fields })
    bare[2] = 2
    assert.deepStrictEqual(encodeCall(7, call), bare)
  })

  it("that call with values of other types are a mistake of ours", () => {
    for (
      const [signature, body] of [
        ["s", []],
        ["s", ["a", "b"]],
        ["s", [1]],
        ["i", ["1"]],
        ["b", [1]],
        ["ay", ["x"]],
        ["a(sb)", [[["x", true, 1]]]],
        ["(", ["x"]],
        ["v", [{ signature: "s", value: "x" }]]
      ] satisfies ReadonlyArray<readonly [string, ReadonlyArray<BusValue>]>
    ) assert.throws(() => encodeCall(1, { ...call, signature, body }), TypeError, undefined, signature)
  })
})

/** What our reader makes of what the other encoder was given. */
const asRead = (type: string, value: Value): BusValue => {
  const [code = ""] = type
  if (code === "b") return value === 1
  if (code === "x") return BigInt.asIntN(64, value as bigint)
  if (code === "d") return new Float64Array(BigUint64Array.of(value as bigint).buffer)[0] as number
  if (code === "v") {
    const [signature, inner] = value as [string, Value]
    return { signature, value: asRead(signature, inner) }
  }
  if (type === "ay") return Uint8Array.from(value as ReadonlyArray<number>)
  if (code === "a") return (value as ReadonlyArray<Value>).map((element) => asRead(type.slice(1), element))
  if (code !== "(" && code !== "{") return value as BusValue
  return types(type.slice(1, -1)).map((member, i) => asRead(member, (value as ReadonlyArray<Value>)[i] as Value))
}
