import { assert, it } from "@effect/vitest"
import fc from "fast-check"
import { Attribute, Class, Method, StunBuilder } from "../../../src/protocol/wire/stun.ts"
import { at, Client, crypto, local4, NONCE, peer1, relayed4, server4 } from "./support.ts"

/** What is behind the last byte of an answer to `transactionId`, with any attributes, signed or not. */
const attribute = fc.record({
  type: fc.oneof(fc.constantFrom(...Object.values(Attribute)), fc.nat(0xffff)),
  value: fc.uint8Array({ maxLength: 24 })
})

it("ignores random datagrams of every length from 0 to 2000", () => {
  const client = new Client().allocate()
  for (let length = 0; length <= 2000; length++) {
    const datagram = crypto.randomBytes(length)
    if (length >= 8 && length % 2 === 0) datagram.set([0x21, 0x12, 0xa4, 0x42], 4)
    assert.isFalse(client.allocation.handleStun(local4, server4, datagram, client.now))
  }
  client.drain()
  assert.deepStrictEqual(client.takeEvents(), [])
  client.assertSilent()
})

it("ignores an answer of which a byte is missing, added or changed", () => {
  const client = new Client()
  client.bind()
  client.takeEvents()
  const request = client.takeOne(Method.Allocate)
  const answer = new StunBuilder(Method.Allocate, Class.Success, request.message.transactionId)
    .address(Attribute.XorRelayedAddress, relayed4)
    .u32(Attribute.Lifetime, 600)
    .sign(client.key, crypto)
    .build()
  for (let length = 0; length < answer.length; length++) {
    assert.isFalse(client.allocation.handleStun(local4, server4, answer.slice(0, length), 0))
  }
  assert.isFalse(client.allocation.handleStun(local4, server4, Uint8Array.from([...answer, 0]), 0))
  for (let position = 0; position < answer.length; position++) {
    const forged = answer.slice()
    forged[position] = (forged[position] as number) ^ 1
    assert.isFalse(client.allocation.handleStun(local4, server4, forged, 0), `byte ${position}`)
  }
  assert.isTrue(client.allocation.handleStun(local4, server4, answer, 0))
})

it("survives any answer of a relay that knows our password", () => {
  const step = fc.record({
    kind: fc.constantFrom(Class.Success, Class.Error),
    code: fc.option(fc.constantFrom(300, 400, 401, 420, 437, 438, 486, 500, 699)),
    lifetime: fc.option(fc.constantFrom(0, 1, 600, 0xffff_ffff)),
    addresses: fc.array(fc.constantFrom("203.0.113.9:50000", "[2001:db8::9]:1", "0.0.0.0:0", "[ff02::1]:9", "[::]:1"), {
      maxLength: 3
    }),
    nonce: fc.option(fc.constantFrom("", NONCE, "x".repeat(800))),
    realm: fc.option(fc.constantFrom("firezone", "other", "")),
    attributes: fc.array(attribute, { maxLength: 4 }),
    isSigned: fc.boolean(),
    wait: fc.constantFrom(0, 1, 999, 5000, 30_000, 700_000),
    action: fc.constantFrom("none", "bind", "send", "refresh", "restart")
  })
  fc.assert(
    fc.property(fc.array(step, { maxLength: 40 }), (steps) => {
      const client = new Client()
      let peers = 0
      for (const { action, addresses, attributes, code, isSigned, kind, lifetime, nonce, realm, wait } of steps) {
        const request = client.takeSent().at(-1)
        if (request !== undefined) {
          client.answer(request, kind, (response) => {
            if (code !== null) response.error(code, "because")
            if (lifetime !== null) response.u32(Attribute.Lifetime, lifetime)
            for (const text of addresses) response.address(Attribute.XorRelayedAddress, at(text))
            for (const text of addresses) response.address(Attribute.XorMappedAddress, at(text))
            if (nonce !== null) response.text(Attribute.Nonce, nonce)
            if (realm !== null) response.text(Attribute.Realm, realm)
            for (const { type, value } of attributes) {
              if (type !== Attribute.MessageIntegrity && type !== Attribute.Fingerprint) response.add(type, value)
            }
            return response
          }, { sign: isSigned })
        }
        if (action === "bind") client.allocation.bindChannel(at(`198.51.100.7:${++peers}`), client.now)
        if (action === "send") client.allocation.channelTo(peer1, client.now)
        if (action === "refresh") client.allocation.refresh(client.now)
        if (action === "restart") client.allocation.restart(client.now)
        client.drain()
        client.advance(wait)
        // Whatever has happened: what it offers can be used, and it either waits for something, or may be dropped.
        for (const { address } of client.allocation.candidates) {
          assert.notInclude(["0.0.0.0:0", "[ff02::1]:9", "[::]:1"], address.text)
        }
        const { freed } = client.allocation
        const deadline = client.allocation.pollTimeout()
        assert.isTrue(deadline === undefined || deadline > client.now, "a deadline has passed")
        if (freed !== undefined) assert.isUndefined(client.allocation.relayed(4), freed)
        if (client.allocation.relayed(4) !== undefined) assert.isDefined(deadline)
      }
    }),
    { numRuns: 300 }
  )
})

it("sends a bounded number of requests, whatever the answers", () => {
  const code = fc.constantFrom(401, 437, 438, 500, 300)
  fc.assert(fc.property(fc.infiniteStream(code), (codes) => {
    const client = new Client()
    client.bind()
    let requests = 0
    for (let sent = client.takeSent(); sent.length > 0; sent = client.takeSent()) {
      for (const request of sent) {
        requests += 1
        client.refuse(request, codes.next().value as number, { nonce: `nonce ${requests}` })
      }
      assert.isBelow(requests, 40, "in one instant")
    }
  }))
})
