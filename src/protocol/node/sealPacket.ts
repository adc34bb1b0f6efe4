import { CIPHER_HEADROOM, CIPHER_TAILROOM } from "../crypto.ts"
import type { SocketAddress } from "../wire/address.ts"
import { CHANNEL_HEADER_LENGTH, writeChannelHeader } from "../wire/channelData.ts"
import { DATA_HEADER_LENGTH, DATA_OVERHEAD } from "../wire/wireguard.ts"
import type { Connection } from "./Connection.ts"
import { GOODBYE_LENGTH, readEcn, writeGoodbye } from "./innerPacket.ts"
import type { Relays } from "./Relays.ts"
import { Encapsulated, type Transmit } from "./types.ts"

/**
 * Seals the packet in place, in front of it the header of a relay's channel if the path begins at one, and says in
 * `transmit` how it is to be sent.
 */
export const sealPacket = (
  relays: Relays,
  connection: Connection,
  buffer: Uint8Array,
  offset: number,
  length: number,
  now: number,
  transmit: Transmit
): Encapsulated => {
  const { path, tunnel } = connection
  if (path === undefined) return Encapsulated.NoSession
  const ecn = readEcn(buffer, offset) // before it is encrypted
  let source: SocketAddress | undefined = path.local
  let destination = path.remote
  let start = offset - DATA_HEADER_LENGTH
  if (path.localKind === "relay") {
    // The present relay, though the path may still name an address that the former one held.
    const allocation = connection.relay === undefined ? undefined : relays.get(connection.relay)
    const server = allocation?.server
    const channel = allocation?.channelTo(path.remote, now) ?? 0
    if (server === undefined || channel === 0) return Encapsulated.Dropped
    source = undefined
    destination = server
    start -= CHANNEL_HEADER_LENGTH
    if (!tunnel.seal(buffer, offset, length, now)) return Encapsulated.NoSession
    writeChannelHeader(buffer, start, channel, length + DATA_OVERHEAD)
  } else if (!tunnel.seal(buffer, offset, length, now)) {
    return Encapsulated.NoSession
  }
  transmit.source = source
  transmit.destination = destination
  transmit.ecn = ecn
  transmit.buffer = buffer
  transmit.offset = start
  transmit.length = offset + length + DATA_OVERHEAD - DATA_HEADER_LENGTH - start
  return Encapsulated.Sent
}

/** The packet that ends the connection, if it can be sent. */
export const sealGoodbye = (relays: Relays, connection: Connection, now: number): Transmit | undefined => {
  const buffer = new Uint8Array(CIPHER_HEADROOM + GOODBYE_LENGTH + CIPHER_TAILROOM)
  writeGoodbye(buffer, CIPHER_HEADROOM)
  const { path } = connection
  if (path === undefined) return undefined
  const transmit: Transmit = { source: undefined, destination: path.remote, ecn: 0, buffer, offset: 0, length: 0 }
  const outcome = sealPacket(relays, connection, buffer, CIPHER_HEADROOM, GOODBYE_LENGTH, now, transmit)
  return outcome === Encapsulated.Sent ? transmit : undefined
}
