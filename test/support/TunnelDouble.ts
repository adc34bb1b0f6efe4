/** A session that the test plays: it says what the status is, and how it ends. */
import * as Deferred from "effect/Deferred"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import * as Layer from "effect/Layer"
import * as PubSub from "effect/PubSub"
import * as Stream from "effect/Stream"
import { ip, SocketAddress } from "../../src/protocol/wire/address.ts"
import {
  Tunnel,
  type TunnelError,
  type TunnelEvent,
  type TunnelSession,
  type TunnelStatus
} from "../../src/services/Tunnel.ts"

/** Of a client that is connected to one gateway. */
export const tunnelStatus = (changes: Partial<TunnelStatus> = {}): TunnelStatus => ({
  portal: { state: "connected" },
  interface: {
    name: "tun-test",
    ipv4: ip("100.64.0.2"),
    ipv6: ip("fd00:2021:1111::2"),
    works: { ipv4: true, ipv6: true }
  },
  dns: {
    method: "systemd-resolved",
    servers: [{ address: ip("100.100.111.1"), upstream: "https://dns.example/q" }],
    searchDomain: "corp.test"
  },
  resources: [{
    id: "66666666-6666-4666-8666-666666666664",
    type: "cidr",
    name: "Office LAN",
    address: "10.20.0.0/16",
    sites: [{ id: "88888888-8888-4888-8888-888888888888", name: "HQ" }],
    status: "Online",
    gateway: "77777777-7777-4777-8777-777777777777"
  }],
  devicePools: [],
  peers: [{
    kind: "gateway",
    peer: "77777777-7777-4777-8777-777777777777",
    state: "connected",
    path: {
      kind: "relayed-by-us",
      local: new SocketAddress(ip("192.0.2.9"), 49_999),
      remote: new SocketAddress(ip("2001:db8::9"), 52_625),
      relay: "99999999-9999-4999-8999-999999999999"
    },
    rttMillis: 12.34,
    handshakeAgeMillis: 61_500,
    bytesSent: 1500,
    bytesReceived: 2_500_000
  }],
  relays: [{
    id: "99999999-9999-4999-8999-999999999999",
    addresses: [new SocketAddress(ip("192.0.2.9"), 3478), new SocketAddress(ip("2001:db8::9"), 3478)],
    rttMillis: 4.5
  }],
  tun: { read: 3, readBytes: 1400, written: 5, writtenBytes: 2_400_000, dropped: { "no-buffer": 2 }, offloads: "tso" },
  sockets: { received: 5, receivedBytes: 2_500_000, sent: 3, sentBytes: 1500, dropped: { "no-route": 0 } },
  routeCache: {
    generation: 3,
    size: 4,
    hits: 999,
    misses: 1,
    sharedWaits: 0,
    staleDiscarded: 0,
    evictions: 0,
    invalidations: { "network-change": 2, reset: 1 }
  },
  dropped: { "unknown-resource": 12_345 },
  dnsCounts: { queries: { cache: 7, upstream: 3 }, failures: { "timed-out": 1 } },
  internetResourceActive: false,
  ...changes
})

export interface TunnelDouble {
  status: TunnelStatus
  /** The reasons of every `reset`, oldest first. */
  readonly resets: Array<string>
  /** How many sessions were started, and whether one runs. */
  started: number
  running: boolean
  /** Reaches whoever reads the events, and those who come later. */
  readonly emit: (event: TunnelEvent) => void
  /** Ends the session as the real one does when it cannot go on. */
  readonly fail: (error: TunnelError) => void
  readonly session: TunnelSession
  readonly layer: Layer.Layer<Tunnel>
}

export const makeTunnelDouble: Effect.Effect<TunnelDouble> = Effect.gen(function*() {
  const events = yield* PubSub.sliding<TunnelEvent>({ capacity: 16, replay: 16 })
  const failed = yield* Deferred.make<never, TunnelError>()
  const double: TunnelDouble = {
    status: tunnelStatus(),
    resets: [],
    started: 0,
    running: false,
    emit: (event) => void events.unsafeOffer(event),
    fail: (error) => Deferred.unsafeDone(failed, Exit.fail(error)),
    session: {
      events: Stream.fromPubSub(events),
      status: Effect.sync(() => double.status),
      statuses: Stream.fromEffect(Effect.sync(() => double.status)),
      reset: (reason) => Effect.sync(() => void double.resets.push(reason)),
      setInternetResourceState: (active) =>
        Effect.sync(() => {
          double.status = { ...double.status, internetResourceActive: active }
        }),
      failed: Deferred.await(failed)
    },
    layer: Layer.sync(Tunnel, () =>
      Tunnel.of({
        start: () =>
          Effect.acquireRelease(
            Effect.sync(() => {
              double.started += 1
              double.running = true
              return double.session
            }),
            () => Effect.sync(() => (double.running = false))
          )
      }))
  }
  return double
})
