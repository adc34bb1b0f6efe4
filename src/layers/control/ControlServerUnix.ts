/** The control socket as a Unix socket. Whatever happens on a connection ends that connection, nothing else. */
import * as Data from "effect/Data"
import * as Effect from "effect/Effect"
import * as Either from "effect/Either"
import * as FiberSet from "effect/FiberSet"
import * as Layer from "effect/Layer"
import * as Schema from "effect/Schema"
import type * as net from "node:net"
import { peerCredentials } from "../../ffi/linux/peerCredentials.ts"
import { CONTROL_VERSION, ControlRequest, type ControlResponse, MAX_REQUEST_BYTES } from "../../model/control.ts"
import { version } from "../../model/version.ts"
import { ClientConfig } from "../../services/ClientConfig.ts"
import { ControlServer, ControlSocketTaken, ControlUnavailable } from "../../services/ControlServer.ts"
import { RouteCache } from "../../services/RouteCache.ts"
import type { TunnelSession } from "../../services/Tunnel.ts"
import { statusReport } from "./statusReport.ts"
import { descriptorOf, listenOn } from "./unixSocket.ts"

/** At once; whoever comes beyond is told so and sent away. */
export const MAX_CONNECTIONS = 16
/** To send a request, and to take an answer. */
const PATIENCE = "5 seconds"
const WATCH_INTERVAL = "1 second"

type Session = Pick<TunnelSession, "reset" | "status">

/** A connection that is over: its peer went away, or took too long. */
class Over extends Data.TaggedError("Over") {}

type Refusal = Extract<ControlResponse, { readonly type: "error" }>
const refusal = (code: Refusal["code"], message: string): Refusal => ({
  version: CONTROL_VERSION,
  type: "error",
  code,
  message
})

const line = (response: ControlResponse): string => `${JSON.stringify(response)}\n`

const make = Effect.gen(function*() {
  const { apiUrl, controlSocket } = yield* ClientConfig
  const cache = yield* RouteCache

  const answer = ({ request }: ControlRequest, session: Session): Effect.Effect<ControlResponse> => {
    switch (request) {
      case "status":
      case "watch":
        return Effect.map(session.status, (status) => ({
          version: CONTROL_VERSION,
          type: "status",
          status: statusReport(
            status,
            { version, pid: process.pid, uptimeMillis: Math.round(process.uptime() * 1000) },
            apiUrl
          )
        }))
      case "reset":
        return Effect.as(session.reset("control socket"), { version: CONTROL_VERSION, type: "reset" })
      case "routes":
        return Effect.map(cache.entries, (routes) => ({ version: CONTROL_VERSION, type: "routes", routes }))
    }
  }

  const converse = (socket: net.Socket, session: Session) =>
    Effect.gen(function*() {
      // Read before a refusal too: closing with unread bytes would make the kernel drop the answer.
      const text = yield* readRequest(socket)
      if (!isPermitted(socket)) {
        return yield* send(socket, refusal("not-permitted", "only root and the owner of the client may ask"))
      }
      const request = parse(text)
      if (Either.isLeft(request)) return yield* send(socket, request.left)
      const once = Effect.flatMap(answer(request.right, session), (response) => send(socket, response))
      yield* once
      if (request.right.request === "watch") yield* Effect.forever(Effect.delay(once, WATCH_INTERVAL))
    }).pipe(
      Effect.raceFirst(closed(socket)),
      Effect.ensuring(Effect.sync(() => socket.destroy())),
      Effect.tapDefect((cause) => Effect.logWarning("a request on the control socket failed", cause)),
      Effect.annotateLogs("module", "control")
    )

  const serve = Effect.fn("ControlServer.serve")(function*(session: Session) {
    const fork = yield* FiberSet.makeRuntime<never, void, Over>()
    let connections = 0
    const onConnection = (socket: net.Socket): void => {
      // The `close` that follows says enough.
      socket.on("error", () => undefined)
      if (connections >= MAX_CONNECTIONS) {
        socket.end(line(refusal("busy", `there are ${MAX_CONNECTIONS} connections already`)), () => socket.destroy())
        return
      }
      connections += 1
      socket.once("close", () => (connections -= 1))
      fork(converse(socket, session))
    }
    yield* listenOn(controlSocket, 0o600, onConnection).pipe(
      Effect.catchTags({
        SocketTaken: () => new ControlSocketTaken({ socket: controlSocket }),
        SocketUnusable: ({ why }) => new ControlUnavailable({ socket: controlSocket, why })
      })
    )
  })
  return ControlServer.of({ serve })
})

/** A line without its newline. */
const readRequest = (socket: net.Socket): Effect.Effect<string, Over> =>
  Effect.async<string, Over>((resume) => {
    let bytes = Buffer.alloc(0)
    socket.on("data", (part: Buffer) => {
      bytes = Buffer.concat([bytes, part.subarray(0, MAX_REQUEST_BYTES + 1)])
      const end = bytes.indexOf("\n")
      if (end < 0 && bytes.length < MAX_REQUEST_BYTES) return
      // What comes now is not for us, but has to be taken for the end of the connection to be seen.
      socket.removeAllListeners("data").resume()
      resume(Effect.succeed(bytes.toString("utf8", 0, end < 0 ? MAX_REQUEST_BYTES : end)))
    })
    socket.once("end", () => resume(new Over()))
  }).pipe(Effect.timeoutFail({ duration: PATIENCE, onTimeout: () => new Over() }))

const decode = Schema.decodeUnknownEither(Schema.parseJson(ControlRequest))
const decodeVersion = Schema.decodeUnknownEither(Schema.parseJson(Schema.Struct({ version: Schema.Number })))

const parse = (text: string): Either.Either<ControlRequest, Refusal> =>
  Either.mapLeft(decode(text), () => {
    const asked = decodeVersion(text)
    return Either.isRight(asked) && asked.right.version !== CONTROL_VERSION
      ? refusal("unsupported-version", `this client speaks version ${CONTROL_VERSION}`)
      : refusal("bad-request", `not a request: one line of JSON, at most ${MAX_REQUEST_BYTES} bytes`)
  })

/** Once the system has taken it: whoever reads slowly makes his own connection wait. */
const send = (socket: net.Socket, response: ControlResponse): Effect.Effect<void, Over> =>
  Effect.async<void, Over>((resume) => {
    socket.write(line(response), (error) => resume(error ? new Over() : Effect.void))
  }).pipe(Effect.timeoutFail({ duration: PATIENCE, onTimeout: () => new Over() }))

const closed = (socket: net.Socket): Effect.Effect<void> =>
  Effect.async((resume) => {
    if (socket.closed) return resume(Effect.void)
    const listener = (): void => resume(Effect.void)
    socket.once("close", listener)
    return Effect.sync(() => socket.off("close", listener))
  })

/** The mode of the socket says the same; this holds even if somebody changes it. */
const isPermitted = (socket: net.Socket): boolean => {
  const fd = descriptorOf(socket)
  if (fd === undefined) return false
  const peer = peerCredentials(fd)
  return Either.isRight(peer) && (peer.right.uid === 0 || peer.right.uid === process.geteuid?.())
}

export const layer: Layer.Layer<ControlServer, never, ClientConfig | RouteCache> = Layer.effect(ControlServer, make)
