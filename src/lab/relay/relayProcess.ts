/** The relay emulator on real sockets: port 3478 of one or two addresses, and a socket per allocation and family. */
import * as Effect from "effect/Effect"
import type * as Scope from "effect/Scope"
import * as dgram from "node:dgram"
import { makeCrypto } from "../../layers/crypto/makeCrypto.ts"
import { type Family, type IpAddress, parseIp, SocketAddress } from "../../protocol/wire/address.ts"
import { serveControl } from "../control.ts"
import { LabError } from "../LabError.ts"
import { type Knobs, type RelayCounters, RelayServer } from "./RelayServer.ts"

export interface RelayConfig {
  /** Where to listen, and what to hand out unless the public addresses say otherwise. At least one. */
  readonly ipv4?: string | undefined
  readonly ipv6?: string | undefined
  readonly publicIpv4?: string | undefined
  readonly publicIpv6?: string | undefined
  readonly port?: number | undefined
  /** What the portal makes credentials with. */
  readonly stampSecret: string
  /** Of allocations, inclusive; 49152 to 65535 unless given. */
  readonly ports?: readonly [lowest: number, highest: number] | undefined
  readonly knobs?: Partial<Knobs> | undefined
}

export interface RelayState extends RelayCounters {
  readonly allocations: ReadonlyArray<{
    readonly client: string
    readonly username: string
    readonly port: number
    readonly families: ReadonlyArray<Family>
    readonly channels: number
  }>
  readonly knobs: Knobs
  /** Datagrams that the kernel would not take, and other complaints of its sockets. */
  readonly socketErrors: number
}

export interface RelayProcess {
  readonly state: () => RelayState
  /** Changes what is named and leaves the other knobs. */
  readonly turn: (knobs: Partial<Knobs>) => void
  readonly restart: (stampSecret: string) => void
}

const TICK_MILLIS = 200
const BUFFER_SIZE = 4 * 1024 * 1024
const MAX_INTERNED = 4096

const bind = (type: dgram.SocketType, address: string, port: number): Effect.Effect<dgram.Socket, LabError> =>
  Effect.async((resume) => {
    const socket = dgram.createSocket({ type, ipv6Only: type === "udp6" })
    const failed = (error: Error): void => {
      socket.close()
      resume(Effect.fail(new LabError({ what: `relay socket ${address} port ${port}`, why: error.message })))
    }
    socket.once("error", failed)
    socket.bind({ address, port, exclusive: true }, () => {
      socket.off("error", failed)
      resume(Effect.succeed(enlarged(socket)))
    })
  })

/** A burst of a fast sender fits, as far as the host allows it. */
const enlarged = (socket: dgram.Socket): dgram.Socket => {
  try {
    socket.setRecvBufferSize(BUFFER_SIZE)
    socket.setSendBufferSize(BUFFER_SIZE)
  } catch {
    // The default will do.
  }
  return socket
}

const parsed = (text: string | undefined): Effect.Effect<IpAddress | undefined, LabError> => {
  const address = text === undefined ? undefined : parseIp(text)
  return text !== undefined && address === undefined
    ? Effect.fail(new LabError({ what: `relay address ${text}`, why: "is not an IP address" }))
    : Effect.succeed(address)
}

/** Runs until the scope closes; returns when it answers on its port. */
export const run = (config: RelayConfig): Effect.Effect<RelayProcess, LabError, Scope.Scope> =>
  Effect.gen(function*() {
    const { port = 3478 } = config
    const server = new RelayServer({
      crypto: makeCrypto().crypto,
      stampSecret: config.stampSecret,
      ipv4: yield* parsed(config.publicIpv4 ?? config.ipv4),
      ipv6: yield* parsed(config.publicIpv6 ?? config.ipv6),
      ports: config.ports,
      unixEpochMillis: Date.now() - performance.now()
    })
    Object.assign(server.knobs, config.knobs)
    const sockets = new Sockets(server, config)
    yield* Effect.addFinalizer(() => Effect.sync(() => sockets.close()))
    for (const [family, address] of [[4, config.ipv4], [6, config.ipv6]] as const) {
      if (address === undefined) continue
      sockets.listen(family, yield* bind(family === 4 ? "udp4" : "udp6", address, port))
    }
    yield* Effect.acquireRelease(
      Effect.sync(() =>
        setInterval(() => {
          server.handleTimeout(performance.now())
          sockets.drain()
        }, TICK_MILLIS)
      ),
      (timer) => Effect.sync(() => clearInterval(timer))
    )
    return {
      state: () => ({
        ...server.counters,
        allocations: server.allocations.map(({ channels, client, families, port, username }) => ({
          client: client.text,
          username,
          port,
          families,
          channels
        })),
        knobs: server.knobs,
        socketErrors: sockets.socketErrors
      }),
      turn: (knobs) => {
        Object.assign(server.knobs, knobs)
      },
      restart: (stampSecret) => {
        server.restart(stampSecret)
        sockets.drain()
      }
    }
  })

/** Carries datagrams between the machine and the kernel. */
class Sockets {
  socketErrors = 0
  readonly #server: RelayServer
  readonly #config: RelayConfig
  readonly #listening = new Map<Family, dgram.Socket>()
  readonly #allocated = new Map<number, Map<Family, dgram.Socket>>()
  readonly #addresses = new Map<string, IpAddress | undefined>()

  constructor(server: RelayServer, config: RelayConfig) {
    this.#server = server
    this.#config = config
  }

  listen(family: Family, socket: dgram.Socket): void {
    this.#listening.set(family, socket)
    this.#receive(socket, (from, bytes) => this.#server.handleClient(from, bytes, performance.now()))
  }

  drain(): void {
    const server = this.#server
    for (let output = server.pollOutput(); output !== undefined; output = server.pollOutput()) {
      switch (output._tag) {
        case "ToClient":
          this.#send(this.#listening.get(output.client.family), output.client, output.bytes)
          break
        case "ToPeer":
          this.#send(this.#allocated.get(output.port)?.get(output.peer.family), output.peer, output.bytes)
          break
        case "Open":
          this.#open(output.port, output.families)
          break
        case "Close":
          for (const socket of this.#allocated.get(output.port)?.values() ?? []) socket.close()
          this.#allocated.delete(output.port)
      }
    }
  }

  close(): void {
    for (const socket of this.#listening.values()) socket.close()
    for (const sockets of this.#allocated.values()) for (const socket of sockets.values()) socket.close()
    this.#listening.clear()
    this.#allocated.clear()
  }

  /** Binding takes until the next turn of the loop; datagrams to peers wait for it inside the socket. */
  #open(port: number, families: ReadonlyArray<Family>): void {
    const sockets = new Map<Family, dgram.Socket>()
    this.#allocated.set(port, sockets)
    for (const family of families) {
      const address = family === 4 ? this.#config.ipv4 : this.#config.ipv6
      const socket = dgram.createSocket({ type: family === 4 ? "udp4" : "udp6", ipv6Only: family === 6 })
      sockets.set(family, socket)
      // Taken by somebody else: to its client it is a relay that has lost its way, and nothing leaves from another port.
      const failed = (): void => {
        sockets.delete(family)
        socket.close()
      }
      socket.once("error", failed)
      socket.bind({ address, port, exclusive: true }, () => {
        socket.off("error", failed)
        enlarged(socket)
      })
      this.#receive(socket, (from, bytes) => this.#server.handlePeer(port, from, bytes, performance.now()))
    }
  }

  #receive(socket: dgram.Socket, handle: (from: SocketAddress, bytes: Uint8Array) => void): void {
    socket.on("error", () => {
      this.socketErrors += 1
    })
    socket.on("message", (bytes, { address, port }) => {
      const from = this.#intern(address)
      if (from === undefined) return
      handle(new SocketAddress(from, port), bytes)
      this.drain()
    })
  }

  #intern(text: string): IpAddress | undefined {
    const known = this.#addresses.get(text)
    if (known !== undefined) return known
    if (this.#addresses.size >= MAX_INTERNED) this.#addresses.clear()
    const address = parseIp(text)
    this.#addresses.set(text, address)
    return address
  }

  #send(socket: dgram.Socket | undefined, { address, port }: SocketAddress, bytes: Uint8Array): void {
    socket?.send(bytes, port, address, (error) => {
      if (error !== null) this.socketErrors += 1
    })
  }
}

/**
 * The control socket's requests: `/state`; `/knobs` with the knobs to change; `/restart` with a new `stampSecret`. All
 * answer with the state.
 */
export const handleControl = (relay: RelayProcess) => (path: string, body: unknown): RelayState => {
  switch (path) {
    case "/state":
      break
    case "/knobs":
      relay.turn(body as Partial<Knobs>)
      break
    case "/restart":
      relay.restart((body as { readonly stampSecret: string }).stampSecret)
      break
    default:
      throw new Error(`no such request: ${path}`)
  }
  return relay.state()
}

/** `lab serve relay`: until the process is told to stop. */
export const serve = (
  config: RelayConfig & { readonly control: string }
): Effect.Effect<never, LabError, Scope.Scope> =>
  Effect.gen(function*() {
    const relay = yield* run(config)
    yield* serveControl(config.control, handleControl(relay))
    return yield* Effect.never
  })
