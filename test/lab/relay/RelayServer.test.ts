import { assert, describe, it } from "@effect/vitest"
import { relayCredentials } from "../../../src/lab/relay/credentials.ts"
import { StunBuilder } from "../../../src/protocol/wire/stun.ts"
import {
  at,
  Attribute,
  bothFamilies,
  channel,
  channelData,
  Class,
  client,
  crypto,
  elsewhere,
  EPOCH,
  keyOf,
  Method,
  otherUser,
  outcomeOf,
  peer,
  peer6,
  Relay,
  STAMP_SECRET,
  udp,
  user
} from "./support.ts"

const MINUTE = 60_000
const payload = Uint8Array.of(1, 2, 3, 4, 5)
const fromHex = (hex: string): Uint8Array => Uint8Array.from(Buffer.from(hex.replaceAll(/\s/g, ""), "hex"))

// Connectivity spec 16.3.
const BINDING = "0001000c2112a4420102030405060708090a0b0c80220007736e6f776e657400"
const ALLOCATE = `000300602112a4420102030405060708090a0b0c0019000411000000800000040200000080220007736e6f776e657400
  0006001b313638353938343237383a757664674b7653394758595a5f766d760000140008666972657a6f6e65
  00080014acef96e05f9ceb4653ce6ecca4647aee1e5f4ed1`
const vector = { stampSecret: "1cab293a-4032-46f4-862a-40e5d174b0d2", unixEpochMillis: 1_685_900_000_000 }

describe("Binding", () => {
  it("is answered with where it came from, unsigned, whoever asks", () => {
    for (const from of [client, at("[2001:db8:1::5]:7")]) {
      const answer = new Relay().ask(fromHex(BINDING), from)
      assert.strictEqual(answer?.address(Attribute.XorMappedAddress)?.text, from.text)
      assert.strictEqual(answer?.text(Attribute.Software), "firezone-relay; rev=xxxx")
      assert.isFalse(answer?.hasIntegrity)
      assert.deepStrictEqual(answer?.transactionId, fromHex(BINDING).slice(8, 20))
    }
  })
})

describe("authentication", () => {
  it("begins with a signed 401 that has realm and nonce, for the client that spec 16.3 shows", () => {
    const relay = new Relay(vector)
    const answer = relay.ask(fromHex(ALLOCATE))
    assert.strictEqual(answer?.error?.code, 401)
    assert.strictEqual(answer?.text(Attribute.Realm), "firezone")
    assert.match(answer?.text(Attribute.Nonce) ?? "", /^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$/)
    assert.isTrue(answer?.verify(fromHex("a1628ea75a65270505a90953534885c2"), crypto))
    assert.strictEqual(relay.ask(fromHex(ALLOCATE))?.text(Attribute.Nonce), answer?.text(Attribute.Nonce))
    assert.deepStrictEqual([...relay.server.allocations], [])
  })

  it("of a request without a signature, a name or a nonce fails with 401", () => {
    const relay = new Relay()
    const make = (fill: (builder: StunBuilder) => StunBuilder) =>
      fill(udp(new StunBuilder(Method.Allocate, Class.Request, crypto.randomBytes(12)))).build()
    const nonce = relay.ask(make((builder) => builder))?.text(Attribute.Nonce) ?? ""
    const name = (builder: StunBuilder) => builder.text(Attribute.Username, user.username)
    const cases = {
      "nothing": make((builder) => builder),
      "no signature": make((builder) => name(builder).text(Attribute.Nonce, nonce)),
      "no name": make((builder) => builder.text(Attribute.Nonce, nonce).sign(keyOf(user), crypto)),
      "no nonce": make((builder) => name(builder).sign(keyOf(user), crypto)),
      "a nonce that is no UUID": make((b) => name(b).text(Attribute.Nonce, "abc").sign(keyOf(user), crypto))
    }
    for (const [what, bytes] of Object.entries(cases)) assert.strictEqual(relay.ask(bytes)?.error?.code, 401, what)
    const unknown = make((b) =>
      name(b).text(Attribute.Nonce, nonce.replace(/./g, (c) => c === "-" ? c : "0")).sign(keyOf(user), crypto)
    )
    assert.strictEqual(relay.ask(unknown)?.error?.code, 438)
    assert.deepStrictEqual([...relay.server.allocations], [])
  })

  it("takes a nonce of the same client only", () => {
    const relay = new Relay()
    relay.allocate()
    const bytes = relay.signed(Method.Allocate, udp)
    assert.strictEqual(relay.ask(bytes)?.error?.code, 437)
    assert.strictEqual(relay.ask(bytes, elsewhere)?.error?.code, 438)
  })

  it("takes a nonce 10 000 times, then gives another one", () => {
    const relay = new Relay()
    relay.allocate()
    const bytes = relay.signed(Method.Refresh)
    const codes = Array.from({ length: 10_000 }, () => outcomeOf(relay.ask(bytes)))
    assert.deepStrictEqual([codes.indexOf(438), codes.slice(0, 3)], [9999, ["ok", "ok", "ok"]])
    assert.strictEqual(relay.outcome(Method.Refresh), "ok")
  })

  it("with a wrong password fails with 401, which is signed with the right one", () => {
    const relay = new Relay()
    const answer = relay.request(Method.Allocate, udp, { ...user, password: "wrong" })
    assert.strictEqual(answer.error?.code, 401)
    assert.isTrue(answer.verify(keyOf(user), crypto))
    assert.deepStrictEqual([...relay.server.allocations], [])
  })

  it("with a signature over other bytes fails", () => {
    const relay = new Relay()
    relay.allocate()
    for (const position of [20, 24, 30, 60]) {
      const bytes = relay.signed(Method.Refresh, (builder) => builder.text(Attribute.Software, "a client"))
      bytes[position] = (bytes[position] as number) ^ 1
      assert.notStrictEqual(outcomeOf(relay.ask(bytes)), "ok", `byte ${position}`)
    }
  })

  it("fails where reserved or padding bytes are not zero, although they are signed", () => {
    const relay = new Relay()
    relay.allocate()
    assert.strictEqual(relay.outcome(Method.ChannelBind, channel(0x4000, peer)), "ok")
    const loose = (builder: StunBuilder) =>
      builder.address(Attribute.XorPeerAddress, peer).u32(Attribute.ChannelNumber, 0x4000_0001)
    assert.strictEqual(relay.outcome(Method.ChannelBind, loose), 401)
  })

  it("ends with the credential", () => {
    const relay = new Relay()
    relay.allocate()
    relay.now = 3_600_999
    assert.strictEqual(relay.outcome(Method.Allocate, udp), "ok", "the last second counts")
    relay.now = 3_601_000
    assert.strictEqual(relay.outcome(Method.Refresh), 401)
  })

  it("does not answer a name that cannot be one", () => {
    const relay = new Relay()
    for (const username of ["", "name", "1:2:3", "x:salt", "-1:salt", "99999999999999999999:salt", ":salt"]) {
      assert.isUndefined(relay.ask(relay.signed(Method.Allocate, udp, { username, password: "" })), username)
    }
  })
})

describe("Allocate", () => {
  it("gives one port of the range on both addresses, IPv4 first", () => {
    const relay = new Relay({ ports: [50_000, 50_000] })
    const answer = relay.request(Method.Allocate, bothFamilies)
    assert.deepStrictEqual(answer.addresses(Attribute.XorRelayedAddress).map(({ text }) => text), [
      "203.0.113.9:50000",
      "[2001:db8:9::9]:50000"
    ])
    assert.strictEqual(answer.address(Attribute.XorMappedAddress)?.text, client.text)
    assert.strictEqual(answer.u32(Attribute.Lifetime), 600)
    assert.isTrue(answer.verify(keyOf(user), crypto))
  })

  it("opens the port's sockets, and closes them with the allocation", () => {
    const relay = new Relay()
    relay.request(Method.Refresh)
    const opened = relay.input(relay.signed(Method.Allocate, bothFamilies)).find(({ _tag }) => _tag === "Open")
    const [allocation] = relay.server.allocations
    assert.deepStrictEqual(opened, { _tag: "Open", port: allocation?.port ?? 0, families: [4, 6] })
    relay.now = 10 * MINUTE
    relay.server.handleTimeout(relay.now)
    assert.deepStrictEqual([...relay.outputs()], [{ _tag: "Close", port: allocation?.port ?? 0 }])
    assert.isUndefined(relay.server.pollTimeout())
  })

  const family = (type: number, value: number) => (builder: StunBuilder) => udp(builder).u32(type, value * 0x100_0000)
  const cases = [
    { name: "no family", fill: udp, both: [4], only4: [4], only6: 440 },
    { name: "IPv6", fill: family(Attribute.RequestedAddressFamily, 2), both: [6], only4: 440, only6: [6] },
    { name: "IPv4", fill: family(Attribute.RequestedAddressFamily, 1), both: [4], only4: [4], only6: 440 },
    { name: "IPv6 as well", fill: bothFamilies, both: [4, 6], only4: [4], only6: [6] },
    { name: "IPv4 as well", fill: family(Attribute.AdditionalAddressFamily, 1), both: 400, only4: 400, only6: 400 },
    {
      name: "both attributes",
      fill: (builder: StunBuilder) => bothFamilies(builder).u32(Attribute.RequestedAddressFamily, 2 * 0x100_0000),
      both: 400,
      only4: 400,
      only6: 400
    }
  ]
  for (const { both, fill, name, only4, only6 } of cases) {
    it(`asked for ${name} gives what the relay has, or an error`, () => {
      const asked = [{}, { ipv6: undefined }, { ipv4: undefined }].map((options) => {
        const answer = new Relay(options).request(Method.Allocate, fill)
        return answer.error?.code ?? answer.addresses(Attribute.XorRelayedAddress).map((address) => address.family)
      })
      assert.deepStrictEqual(asked, [both, only4, only6])
    })
  }

  it("asked twice by one client fails with 437, whoever it says it is", () => {
    const relay = new Relay()
    relay.allocate()
    assert.strictEqual(relay.outcome(Method.Allocate, udp), 437)
    assert.strictEqual(relay.outcome(Method.Allocate, udp, otherUser), 437)
  })

  it("of a user who has roamed replaces the one of before, and only that", () => {
    const relay = new Relay()
    relay.allocate()
    relay.allocate(otherUser, at("192.0.2.9:9"))
    relay.allocate(user, elsewhere)
    assert.deepStrictEqual(relay.server.allocations.map((allocation) => allocation.client.text), [
      "192.0.2.9:9",
      elsewhere.text
    ])
  })

  it("fails with 508 when all ports are taken", () => {
    const relay = new Relay({ ports: [50_000, 50_001] })
    const users = [1, 2, 3].map((n) =>
      relayCredentials({ expiresAt: EPOCH + 100, stampSecret: STAMP_SECRET, deviceKey: `${n}` })
    )
    const outcomes = users.map((one, index) => relay.outcome(Method.Allocate, udp, one, at(`192.0.2.20:${index + 1}`)))
    assert.deepStrictEqual(outcomes, ["ok", "ok", 508])
    assert.strictEqual(new Set(relay.server.allocations.map(({ port }) => port)).size, 2)
  })

  it("of anything but UDP fails with 400", () => {
    const relay = new Relay()
    const tcp = (builder: StunBuilder) => builder.u32(Attribute.RequestedTransport, 6 * 0x100_0000)
    assert.strictEqual(relay.outcome(Method.Allocate, tcp), 400)
  })

  it("grants the lifetime that was asked for, up to an hour", () => {
    for (const [asked, granted] of [[1, 1], [600, 600], [3600, 3600], [3601, 3600], [0xffff_ffff, 3600]] as const) {
      const relay = new Relay()
      const answer = relay.request(Method.Allocate, (builder) => udp(builder).u32(Attribute.Lifetime, asked))
      assert.strictEqual(answer.u32(Attribute.Lifetime), granted)
      assert.strictEqual(relay.server.pollTimeout(), granted * 1000)
    }
  })
})

describe("Refresh", () => {
  it("moves the end to that time from now, not further", () => {
    const relay = new Relay()
    relay.allocate()
    relay.now = 5 * MINUTE
    const answer = relay.request(Method.Refresh, (builder) => builder.u32(Attribute.Lifetime, 60))
    assert.strictEqual(answer.u32(Attribute.Lifetime), 60)
    assert.isTrue(answer.verify(keyOf(user), crypto))
    assert.strictEqual(relay.server.pollTimeout(), 6 * MINUTE)
    relay.now = 6 * MINUTE
    assert.strictEqual(relay.outcome(Method.Refresh), 437)
  })

  it("with a lifetime of zero deletes, and later ticks are quiet", () => {
    const relay = new Relay()
    relay.allocate()
    const answer = relay.request(Method.Refresh, (builder) => builder.u32(Attribute.Lifetime, 0))
    assert.deepStrictEqual([answer.class, answer.u32(Attribute.Lifetime)], [Class.Success, 0])
    assert.isUndefined(relay.server.pollTimeout())
    relay.server.handleTimeout(1e9)
    assert.deepStrictEqual([...relay.outputs()], [])
    assert.strictEqual(relay.outcome(Method.ChannelBind, channel(0x4000, peer)), 437)
  })

  it("without an allocation fails with 437", () => {
    assert.strictEqual(new Relay().outcome(Method.Refresh), 437)
  })
})

describe("ChannelBind", () => {
  it("without an allocation fails with 437", () => {
    assert.strictEqual(new Relay().outcome(Method.ChannelBind, channel(0x4000, peer)), 437)
  })

  it("to a family that the allocation lacks fails with 443", () => {
    const relay = new Relay()
    relay.request(Method.Allocate, udp)
    assert.strictEqual(relay.outcome(Method.ChannelBind, channel(0x4000, peer6)), 443)
  })

  it("takes numbers from 0x4000 to 0x4fff", () => {
    const relay = new Relay()
    relay.allocate()
    const outcomes = [0, 0x3fff, 0x4000, 0x4fff, 0x5000, 0x7fff, 0xffff].map((number, index) =>
      relay.outcome(Method.ChannelBind, channel(number, at(`198.51.100.30:${index + 1}`)))
    )
    assert.deepStrictEqual(outcomes, [400, 400, "ok", "ok", 400, 400, 400])
  })

  it("takes a pair again, but no other peer for the number or number for the peer, until 15 minutes after", () => {
    const relay = new Relay()
    relay.allocate()
    const hour = (builder: StunBuilder) => builder.u32(Attribute.Lifetime, 3600)
    relay.request(Method.Refresh, hour)
    const other = at("198.51.100.22:1")
    const bind = (number: number, to = peer) => relay.outcome(Method.ChannelBind, channel(number, to))
    assert.deepStrictEqual([bind(0x4000), bind(0x4000), bind(0x4001), bind(0x4000, other)], ["ok", "ok", 400, 400])
    relay.now = 15 * MINUTE - 1
    assert.deepStrictEqual([bind(0x4001), bind(0x4000, other)], [400, 400])
    relay.now = 15 * MINUTE
    assert.deepStrictEqual([bind(0x4000, other), bind(0x4001)], ["ok", "ok"])
  })

  it("without a number or a peer is refused before anything is asked, unsigned", () => {
    const relay = new Relay()
    relay.allocate()
    for (
      const fill of [
        (builder: StunBuilder) => builder,
        (builder: StunBuilder) => builder.u32(Attribute.ChannelNumber, 0x4000_0000),
        (builder: StunBuilder) => builder.address(Attribute.XorPeerAddress, peer),
        (builder: StunBuilder) => channel(0x4000, peer)(builder).u32(Attribute.RequestedAddressFamily, 3 * 0x100_0000)
      ]
    ) {
      const answer = relay.ask(relay.signed(Method.ChannelBind, fill))
      assert.deepStrictEqual([answer?.error?.code, answer?.hasIntegrity], [400, false])
    }
  })
})

describe("data", () => {
  const bound = () => {
    const relay = new Relay()
    const port = relay.allocate()
    assert.strictEqual(relay.outcome(Method.ChannelBind, channel(0x4000, peer)), "ok")
    return { relay, port }
  }
  const fromPeer = (relay: Relay, port: number, from = peer) => {
    relay.server.handlePeer(port, from, payload, relay.now)
    return relay.outputs()
  }

  it("goes through a channel both ways", () => {
    const { port, relay } = bound()
    assert.deepStrictEqual([...relay.input(channelData(0x4000, payload))], [{
      _tag: "ToPeer",
      port,
      peer,
      bytes: payload
    }])
    assert.deepStrictEqual([...fromPeer(relay, port)], [{
      _tag: "ToClient",
      client,
      bytes: channelData(0x4000, payload)
    }])
    const { bytesToClients, bytesToPeers, relayedPackets } = relay.server.counters
    assert.deepStrictEqual([bytesToPeers, bytesToClients, relayedPackets], [5, 5, 2])
  })

  it("in IPv6 goes through a channel of its own", () => {
    const { port, relay } = bound()
    assert.strictEqual(relay.outcome(Method.ChannelBind, channel(0x4001, peer6)), "ok")
    assert.deepStrictEqual([...fromPeer(relay, port, peer6)], [{
      _tag: "ToClient",
      client,
      bytes: channelData(0x4001, payload)
    }])
  })

  it("is dropped without a channel, though there is a permission: that is an empty promise here", () => {
    const { port, relay } = bound()
    const stranger = at("198.51.100.22:41000")
    const permit = (builder: StunBuilder) => builder.address(Attribute.XorPeerAddress, stranger)
    assert.strictEqual(relay.outcome(Method.CreatePermission, permit), "ok")
    assert.deepStrictEqual([...fromPeer(relay, port, stranger)], [])
    assert.deepStrictEqual([...fromPeer(relay, port, at("198.51.100.21:41001"))], [], "another port is another peer")
    assert.deepStrictEqual([...relay.input(channelData(0x4001, payload))], [])
    assert.deepStrictEqual([...relay.input(channelData(0x4000, payload), elsewhere)], [], "another client's channel")
    assert.deepStrictEqual([...fromPeer(relay, port === 50_000 ? 50_001 : 50_000)], [], "no allocation's port")
    assert.deepStrictEqual([relay.server.counters.unboundFromPeers, relay.server.counters.unboundFromClients], [3, 2])
  })

  it("is cut to the stated length, and dropped if it is shorter", () => {
    const { relay } = bound()
    const [sent] = relay.input(channelData(0x4000, payload, 3))
    assert.deepStrictEqual(sent?._tag === "ToPeer" ? sent.bytes : undefined, payload.slice(0, 3))
    assert.deepStrictEqual([...relay.input(channelData(0x4000, payload, 6))], [])
    const [empty] = relay.input(channelData(0x4000, new Uint8Array(0)))
    assert.deepStrictEqual(empty?._tag === "ToPeer" ? empty.bytes : undefined, new Uint8Array(0))
  })

  it("stops ten minutes after the bind; the same pair may be bound again", () => {
    const { port, relay } = bound()
    relay.request(Method.Refresh, (builder) => builder.u32(Attribute.Lifetime, 3600))
    relay.now = 10 * MINUTE - 1
    assert.strictEqual(fromPeer(relay, port).length, 1)
    relay.now = 10 * MINUTE
    assert.deepStrictEqual([...fromPeer(relay, port), ...relay.input(channelData(0x4000, payload))], [])
    assert.strictEqual(relay.outcome(Method.ChannelBind, channel(0x4000, peer)), "ok")
    assert.strictEqual(fromPeer(relay, port).length, 1)
  })

  it("stops with the allocation, tick or no tick", () => {
    const { port, relay } = bound()
    relay.now = 10 * MINUTE
    assert.deepStrictEqual([...fromPeer(relay, port)], [])
    const after = relay.input(channelData(0x4000, payload))
    assert.deepStrictEqual([...after], [{ _tag: "Close", port }])
    relay.allocate()
    assert.deepStrictEqual([...relay.input(channelData(0x4000, payload))], [], "the channels are gone, too")
  })
})

describe("whatever else", () => {
  it("comes from port 0, or is neither a STUN request nor channel data, is dropped", () => {
    const relay = new Relay()
    const binding = fromHex(BINDING)
    assert.isUndefined(relay.ask(binding, at("192.0.2.5:0")))
    for (const type of [0x0011, 0x0101, 0x0111]) {
      const other = binding.slice()
      other.set([type >> 8, type & 0xff])
      assert.isUndefined(relay.ask(other), "no request")
    }
    for (const bytes of [[], [0], [0x3f], [0x50, 0, 0, 0], [0xff], [0x40], [0x40, 0, 0]]) {
      assert.deepStrictEqual([...relay.input(Uint8Array.from(bytes))], [])
    }
    assert.deepStrictEqual([...relay.input(binding.slice(0, 31))], [])
    const withFingerprint = new StunBuilder(Method.Binding, Class.Request, crypto.randomBytes(12)).fingerprint().build()
    assert.isDefined(relay.ask(withFingerprint))
    withFingerprint[27] = (withFingerprint[27] as number) ^ 1
    assert.isUndefined(relay.ask(withFingerprint))
  })

  it("asks by an unknown method gets 400; unknown attributes are ignored", () => {
    const relay = new Relay()
    const make = (method: number) => new StunBuilder(method, Class.Request, crypto.randomBytes(12))
    assert.strictEqual(relay.ask(make(0x006).build())?.error?.code, 400)
    assert.strictEqual(outcomeOf(relay.ask(make(Method.Binding).u32(0x7777, 1).build())), "ok")
    assert.strictEqual(relay.outcome(Method.Allocate, (builder) => udp(builder).u32(0x0018, 0)), "ok")
  })

  it("is random, of any length from 0 to 2000, changes nothing", () => {
    const relay = new Relay()
    relay.allocate()
    relay.request(Method.ChannelBind, channel(0x4000, peer))
    for (let length = 0; length <= 2000; length++) {
      const bytes = crypto.randomBytes(length)
      if (length >= 20 && length % 3 === 0) {
        bytes.set([0, length & 0x0f])
        bytes.set([(length - 20) >> 8, (length - 20) & 0xff, 0x21, 0x12, 0xa4, 0x42], 2)
      }
      for (const output of relay.input(bytes, elsewhere)) assert.strictEqual(output._tag, "ToClient")
    }
    assert.strictEqual(relay.server.allocations.length, 1)
    assert.strictEqual(relay.server.counters.relayedPackets, 0)
  })
})

describe("the knobs", () => {
  it("silence it, refuse what is named, give one family only", () => {
    const relay = new Relay()
    relay.server.knobs.silent = true
    assert.isUndefined(relay.ask(fromHex(BINDING)))
    relay.server.knobs.silent = false
    relay.server.knobs.refuse = { code: 486, methods: ["Allocate"] }
    assert.strictEqual(relay.outcome(Method.Allocate, udp), 486)
    assert.strictEqual(relay.outcome(Method.Refresh), 437)
    relay.server.knobs.refuse = undefined
    relay.server.knobs.singleFamily = true
    const families = relay.request(Method.Allocate, bothFamilies).addresses(Attribute.XorRelayedAddress)
    assert.deepStrictEqual(families.map(({ family }) => family), [4])
  })

  it("restart it with another secret: no allocation, no nonce and no password of before is worth anything", () => {
    const relay = new Relay()
    const port = relay.allocate()
    const bytes = relay.signed(Method.Refresh)
    relay.server.restart("another secret")
    assert.deepStrictEqual([...relay.outputs()], [{ _tag: "Close", port }])
    assert.strictEqual(relay.ask(bytes)?.error?.code, 438)
    assert.strictEqual(relay.outcome(Method.Allocate, udp), 401)
    const fresh = relayCredentials({ expiresAt: EPOCH + 1, stampSecret: "another secret", deviceKey: "a key" })
    assert.strictEqual(relay.outcome(Method.Allocate, udp, fresh), "ok")
  })
})
