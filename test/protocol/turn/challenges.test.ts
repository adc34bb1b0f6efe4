import { assert, describe, it } from "@effect/vitest"
import { Attribute, Class, Method } from "../../../src/protocol/wire/stun.ts"
import { Client, crypto, describeSent, NONCE, peer1, peer2, peerOf, relayed4 } from "./support.ts"

const OTHER = "00000000-0000-4000-8000-000000000002"

/** A client whose first Allocate waits for its answer. */
const asking = () => {
  const client = new Client()
  client.bind()
  client.takeEvents()
  return { client, request: client.takeOne(Method.Allocate) }
}

describe("a stale nonce", () => {
  it("is replaced, whatever the request, and the request sent at once", () => {
    for (const sign of [true, false]) {
      const client = new Client().allocate()
      client.allocation.bindChannel(peer1, client.now)
      client.drain()
      const bind = client.takeOne(Method.ChannelBind)
      assert.isTrue(client.refuse(bind, 438, { nonce: OTHER, sign }))
      const again = client.takeOne(Method.ChannelBind)
      assert.strictEqual(again.message.text(Attribute.Nonce), OTHER)
      assert.strictEqual(peerOf(again), peer1.text)
      assert.notStrictEqual(again.message.key, bind.message.key)
      client.allocation.refresh(client.now)
      client.drain()
      assert.strictEqual(client.takeOne(Method.Refresh).message.text(Attribute.Nonce), OTHER)
    }
  })

  it("has its request retried by a schedule of its own", () => {
    const { client, request } = asking()
    client.advance(4000)
    client.takeSent()
    client.refuse(request, 401, { nonce: NONCE })
    client.takeOne(Method.Allocate)
    client.advance(8124)
    assert.deepStrictEqual(client.takeSent().map(describeSent), ["5000 Allocate", "6500 Allocate", "8750 Allocate"])
    client.advance(1)
    assert.strictEqual(client.allocation.freed, "no-response")
  })

  it("three times in a row is the most that is believed", () => {
    const { client, request } = asking()
    let last = request
    for (let i = 1; i <= 3; i++) {
      assert.isTrue(client.refuse(last, 438, { nonce: `nonce ${i}` }))
      last = client.takeOne(Method.Allocate)
    }
    assert.isFalse(client.refuse(last, 438, { nonce: "nonce 4" }))
    client.assertSilent()
    client.advance(8125)
    assert.strictEqual(client.allocation.freed, "no-response")
  })

  it("without a new one, or with one that is too long, is no answer", () => {
    for (const nonce of [undefined, "x".repeat(764)]) {
      const { client, request } = asking()
      assert.isFalse(client.refuse(request, 438, nonce === undefined ? {} : { nonce }))
      client.assertSilent()
      assert.isTrue(client.refuse(request, 438, { nonce: NONCE }))
    }
  })

  it("of another realm ends the request, for our key is of no use there", () => {
    const { client, request } = asking()
    client.answer(
      request,
      Class.Error,
      (response) => response.error(401, "").text(Attribute.Realm, "example.org").text(Attribute.Nonce, NONCE)
    )
    client.advance(30_000)
    client.assertSilent()
    assert.isUndefined(client.allocation.freed)
  })

  it("of another realm ends a channel that is being bound as well", () => {
    const client = new Client().allocate()
    client.allocation.bindChannel(peer1, client.now)
    client.drain()
    client.answer(
      client.takeOne(Method.ChannelBind),
      Class.Error,
      (response) => response.error(438, "").text(Attribute.Realm, "example.org").text(Attribute.Nonce, NONCE)
    )
    assert.strictEqual(client.allocation.channelTo(peer1, client.now), 0, "and another one is asked for")
    client.drain()
    client.takeOne(Method.ChannelBind)
  })
})

describe("a relay that sticks to the RFCs", () => {
  it("and takes no signature without a nonce is asked without one, and then as it wants", () => {
    const { client, request } = asking()
    assert.isTrue(client.refuse(request, 400, { sign: false }))
    const anonymous = client.takeOne(Method.Allocate)
    for (const type of [Attribute.Username, Attribute.Realm, Attribute.Nonce]) {
      assert.isFalse(anonymous.message.has(type))
    }
    assert.isFalse(anonymous.message.hasIntegrity)
    client.refuse(anonymous, 401, { nonce: NONCE, sign: false })
    const signed = client.takeOne(Method.Allocate)
    assert.strictEqual(signed.message.text(Attribute.Nonce), NONCE)
    assert.isTrue(signed.message.verify(client.key, crypto))
    for (const code of [400, 437]) {
      assert.isFalse(client.refuse(signed, code, { sign: false }), "from now on it has to sign as well")
    }
    client.grant(signed)
    assert.deepStrictEqual(client.takeEvents(), [`NewCandidate relay ${relayed4}`])
  })

  it("is spared in a Refresh what belongs to an Allocate, once it says so or has shown its nature", () => {
    const lenient = new Client().allocate()
    lenient.allocation.refresh(lenient.now)
    lenient.drain()
    const refresh = lenient.takeOne(Method.Refresh)
    assert.isTrue(refresh.message.has(Attribute.RequestedTransport))
    lenient.refuse(refresh, 420)
    const plain = lenient.takeOne(Method.Refresh)
    for (const type of [Attribute.RequestedTransport, Attribute.AdditionalAddressFamily]) {
      assert.isFalse(plain.message.has(type))
    }
    lenient.confirm(plain)
    assert.isUndefined(lenient.allocation.freed)

    const { client, request } = asking()
    client.refuse(request, 400, { sign: false })
    client.refuse(client.takeOne(Method.Allocate), 401, { nonce: NONCE, sign: false })
    client.grant(client.takeOne(Method.Allocate))
    client.allocation.refresh(client.now)
    client.drain()
    assert.isFalse(client.takeOne(Method.Refresh).message.has(Attribute.RequestedTransport))
  })

  it("and says without signing that it holds an allocation has it deleted with the nonce that it then gives", () => {
    const { client, request } = asking()
    assert.isTrue(client.refuse(request, 437, { sign: false }))
    client.refuse(client.takeOne(Method.Refresh), 400, { sign: false })
    client.refuse(client.takeOne(Method.Refresh), 401, { nonce: NONCE, sign: false })
    const remove = client.takeOne(Method.Refresh)
    assert.deepStrictEqual([remove.message.text(Attribute.Nonce), remove.message.u32(Attribute.Lifetime)], [NONCE, 0])
    client.succeed(remove, (response) => response.u32(Attribute.Lifetime, 0))
    client.grant(client.takeOne(Method.Allocate))
    assert.deepStrictEqual(client.takeEvents(), [`NewCandidate relay ${relayed4}`])
  })

  it("is believed no other unsigned answer, and asked so only once", () => {
    const { client, request } = asking()
    client.refuse(request, 400, { sign: false })
    const anonymous = client.takeOne(Method.Allocate)
    for (const code of [400, 420, 486, 500]) assert.isFalse(client.refuse(anonymous, code, { sign: false }))
    assert.isFalse(client.answer(anonymous, Class.Success, (response) => response, { sign: false }))
    client.assertSilent()
    client.advance(8125)
    assert.strictEqual(client.allocation.freed, "no-response")
  })
})

describe("refused credentials", () => {
  it("withdraw what the relay held, go silent and free it", () => {
    const client = new Client().allocate()
    client.channel(peer1)
    client.allocation.refresh(client.now)
    client.drain()
    client.refuse(client.takeOne(Method.Refresh), 401, { nonce: OTHER })
    assert.deepStrictEqual(client.takeEvents(), [`InvalidatedCandidate relay ${relayed4}`])
    assert.strictEqual(client.allocation.freed, "bad-credentials")
    client.allocation.refresh(client.now)
    client.allocation.bindChannel(peer2, client.now)
    client.advance(1_000_000)
    client.assertSilent()
    assert.strictEqual(client.allocation.channelTo(peer1, client.now), 0)
  })

  it("are believed without a signature only of a relay that has never signed", () => {
    const { client, request } = asking()
    client.refuse(request, 401, { nonce: NONCE, sign: false })
    const second = client.takeOne(Method.Allocate)
    assert.isTrue(client.refuse(second, 401, { nonce: OTHER, sign: false }))
    assert.strictEqual(client.allocation.freed, "bad-credentials")

    const verified = new Client().allocate()
    verified.allocation.refresh(verified.now)
    verified.drain()
    const refresh = verified.takeOne(Method.Refresh)
    assert.isFalse(verified.refuse(refresh, 401, { nonce: OTHER, sign: false }))
    assert.isUndefined(verified.allocation.freed)
    assert.strictEqual(verified.allocation.relayed(4)?.text, relayed4.text)
  })

  it("that the relay signs with its own idea of them are never heard of: it does not answer", () => {
    const { client, request } = asking()
    assert.isFalse(client.refuse(request, 401, { nonce: NONCE, sign: new Uint8Array(16) }))
    client.advance(8125)
    assert.strictEqual(client.allocation.freed, "no-response")
  })
})

describe("437", () => {
  it("for an Allocate deletes what the relay still has, then allocates", () => {
    const { client, request } = asking()
    client.refuse(request, 437)
    const remove = client.takeOne(Method.Refresh)
    assert.strictEqual(remove.message.u32(Attribute.Lifetime), 0)
    client.succeed(remove, (response) => response.u32(Attribute.Lifetime, 0))
    client.grant(client.takeOne(Method.Allocate))
    assert.deepStrictEqual(client.takeEvents(), [`NewCandidate relay ${relayed4}`])
  })

  it("for a Refresh withdraws the candidates and allocates", () => {
    const client = new Client().allocate()
    client.channel(peer1)
    client.allocation.refresh(client.now)
    client.drain()
    client.refuse(client.takeOne(Method.Refresh), 437)
    assert.deepStrictEqual(client.takeEvents(), [`InvalidatedCandidate relay ${relayed4}`])
    assert.isUndefined(client.allocation.receivedOn(0x4000, client.now))
    client.takeOne(Method.Allocate)
  })

  it("for a ChannelBind allocates, and binds the channel then", () => {
    const client = new Client().allocate()
    client.allocation.bindChannel(peer1, client.now)
    client.drain()
    client.refuse(client.takeOne(Method.ChannelBind), 437)
    assert.deepStrictEqual(client.takeEvents(), [`InvalidatedCandidate relay ${relayed4}`])
    client.grant(client.takeOne(Method.Allocate))
    assert.strictEqual(peerOf(client.takeOne(Method.ChannelBind)), peer1.text)
  })

  it("to everything ends after a few rounds, and begins again with the next update, or after a minute", () => {
    const { client, request } = asking()
    let rounds = 0
    for (let sent: ReadonlyArray<typeof request> = [request]; sent.length > 0; sent = client.takeSent()) {
      for (const one of sent) client.refuse(one, 437)
      if (++rounds > 20) throw new Error("a relay is hammered")
    }
    assert.strictEqual(rounds, 6)
    assert.isUndefined(client.allocation.freed)
    client.advance(59_999)
    client.assertSilent()
    client.advance(1)
    client.refuse(client.takeOne(Method.Allocate), 508)
    client.advance(600_000)
    client.assertSilent()
    client.allocation.refresh(client.now)
    client.drain()
    client.bind()
    client.grant(client.takeOne(Method.Allocate))
    assert.deepStrictEqual(client.takeEvents(), [`NewCandidate relay ${relayed4}`])
  })
})

describe("other errors", () => {
  it("420 free the relay for good", () => {
    const client = new Client().allocate()
    client.allocation.refresh(client.now)
    client.drain()
    client.refuse(client.takeOne(Method.Refresh), 420)
    client.refuse(client.takeOne(Method.Refresh), 420)
    assert.deepStrictEqual(client.takeEvents(), [`InvalidatedCandidate relay ${relayed4}`])
    assert.strictEqual(client.allocation.freed, "protocol-failure")
    client.allocation.refresh(client.now)
    client.advance(1_000_000)
    client.assertSilent()
  })

  for (const code of [400, 403, 440, 442, 486, 500, 508, 699]) {
    it(`${code} for an Allocate suspend the relay, drop what waited, and last until an update`, () => {
      const { client, request } = asking()
      client.allocation.bindChannel(peer1, client.now)
      client.drain()
      client.refuse(request, code)
      client.allocation.bindChannel(peer2, client.now)
      client.advance(1_000_000)
      client.assertSilent()
      assert.isUndefined(client.allocation.freed)
      client.allocation.refresh(client.now)
      client.drain()
      client.bind()
      client.grant(client.takeOne(Method.Allocate))
      client.assertSilent()
    })
  }

  it("for a ChannelBind delete that channel and nothing else", () => {
    const client = new Client().allocate()
    client.channel(peer2)
    client.allocation.bindChannel(peer1, client.now)
    client.drain()
    client.refuse(client.takeOne(Method.ChannelBind), 400)
    assert.strictEqual(client.allocation.receivedOn(0x4000, client.now)?.text, peer2.text)
    assert.strictEqual(client.allocation.channelTo(peer1, client.now), 0)
    assert.deepStrictEqual(client.takeEvents(), [])
  })

  it("for a Refresh have it tried again before the allocation ends", () => {
    const client = new Client().allocate()
    const sent = client.live(590_000, (request) => client.refuse(request, 500))
    assert.deepStrictEqual(sent.map(describeSent), [
      "300000 Refresh",
      "450000 Refresh",
      "525000 Refresh",
      "562500 Refresh",
      "581250 Refresh"
    ])
  })
})
