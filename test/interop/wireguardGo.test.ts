/** Our WireGuard against wireguard-go, whose interface's packets are answered by its kernel. */
import { assert, it } from "@effect/vitest"
import * as Effect from "effect/Effect"
import { createHash } from "node:crypto"
import * as fs from "node:fs"
import * as net from "node:net"
import * as os from "node:os"
import * as path from "node:path"
import { beforeAll } from "vitest"
import { makeCrypto } from "../../src/layers/crypto/makeCrypto.ts"
import type { Crypto } from "../../src/protocol/crypto.ts"
import { classify, MessageType, readReceiverIndex, readSenderIndex } from "../../src/protocol/wire/wireguard.ts"
import { bareDeviceLayer, openTun, TUN } from "../layers/tun/support.ts"
import { enterPrivateNetworkNamespace, run } from "../support/netns.ts"
import { describeWith } from "../support/requires.ts"
import { waitFor } from "../support/waitFor.ts"
import { echoReply, echoRequest, readEchoReply } from "./echo.ts"
import { daemon, runBeside } from "./programs.ts"
import * as UdpTunnel from "./UdpTunnel.ts"
import { INNER, OUTER, PORT, start } from "./WireguardGo.ts"

const openssl = makeCrypto().crypto
/** Without jitter, so that a retry comes when a test wants it. */
const crypto: Crypto = {
  ...openssl,
  randomBytes: (length) => length === 2 ? new Uint8Array(2) : openssl.randomBytes(length)
}
const { CookieReply, Data, Initiation, Response } = MessageType
const OUR_PORT = 40_000
const endpoint = { address: OUTER.ours, port: OUR_PORT }

/** Both ends with fresh keys; wireguard-go does not know its peer yet. */
const pair = (options: { readonly limit?: number } = {}) =>
  Effect.gen(function*() {
    const ours = crypto.randomBytes(32)
    const theirs = crypto.randomBytes(32)
    const presharedKey = crypto.randomBytes(32)
    const publicKey = crypto.x25519PublicKey(ours)
    const go = yield* start(theirs)
    const udp = yield* UdpTunnel.open({
      crypto,
      privateKey: ours,
      remoteKey: crypto.x25519PublicKey(theirs),
      presharedKey,
      bind: endpoint,
      remote: { address: OUTER.theirs, port: PORT },
      ...options
    })
    return { go, udp, peer: { publicKey, presharedKey } }
  })

const answerEchoes = (udp: UdpTunnel.UdpTunnel): void => {
  udp.onPacket = (buffer, offset, length) => {
    const reply = echoReply(buffer.subarray(offset, offset + length))
    if (reply !== undefined) udp.send(reply)
  }
}

/** Sends echo requests with random payloads and waits for all the answers of the kernel on the other side. */
const exchangeEchoes = (udp: UdpTunnel.UdpTunnel, count: number, from: string, to: string) =>
  Effect.gen(function*() {
    const payloads = Array.from({ length: count }, (_, i) => crypto.randomBytes(8 + i * 37 % 1200))
    const replies = new Map<number, Uint8Array>()
    udp.onPacket = (buffer, offset, length) => {
      const reply = readEchoReply(buffer.slice(offset, offset + length))
      if (reply !== undefined) replies.set(reply.sequence, reply.payload)
    }
    for (let first = 0; first < count; first += 50) {
      const last = Math.min(count, first + 50)
      for (let sequence = first; sequence < last; sequence++) {
        assert.isTrue(udp.send(echoRequest(from, to, sequence, payloads[sequence] as Uint8Array)))
      }
      yield* waitFor(`echo replies up to ${last}`, () => replies.size >= last)
    }
    assert.deepStrictEqual(payloads.map((_, sequence) => replies.get(sequence)), payloads)
  })

const count = (messages: ReadonlyArray<Uint8Array>, type: MessageType): number =>
  messages.filter((message) => classify(message, 0, message.length) === type).length

describeWith(
  { root: true, programs: ["ip", "wireguard-go", "wg", "ping", "socat", "sha256sum"] },
  "wireguard-go",
  () => {
    beforeAll(enterPrivateNetworkNamespace)

    it.scopedLive(
      "as initiator: its handshake is answered, and pings of its kernel, in both families",
      () =>
        Effect.gen(function*() {
          const { go, peer, udp } = yield* pair()
          answerEchoes(udp)
          go.setPeer({ ...peer, endpoint })
          for (const to of [INNER.ours, INNER.ours6]) {
            // ping compares what comes back with what it sent.
            const pinged = yield* runBeside([
              ...go.namespace.prefix,
              ..."ping -n -c 300 -i 0.002 -s 1200 -W 5 -p c0ffee".split(" "),
              to
            ])
            assert.strictEqual(pinged.code, 0, pinged.stdout + pinged.stderr)
            assert.include(pinged.stdout, "300 received, 0% packet loss")
            assert.notInclude(pinged.stdout, "wrong data")
          }
          assert.deepStrictEqual([count(udp.received, Initiation), count(udp.sent, Response)], [1, 1])
          assert.isTrue(udp.tunnel.hasSession)
          assert.isAbove(go.peer(peer.publicKey).latestHandshake, 0)
        }),
      30_000
    )

    it.scopedLive(
      "as responder: it takes our handshake, and its kernel answers what we send",
      () =>
        Effect.gen(function*() {
          const { go, peer, udp } = yield* pair()
          go.setPeer(peer)
          udp.initiate()
          yield* waitFor("a session", () => udp.tunnel.hasSession)
          yield* exchangeEchoes(udp, 300, INNER.ours, INNER.theirs)
          yield* exchangeEchoes(udp, 300, INNER.ours6, INNER.theirs6)
          assert.deepStrictEqual([count(udp.sent, Initiation), count(udp.received, Response)], [1, 1])
          assert.strictEqual(go.peer(peer.publicKey).endpoint, `${OUTER.ours}:${OUR_PORT}`)
        }),
      30_000
    )

    it.scopedLive("takes a new handshake when ours is due, and goes on", () =>
      Effect.gen(function*() {
        const { go, peer, udp } = yield* pair()
        go.setPeer(peer)
        udp.initiate()
        yield* waitFor("a session", () => udp.tunnel.hasSession)
        yield* exchangeEchoes(udp, 20, INNER.ours, INNER.theirs)
        const [before] = udp.sent.filter((message) => message[0] === Data).map((message) =>
          readReceiverIndex(message, 0)
        )
        // It takes one initiation in 20 ms of a peer (HandshakeInitationRate in its device/constants.go).
        const notBefore = performance.now() + 30
        yield* waitFor("its willingness", () => performance.now() > notBefore)
        udp.skip(121_000) // REKEY_AFTER_TIME is 120 s, on our clock alone
        yield* waitFor("another answer", () => count(udp.received, Response) === 2)
        yield* exchangeEchoes(udp, 20, INNER.ours, INNER.theirs)
        const indices = udp.sent.filter((message) => message[0] === Initiation).map((message) =>
          readSenderIndex(message, 0)
        )
        assert.deepStrictEqual(indices, [0x00beef01, 0x00beef02])
        assert.notStrictEqual(readReceiverIndex(udp.sent.at(-1) as Uint8Array, 0), before)
      }))

    it.scopedLive(
      "stays connected for ten minutes of ours, and follows us to other addresses and ports",
      () =>
        Effect.gen(function*() {
          const { go, peer, udp } = yield* pair()
          go.setPeer(peer)
          udp.initiate()
          yield* waitFor("a session", () => udp.tunnel.hasSession)
          run("ip", "addr", "add", "192.0.2.3/24", "dev", OUTER.link)
          for (let session = 1; session <= 5; session++) {
            const local = { address: session % 2 === 0 ? OUTER.ours : "192.0.2.3", port: OUR_PORT + session }
            udp.move(yield* UdpTunnel.bind(local))
            // Data from the new place is enough: no handshake is needed for a move.
            yield* exchangeEchoes(udp, 20, INNER.ours, INNER.theirs)
            assert.strictEqual(go.peer(peer.publicKey).endpoint, `${local.address}:${local.port}`)
            assert.strictEqual(count(udp.received, Response), session)
            const notBefore = performance.now() + 30 // as above
            yield* waitFor("its willingness", () => performance.now() > notBefore)
            udp.skip(121_000)
            yield* waitFor("another answer", () => count(udp.received, Response) === session + 1)
          }
          yield* exchangeEchoes(udp, 20, INNER.ours6, INNER.theirs6)
        }),
      30_000
    )

    it.scopedLive("may start over: its new handshake replaces the session that we made", () =>
      Effect.gen(function*() {
        const { go, peer, udp } = yield* pair()
        go.setPeer(peer)
        udp.initiate()
        yield* waitFor("a session", () => udp.tunnel.hasSession)
        yield* exchangeEchoes(udp, 20, INNER.ours, INNER.theirs)
        go.removePeer(peer.publicKey)
        go.setPeer({ ...peer, endpoint })
        answerEchoes(udp)
        const pinged = yield* runBeside([...go.namespace.prefix, ..."ping -n -c 5 -i 0.02 -W 5".split(" "), INNER.ours])
        assert.include(pinged.stdout, "5 received, 0% packet loss")
        assert.strictEqual(count(udp.received, Initiation), 1)
        yield* exchangeEchoes(udp, 20, INNER.ours, INNER.theirs)
      }))

    it.scopedLive("as responder with another preshared key: its answer is refused", () =>
      Effect.gen(function*() {
        const { go, peer, udp } = yield* pair()
        go.setPeer({ ...peer, presharedKey: crypto.randomBytes(32) })
        udp.initiate()
        yield* waitFor("an answer", () => count(udp.received, Response) === 1)
        assert.deepStrictEqual([udp.tunnel.hasSession, udp.tunnel.isHandshaking], [false, true])
      }))

    it.scopedLive("as initiator with another preshared key: it refuses our answer", () =>
      Effect.gen(function*() {
        const { go, peer, udp } = yield* pair()
        answerEchoes(udp)
        go.setPeer({ ...peer, presharedKey: crypto.randomBytes(32), endpoint })
        const pinged = yield* runBeside([...go.namespace.prefix, ..."ping -n -c 1 -W 1".split(" "), INNER.ours])
        assert.strictEqual(pinged.code, 1, pinged.stdout)
        assert.strictEqual(count(udp.sent, Response), 1)
        assert.deepStrictEqual([udp.tunnel.hasSession, go.peer(peer.publicKey).latestHandshake], [false, 0])
      }))

    it.scopedLive("under load, wants a cookie of us, and takes it back", () =>
      Effect.gen(function*() {
        const { go, peer, udp } = yield* pair()
        udp.initiate() // to somebody who does not know us, and so does not answer
        const initiation = udp.sent[0] as Uint8Array
        // Copies have the right MAC1. They fill its queue, and for a second it asks for MAC2 before it looks at anything.
        yield* waitFor("a cookie reply", () => {
          if (count(udp.received, CookieReply) > 0) return true
          for (let i = 0; i < 300; i++) udp.transmit(initiation)
          return false
        })
        assert.isFalse(udp.tunnel.hasSession)
        go.setPeer(peer)
        udp.skip(5000)
        yield* waitFor("a session", () => udp.tunnel.hasSession)
        const retries = udp.sent.filter((message) => message[0] === Initiation && message !== initiation)
        assert.isTrue(retries.length > 0 && retries.every((message) => readMac2(message) !== 0n))
        yield* exchangeEchoes(udp, 20, INNER.ours, INNER.theirs)
      }), 30_000)

    it.scopedLive("gives us our cookie back when we are under load", () =>
      Effect.gen(function*() {
        const { go, peer, udp } = yield* pair({ limit: 0 })
        answerEchoes(udp)
        go.setPeer({ ...peer, endpoint })
        const pinged = yield* runBeside([...go.namespace.prefix, ..."ping -n -c 1 -W 9".split(" "), INNER.ours])
        assert.strictEqual(pinged.code, 0, pinged.stdout + pinged.stderr)
        const initiations = udp.received.filter((message) => message[0] === Initiation)
        assert.deepStrictEqual(initiations.map((message) => readMac2(message) !== 0n), [false, true])
        assert.strictEqual(count(udp.sent, CookieReply), 1)
      }), 30_000)

    it.scopedLive(
      "carries files over TCP both ways, between its interface and our TUN device",
      () =>
        Effect.gen(function*() {
          const { go, peer, udp } = yield* pair()
          const directory = yield* Effect.acquireRelease(
            Effect.sync(() => fs.mkdtempSync(path.join(os.tmpdir(), "wireguard-go-"))),
            (name) => Effect.sync(() => fs.rmSync(name, { recursive: true }))
          )
          const tun = yield* openTun
          run("ip", "addr", "add", `${INNER.ours}/24`, "dev", TUN)
          run("ip", "link", "set", TUN, "mtu", "1280", "up")
          yield* tun.start({
            onPacket: (buffer, offset, length) => {
              udp.send(buffer.slice(offset, offset + length))
            },
            onBatchEnd: () => {}
          })
          udp.onPacket = (buffer, offset, length) => {
            tun.write(buffer, offset, length)
            tun.flush()
          }
          go.setPeer(peer)
          udp.initiate()
          yield* waitFor("a session", () => udp.tunnel.hasSession)

          const file = crypto.randomBytes(3_000_000)
          const digest = createHash("sha256").update(file).digest("hex")
          fs.writeFileSync(path.join(directory, "file"), file)
          const listen = (port: number) => `TCP4-LISTEN:${port},bind=${INNER.theirs},reuseaddr`
          yield* daemon([...go.namespace.prefix, "socat", listen(5001), "EXEC:sha256sum"])
          yield* daemon([...go.namespace.prefix, "socat", "-u", `OPEN:${directory}/file,rdonly`, listen(5002)])
          const listening = () =>
            go.namespace.run("ss", "-Htln").split("\n").filter((line) => line.includes(":500")).length
          yield* waitFor("both listeners", () => listening() === 2)

          assert.include((yield* talk(5001, file)).toString(), digest, "what arrived there")
          assert.strictEqual(createHash("sha256").update(yield* talk(5002)).digest("hex"), digest, "what arrived here")
        }).pipe(Effect.provide(bareDeviceLayer)),
      60_000
    )
  }
)

const readMac2 = (message: Uint8Array): bigint => Buffer.from(message.subarray(132, 148)).readBigUInt64LE()

/** Sends everything, then takes everything, on one TCP connection. */
const talk = (port: number, request?: Uint8Array): Effect.Effect<Buffer> =>
  Effect.async((resume) => {
    const chunks: Array<Buffer> = []
    const socket = net.connect({ host: INNER.theirs, port, allowHalfOpen: true })
    socket.on("data", (chunk: Buffer) => chunks.push(chunk))
    socket.on("error", (error) => resume(Effect.die(error)))
    socket.on("end", () => {
      socket.end()
      resume(Effect.succeed(Buffer.concat(chunks)))
    })
    if (request !== undefined) socket.end(request)
    return Effect.sync(() => socket.destroy())
  })
