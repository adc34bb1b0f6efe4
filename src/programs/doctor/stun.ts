/** What relays say of us over UDP: STUN binding requests (RFC 8489) from one socket per family, outside the tunnel. */
import * as Effect from "effect/Effect"
import { randomBytes } from "node:crypto"
import { ipFromBytes, SocketAddress } from "../../protocol/wire/address.ts"
import { Attribute, Class, Method, parseStun, StunBuilder, TRANSACTION_ID_LENGTH } from "../../protocol/wire/stun.ts"
import { PeerSocket } from "../../services/PeerSocket.ts"

/** RFC 5780 section 7.4: where the same server listens under another address. */
const OTHER_ADDRESS = 0x802c
/** Comprehension-optional and unassigned: a server skips it, whatever it is filled with. */
const FILLER = 0xfffe
/** UDP payload of the largest datagram between peers (host spec section 1). */
export const FULL_SIZE = 1316
const HEADERS = 24 // of the message and of the filler

/** When a request is sent; it is given up `PATIENCE_MILLIS` after the first time. */
const SEND_AT_MILLIS = [0, 500, 1500]
const PATIENCE_MILLIS = 2500
const LOOK_EVERY_MILLIS = 25
/** Whoever names more relays does not get them all asked. */
const MAX_SERVERS = 16

/** An answer. */
export interface Echo {
  readonly server: SocketAddress
  /** What the server sees us as; absent in an error. */
  readonly mapped: SocketAddress | undefined
  /** What the datagram was sent from. */
  readonly local: SocketAddress
  readonly millis: number
  readonly other: SocketAddress | undefined
}

export interface StunFindings {
  readonly asked: ReadonlyArray<SocketAddress>
  readonly echoes: ReadonlyArray<Echo>
  /** From second addresses of the same servers, where that tells more. */
  readonly others: ReadonlyArray<Echo>
  /** Those of `echoes` that a datagram of full size was answered by. */
  readonly fullSize: ReadonlyArray<SocketAddress>
  /** Datagrams that were not sent, by reason. */
  readonly dropped: { readonly [reason: string]: number }
}

interface Request {
  readonly server: SocketAddress
  readonly bytes: Uint8Array
  sentAt: number
  echo: Echo | undefined
}

/** The value of an address attribute that is not XORed (RFC 8489 section 14.1). */
const plainAddress = (value: Uint8Array | undefined): SocketAddress | undefined => {
  const family = value?.[1] === 1 && value.length === 8 ? 4 : value?.[1] === 2 && value.length === 20 ? 6 : undefined
  if (value === undefined || family === undefined) return undefined
  return new SocketAddress(ipFromBytes(value, 4, family), (value[2] ?? 0) << 8 | (value[3] ?? 0))
}

const distinct = (addresses: ReadonlyArray<SocketAddress>): ReadonlyArray<SocketAddress> => [
  ...new Map(addresses.map((address) => [address.text, address])).values()
]

/** Asks them all at once; takes at most twice 2.5 s. Fails as `PeerSocket.open` does. */
export const askServers = (wanted: ReadonlyArray<SocketAddress>) =>
  Effect.gen(function*() {
    const asked = distinct(wanted).slice(0, MAX_SERVERS)
    const clock = yield* Effect.clock
    const now = (): number => Number(clock.unsafeCurrentTimeNanos()) / 1e6
    const pending = new Map<string, Request>()
    const sockets = yield* (yield* PeerSocket).open({
      onDatagram: (local, from, _ecn, buffer, offset, length) => {
        const message = parseStun(buffer.slice(offset, offset + length))
        const request = message === undefined ? undefined : pending.get(message.key)
        if (message === undefined || request === undefined || request.server.text !== from.text) return
        if (
          message.method !== Method.Binding || message.class === Class.Request || message.class === Class.Indication
        ) {
          return
        }
        request.echo ??= {
          server: request.server,
          mapped: message.address(Attribute.XorMappedAddress),
          local,
          millis: now() - request.sentAt,
          other: plainAddress(message.attribute(OTHER_ADDRESS))
        }
      },
      onBatchEnd: () => undefined
    })

    const round = (servers: ReadonlyArray<SocketAddress>, filler: number) =>
      Effect.gen(function*() {
        const requests = servers.map((server): Request => {
          const builder = new StunBuilder(Method.Binding, Class.Request, randomBytes(TRANSACTION_ID_LENGTH))
          if (filler > 0) builder.add(FILLER, new Uint8Array(filler))
          const request: Request = { server, bytes: builder.build(), sentAt: 0, echo: undefined }
          pending.set(parseStun(request.bytes)?.key ?? "", request)
          return request
        })
        const began = now()
        let sent = 0
        while (requests.some(({ echo }) => echo === undefined) && now() - began < PATIENCE_MILLIS) {
          if (now() - began >= (SEND_AT_MILLIS[sent] ?? Number.POSITIVE_INFINITY)) {
            sent += 1
            for (const request of requests) {
              if (request.echo !== undefined) continue
              request.sentAt = now()
              sockets.send(undefined, request.server, 0, request.bytes, 0, request.bytes.length)
            }
            sockets.flush()
          }
          yield* Effect.sleep(LOOK_EVERY_MILLIS)
        }
        return requests.flatMap(({ echo }) => echo ?? [])
      })

    const echoes = yield* round(asked, 0)
    const addresses = new Set(echoes.filter(({ server }) => server.family === 4).map(({ server }) => server.address))
    // A second address of one server does what a second server would.
    const second = addresses.size === 1 ? echoes.flatMap(({ other }) => other?.family === 4 ? [other] : []) : []
    const [full, others] = yield* Effect.all([
      round(echoes.map(({ server }) => server), FULL_SIZE - HEADERS),
      round(distinct(second), 0)
    ], { concurrency: "unbounded" })
    const findings: StunFindings = {
      asked,
      echoes,
      others,
      fullSize: full.map(({ server }) => server),
      dropped: sockets.stats().dropped
    }
    return findings
  }).pipe(Effect.scoped)

/** How the NAT in front of us picks its outside address for a socket (RFC 4787 section 4.1). */
export type Mapping = "none" | "endpoint-independent" | "address-dependent" | "unknown"

/** By what servers of IPv4 saw of one socket. One server alone can tell no more than that there is a NAT. */
export const mappingOf = (echoes: ReadonlyArray<Echo>): Mapping => {
  const seen = echoes.filter(({ mapped, server }) => server.family === 4 && mapped?.family === 4)
  if (seen.length === 0) return "unknown"
  if (seen.every(({ local, mapped }) => mapped?.text === local.text)) return "none"
  if (new Set(seen.map(({ server }) => server.address)).size < 2) return "unknown"
  return new Set(seen.map(({ mapped }) => mapped?.text)).size === 1 ? "endpoint-independent" : "address-dependent"
}
