import { assert, describe, it } from "@effect/vitest"
import * as fc from "fast-check"
import { BusListener, LONGEST_READ } from "../../../src/protocol/dbus/BusListener.ts"
import { FIXED_HEADER_LENGTH, messageLength, MessageType, parseMessage } from "../../../src/protocol/wire/dbus.ts"
import { encodeMessage, PRIMARY, propertiesChanged } from "../../support/dbusMessages.ts"

const BUS = "org.freedesktop.DBus"
const RULE = "type='signal'"
const OK = Buffer.from("OK 0123456789abcdef0123456789abcdef\r\n")

const reply = (replySerial: number, sender = BUS) =>
  encodeMessage({ type: MessageType.Return, fields: [[5, "u", replySerial], [7, "s", sender]] })
const refusal = (replySerial: number) =>
  encodeMessage({
    type: MessageType.Error,
    fields: [[5, "u", replySerial], [4, "s", "org.freedesktop.DBus.Error.LimitsExceeded"], [7, "s", BUS]]
  })
const signal = propertiesChanged(PRIMARY, [], { sender: ":1.3" })

const start = () => {
  const listener = new BusListener(1000, RULE)
  const sent = (): string => Buffer.from(listener.pollTransmit() ?? []).toString("latin1")
  /** What comes of the bytes, in words. */
  const receive = (...parts: ReadonlyArray<Uint8Array>): ReadonlyArray<string> => {
    for (const part of parts) listener.handleBytes(part)
    const said: Array<string> = []
    for (let event = listener.pollEvent(); event !== undefined; event = listener.pollEvent()) {
      said.push(
        event._tag === "Failed" ? event.reason : event._tag === "Signal" ? `${event.message.member}` : event._tag
      )
    }
    return said
  }
  return { sent, receive }
}

const listening = () => {
  const { receive, sent } = start()
  sent()
  assert.deepStrictEqual(receive(OK, reply(1), reply(2)), ["Subscribed"])
  return receive
}

describe("BusListener", () => {
  it("says who it is, then subscribes once the bus agrees", () => {
    const { receive, sent } = start()
    assert.strictEqual(sent(), "\0AUTH EXTERNAL 31303030\r\n")
    assert.strictEqual(sent(), "")
    assert.deepStrictEqual(receive(OK.subarray(0, 10)), [])
    assert.strictEqual(sent(), "")
    assert.deepStrictEqual(receive(OK.subarray(10)), [])
    const calls = Buffer.from(sent(), "latin1")
    assert.strictEqual(calls.subarray(0, 7).toString(), "BEGIN\r\n")
    const [hello, addMatch] = [7, 7 + (messageLength(calls.subarray(7, 7 + FIXED_HEADER_LENGTH)) ?? 0)]
    const messages = [calls.subarray(hello, addMatch), calls.subarray(addMatch)].map(parseMessage)
    assert.deepStrictEqual(messages.map((message) => [message?.member, message?.destination, message?.signature]), [
      ["Hello", BUS, ""],
      ["AddMatch", BUS, "s"]
    ])
    assert.include(calls.toString(), RULE)
    assert.deepStrictEqual(receive(reply(1)), [])
    assert.deepStrictEqual(receive(reply(2)), ["Subscribed"])
    assert.deepStrictEqual(receive(signal), ["PropertiesChanged"])
  })

  it("reads the same however the bytes are cut", () => {
    const stream = Buffer.concat([OK, reply(1), reply(2), signal, propertiesChanged([]), refusal(7), signal])
    fc.assert(
      fc.property(fc.array(fc.nat(stream.length), { maxLength: 20 }), (cuts) => {
        const { receive } = start()
        const ends = [...cuts.sort((a, b) => a - b), stream.length]
        const said = receive(...ends.map((end, i) => stream.subarray(ends[i - 1] ?? 0, end)))
        assert.deepStrictEqual(said, ["Subscribed", "PropertiesChanged", "PropertiesChanged", "PropertiesChanged"])
      })
    )
  })

  it("hears no signal that was sent to it alone, and believes replies of the bus only", () => {
    const receive = listening()
    assert.deepStrictEqual(receive(propertiesChanged(PRIMARY, [], { sender: ":1.3", destination: ":1.2" })), [])
    assert.deepStrictEqual(receive(reply(2, ":1.3")), [])
  })

  it("passes over a message too long to be read, and reads the next", () => {
    const receive = listening()
    const long = propertiesChanged([["Text", "s", "x".repeat(LONGEST_READ)]])
    assert.isAbove(long.length, LONGEST_READ)
    assert.deepStrictEqual(receive(Buffer.concat([long, signal])), ["PropertiesChanged"])
    assert.deepStrictEqual(receive(long.subarray(0, 99), long.subarray(99), signal), ["PropertiesChanged"])
    const longest = propertiesChanged([["Text", "s", "x".repeat(LONGEST_READ - (long.length - LONGEST_READ))]])
    assert.strictEqual(longest.length, LONGEST_READ)
    assert.deepStrictEqual(receive(longest), ["PropertiesChanged"])
  })

  it("gives up when it is refused", () => {
    const line = "the bus does not take us for who we are"
    for (const answer of ["REJECTED EXTERNAL\r\n", "ERROR\r\n", "\r\n", "\n", "OK \r\n", "OK ff\n"]) {
      const { receive, sent } = start()
      sent()
      assert.deepStrictEqual(receive(Buffer.from(answer), OK, reply(2)), [line], answer)
      assert.strictEqual(sent(), "")
    }
    for (const serial of [1, 2]) {
      assert.deepStrictEqual(start().receive(OK, refusal(serial), reply(2), signal), [
        "the bus refused to let us listen: org.freedesktop.DBus.Error.LimitsExceeded"
      ])
    }
  })

  it("gives up at what is no message, and at a line without end", () => {
    assert.deepStrictEqual(listening()(Buffer.from("HTTP/1.1 400 Bad Request\r\n"), signal), [
      "the bus sent no message"
    ])
    const malformed = signal.slice()
    malformed[17] = 77 // the length of a header field's type
    assert.deepStrictEqual(listening()(malformed, signal), ["the bus sent a malformed message"])
    assert.deepStrictEqual(start().receive(Buffer.alloc(5000, "x"), OK), ["the bus sent an endless line"])
  })

  it("survives whatever comes", () => {
    const stream = Buffer.concat([OK, reply(1), reply(2), signal])
    fc.assert(
      fc.property(fc.nat(stream.length - 1), fc.uint8Array({ minLength: 1, maxLength: 40 }), (at, junk) => {
        const { receive } = start()
        const said = receive(stream.subarray(0, at), junk, stream.subarray(at), signal)
        assert.isAtMost(said.length, 4)
      })
    )
  })
})
