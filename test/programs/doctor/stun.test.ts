import { assert, describe, it } from "@effect/vitest"
import * as Effect from "effect/Effect"
import * as FastCheck from "effect/FastCheck"
import * as Fiber from "effect/Fiber"
import * as TestClock from "effect/TestClock"
import { askServers, type Echo, FULL_SIZE, mappingOf } from "../../../src/programs/doctor/stun.ts"
import { ip, SocketAddress } from "../../../src/protocol/wire/address.ts"
import { Attribute, Class, Method, parseStun, StunBuilder } from "../../../src/protocol/wire/stun.ts"
import { makePeerSocketDouble, type SentDatagram } from "../../support/PeerSocketDouble.ts"

const at = (text: string, port = 3478): SocketAddress => new SocketAddress(ip(text), port)
const local = at("192.168.0.2", 50_000)
const first = at("203.0.113.3")
const second = at("203.0.113.4")
const sixth = at("2001:db8::3")
const outside = at("198.51.100.9", 1234)

/** What a server answers to a request, if it does. */
type Answer = (datagram: SentDatagram) => Uint8Array | undefined

const idOf = ({ bytes }: SentDatagram): Uint8Array => parseStun(bytes)?.transactionId ?? new Uint8Array(12)

const mappedTo = (mapped: SocketAddress, other?: Uint8Array): Answer => (datagram) => {
  const builder = new StunBuilder(Method.Binding, Class.Success, idOf(datagram).slice())
  if (other !== undefined) builder.add(0x802c, other)
  return builder.address(Attribute.XorMappedAddress, mapped).build()
}

const ask = (servers: ReadonlyArray<SocketAddress>, answers: { readonly [server: string]: Answer }) =>
  Effect.gen(function*() {
    const sockets = makePeerSocketDouble()
    const sent: Array<SentDatagram> = []
    sockets.onSent = (datagram) => {
      sent.push({ ...datagram, bytes: datagram.bytes.slice() })
      const answer = answers[datagram.destination.text]?.(datagram)
      if (answer !== undefined) queueMicrotask(() => sockets.deliver(local, datagram.destination, [answer]))
    }
    const asking = yield* Effect.fork(Effect.provide(askServers(servers), sockets.layer))
    yield* TestClock.adjust("10 seconds")
    const findings = yield* Fiber.join(asking)
    assert.isFalse(sockets.isOpen(), "the sockets are left open")
    return { findings, sent }
  })

describe("STUN", () => {
  it.effect("asks every server once, from one socket, and once more with a datagram of full size", () =>
    Effect.gen(function*() {
      const { findings, sent } = yield* ask([first, second, sixth, first], {
        [first.text]: mappedTo(outside),
        [second.text]: mappedTo(outside),
        [sixth.text]: mappedTo(at("2001:db8:1::2", 50_000))
      })
      assert.deepStrictEqual(findings.echoes.map(({ server }) => server.text), [first.text, second.text, sixth.text])
      assert.deepStrictEqual(findings.echoes[0]?.mapped, outside)
      assert.deepStrictEqual(findings.fullSize, [first, second, sixth])
      assert.deepStrictEqual(sent.map(({ bytes }) => bytes.length), [20, 20, 20, FULL_SIZE, FULL_SIZE, FULL_SIZE])
      assert.isTrue(sent.every(({ source }) => source === undefined), "the route cache names the source")
      assert.strictEqual(mappingOf(findings.echoes), "endpoint-independent")
    }))

  it.effect("asks again who is silent, three times, and gives up", () =>
    Effect.gen(function*() {
      const { findings, sent } = yield* ask([first, second], { [second.text]: mappedTo(outside) })
      assert.strictEqual(sent.filter(({ destination }) => destination.text === first.text).length, 3)
      assert.deepStrictEqual(findings.echoes.map(({ server }) => server.text), [second.text])
    }))

  it.effect("hears an answer to the second request", () =>
    Effect.gen(function*() {
      let requests = 0
      const { findings } = yield* ask([first], {
        [first.text]: (datagram) => ++requests === 1 ? undefined : mappedTo(outside)(datagram)
      })
      assert.strictEqual(findings.echoes.length, 1)
    }))

  it.effect("tells when datagrams of full size get lost", () =>
    Effect.gen(function*() {
      const { findings } = yield* ask([first], {
        [first.text]: (datagram) => datagram.bytes.length > 1000 ? undefined : mappedTo(outside)(datagram)
      })
      assert.deepStrictEqual(findings.fullSize, [])
      assert.strictEqual(findings.echoes.length, 1)
    }))

  it.effect("takes an error for an answer, too", () =>
    Effect.gen(function*() {
      const { findings } = yield* ask([first], {
        [first.text]: (datagram) =>
          new StunBuilder(Method.Binding, Class.Error, idOf(datagram).slice()).error(400, "no").build()
      })
      assert.isUndefined(findings.echoes[0]?.mapped)
      assert.deepStrictEqual(findings.fullSize, [first])
    }))

  it.effect("asks the second address of a server that is alone", () =>
    Effect.gen(function*() {
      const elsewhere = at("203.0.113.5", 3479)
      const { findings } = yield* ask([first], {
        [first.text]: mappedTo(outside, Uint8Array.of(0, 1, 3479 >> 8, 3479 & 0xff, 203, 0, 113, 5)),
        [elsewhere.text]: mappedTo(at("198.51.100.9", 4321))
      })
      assert.deepStrictEqual(findings.others.map(({ server }) => server.text), [elsewhere.text])
      assert.strictEqual(mappingOf([...findings.echoes, ...findings.others]), "address-dependent")
    }))

  it.effect("ignores what is no answer of that server's", () =>
    Effect.gen(function*() {
      const { findings } = yield* ask([first, second], {
        [first.text]: (datagram) => new StunBuilder(Method.Binding, Class.Request, idOf(datagram).slice()).build(),
        [second.text]: () => mappedTo(outside)({ ...at0, bytes: new StunBuilder(1, 0, new Uint8Array(12)).build() })
      })
      assert.deepStrictEqual(findings.echoes, [])
    }))

  it.effect.prop(
    "survives whatever is sent",
    { bytes: FastCheck.uint8Array({ maxLength: 64 }) },
    ({ bytes }) =>
      Effect.gen(function*() {
        const { findings } = yield* ask([first], { [first.text]: () => bytes })
        assert.deepStrictEqual(findings.echoes, [])
      }),
    { fastCheck: { numRuns: 10 } }
  )
})

const at0 = { source: undefined, destination: second, ecn: 0 }

const echo = (server: SocketAddress, mapped: SocketAddress | undefined): Echo => ({
  server,
  mapped,
  local,
  millis: 1,
  other: undefined
})

describe("the kind of a NAT", () => {
  it("follows from what servers see", () => {
    const cases = [
      [[], "unknown"],
      [[echo(first, undefined)], "unknown"],
      [[echo(sixth, at("2001:db8:1::2"))], "unknown"],
      [[echo(first, outside)], "unknown"],
      [[echo(first, local)], "none"],
      [[echo(first, local), echo(second, local)], "none"],
      [[echo(first, outside), echo(second, outside)], "endpoint-independent"],
      [[echo(first, outside), echo(second, at("198.51.100.9", 9))], "address-dependent"],
      [[echo(first, outside), echo(second, at("198.51.100.8", 1234))], "address-dependent"],
      // Another port of the same server tells nothing of other servers.
      [[echo(first, outside), echo(at("203.0.113.3", 3479), at("198.51.100.9", 9))], "unknown"]
    ] as const
    for (const [echoes, expected] of cases) assert.strictEqual(mappingOf(echoes), expected)
  })
})
