/** The values in the portal's messages (portal spec sections 5 and 6.1), and how a message is decoded around a bad one. */
import * as Either from "effect/Either"
import * as Encoding from "effect/Encoding"
import * as ParseResult from "effect/ParseResult"
import * as Schema from "effect/Schema"
import { type Relay, RELAY_PORT } from "../protocol/node/types.ts"
import { toBase64 } from "../protocol/portal/loginUrl.ts"
import type * as Types from "../protocol/portal/types.ts"
import {
  familyOf,
  formatNetwork,
  type IpAddress,
  type IpNetwork,
  parseIp,
  parseNetwork,
  parseSocketAddress,
  type SocketAddress
} from "../protocol/wire/address.ts"

// ---- common types (section 5)

const fromText = <A>(what: string, parse: (text: string) => A | undefined, format: (value: A) => string) =>
  Schema.transformOrFail(Schema.String, Schema.declare((_: unknown): _ is A => true), {
    strict: true,
    decode: (text, _, ast) => {
      const value = parse(text)
      return value === undefined
        ? ParseResult.fail(new ParseResult.Type(ast, text, `not ${what}`))
        : ParseResult.succeed(value)
    },
    encode: (value) => ParseResult.succeed(format(value))
  })

const uuid = /^[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}$/
const parseId = (text: string): string | undefined => uuid.test(text.toLowerCase()) ? text.toLowerCase() : undefined

/** Client, gateway, resource, site or relay; lower case. */
export const Id = fromText("a UUID", parseId, (id) => id)

/** A WireGuard key or preshared key. */
export const Key = fromText(
  "32 bytes in base64",
  (text) => {
    const bytes = Encoding.decodeBase64(text)
    return text.length === 44 && Either.isRight(bytes) && bytes.right.length === 32 ? bytes.right : undefined
  },
  toBase64
)

/** With or without the prefix length that some portals add (section 13). */
export const Address = fromText<IpAddress>(
  "an IP address",
  (text) => parseIp(text.replace(/\/\d{1,3}$/, "")),
  (address) => address
)

export const Network = fromText<IpNetwork>("a network without host bits", parseNetwork, formatNetwork)

/** A device's address; its prefix length is optional. */
const HostNetwork = fromText<IpNetwork>(
  "an address",
  (text) => {
    const address = parseIp(text)
    return address === undefined ? parseNetwork(text) : { address, bits: familyOf(address) === 4 ? 32 : 128 }
  },
  formatNetwork
)

const RemoteAddress = fromText<SocketAddress>("an address and a port", parseSocketAddress, ({ text }) => text)
export const UnixSeconds = Schema.Int
export const Unknowns = Schema.Array(Schema.Unknown)
export const IceCredentials = Schema.Struct({ username: Schema.String, password: Schema.String })
const Port = Schema.Int.pipe(Schema.between(0, 65_535))

/** May be absent or `null`. */
export const maybe = <A, I>(schema: Schema.Schema<A, I>) => Schema.optionalWith(schema, { nullable: true })
export const orElse = <A, I>(schema: Schema.Schema<A, I>, value: () => A) =>
  Schema.optionalWith(schema, { nullable: true, default: value })
export const List = orElse(Unknowns, () => [])

/** A member that has an older name; exactly one of the two may be there. */
export const withAlias = <A, I>(schema: Schema.Schema<A, I>, name: string, alias: string): Schema.Schema<A, unknown> =>
  Schema.transformOrFail(Schema.Record({ key: Schema.String, value: Schema.Unknown }), schema, {
    strict: false,
    decode: (members, _, ast) => {
      const { [alias]: older, ...others } = members
      if (older === undefined) return ParseResult.succeed(members)
      return members[name] === undefined
        ? ParseResult.succeed({ ...others, [name]: older })
        : ParseResult.fail(new ParseResult.Type(ast, alias, `both ${name} and ${alias}`))
    },
    encode: (members) => ParseResult.succeed(members)
  }) as Schema.Schema<A, unknown>

export const Filter = Schema.Union(
  Schema.Struct({
    protocol: Schema.Literal("tcp", "udp"),
    port_range_start: orElse(Port, () => 0),
    port_range_end: orElse(Port, () => 65_535)
  }),
  Schema.Struct({ protocol: Schema.Literal("icmp") })
)
export const Filters = orElse(Schema.Array(Filter), () => [])
export const filterOf = (wire: typeof Filter.Type): Types.Filter =>
  wire.protocol === "icmp"
    ? { protocol: "icmp" }
    : { protocol: wire.protocol, portRangeStart: wire.port_range_start, portRangeEnd: wire.port_range_end }

// ---- decoding with a list of what was left out

/** A message that has no effect. `why` names members, never values: those may be keys or a customer's names. */
export interface Undecodable {
  readonly _tag: "UnknownEvent" | "Malformed"
  readonly why: string
}

export interface Decoded<Message> {
  readonly message: Message
  /** Parts that were left out, and why; for the log. */
  readonly skipped: ReadonlyArray<string>
}

export type Decoder<Message> = (payload: unknown) => Either.Either<Decoded<Message>, Undecodable>

/** The place and the kind of the first problem. */
const whyOf = (error: ParseResult.ParseError): string => {
  const [issue] = ParseResult.ArrayFormatter.formatErrorSync(error)
  const place = issue?.path.map(String).join(".") ?? ""
  return `${place === "" ? "payload" : place.slice(0, 100)} is ${
    issue?._tag === "Missing" ? "missing" : "not as specified"
  }`
}

type Read<A> = (value: unknown) => Either.Either<A, string>

export const read = <A, I>(schema: Schema.Schema<A, I>): Read<A> => {
  const decode = Schema.decodeUnknownEither(schema)
  return (value) => Either.mapLeft(decode(value), whyOf)
}

/** Reads the payload, then builds the message; `build` adds to `skipped` what it leaves out. */
export const decoder = <A, Message>(
  readPayload: Read<A>,
  build: (wire: A, skipped: Array<string>) => Message
): Decoder<Message> =>
(payload) => {
  const skipped: Array<string> = []
  return Either.mapBoth(readPayload(payload), {
    onLeft: (why): Undecodable => ({ _tag: "Malformed", why }),
    onRight: (wire) => ({ message: build(wire, skipped), skipped })
  })
}

export const decodeWith =
  <Message>(decoders: { readonly [event: string]: Decoder<Message> }) =>
  (event: string, payload: unknown): Either.Either<Decoded<Message>, Undecodable> => {
    const decode = Object.hasOwn(decoders, event) ? decoders[event] : undefined
    return decode === undefined ? Either.left({ _tag: "UnknownEvent", why: "unknown event" }) : decode(payload)
  }

/** The elements that can be read. */
export const lenient = <A>(
  what: string,
  readElement: Read<A>,
  elements: ReadonlyArray<unknown>,
  skipped: Array<string>
): ReadonlyArray<A> =>
  elements.flatMap((element) => {
    const result = readElement(element)
    if (Either.isRight(result)) return [result.right]
    const id = (element as { readonly id?: unknown } | null)?.id
    const name = typeof id === "string" ? parseId(id) : undefined
    skipped.push(`${what}${name === undefined ? "" : ` ${name}`}: ${result.left}`)
    return []
  })

/** SDP candidates (section 5): the prefix and an unsigned priority; others are skipped without a word. */
export const validCandidates = (candidates: ReadonlyArray<unknown>): ReadonlyArray<string> =>
  candidates.filter((candidate): candidate is string =>
    typeof candidate === "string" && candidate.startsWith("candidate:") && candidate.length <= 512
    && /^\d{1,10}$/.test(candidate.split(/\s+/, 4)[3] ?? "")
  )

// ---- resources (section 6.1)

const Sites = Schema.Array(Schema.Struct({ id: Id, name: Schema.String }))
const withSites = <A, I>(schema: Schema.Schema<A, I>) => withAlias(schema, "sites", "gateway_groups")
export const named = { id: Id, name: Schema.String }

const CidrResource = withSites(Schema.Struct({
  ...named,
  type: Schema.Literal("cidr"),
  address: Network,
  address_description: maybe(Schema.String),
  sites: Sites,
  filters: Filters
}))
const DnsResource = withSites(Schema.Struct({
  ...named,
  type: Schema.Literal("dns"),
  address: Schema.NonEmptyString.pipe(Schema.maxLength(255)),
  address_description: maybe(Schema.String),
  sites: Sites,
  ip_stack: orElse(Schema.Literal("dual", "ipv4_only", "ipv6_only"), () => "dual" as const),
  filters: Filters
}))
const InternetResource = withSites(Schema.Struct({
  id: Id,
  type: Schema.Literal("internet"),
  name: orElse(Schema.String, () => "Internet Resource"),
  sites: Sites
}))
const StaticDevicePool = Schema.Struct({
  ...named,
  type: Schema.Literal("static_device_pool"),
  devices: orElse(
    Schema.Array(withAlias(Schema.Struct({ client_id: Id, ipv4: HostNetwork, ipv6: HostNetwork }), "client_id", "id")),
    () => []
  ),
  filters: Filters
})
const DynamicDevicePool = Schema.Struct({
  ...named,
  type: Schema.Literal("dynamic_device_pool"),
  address: Schema.NonEmptyString.pipe(Schema.maxLength(255))
})

const resources = {
  cidr: read(CidrResource),
  dns: read(DnsResource),
  internet: read(InternetResource),
  static_device_pool: read(StaticDevicePool),
  dynamic_device_pool: read(DynamicDevicePool)
}
type ResourceWire = typeof resources extends { readonly [type: string]: Read<infer A> } ? A : never

/** By `type`, so that the reason names what is wrong with it. */
export const readResource: Read<Types.Resource> = (value) => {
  const type = (value as { readonly type?: unknown } | null)?.type
  return typeof type === "string" && Object.hasOwn(resources, type)
    ? Either.map<ResourceWire, Types.Resource>(resourceOf)(resources[type as keyof typeof resources](value))
    : Either.left("unknown type")
}

const resourceOf = (wire: ResourceWire): Types.Resource => {
  const { id, name } = wire
  switch (wire.type) {
    case "cidr":
      return {
        type: "cidr",
        id,
        name,
        address: wire.address,
        addressDescription: wire.address_description,
        sites: wire.sites,
        filters: wire.filters.map(filterOf)
      }
    case "dns":
      return {
        type: "dns",
        id,
        name,
        address: wire.address,
        addressDescription: wire.address_description,
        sites: wire.sites,
        ipStack: wire.ip_stack,
        filters: wire.filters.map(filterOf)
      }
    case "internet":
      return { type: "internet", id, name, sites: wire.sites }
    case "static_device_pool":
      return {
        type: "static_device_pool",
        id,
        name,
        devices: wire.devices.map(({ client_id, ipv4, ipv6 }) => ({ clientId: client_id, ipv4, ipv6 })),
        filters: wire.filters.map(filterOf)
      }
    case "dynamic_device_pool":
      return { type: "dynamic_device_pool", id, name, address: wire.address }
  }
}

// ---- interface, relays, grants

export const Interface = Schema.Struct({
  ipv4: Address,
  ipv6: Address,
  upstream_do53: List,
  upstream_doh: List,
  upstream_dns: List,
  search_domain: maybe(Schema.String)
})
const Do53 = Schema.Struct({ ip: Address })
const Doh = Schema.Struct({
  url: Schema.String.pipe(Schema.filter((url) => /^https:\/\/[^/]/i.test(url) && URL.canParse(url)))
})
const LegacyDns = Schema.Struct({ protocol: Schema.Literal("ip_port"), address: RemoteAddress })

export const interfaceOf = (wire: typeof Interface.Type, skipped: Array<string>): Types.InterfaceConfig => {
  const do53 = lenient("resolver", read(Do53), wire.upstream_do53, skipped).map(({ ip }) => ip)
  return {
    ipv4: wire.ipv4,
    ipv6: wire.ipv6,
    upstreamDo53: wire.upstream_do53.length > 0
      ? do53
      : lenient("resolver", read(LegacyDns), wire.upstream_dns, skipped).map(({ address }) => address.address),
    upstreamDoh: lenient("DoH resolver", read(Doh), wire.upstream_doh, skipped).map(({ url }) => url),
    searchDomain: wire.search_domain === "" ? undefined : wire.search_domain
  }
}

const RelayWire = Schema.Union(
  Schema.Struct({
    type: Schema.Literal("turn"),
    id: Id,
    addr: RemoteAddress,
    username: Schema.String,
    password: Schema.String
  }),
  Schema.Struct({ type: Schema.Literal("stun") })
)

/**
 * One relay per id: a dual-stack one comes as two entries. `stun` ones are of no use, nor are those whose datagrams nobody
 * would take for a relay's.
 */
export const relaysOf = (elements: ReadonlyArray<unknown>, skipped: Array<string>): ReadonlyArray<Relay> => {
  const relays = new Map<string, Relay>()
  for (const wire of lenient("relay", read(RelayWire), elements, skipped)) {
    if (wire.type === "stun") continue
    const { id, addr, username, password } = wire
    if (addr.port !== RELAY_PORT) {
      skipped.push(`relay ${id}: its port is not ${RELAY_PORT}`)
      continue
    }
    relays.set(id, {
      ...relays.get(id),
      id,
      username,
      password,
      ...(addr.family === 4 ? { v4: addr } : { v6: addr })
    })
  }
  return [...relays.values()]
}

const Grant = Schema.Struct({ client_id: Id, resource_id: Id, expires_at: UnixSeconds })
export const grantsOf = (
  elements: ReadonlyArray<unknown>,
  skipped: Array<string>
): ReadonlyArray<Types.InboundAuthorization> =>
  lenient("authorization", read(Grant), elements, skipped).map(({ client_id, expires_at, resource_id }) => ({
    clientId: client_id,
    resourceId: resource_id,
    expiresAt: expires_at
  }))
