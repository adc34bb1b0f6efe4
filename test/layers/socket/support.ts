/** Plain UDP sockets to test ours against, and facts to wait for. */
import * as Effect from "effect/Effect"
import * as Layer from "effect/Layer"
import * as dgram from "node:dgram"
import * as ReadinessPollerKoffi from "../../../src/layers/poll/ReadinessPollerKoffi.ts"
import * as PeerSocketLinux from "../../../src/layers/socket/PeerSocketLinux.ts"
import * as SocketFactoryLinux from "../../../src/layers/socket/SocketFactoryLinux.ts"
import { ip, SocketAddress } from "../../../src/protocol/wire/address.ts"
import { type DatagramHandlers, PeerSocket, type PeerSockets } from "../../../src/services/PeerSocket.ts"
import type { RouteCacheDouble } from "../../support/RouteCacheDouble.ts"

/** Real time, whatever the test's clock is. Fails with `what` after ten seconds. */
export const waitFor = (what: string, holds: () => boolean): Effect.Effect<void> =>
  Effect.promise(async () => {
    const deadline = performance.now() + 10_000
    while (!holds()) {
      if (performance.now() > deadline) throw new Error(`waited in vain for: ${what}`)
      await new Promise((resolve) => {
        setTimeout(resolve, 2)
      })
    }
  })

export interface PlainDatagram {
  readonly from: SocketAddress
  readonly bytes: Uint8Array
}

export interface PlainSocket {
  readonly local: SocketAddress
  readonly received: Array<PlainDatagram>
  readonly send: (to: SocketAddress, bytes: Uint8Array) => Effect.Effect<void>
}

/** A socket of Node's own. */
export const plainSocket = (address: string, port = 0) =>
  Effect.acquireRelease(
    Effect.promise(async () => {
      const socket = dgram.createSocket({ type: address.includes(":") ? "udp6" : "udp4", recvBufferSize: 4 << 20 })
      await new Promise<void>((resolve, reject) => {
        socket.once("error", reject)
        socket.bind(port, address, resolve)
      })
      const received: Array<PlainDatagram> = []
      socket.on("message", (bytes, { address, port }) => {
        received.push({ from: new SocketAddress(ip(address), port), bytes: Uint8Array.from(bytes) })
      })
      const plain: PlainSocket = {
        local: new SocketAddress(ip(address), socket.address().port),
        received,
        send: (to, bytes) =>
          Effect.promise(() =>
            new Promise((resolve, reject) => {
              socket.send(bytes, to.port, to.address, (error) => error === null ? resolve() : reject(error))
            })
          )
      }
      return { socket, plain }
    }),
    ({ socket }) => Effect.sync(() => socket.close())
  ).pipe(Effect.map(({ plain }) => plain))

export interface ReceivedDatagram {
  readonly local: SocketAddress
  readonly from: SocketAddress
  readonly ecn: number
  readonly bytes: Uint8Array
}

export interface Peer extends PeerSockets {
  readonly received: Array<ReceivedDatagram>
  readonly batches: () => number
  readonly unblocked: () => number
  /** `sendBytes` of a whole array, then `flush`. */
  readonly sendNow: (source: SocketAddress | undefined, to: SocketAddress, ecn: number, bytes: Uint8Array) => void
  /** Where others reach it. */
  readonly at: (address: string) => SocketAddress
}

/** Our peer sockets, which keep copies of what they receive. */
export const openPeer = Effect.gen(function*() {
  const service = yield* PeerSocket
  const received: Array<ReceivedDatagram> = []
  let batches = 0
  let unblocked = 0
  const handlers: DatagramHandlers = {
    onDatagram: (local, from, ecn, buffer, offset, length) => {
      received.push({ local, from, ecn, bytes: buffer.slice(offset, offset + length) })
      if (offset < 64 || offset + length + 64 > buffer.length) throw new Error("no room around the datagram")
    },
    onBatchEnd: () => {
      batches += 1
    },
    onUnblocked: () => {
      unblocked += 1
    }
  }
  const sockets = yield* service.open(handlers)
  const peer: Peer = {
    ...sockets,
    received,
    batches: () => batches,
    unblocked: () => unblocked,
    sendNow: (source, to, ecn, bytes) => {
      sockets.send(source, to, ecn, bytes, 0, bytes.length)
      sockets.flush()
    },
    at: (address) => new SocketAddress(ip(address), (address.includes(":") ? sockets.port6 : sockets.port4) as number)
  }
  return peer
})

/** The real layers over a cache of the test's. */
export const peerLayer = (routes: RouteCacheDouble, options: Partial<PeerSocketLinux.PeerSocketOptions> = {}) =>
  PeerSocketLinux.layerWith(options).pipe(
    Layer.provideMerge(SocketFactoryLinux.layer),
    Layer.provideMerge(ReadinessPollerKoffi.layer),
    Layer.provideMerge(routes.layer)
  )

/** Bytes that tell one datagram from any other. */
export const datagram = (seed: number, length: number): Uint8Array => {
  const bytes = new Uint8Array(length)
  let state = Math.imul(seed + 1, 0x9e3779b1)
  for (let i = 0; i < length; i++) {
    state = Math.imul(state ^ state >>> 15, 0x2c1b3c6d) + 0x6d2b79f5
    bytes[i] = state >>> 24
  }
  if (length >= 4) new DataView(bytes.buffer).setUint32(0, seed)
  return bytes
}

export const seedOf = (bytes: Uint8Array): number => new DataView(bytes.buffer, bytes.byteOffset).getUint32(0)
