import type { Connection } from "./Connection.ts"
import { IceConnection } from "./IceConnection.ts"
import { TimedMap } from "./TimedMap.ts"
import type { PeerId } from "./types.ts"

/** How long packets of a former connection are known to be harmless stragglers. */
export const RECENT = 5000
const MAX_RECENT = 1024

/** The connections of a node, by everything that a datagram may name them with. */
export class ConnectionTable {
  readonly #byPeer = new Map<PeerId, Connection>()
  readonly #byPrefix = new Map<number, Connection>()
  readonly #byKey = new Map<string, Connection>()
  /** By both ufrags: one alone has 20 bits and may be shared (spec section 18). */
  readonly #byUfrags = new Map<string, IceConnection>()
  readonly #recent = new TimedMap<string | number, true>(RECENT, 4 * MAX_RECENT)

  get size(): number {
    return this.#byPeer.size
  }

  get(peer: PeerId): Connection | undefined {
    return this.#byPeer.get(peer)
  }

  /** By the upper 24 bits of a session index. */
  byPrefix(prefix: number): Connection | undefined {
    return this.#byPrefix.get(prefix)
  }

  byKey(publicKey: Uint8Array): Connection | undefined {
    return this.#byKey.get(keyText(publicKey))
  }

  byUfrags(local: string, remote: string): IceConnection | undefined {
    return this.#byUfrags.get(`${local}:${remote}`)
  }

  [Symbol.iterator](): IterableIterator<Connection> {
    return this.#byPeer.values()
  }

  add(connection: Connection): void {
    const { indexPrefix, peer, request } = connection
    this.#byPeer.set(peer, connection)
    this.#byPrefix.set(indexPrefix, connection)
    this.#byKey.set(keyText(request.remoteKey), connection)
    // Nobody checks connections in path mode.
    if (connection instanceof IceConnection) this.#byUfrags.set(ufragsOf(connection), connection)
  }

  remove(connection: Connection, now: number): void {
    const { indexPrefix, peer, request } = connection
    const key = keyText(request.remoteKey)
    const ufrags = ufragsOf(connection)
    // A later connection may have taken over a name.
    if (this.#byPeer.get(peer) === connection) this.#byPeer.delete(peer)
    if (this.#byPrefix.get(indexPrefix) === connection) this.#byPrefix.delete(indexPrefix)
    if (this.#byKey.get(key) === connection) this.#byKey.delete(key)
    if (this.#byUfrags.get(ufrags) === connection) this.#byUfrags.delete(ufrags)
    for (const name of [peer, indexPrefix, key, ufrags]) this.#recent.set(name, true, now)
  }

  /** Whether a connection with that peer id, index prefix, key or pair of ufrags was removed within the last 5 s. */
  wasRecent(name: PeerId | number | Uint8Array, now: number): boolean {
    return this.#recent.get(name instanceof Uint8Array ? keyText(name) : name, now) === true
  }
}

const ufragsOf = ({ request: { localCredentials, remoteCredentials } }: Connection): string =>
  `${localCredentials.username}:${remoteCredentials.username}`

const keyText = (key: Uint8Array): string => String.fromCharCode(...key)
