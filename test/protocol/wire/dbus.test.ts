import { assert, describe, it } from "@effect/vitest"
import * as fc from "fast-check"
import {
  encodeCall,
  FIXED_HEADER_LENGTH,
  messageLength,
  MessageType,
  parseMessage,
  parsePropertiesChanged
} from "../../../src/protocol/wire/dbus.ts"
import { encodeMessage, PRIMARY, propertiesChanged, type Value } from "../../support/dbusMessages.ts"

/** A complete type and a value of it. */
type Typed = readonly [type: string, value: Value]

const text = fc.string({ unit: "grapheme", maxLength: 12 })
const basic: fc.Arbitrary<Typed> = fc.oneof(
  fc.tuple(fc.constantFrom("y", "n", "q", "b", "i", "u", "h"), fc.nat(200)),
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

  it("that call are written as another encoder writes them", () => {
    const call = {
      destination: "org.freedesktop.DBus",
      path: "/org/freedesktop/DBus",
      interface: "a.b",
      member: "Call"
    }
    const fields = [[1, "o", call.path], [2, "s", "a.b"], [3, "s", "Call"], [6, "s", call.destination]] as const
    fc.assert(
      fc.property(fc.array(text, { maxLength: 3 }), fc.integer({ min: 1, max: 0xffff_ffff }), (strings, serial) => {
        const expected = encodeMessage({
          type: 1,
          serial,
          fields,
          ...(strings.length === 0 ? {} : { signature: "s".repeat(strings.length), body: strings })
        })
        expected[2] = 0 // flags: a reply is expected
        assert.deepStrictEqual(encodeCall({ ...call, serial, strings }), expected)
      })
    )
  })
})
