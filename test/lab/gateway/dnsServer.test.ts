/** The DNS server of the emulated gateway, on the loopback of a network namespace of our own. */
import { assert, beforeAll, it } from "@effect/vitest"
import * as Effect from "effect/Effect"
import * as Layer from "effect/Layer"
import type * as Scope from "effect/Scope"
import * as dgram from "node:dgram"
import * as net from "node:net"
import { DNS_SERVER_PORT, serve } from "../../../src/lab/gateway/dnsServer.ts"
import { ip, type IpAddress } from "../../../src/protocol/wire/address.ts"
import {
  addressRecord,
  decodeDns,
  type DnsMessage,
  encodeDns,
  encodeQuery,
  RecordType,
  ResponseCode,
  responseTo
} from "../../../src/protocol/wire/dns.ts"
import { type DnsQuestion, type DnsSocketDouble, makeDnsSocketDouble } from "../../support/DnsSocketDouble.ts"
import { enterPrivateNetworkNamespace, ip as ipCommand } from "../../support/netns.ts"
import { describeWith } from "../../support/requires.ts"
import { makeSystemResolversDouble } from "../../support/SystemResolversDouble.ts"
import { waitFor } from "../../support/waitFor.ts"

const addresses = [ip("127.0.0.1"), ip("::1")]
const nameServer = ip("172.20.0.53")

const query = (id: number, name = "www.corp.test"): Uint8Array =>
  encodeQuery(id, name, RecordType.A) ?? new Uint8Array(0)

/** Answers every question with so many addresses. */
const answering = (count: number) => ({ query: bytes }: DnsQuestion) =>
  Effect.sync(() => {
    const asked = decodeDns(bytes)
    const name = asked?.questions[0]?.name ?? "."
    const records = Array.from({ length: count }, (_, index) => addressRecord(name, 60, ip(`10.0.0.${index % 250}`)))
    const answer = asked && encodeDns(responseTo(asked, ResponseCode.NoError, records))
    return answer ?? new Uint8Array(0)
  })

/** Sends datagrams from one socket and collects the answers. */
const udpClient = (address: IpAddress) =>
  Effect.acquireRelease(
    Effect.sync(() => {
      const socket = dgram.createSocket(address.includes(":") ? "udp6" : "udp4")
      const answers: Array<DnsMessage & { readonly length: number }> = []
      socket.on("message", (bytes) => {
        const message = decodeDns(bytes)
        if (message !== undefined) answers.push({ ...message, length: bytes.length })
      })
      return { answers, send: (bytes: Uint8Array) => socket.send(bytes, DNS_SERVER_PORT, address), socket }
    }),
    ({ socket }) => Effect.sync(() => socket.close())
  )

const framed = (message: Uint8Array): Uint8Array => Uint8Array.of(message.length >> 8, message.length, ...message)

const tcpClient = (address: IpAddress) =>
  Effect.acquireRelease(
    Effect.sync(() => {
      const socket = net.connect(DNS_SERVER_PORT, address)
      let received = Buffer.alloc(0)
      socket.on("error", () => {})
      socket.on("data", (chunk) => {
        received = Buffer.concat([received, chunk])
      })
      return {
        socket,
        answers: (): ReadonlyArray<DnsMessage> => {
          const messages: Array<DnsMessage> = []
          for (let at = 0; at + 2 <= received.length; at += 2 + received.readUInt16BE(at)) {
            const message = decodeDns(received.subarray(at + 2, at + 2 + received.readUInt16BE(at)))
            if (message !== undefined) messages.push(message)
          }
          return messages
        }
      }
    }),
    ({ socket }) => Effect.sync(() => socket.destroy())
  )

describeWith({ root: true, programs: ["ip"] }, "the gateway's DNS server", () => {
  beforeAll(enterPrivateNetworkNamespace)

  const served = (
    test: (upstream: DnsSocketDouble) => Effect.Effect<void, never, Scope.Scope>,
    nameServers: ReadonlyArray<IpAddress> = [nameServer, ip("172.20.0.54")]
  ) => {
    const upstream = makeDnsSocketDouble()
    return Effect.zipRight(Effect.orDie(serve(addresses)), test(upstream)).pipe(
      Effect.provide(Layer.merge(upstream.layer, makeSystemResolversDouble(nameServers).layer)),
      Effect.scoped
    )
  }

  it.live("hands a query on as it is, with the transport that it came by, to the first name server", () =>
    served((upstream) =>
      Effect.gen(function*() {
        upstream.answer = answering(1)
        for (const [id, address] of addresses.entries()) {
          const udp = yield* udpClient(address)
          udp.send(query(id))
          yield* waitFor("an answer over UDP", () => udp.answers.length === 1)
          const tcp = yield* tcpClient(address)
          tcp.socket.write(framed(query(10 + id)))
          yield* waitFor("an answer over TCP", () => tcp.answers().length === 1)
          for (const answer of [...udp.answers, ...tcp.answers()]) {
            assert.deepStrictEqual(answer.answers.map(({ data }) => data), [{
              _tag: "Address",
              address: ip("10.0.0.0")
            }])
          }
          assert.deepStrictEqual([udp.answers[0]?.id, tcp.answers()[0]?.id], [id, 10 + id])
        }
        assert.deepStrictEqual(
          upstream.asked.map(({ query, resolver, transport }) => ({ query, to: resolver.text, transport })),
          [0, 10, 1, 11].map((id) => ({
            query: query(id),
            to: "172.20.0.53:53",
            transport: id < 10 ? "udp" as const : "tcp" as const
          }))
        )
      })
    ))

  it.live("cuts an answer of more than 1200 bytes short over UDP alone", () =>
    served((upstream) =>
      Effect.gen(function*() {
        upstream.answer = answering(80)
        const udp = yield* udpClient(addresses[0] ?? nameServer)
        udp.send(query(1))
        yield* waitFor("an answer over UDP", () => udp.answers.length === 1)
        const [short] = udp.answers
        assert.deepStrictEqual([short?.truncated, short?.answers.length, short?.responseCode], [true, 0, 0])
        assert.isAtMost(short?.length ?? 0, 1200)
        const tcp = yield* tcpClient(addresses[0] ?? nameServer)
        tcp.socket.write(framed(query(2)))
        yield* waitFor("an answer over TCP", () => tcp.answers().length === 1)
        assert.deepStrictEqual([tcp.answers()[0]?.truncated, tcp.answers()[0]?.answers.length], [false, 80])
      })
    ))

  it.live("says SERVFAIL when the name server fails or answers something else", () =>
    served((upstream) =>
      Effect.gen(function*() {
        const udp = yield* udpClient(addresses[0] ?? nameServer)
        udp.send(query(1))
        yield* waitFor("an answer", () => udp.answers.length === 1)
        upstream.answer = () =>
          answering(1)({ query: query(2, "other.test"), resolver: upstream.asked[0]!.resolver, transport: "udp" })
        udp.send(query(2))
        yield* waitFor("another answer", () => udp.answers.length === 2)
        assert.deepStrictEqual(
          udp.answers.map(({ id, questions, responseCode }) => [id, questions[0]?.name, responseCode]),
          [1, 2].map((id) => [id, "www.corp.test", ResponseCode.ServerFailure])
        )
      })
    ))

  it.live("says SERVFAIL when the host has no name server", () =>
    served((upstream) =>
      Effect.gen(function*() {
        const tcp = yield* tcpClient(addresses[1] ?? nameServer)
        tcp.socket.write(framed(query(7)))
        yield* waitFor("an answer", () => tcp.answers().length === 1)
        assert.deepStrictEqual(tcp.answers()[0]?.responseCode, ResponseCode.ServerFailure)
        assert.lengthOf(upstream.asked, 0)
      }), []))

  it.live("takes several queries on a connection, however they are cut, and answers none to what is no query", () =>
    served((upstream) =>
      Effect.gen(function*() {
        upstream.answer = answering(1)
        const tcp = yield* tcpClient(addresses[0] ?? nameServer)
        const garbage = framed(new Uint8Array(40).fill(0xff))
        const stream = Buffer.concat([framed(query(1)), garbage, framed(query(2)), framed(query(3))])
        for (let at = 0; at < stream.length; at += 7) {
          yield* Effect.promise(() =>
            new Promise((resolve) => tcp.socket.write(stream.subarray(at, at + 7), () => resolve(undefined)))
          )
        }
        yield* waitFor("three answers", () => tcp.answers().length === 3)
        assert.deepStrictEqual(tcp.answers().map(({ id }) => id), [1, 2, 3])
        const udp = yield* udpClient(addresses[0] ?? nameServer)
        udp.send(new Uint8Array(5))
        udp.send(encodeDns(responseTo(decodeDns(query(8)) as DnsMessage, 0)) ?? new Uint8Array(0))
        udp.send(query(9))
        yield* waitFor("an answer", () => udp.answers.length > 0)
        assert.deepStrictEqual(udp.answers.map(({ id }) => id), [9])
      })
    ))

  it.live("waits for an address that is about to come, and gives up on one that does not", () =>
    Effect.gen(function*() {
      const layer = Layer.merge(makeDnsSocketDouble().layer, makeSystemResolversDouble().layer)
      const late = ip("10.77.0.1")
      const start = Effect.either(Effect.scoped(serve([late]))).pipe(Effect.provide(layer))
      const failure = yield* start
      assert.match(
        String(failure._tag === "Left" ? failure.left.message : failure),
        /10\.77\.0\.1:53535.*EADDRNOTAVAIL/
      )
      yield* Effect.fork(Effect.sync(() => ipCommand("addr add 10.77.0.1/32 dev lo")).pipe(Effect.delay("50 millis")))
      assert.strictEqual((yield* start)._tag, "Right")
    }))
})
