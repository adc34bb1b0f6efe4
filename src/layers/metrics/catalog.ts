/** Every metric of this client: docs/metrics.md says the same, and a test compares them. */
import { dnsAnswerers, dnsFailures } from "../../protocol/tunnel/DnsCounts.ts"
import { dropReasons } from "../../protocol/tunnel/DropCounts.ts"
import type { EventLoopLag } from "../../services/EventLoop.ts"
import type { TunnelStatus } from "../../services/Tunnel.ts"

/** What the figures are read from, all of one moment. */
export interface Facts {
  readonly status: TunnelStatus
  readonly lag: EventLoopLag
  readonly process: {
    readonly version: string
    readonly startSeconds: number
    readonly cpuSeconds: number
    readonly residentBytes: number
  }
}

export type Peer = TunnelStatus["peers"][number]
type Figures = { readonly [label: string]: number }

export interface Definition {
  readonly name: string
  readonly kind: "counter" | "gauge" | "histogram"
  /** As UCUM has it: seconds, bytes, or things that are counted. */
  readonly unit: "s" | "By" | "1"
  readonly help: string
  readonly label?: string
  /** The label's values that are there from the beginning, with zero. */
  readonly values?: ReadonlyArray<string>
  /** A figure for each of the label's values. Without it the figure is kept up to date by whom it is about. */
  readonly read?: (facts: Facts) => number | Figures
  /** Of metrics that every peer has; without a figure there is no line. Their label is `peer`. */
  readonly ofPeer?: (peer: Peer) => number | undefined
}

const tally = <A>(things: ReadonlyArray<A>, labelOf: (thing: A) => string | undefined): Figures => {
  const counts: Record<string, number> = {}
  for (const thing of things) {
    const label = labelOf(thing)
    if (label !== undefined) counts[label] = (counts[label] ?? 0) + 1
  }
  return counts
}

const seconds = (millis: number | undefined): number | undefined => millis === undefined ? undefined : millis / 1000

const ofProcess: ReadonlyArray<Definition> = [
  {
    name: "process_start_time_seconds",
    kind: "gauge",
    unit: "s",
    help: "When the client started, in seconds since 1970",
    read: ({ process }) => process.startSeconds
  },
  {
    name: "process_cpu_seconds_total",
    kind: "counter",
    unit: "s",
    help: "Processor time that the client has used, in user and in system mode",
    read: ({ process }) => process.cpuSeconds
  },
  {
    name: "process_resident_memory_bytes",
    kind: "gauge",
    unit: "By",
    help: "Memory that the client occupies",
    read: ({ process }) => process.residentBytes
  },
  {
    name: "firezone_build_info",
    kind: "gauge",
    unit: "1",
    help: "1, with the version of the client",
    label: "version",
    read: ({ process }) => ({ [process.version]: 1 })
  },
  {
    name: "firezone_event_loop_lag_p50_seconds",
    kind: "gauge",
    unit: "s",
    help: "Median lateness of the event loop over the latest 30 to 60 seconds",
    read: ({ lag }) => lag.p50
  },
  {
    name: "firezone_event_loop_lag_p99_seconds",
    kind: "gauge",
    unit: "s",
    help: "Lateness that the event loop stayed below 99 times out of 100 over the latest 30 to 60 seconds",
    read: ({ lag }) => lag.p99
  },
  {
    name: "firezone_event_loop_lag_max_seconds",
    kind: "gauge",
    unit: "s",
    help: "Worst lateness of the event loop over the latest 30 to 60 seconds",
    read: ({ lag }) => lag.max
  }
]

const ofSession: ReadonlyArray<Definition> = [
  {
    name: "firezone_portal_state",
    kind: "gauge",
    unit: "1",
    help: "1 for the state that the connection to the portal is in, 0 for the others",
    label: "state",
    values: ["connecting", "connected", "disconnected"],
    read: ({ status }) => ({ connecting: 0, connected: 0, disconnected: 0, [status.portal.state]: 1 })
  },
  {
    name: "firezone_interface_up",
    kind: "gauge",
    unit: "1",
    help: "1 once the tunnel interface is set up",
    read: ({ status }) => status.interface === undefined ? 0 : 1
  },
  {
    name: "firezone_internet_resource_active",
    kind: "gauge",
    unit: "1",
    help: "1 while all other traffic goes through the tunnel",
    read: ({ status }) => status.internetResourceActive ? 1 : 0
  },
  {
    name: "firezone_resources",
    kind: "gauge",
    unit: "1",
    help: "Resources, by state",
    label: "state",
    values: ["online", "offline", "unknown"],
    read: ({ status }) => tally(status.resources, ({ status }) => status.toLowerCase())
  },
  {
    name: "firezone_relays",
    kind: "gauge",
    unit: "1",
    help: "Relays that the portal has named, by state",
    label: "state",
    values: ["usable", "waiting", "unusable"],
    read: ({ status }) =>
      tally(
        status.relays,
        ({ rttMillis, unusable }) =>
          unusable !== undefined ? "unusable" : rttMillis === undefined ? "waiting" : "usable"
      )
  },
  {
    name: "firezone_peers",
    kind: "gauge",
    unit: "1",
    help: "Gateways and other clients that there is a connection to, by state",
    label: "state",
    values: ["connecting", "connected", "idle"],
    read: ({ status }) => tally(status.peers, ({ state }) => state)
  },
  {
    name: "firezone_paths",
    kind: "gauge",
    unit: "1",
    help: "Connections to peers that have a path, by the kind of path",
    label: "kind",
    values: ["direct", "relayed-by-us", "relayed-by-peer", "relayed-both"],
    read: ({ status }) => tally(status.peers, ({ path }) => path?.kind)
  }
]

const ofPeers: ReadonlyArray<Definition> = [
  {
    name: "firezone_peer_sent_bytes_total",
    kind: "counter",
    unit: "By",
    help: "Bytes of packets inside the tunnel that were sent to the peer",
    label: "peer",
    ofPeer: ({ bytesSent }) => bytesSent
  },
  {
    name: "firezone_peer_received_bytes_total",
    kind: "counter",
    unit: "By",
    help: "Bytes of packets inside the tunnel that came from the peer",
    label: "peer",
    ofPeer: ({ bytesReceived }) => bytesReceived
  },
  {
    name: "firezone_peer_round_trip_seconds",
    kind: "gauge",
    unit: "s",
    help: "Smoothed round-trip time to the peer, once measured",
    label: "peer",
    ofPeer: ({ rttMillis }) => seconds(rttMillis)
  },
  {
    name: "firezone_peer_handshake_age_seconds",
    kind: "gauge",
    unit: "s",
    help: "Time since the latest completed WireGuard handshake with the peer",
    label: "peer",
    ofPeer: ({ handshakeAgeMillis }) => seconds(handshakeAgeMillis)
  },
  {
    name: "firezone_peer_direct",
    kind: "gauge",
    unit: "1",
    help: "1 if the path to the peer is direct, 0 if it is relayed",
    label: "peer",
    ofPeer: ({ path }) => path === undefined ? undefined : path.kind === "direct" ? 1 : 0
  }
]

const ofPackets: ReadonlyArray<Definition> = [
  {
    name: "firezone_tun_read_packets_total",
    kind: "counter",
    unit: "1",
    help: "Packets that applications have sent into the tunnel",
    read: ({ status }) => status.tun.read
  },
  {
    name: "firezone_tun_read_bytes_total",
    kind: "counter",
    unit: "By",
    help: "Bytes of packets that applications have sent into the tunnel",
    read: ({ status }) => status.tun.readBytes
  },
  {
    name: "firezone_tun_written_packets_total",
    kind: "counter",
    unit: "1",
    help: "Packets from the tunnel for applications",
    read: ({ status }) => status.tun.written
  },
  {
    name: "firezone_tun_written_bytes_total",
    kind: "counter",
    unit: "By",
    help: "Bytes of packets from the tunnel for applications",
    read: ({ status }) => status.tun.writtenBytes
  },
  {
    name: "firezone_tun_dropped_packets_total",
    kind: "counter",
    unit: "1",
    help: "Packets dropped between the system and the tunnel, by reason",
    label: "reason",
    values: ["short", "oversized", "fragment", "checksum-offset", "out-of-bounds"],
    read: ({ status }) => status.tun.dropped
  },
  {
    name: "firezone_socket_received_datagrams_total",
    kind: "counter",
    unit: "1",
    help: "Datagrams from gateways, other clients and relays",
    read: ({ status }) => status.sockets.received
  },
  {
    name: "firezone_socket_received_bytes_total",
    kind: "counter",
    unit: "By",
    help: "Bytes of datagrams from gateways, other clients and relays",
    read: ({ status }) => status.sockets.receivedBytes
  },
  {
    name: "firezone_socket_sent_datagrams_total",
    kind: "counter",
    unit: "1",
    help: "Datagrams to gateways, other clients and relays",
    read: ({ status }) => status.sockets.sent
  },
  {
    name: "firezone_socket_sent_bytes_total",
    kind: "counter",
    unit: "By",
    help: "Bytes of datagrams to gateways, other clients and relays",
    read: ({ status }) => status.sockets.sentBytes
  },
  {
    name: "firezone_socket_dropped_datagrams_total",
    kind: "counter",
    unit: "1",
    help: "Datagrams dropped by the sockets, by reason",
    label: "reason",
    values: [
      "no-route",
      "no-socket",
      "send-error",
      "receive-error",
      "oversized",
      "empty",
      "source-port-0",
      "no-local-address",
      "malformed",
      "queue-full"
    ],
    read: ({ status }) => status.sockets.dropped
  },
  {
    name: "firezone_dropped_packets_total",
    kind: "counter",
    unit: "1",
    help: "Packets and datagrams dropped by the tunnel's own rules, by reason",
    label: "reason",
    values: dropReasons,
    read: ({ status }) => status.dropped
  },
  {
    name: "firezone_dns_queries_total",
    kind: "counter",
    unit: "1",
    help: "DNS queries to the client's own servers, by who was to answer",
    label: "answered_by",
    values: dnsAnswerers,
    read: ({ status }) => status.dnsCounts.queries
  },
  {
    name: "firezone_dns_failures_total",
    kind: "counter",
    unit: "1",
    help: "DNS queries that were passed on and got no answer, by reason",
    label: "reason",
    values: dnsFailures,
    read: ({ status }) => status.dnsCounts.failures
  }
]

/** Kept up to date by the cache itself (RouteCacheLive), as it works. */
const ofRouteCache: ReadonlyArray<Definition> = [
  {
    name: "firezone_route_cache_hits_total",
    kind: "counter",
    unit: "1",
    help: "Answers from the route cache"
  },
  {
    name: "firezone_route_cache_misses_total",
    kind: "counter",
    unit: "1",
    help: "Route lookups begun"
  },
  {
    name: "firezone_route_cache_shared_waits_total",
    kind: "counter",
    unit: "1",
    help: "Callers that joined a route lookup under way"
  },
  {
    name: "firezone_route_cache_stale_discarded_total",
    kind: "counter",
    unit: "1",
    help: "Route lookups that ended after their generation"
  },
  {
    name: "firezone_route_cache_evictions_total",
    kind: "counter",
    unit: "1",
    help: "Routes dropped for want of room"
  },
  {
    name: "firezone_route_cache_invalidations_total",
    kind: "counter",
    unit: "1",
    help: "Invalidations of the route cache, by cause",
    label: "cause"
  },
  {
    name: "firezone_route_cache_entries",
    kind: "gauge",
    unit: "1",
    help: "Routes held"
  },
  {
    name: "firezone_route_cache_lookup_seconds",
    kind: "histogram",
    unit: "s",
    help: "Time of a route lookup"
  }
]

export const catalog: ReadonlyArray<Definition> = [
  ...ofProcess,
  ...ofSession,
  ...ofPeers,
  ...ofPackets,
  ...ofRouteCache
]
