/** What `status --json` prints and the control socket answers; docs/status.md explains it to those who read it. */
import * as Schema from "effect/Schema"

/** Raised when a member changes its meaning or goes away; new members come without. */
export const STATUS_VERSION = 1

const Count = Schema.NonNegativeInt
/** Of things told apart by a word, such as the reason why a packet was dropped. */
const Counts = Schema.Record({ key: Schema.String, value: Count })
const Families = Schema.Struct({ ipv4: Schema.Boolean, ipv6: Schema.Boolean })

const Interface = Schema.Struct({
  name: Schema.String,
  ipv4: Schema.String,
  ipv6: Schema.String,
  /** Families that the system let us set up. */
  works: Families
})

const Dns = Schema.Struct({
  method: Schema.String,
  /** Ours, in the order in which the system asks them, and whom each asks in turn: an address or a URL. */
  servers: Schema.Array(Schema.Struct({ address: Schema.String, upstream: Schema.String })),
  searchDomain: Schema.optional(Schema.String)
})

/** The portal's latest, since access was last granted. */
const Refusal = Schema.Struct({
  /** `offline`, `not_found`, `forbidden`, `version_mismatch`, or a word that the portal has learned since. */
  reason: Schema.String,
  /** The conditions of policies that are not met, where the portal says so. */
  violated: Schema.Array(Schema.String),
  ageMillis: Schema.Number
})
export type Refusal = typeof Refusal.Type

export const ResourceReport = Schema.Struct({
  id: Schema.String,
  type: Schema.Literal("cidr", "dns", "internet"),
  name: Schema.String,
  /** A network, an address or a pattern of names; empty for the Internet resource. */
  address: Schema.String,
  addressDescription: Schema.optional(Schema.String),
  sites: Schema.Array(Schema.Struct({ id: Schema.String, name: Schema.String })),
  status: Schema.Literal("Unknown", "Online", "Offline"),
  /** The peer through which it is reached, while there is one. */
  gateway: Schema.optional(Schema.String),
  refusal: Schema.optional(Refusal)
})

export const DeviceReport = Schema.Struct({
  /** Of dynamic pools only where it is known. */
  id: Schema.optional(Schema.String),
  /** What its owner calls it, once access was granted; in dynamic pools its name in DNS. */
  name: Schema.optional(Schema.String),
  /** As `address/bits`. */
  ipv4: Schema.String,
  ipv6: Schema.String,
  /** Whether the portal lets us reach it now. */
  granted: Schema.Boolean,
  /** The peer that it is, while there is a connection. */
  peer: Schema.optional(Schema.String),
  refusal: Schema.optional(Refusal)
})

export const DevicePoolReport = Schema.Struct({
  id: Schema.String,
  type: Schema.Literal("static", "dynamic"),
  name: Schema.String,
  /** The pattern of names, of a dynamic one. */
  address: Schema.optional(Schema.String),
  /** Those that the portal lists; in a dynamic pool those whose names were looked up. */
  devices: Schema.Array(DeviceReport),
  /** Of a dynamic pool: the latest name that the portal had no device for. */
  refusal: Schema.optional(Schema.Struct({ ...Refusal.fields, domain: Schema.String }))
})

export const PeerReport = Schema.Struct({
  id: Schema.String,
  /** Older clients do not say. */
  kind: Schema.optional(Schema.Literal("gateway", "device")),
  /** Of a device: what its owner calls it. */
  name: Schema.optional(Schema.String),
  state: Schema.Literal("connecting", "connected", "idle"),
  path: Schema.optional(Schema.Struct({
    kind: Schema.Literal("direct", "relayed-by-us", "relayed-by-peer", "relayed-both"),
    /** `address:port` or `[address]:port`, as are all of them. */
    local: Schema.String,
    remote: Schema.String,
    /** Our relay's id, if it is relayed by us. */
    relay: Schema.optional(Schema.String)
  })),
  /** Smoothed. */
  rttMillis: Schema.optional(Schema.Number),
  /** Since the latest completed handshake. */
  handshakeAgeMillis: Schema.optional(Schema.Number),
  bytesSent: Count,
  bytesReceived: Count
})

/** A relay that the portal named. */
export const RelayReport = Schema.Struct({
  id: Schema.String,
  /** `address:port` or `[address]:port`, one for each family that it has. */
  addresses: Schema.Array(Schema.String),
  /** Smoothed, once it has answered. */
  rttMillis: Schema.optional(Schema.Number),
  /** Why nothing can be had from it now. */
  unusable: Schema.optional(Schema.String)
})

export const StatusReport = Schema.Struct({
  version: Schema.Literal(STATUS_VERSION),
  client: Schema.Struct({ version: Schema.String, pid: Count, uptimeMillis: Count }),
  /** Whether the portal is connected now. Without it, access that was granted goes on. */
  signedIn: Schema.Boolean,
  portal: Schema.Struct({
    url: Schema.String,
    state: Schema.Literal("connecting", "connected", "disconnected"),
    lastError: Schema.optional(Schema.String)
  }),
  /** Once it is set up. */
  interface: Schema.optional(Interface),
  /** Once it is set up. */
  dns: Schema.optional(Dns),
  internetResourceActive: Schema.Boolean,
  resources: Schema.Array(ResourceReport),
  /** Older clients do not say. */
  devicePools: Schema.optional(Schema.Array(DevicePoolReport)),
  peers: Schema.Array(PeerReport),
  /** Absent in what older clients say. */
  relays: Schema.optional(Schema.Array(RelayReport)),
  /** Packets between the system and the tunnel: `read` were sent by applications, `written` are for them. */
  tun: Schema.Struct({
    read: Count,
    readBytes: Count,
    written: Count,
    writtenBytes: Count,
    dropped: Counts,
    /** The segmentation offloads in force, joined by commas. */
    offloads: Schema.String
  }),
  /** Datagrams between this machine and gateways and relays. */
  sockets: Schema.Struct({
    received: Count,
    receivedBytes: Count,
    sent: Count,
    sentBytes: Count,
    dropped: Counts
  }),
  routeCache: Schema.Struct({
    /** How often the network changed. */
    generation: Count,
    size: Count,
    hits: Count,
    misses: Count,
    sharedWaits: Count,
    staleDiscarded: Count,
    evictions: Count,
    invalidations: Counts
  }),
  /** By the tunnel's own rules. */
  dropped: Counts,
  /** Queries by who was to answer, and why those that were passed on got no answer. Older clients do not say. */
  dnsCounts: Schema.optional(Schema.Struct({ queries: Counts, failures: Counts }))
})
export type StatusReport = typeof StatusReport.Type
