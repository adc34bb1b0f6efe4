import { assert, describe, it } from "@effect/vitest"
import { ip, SocketAddress } from "../../../src/protocol/wire/address.ts"
import { Attribute, Class, Method } from "../../../src/protocol/wire/stun.ts"
import {
  at,
  Client,
  crypto,
  describeSent,
  dual,
  local4,
  local6,
  mapped4,
  NONCE,
  relay4,
  relay6,
  relayed4,
  relayed6,
  type Sent,
  server4,
  server6
} from "./support.ts"

const attributesOf = ({ message }: Sent): ReadonlyArray<string> => {
  const { bytes } = message
  const names: Array<string> = []
  for (let position = 20; position < bytes.length;) {
    const type = (bytes[position] as number) << 8 | (bytes[position + 1] as number)
    const length = (bytes[position + 2] as number) << 8 | (bytes[position + 3] as number)
    names.push(Object.entries(Attribute).find(([, number]) => number === type)?.[0] ?? type.toString(16))
    position += 4 + (length + 3 & ~3)
  }
  return names
}

describe("the start", () => {
  it("asks every address of the relay at once", () => {
    for (
      const [relay, destinations] of [
        [relay4, [server4.text]],
        [relay6, [server6.text]],
        [dual, [server4.text, server6.text]]
      ] as const
    ) {
      const sent = new Client(relay).takeSent()
      assert.deepStrictEqual(sent.map(({ destination }) => destination.text), [...destinations])
      for (const request of sent) assert.strictEqual(request.message.method, Method.Binding)
    }
  })

  it("goes from Binding by an unsigned challenge to an allocation, and announces host, srflx, relay", () => {
    const client = new Client()
    client.bind()
    assert.deepStrictEqual(client.takeEvents(), [`NewCandidate host ${local4}`, `NewCandidate srflx ${mapped4}`])
    const first = client.takeOne(Method.Allocate)
    assert.deepStrictEqual(attributesOf(first), [
      "RequestedTransport",
      "AdditionalAddressFamily",
      "Software",
      "Username",
      "Realm",
      "MessageIntegrity"
    ])
    assert.isTrue(first.message.verify(client.key, crypto))
    assert.strictEqual(first.message.text(Attribute.Realm), "firezone")
    assert.isTrue(client.refuse(first, 401, { nonce: NONCE, sign: false }))
    const second = client.takeOne(Method.Allocate)
    assert.deepStrictEqual(attributesOf(second).slice(3), ["Username", "Realm", "Nonce", "MessageIntegrity"])
    assert.strictEqual(second.message.text(Attribute.Nonce), NONCE)
    assert.isTrue(second.message.verify(client.key, crypto))
    assert.isUndefined(client.allocation.relayed(4))
    client.grant(second)
    assert.deepStrictEqual(client.takeEvents(), [`NewCandidate relay ${relayed4}`])
    assert.strictEqual(client.allocation.relayed(4)?.text, relayed4.text)
    assert.isUndefined(client.allocation.relayed(6))
    assert.deepStrictEqual(client.allocation.candidates.map(({ kind }) => kind), ["host", "srflx", "relay"])
    client.assertSilent()
  })

  it("announces both relayed addresses, each once", () => {
    const client = new Client().allocate([relayed4, relayed6])
    assert.deepStrictEqual(client.allocation.candidates.map(({ address }) => address.text).slice(2), [
      relayed4.text,
      relayed6.text
    ])
    assert.deepStrictEqual([client.allocation.relayed(4)?.text, client.allocation.relayed(6)?.text], [
      relayed4.text,
      relayed6.text
    ])
  })

  it("stays with the address that answers first; the other one only adds candidates", () => {
    const client = new Client(dual)
    const [toV4, toV6] = client.takeSent()
    if (toV4 === undefined || toV6 === undefined) throw new Error("no requests")
    client.now = 30
    client.succeed(toV6, (response) => response.address(Attribute.XorMappedAddress, local6))
    assert.strictEqual(client.allocation.server?.text, server6.text)
    assert.strictEqual(client.takeOne(Method.Allocate).destination.text, server6.text)
    client.now = 40
    client.succeed(toV4, (response) => response.address(Attribute.XorMappedAddress, mapped4))
    assert.strictEqual(client.allocation.server?.text, server6.text)
    client.assertSilent()
    assert.deepStrictEqual(client.takeEvents(), [
      `NewCandidate host ${local6}`,
      `NewCandidate srflx ${local6}`,
      `NewCandidate host ${local4}`,
      `NewCandidate srflx ${mapped4}`
    ])
  })

  it("does not mind that one family is never answered", () => {
    const client = new Client(dual)
    const [toV4] = client.takeSent()
    if (toV4 === undefined) throw new Error("no request")
    client.succeed(toV4, (response) => response.address(Attribute.XorMappedAddress, mapped4))
    client.refuse(client.takeOne(Method.Allocate), 401, { nonce: NONCE })
    client.grant(client.takeOne(Method.Allocate))
    client.takeEvents()
    client.advance(10_000)
    assert.deepStrictEqual(client.takeSent().map(({ destination }) => destination.text), [
      server6.text,
      server6.text,
      server6.text
    ])
    assert.deepStrictEqual(client.takeEvents(), [])
    assert.isUndefined(client.allocation.freed)
    assert.strictEqual(client.allocation.relayed(4)?.text, relayed4.text)
  })

  it("works through a relay that does not say what it sees", () => {
    const client = new Client()
    client.succeed(client.takeOne(Method.Binding))
    assert.deepStrictEqual(client.takeEvents(), [`NewCandidate host ${local4}`])
    client.takeOne(Method.Allocate)
  })

  it("believes no address that is none, nor one of another family", () => {
    for (const mapped of ["0.0.0.0:1", "224.0.0.1:5", "255.255.255.255:5", "198.51.100.5:0", "[2001:db8::1]:5"]) {
      const client = new Client()
      client.succeed(
        client.takeOne(Method.Binding),
        (response) => response.address(Attribute.XorMappedAddress, at(mapped))
      )
      assert.deepStrictEqual(client.takeEvents(), [`NewCandidate host ${local4}`], mapped)
    }
  })
})

describe("a relay that does not answer", () => {
  it("is asked at 0, 1, 2.5 and 4.75 s with the same bytes, and given up at 8.125 s", () => {
    const client = new Client()
    client.advance(8124)
    const sent = client.takeSent()
    assert.deepStrictEqual(sent.map(describeSent), ["0 Binding", "1000 Binding", "2500 Binding", "4750 Binding"])
    for (const { message } of sent) assert.deepStrictEqual(message.bytes, sent[0]?.message.bytes)
    assert.isUndefined(client.allocation.freed)
    client.advance(1)
    assert.strictEqual(client.allocation.freed, "no-response")
    assert.isUndefined(client.allocation.pollTimeout())
    assert.deepStrictEqual(client.takeEvents(), [])
  })

  it("is signed anew under another transaction each time, once it was bound", () => {
    const client = new Client()
    client.bind()
    client.advance(8125)
    const sent = client.takeSent()
    assert.deepStrictEqual(sent.map(describeSent), ["0 Allocate", "1000 Allocate", "2500 Allocate", "4750 Allocate"])
    assert.strictEqual(new Set(sent.map(({ message }) => message.key)).size, 4)
    for (const { message } of sent) assert.isTrue(message.verify(client.key, crypto))
    assert.strictEqual(client.allocation.freed, "no-response")
    assert.isUndefined(client.allocation.server)
  })

  it("may answer any of the transmissions, but only once", () => {
    const client = new Client()
    client.bind()
    client.advance(3000)
    const [first, , third] = client.takeSent()
    if (first === undefined || third === undefined) throw new Error("no requests")
    assert.isTrue(client.refuse(first, 401, { nonce: NONCE }))
    assert.isFalse(client.refuse(third, 401, { nonce: NONCE }))
    client.takeOne(Method.Allocate)
  })

  it("has its full time again after the process has slept", () => {
    const client = new Client()
    client.takeSent()
    client.now = 3_600_000
    client.allocation.handleTimeout(client.now)
    client.drain()
    client.takeOne(Method.Binding)
    assert.strictEqual(client.allocation.pollTimeout(), client.now + 1500)
  })
})

describe("the round trip", () => {
  it("is measured from the first transmission, then smoothed by an eighth", () => {
    const client = new Client()
    assert.isUndefined(client.allocation.rtt)
    const request = client.takeOne(Method.Binding)
    client.now = 80
    client.succeed(request)
    assert.strictEqual(client.allocation.rtt, 80)
    const allocate = client.takeOne(Method.Allocate)
    client.advance(1000)
    client.takeSent()
    client.refuse(allocate, 401, { nonce: NONCE })
    assert.strictEqual(client.allocation.rtt, 80 * 7 / 8 + 1000 / 8)
  })
})

describe("the network's change", () => {
  it("forgets all but the credentials, announces nothing, and starts over", () => {
    const client = new Client(dual).allocate([relayed4, relayed6])
    client.channel(at("198.51.100.21:41000"))
    client.advance(1000)
    client.allocation.bindChannel(at("198.51.100.22:42000"), client.now) // not sent yet
    client.allocation.restart(client.now)
    client.drain()
    assert.deepStrictEqual(client.takeSent().map(describeSent), ["1000 Binding", "1000 Binding"])
    assert.deepStrictEqual(client.takeEvents(), [])
    assert.deepStrictEqual([...client.allocation.candidates], [])
    assert.deepStrictEqual([client.allocation.rtt, client.allocation.server, client.allocation.freed], [
      undefined,
      undefined,
      undefined
    ])
    assert.isUndefined(client.allocation.receivedOn(0x4000, client.now))
  })

  it("asks without the nonce of before, from where it is now", () => {
    const client = new Client().allocate()
    client.allocation.restart(client.now)
    client.drain()
    const elsewhere = new SocketAddress(ip("192.0.2.77"), 1)
    client.answer(client.takeOne(Method.Binding), Class.Success, (response) => response, { local: elsewhere })
    assert.isFalse(client.takeOne(Method.Allocate).message.has(Attribute.Nonce))
    assert.deepStrictEqual(client.takeEvents(), [`NewCandidate host ${elsewhere}`])
  })
})
