import { assert, describe, it } from "@effect/vitest"
import { Attribute, Class, Method, StunBuilder } from "../../../src/protocol/wire/stun.ts"
import {
  at,
  Client,
  crypto,
  describeSent,
  dual,
  local4,
  mapped4,
  NONCE,
  numberOf,
  peer1,
  peer2,
  peer6,
  peerOf,
  relayed4,
  relayed6
} from "./support.ts"

const peer = (index: number) => at(`198.51.100.1:${index}`)

describe("the lifetime", () => {
  it("is renewed at half of it, once, and counted anew from the answer", () => {
    const client = new Client().allocate()
    const [refresh, ...more] = client.live(301_000)
    if (refresh === undefined) throw new Error("no refresh")
    assert.deepStrictEqual([describeSent(refresh), ...more.map(describeSent)], ["300000 Refresh", "301000 Refresh"])
    assert.isFalse(refresh.message.has(Attribute.Lifetime))
    client.succeed(refresh, (response) => response.u32(Attribute.Lifetime, 600))
    assert.deepStrictEqual(client.live(299_999).map(describeSent), [])
    assert.deepStrictEqual(client.live(1).map(describeSent), ["601000 Refresh"])
    assert.deepStrictEqual(client.takeEvents(), [])
  })

  it("may be what the relay says, within reason", () => {
    for (const [granted, refreshAt] of [[3600, 1_800_000], [1_000_000, 1_800_000], [60, 30_000], [0, 5000]] as const) {
      const client = new Client()
      client.bind()
      client.grant(client.takeOne(Method.Allocate), [relayed4], granted)
      assert.deepStrictEqual(client.live(refreshAt).map(describeSent), [`${refreshAt} Refresh`], `${granted} s`)
    }
  })

  it("that ends while the process sleeps withdraws the candidates and allocates anew", () => {
    const client = new Client().allocate([relayed4, relayed6])
    client.channel(peer1)
    client.now = 3_600_000
    client.allocation.handleTimeout(client.now)
    client.drain()
    assert.deepStrictEqual(client.takeEvents(), [
      `InvalidatedCandidate relay ${relayed4}`,
      `InvalidatedCandidate relay ${relayed6}`
    ])
    assert.isUndefined(client.allocation.receivedOn(0x4000, client.now))
    client.grant(client.takeOne(Method.Allocate))
    assert.deepStrictEqual(client.takeEvents(), [`NewCandidate relay ${relayed4}`])
  })

  it("that the relay ends is followed by a new allocation", () => {
    const client = new Client().allocate()
    client.allocation.refresh(client.now)
    client.drain()
    client.succeed(client.takeOne(Method.Refresh), (response) => response.u32(Attribute.Lifetime, 0))
    assert.deepStrictEqual(client.takeEvents(), [`InvalidatedCandidate relay ${relayed4}`])
    client.takeOne(Method.Allocate)
  })

  it("goes on unchanged when a success does not say how long", () => {
    const client = new Client().allocate()
    client.allocation.refresh(client.now)
    client.drain()
    client.succeed(client.takeOne(Method.Refresh))
    assert.deepStrictEqual(client.live(300_000).map(describeSent), ["300000 Refresh"])
  })
})

describe("an Allocate success that is no use", () => {
  it("leaves the relay suspended until an update", () => {
    for (const fill of ["no lifetime", "no address", "an unusable address"] as const) {
      const client = new Client()
      client.bind()
      client.takeEvents()
      client.succeed(client.takeOne(Method.Allocate), (response) => {
        if (fill === "no lifetime") return response.address(Attribute.XorRelayedAddress, relayed4)
        if (fill === "an unusable address") response.address(Attribute.XorRelayedAddress, at("0.0.0.0:5"))
        return response.u32(Attribute.Lifetime, 600)
      })
      assert.deepStrictEqual(client.takeEvents(), [], fill)
      assert.isUndefined(client.allocation.relayed(4))
      client.allocation.refresh(client.now)
      client.drain()
      client.takeOne(Method.Binding)
    }
  })

  it("with a changed address replaces the candidate and withdraws nothing", () => {
    const client = new Client().allocate()
    const moved = at("198.51.100.5:40001")
    for (const sent of client.live(24_999)) throw new Error(describeSent(sent))
    client.advance(1)
    client.succeed(client.takeOne(Method.Binding), (response) => response.address(Attribute.XorMappedAddress, moved))
    assert.deepStrictEqual(client.takeEvents(), [`NewCandidate srflx ${moved}`])
    assert.deepStrictEqual(client.allocation.candidates.map(({ address }) => address.text).slice(1, 2), [moved.text])
    assert.notInclude(client.allocation.candidates.map(({ address }) => address.text), mapped4.text)
  })
})

describe("keep-alives", () => {
  it("go to the server in use 25 s after the last one, or the last data", () => {
    const client = new Client(dual).allocate([relayed4])
    const { server } = client.allocation
    client.advance(25_000)
    const first = client.takeSent().at(-1)
    assert.deepStrictEqual(first && [describeSent(first), first.destination.text], ["25000 Binding", server?.text])
    if (first !== undefined) client.succeed(first)
    client.channel(peer1)
    client.advance(20_000)
    assert.strictEqual(client.allocation.channelTo(peer1, client.now), 0x4000)
    client.advance(24_999)
    client.assertSilent()
    client.advance(1)
    client.takeOne(Method.Binding)
  })

  it("that are not answered end the allocation after 8.125 s", () => {
    const client = new Client().allocate([relayed4, relayed6])
    client.advance(25_000 + 8124)
    assert.deepStrictEqual(client.takeEvents(), [])
    client.advance(1)
    assert.deepStrictEqual(client.takeEvents(), [
      `InvalidatedCandidate relay ${relayed4}`,
      `InvalidatedCandidate relay ${relayed6}`
    ])
    assert.strictEqual(client.allocation.freed, "no-response")
    assert.deepStrictEqual(client.allocation.candidates.map(({ kind }) => kind), ["host", "srflx"])
  })

  it("are not sent before there is an allocation", () => {
    const client = new Client()
    client.bind()
    client.refuse(client.takeOne(Method.Allocate), 486)
    client.advance(100_000)
    client.assertSilent()
  })
})

describe("a relay update that does not name the relay", () => {
  it("verifies it with one request, and takes it for gone after a second", () => {
    const client = new Client().allocate()
    client.allocation.refresh(client.now)
    client.drain()
    client.allocation.refresh(client.now)
    client.drain()
    client.takeOne(Method.Refresh)
    client.advance(999)
    client.assertSilent()
    assert.isUndefined(client.allocation.freed)
    client.advance(1)
    assert.deepStrictEqual(client.takeEvents(), [`InvalidatedCandidate relay ${relayed4}`])
    assert.strictEqual(client.allocation.freed, "no-response")
  })

  it("changes nothing when the relay answers", () => {
    const client = new Client().allocate()
    client.advance(20_000)
    client.allocation.refresh(client.now)
    client.drain()
    client.succeed(client.takeOne(Method.Refresh), (response) => response.u32(Attribute.Lifetime, 600))
    assert.deepStrictEqual(client.takeEvents(), [])
    assert.deepStrictEqual(client.live(300_000).map(describeSent), ["320000 Refresh"])
  })

  it("does nothing during the start", () => {
    const client = new Client()
    client.takeSent()
    client.allocation.refresh(client.now)
    client.drain()
    client.assertSilent()
    const bound = new Client()
    bound.bind()
    bound.takeOne(Method.Allocate)
    bound.allocation.refresh(bound.now)
    bound.drain()
    bound.assertSilent()
  })

  it("stays a one-shot when its nonce was stale", () => {
    const client = new Client().allocate()
    client.allocation.refresh(client.now)
    client.drain()
    client.refuse(client.takeOne(Method.Refresh), 438, { nonce: "another" })
    client.takeOne(Method.Refresh)
    client.advance(1000)
    client.assertSilent()
    assert.strictEqual(client.allocation.freed, "no-response")
  })
})

describe("channels", () => {
  it("wait for the allocation, one per peer", () => {
    const client = new Client()
    for (const to of [peer1, peer2, peer1]) client.allocation.bindChannel(to, client.now)
    client.bind()
    client.allocation.bindChannel(peer2, client.now)
    client.grant(client.takeOne(Method.Allocate))
    const sent = client.takeSent()
    assert.deepStrictEqual(sent.map(peerOf), [peer1.text, peer2.text])
    assert.deepStrictEqual(sent.map(numberOf), [0x4000, 0x4001])
  })

  it("wait a hundred at most; the first to come is the first to go", () => {
    const client = new Client()
    for (let i = 1; i <= 130; i++) client.allocation.bindChannel(peer(i), client.now)
    client.bind()
    client.grant(client.takeOne(Method.Allocate))
    assert.deepStrictEqual(client.takeSent().map(peerOf), Array.from({ length: 100 }, (_, i) => peer(i + 31).text))
  })

  it("are not asked for where the relay has no address, now or later", () => {
    const client = new Client()
    for (const to of [peer6, peer1]) client.allocation.bindChannel(to, client.now)
    client.bind()
    client.grant(client.takeOne(Method.Allocate), [relayed4])
    assert.deepStrictEqual(client.takeSent().map(peerOf), [peer1.text])
    assert.strictEqual(client.allocation.channelTo(peer6, client.now), 0)
    client.drain()
    client.assertSilent()
    const both = new Client().allocate([relayed4, relayed6])
    assert.strictEqual(both.channel(peer6), 0x4000)
  })

  it("carry what is sent while their bind is under way, and lose what asks for it", () => {
    const client = new Client().allocate()
    assert.strictEqual(client.allocation.channelTo(peer1, client.now), 0)
    client.drain()
    const request = client.takeOne(Method.ChannelBind)
    assert.strictEqual(client.allocation.channelTo(peer1, client.now), 0x4000)
    assert.isUndefined(client.allocation.receivedOn(0x4000, client.now))
    client.drain()
    client.assertSilent()
    client.succeed(request)
    assert.strictEqual(client.allocation.channelTo(peer1, client.now), 0x4000)
    assert.strictEqual(client.allocation.receivedOn(0x4000, client.now)?.text, peer1.text)
    assert.isUndefined(client.allocation.receivedOn(0x4001, client.now))
  })

  it("are refreshed after five minutes if the peer used them, and only then", () => {
    const client = new Client().allocate()
    const used = client.channel(peer1)
    client.channel(peer2)
    client.allocation.receivedOn(used, 1000)
    const sent = client.live(599_999, (request) => client.confirm(request))
    assert.deepStrictEqual(sent.map(describeSent), ["300000 Refresh", "300000 ChannelBind"])
    assert.deepStrictEqual(sent.slice(1).map((bind) => [numberOf(bind), peerOf(bind)]), [[used, peer1.text]])
    assert.strictEqual(client.allocation.receivedOn(used, client.now)?.text, peer1.text)
  })

  it("end after ten minutes without a refresh; the peer gets its number back within fifteen", () => {
    const client = new Client().allocate()
    const number = client.channel(peer1)
    const until = (millis: number) => client.live(millis - client.now, (request) => client.confirm(request))
    until(599_999)
    assert.strictEqual(client.allocation.channelTo(peer1, client.now), number)
    until(600_000)
    assert.isUndefined(client.allocation.receivedOn(number, client.now))
    assert.strictEqual(client.allocation.channelTo(peer1, client.now), 0)
    client.drain()
    const again = client.takeOne(Method.ChannelBind)
    assert.strictEqual(numberOf(again), number)
    client.succeed(again)
    until(600_000 + 15 * 60_000)
    assert.strictEqual(client.allocation.channelTo(peer1, client.now), 0)
    client.drain()
    assert.strictEqual(numberOf(client.takeOne(Method.ChannelBind)), number + 1)
  })

  it("end with the allocation", () => {
    const client = new Client().allocate()
    const number = client.channel(peer1)
    client.allocation.refresh(client.now)
    client.drain()
    client.refuse(client.takeOne(Method.Refresh), 437)
    assert.isUndefined(client.allocation.receivedOn(number, client.now))
    assert.strictEqual(client.allocation.channelTo(peer1, client.now), 0, "it waits for the next one")
    client.grant(client.takeOne(Method.Allocate))
    assert.strictEqual(peerOf(client.takeOne(Method.ChannelBind)), peer1.text)
  })
})

describe("an answer", () => {
  it("counts only from where the request went, for what it asked, and signed", () => {
    const client = new Client().allocate()
    client.allocation.refresh(client.now)
    client.drain()
    const request = client.takeOne(Method.Refresh)
    const ends = (response: StunBuilder) => response.u32(Attribute.Lifetime, 0)
    assert.isFalse(client.answer(request, Class.Success, ends, { from: at("203.0.113.9:3479") }))
    for (const method of [Method.Allocate, Method.ChannelBind, Method.Binding]) {
      const other = ends(new StunBuilder(method, Class.Success, request.message.transactionId))
      assert.isFalse(
        client.allocation.handleStun(local4, request.destination, other.sign(client.key, crypto).build(), client.now)
      )
    }
    for (const kind of [Class.Request, Class.Indication]) assert.isFalse(client.answer(request, kind, ends))
    for (const sign of [false, new Uint8Array(16)]) {
      assert.isFalse(client.answer(request, Class.Success, ends, { sign }))
    }
    assert.isFalse(client.refuse(request, 437, { sign: false }), "no error but a challenge is believed unsigned")
    assert.deepStrictEqual(client.takeEvents(), [])
    assert.isTrue(client.succeed(request, (r) => r.u32(Attribute.Lifetime, 600)), "the request has waited")
    assert.isFalse(client.succeed(request, (r) => r.u32(Attribute.Lifetime, 0)), "once")
  })

  it("to a Binding needs no signature, and an error to one ends it", () => {
    const client = new Client()
    client.answer(client.takeOne(Method.Binding), Class.Error, (response) => response.error(400, ""))
    assert.strictEqual(client.allocation.freed, "no-response")
    assert.strictEqual(client.allocation.rtt, 0)
  })

  it("of a relay that was restarted by us does not come to life again", () => {
    const client = new Client()
    const [old] = client.takeSent()
    client.allocation.restart(client.now)
    client.drain()
    if (old === undefined) throw new Error("no request")
    assert.isFalse(client.succeed(old))
    assert.isTrue(client.succeed(client.takeOne(Method.Binding)))
  })
})

it("a nonce is kept for the requests to come", () => {
  const client = new Client().allocate()
  client.allocation.bindChannel(peer1, client.now)
  client.drain()
  assert.strictEqual(client.takeOne(Method.ChannelBind).message.text(Attribute.Nonce), NONCE)
})

describe("a doubt whether the relay is still there", () => {
  it("verifies the allocation, once, and lasts until the answer", () => {
    const client = new Client().allocate()
    client.advance(5000)
    assert.isFalse(client.allocation.isDoubtful)
    client.allocation.probe(client.now)
    client.allocation.probe(client.now)
    client.drain()
    assert.isTrue(client.allocation.isDoubtful)
    client.confirm(client.takeOne(Method.Refresh))
    assert.isFalse(client.allocation.isDoubtful)
    assert.deepStrictEqual(client.takeEvents(), [])
  })

  it("comes with an address that the keep-alive finds changed: to the relay we are somebody else", () => {
    const client = new Client().allocate()
    client.advance(25_000)
    client.bind(at("198.51.100.5:40001"))
    client.refuse(client.takeOne(Method.Refresh), 437)
    client.grant(client.takeOne(Method.Allocate))
    assert.deepStrictEqual(client.takeEvents(), [
      "NewCandidate srflx 198.51.100.5:40001",
      `InvalidatedCandidate relay ${relayed4}`,
      `NewCandidate srflx ${mapped4}`,
      `NewCandidate relay ${relayed4}`
    ])
  })

  it("is settled after 8.125 s of silence", () => {
    const client = new Client().allocate()
    client.allocation.probe(client.now)
    client.advance(8124)
    assert.isUndefined(client.allocation.freed)
    assert.isUndefined(client.allocation.unusable)
    client.advance(1)
    assert.strictEqual(client.allocation.freed, "no-response")
    assert.strictEqual(client.allocation.unusable, "no-response")
  })

  it("is in order as long as nothing is allocated nor asked for", () => {
    const client = new Client()
    assert.isFalse(client.allocation.isDoubtful, "it is being asked for the first time")
    client.bind()
    assert.isUndefined(client.allocation.unusable)
    client.refuse(client.takeOne(Method.Allocate), 508)
    assert.isTrue(client.allocation.isDoubtful)
    assert.strictEqual(client.allocation.unusable, "refused (508)")
    client.allocation.probe(client.now)
    client.drain()
    client.assertSilent()
  })
})
