import { assert, describe, it } from "@effect/vitest"
import * as fc from "fast-check"
import { BusConnection, busRequest, LONGEST_READ, MOST_CALLS } from "../../../src/protocol/dbus/BusConnection.ts"
import { FIXED_HEADER_LENGTH, messageLength, parseMessage } from "../../../src/protocol/wire/dbus.ts"
import { BUS, refusing, returning } from "../../support/bus.ts"
import { PRIMARY, propertiesChanged } from "../../support/dbusMessages.ts"

const OK = Buffer.from("OK 0123456789abcdef0123456789abcdef\r\n")
const DENIED = "org.freedesktop.DBus.Error.AccessDenied"
const signal = propertiesChanged(PRIMARY, [], { sender: ":1.3" })
const request = { destination: "org.example", path: "/", interface: "org.example", member: "Do" }

const start = () => {
  const connection = new BusConnection(1000)
  const sent = (): string => Buffer.from(connection.pollTransmit() ?? []).toString("latin1")
  /** What comes of the bytes, in words. */
  const receive = (...parts: ReadonlyArray<Uint8Array>): ReadonlyArray<string> => {
    for (const part of parts) connection.handleBytes(part)
    const said: Array<string> = []
    for (let event = connection.pollEvent(); event !== undefined; event = connection.pollEvent()) {
      if (event._tag === "Failed") said.push(event.reason)
      else if (event._tag === "Signal") said.push(`${event.message.member}`)
      else if (event._tag === "Ready") said.push("Ready")
      else {
        const { reply, serial } = event
        said.push(
          `${serial}: ${reply._tag === "Refused" ? `${reply.name}, ${reply.reason}` : JSON.stringify(reply.values)}`
        )
      }
    }
    return said
  }
  return { connection, sent, receive }
}

const ready = () => {
  const started = start()
  started.sent()
  assert.deepStrictEqual(started.receive(OK, returning(1)), ["Ready"])
  started.sent()
  return started
}

describe("BusConnection", () => {
  it("says who it is, and is ready once the bus has given it a name", () => {
    const { connection, receive, sent } = start()
    assert.strictEqual(sent(), "\0AUTH EXTERNAL 31303030\r\n")
    assert.strictEqual(sent(), "")
    assert.deepStrictEqual(receive(OK.subarray(0, 10)), [])
    assert.strictEqual(sent(), "")
    assert.deepStrictEqual(receive(OK.subarray(10)), [])
    const hello = Buffer.from(sent(), "latin1")
    assert.strictEqual(hello.subarray(0, 7).toString(), "BEGIN\r\n")
    assert.strictEqual(parseMessage(Uint8Array.from(hello.subarray(7)))?.member, "Hello")
    assert.isUndefined(connection.call(request))
    assert.deepStrictEqual(receive(returning(1, { sender: ":1.9" })), [])
    assert.deepStrictEqual(receive(returning(1)), ["Ready"])
    assert.strictEqual(connection.call(request), 2)
    assert.strictEqual(connection.call(request), 3)
    const call = Buffer.from(sent(), "latin1")
    assert.strictEqual(messageLength(call.subarray(0, FIXED_HEADER_LENGTH)), call.length)
    assert.deepStrictEqual(receive(signal), ["PropertiesChanged"])
  })

  it("tells each call's reply once, in whatever order they come", () => {
    const { connection, receive } = ready()
    const [first, second, third] = [request, request, request].map((it) => connection.call(it) ?? 0)
    const values = returning(second ?? 0, { sender: ":1.5", signature: "as", body: [["a", "b"]] })
    assert.deepStrictEqual(receive(values, values), [`${second}: [["a","b"]]`])
    assert.deepStrictEqual(receive(refusing(first ?? 0, DENIED, "not\nyou", ":1.5")), [`${first}: ${DENIED}, not?you`])
    assert.deepStrictEqual(receive(refusing(third ?? 0, "x".repeat(999), "y".repeat(999))), [
      `${third}: ${"x".repeat(200)}, ${"y".repeat(200)}`
    ])
    assert.deepStrictEqual(receive(returning(77)), [])
  })

  it("is refused by a reply whose body is none", () => {
    const { connection, receive } = ready()
    const bytes = returning(connection.call(request) ?? 0, { signature: "s", body: ["text"] })
    bytes[bytes.length - 6] = 99 // its length
    assert.include(receive(bytes)[0], "malformed reply")
  })

  it("believes about the bus only the bus", () => {
    const { connection, receive } = ready()
    const serial = connection.call(busRequest("AddMatch", "type='signal'")) ?? 0
    assert.deepStrictEqual(receive(returning(serial, { sender: ":1.3" }), refusing(serial, DENIED, "", ":1.3")), [])
    assert.deepStrictEqual(receive(returning(serial)), [`${serial}: []`])
  })

  it("hears no signal that was sent to it alone", () => {
    const { receive } = ready()
    assert.deepStrictEqual(receive(propertiesChanged(PRIMARY, [], { sender: ":1.3", destination: ":1.2" })), [])
  })

  it("has no more calls waiting than it may, and forgets those that nobody waits for", () => {
    const { connection, receive } = ready()
    const serials = Array.from({ length: MOST_CALLS }, () => connection.call(request) ?? 0)
    assert.isUndefined(connection.call(request))
    connection.cancel(serials[0] ?? 0)
    assert.deepStrictEqual(receive(returning(serials[0] ?? 0, { sender: ":1.5" })), [])
    assert.isDefined(connection.call(request))
    assert.isUndefined(connection.call(request))
  })

  it("reads the same however the bytes are cut", () => {
    const stream = Buffer.concat([
      ...[OK, returning(1), signal, propertiesChanged([]), refusing(2, DENIED), signal, returning(3)]
    ])
    fc.assert(
      fc.property(fc.array(fc.nat(stream.length), { maxLength: 20 }), (cuts) => {
        const { receive } = start()
        const ends = [...cuts.sort((a, b) => a - b), stream.length]
        const said = receive(...ends.map((end, i) => stream.subarray(ends[i - 1] ?? 0, end)))
        assert.deepStrictEqual(said, ["Ready", "PropertiesChanged", "PropertiesChanged", "PropertiesChanged"])
      })
    )
  })

  it("passes over a message too long to be read, and reads the next", () => {
    const { receive } = ready()
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
      assert.deepStrictEqual(receive(Buffer.from(answer), OK, returning(1)), [line], answer)
      assert.strictEqual(sent(), "")
    }
    assert.deepStrictEqual(start().receive(OK, refusing(1, DENIED), returning(1), signal), [
      `the bus refused to let us in: ${DENIED}`
    ])
  })

  it("gives up at what is no message, and at a line without end, and makes no call any more", () => {
    const { connection, receive } = ready()
    assert.isDefined(connection.call(request))
    assert.deepStrictEqual(receive(Buffer.from("HTTP/1.1 400 Bad Request\r\n"), returning(2), signal), [
      "the bus sent no message"
    ])
    assert.isUndefined(connection.call(request))
    const malformed = signal.slice()
    malformed[17] = 77 // the length of a header field's type
    assert.deepStrictEqual(ready().receive(malformed, signal), ["the bus sent a malformed message"])
    assert.deepStrictEqual(start().receive(Buffer.alloc(5000, "x"), OK), ["the bus sent an endless line"])
  })

  it("survives whatever comes", () => {
    const stream = Buffer.concat([OK, returning(1), returning(2), signal])
    fc.assert(
      fc.property(fc.nat(stream.length - 1), fc.uint8Array({ minLength: 1, maxLength: 40 }), (at, junk) => {
        const { receive } = start()
        const said = receive(stream.subarray(0, at), junk, stream.subarray(at), signal)
        assert.isAtMost(said.length, 4)
      })
    )
  })

  it("makes requests of the bus itself", () => {
    assert.deepStrictEqual(busRequest("AddMatch", "rule"), {
      destination: BUS,
      path: "/org/freedesktop/DBus",
      interface: BUS,
      member: "AddMatch",
      signature: "s",
      body: ["rule"]
    })
  })
})
