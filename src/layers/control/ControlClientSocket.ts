/** Asks a running client over its control socket. */
import * as Effect from "effect/Effect"
import * as Either from "effect/Either"
import * as Layer from "effect/Layer"
import * as Option from "effect/Option"
import * as Schema from "effect/Schema"
import * as Stream from "effect/Stream"
import * as net from "node:net"
import { CONTROL_VERSION, type ControlRequest, ControlResponse, MAX_RESPONSE_BYTES } from "../../model/control.ts"
import type { StatusReport } from "../../model/status.ts"
import { UnsupportedPlatform } from "../../model/UnsupportedPlatform.ts"
import { ClientConfig } from "../../services/ClientConfig.ts"
import {
  ClientNotRunning,
  ClientStopped,
  ControlClient,
  type ControlError,
  ControlFailed,
  ControlNotPermitted
} from "../../services/ControlClient.ts"

/** For the first answer, and between those of a watch. */
const PATIENCE_MILLIS = 10_000

const systemError = (socket: string, error: NodeJS.ErrnoException): ControlError => {
  switch (error.code) {
    case "ENOENT":
    case "ENOTDIR":
    case "ECONNREFUSED":
      return new ClientNotRunning({ socket })
    case "EACCES":
    case "EPERM":
      return new ControlNotPermitted({ socket })
    default:
      return new ControlFailed({ socket, why: error.message })
  }
}

/** The lines that come back; ends when the client closes the connection. */
const ask = (socket: string, request: ControlRequest["request"]): Stream.Stream<string, ControlError> =>
  Stream.asyncPush((emit) =>
    Effect.acquireRelease(
      Effect.sync(() => {
        const connection = net.connect(socket)
        let parts: Array<Buffer> = []
        let length = 0
        connection.once("connect", () => connection.write(`${JSON.stringify({ version: CONTROL_VERSION, request })}\n`))
        connection.on("data", (bytes: Buffer) => {
          for (let end = bytes.indexOf("\n"); end >= 0; end = bytes.indexOf("\n")) {
            emit.single(Buffer.concat([...parts, bytes.subarray(0, end)]).toString("utf8"))
            bytes = bytes.subarray(end + 1)
            parts = []
            length = 0
          }
          parts.push(bytes)
          length += bytes.length
          if (length > MAX_RESPONSE_BYTES) emit.fail(new ControlFailed({ socket, why: "its answer is too long" }))
        })
        connection.once("error", (error) => emit.fail(systemError(socket, error)))
        connection.once("end", () => emit.end())
        connection.setTimeout(
          PATIENCE_MILLIS,
          () => emit.fail(new ControlFailed({ socket, why: "it does not answer" }))
        )
        return connection
      }),
      (connection) => Effect.sync(() => connection.destroy())
    )
  )

const decode = Schema.decodeUnknownEither(Schema.parseJson(ControlResponse))

const read = (socket: string, line: string): Either.Either<StatusReport, ControlError> => {
  const response = decode(line)
  if (Either.isLeft(response)) {
    return Either.left(
      new ControlFailed({ socket, why: "its answer is not one of this version's; restart it if it was upgraded" })
    )
  }
  const { right } = response
  if (right.type === "status") return Either.right(right.status)
  if (right.type !== "error") return Either.left(new ControlFailed({ socket, why: "it answers something else" }))
  return Either.left(
    right.code === "not-permitted"
      ? new ControlNotPermitted({ socket })
      : new ControlFailed({ socket, why: right.message })
  )
}

/** `platform` is an argument so that every platform tests what the others say. */
export const layerFor = (platform: NodeJS.Platform): Layer.Layer<ControlClient, never, ClientConfig> =>
  Layer.effect(
    ControlClient,
    Effect.gen(function*() {
      const { controlSocket } = yield* ClientConfig
      const statuses = (request: "status" | "watch"): Stream.Stream<StatusReport, ControlError> =>
        platform === "win32"
          ? Stream.fail(new UnsupportedPlatform({ platform, what: "control socket" }))
          : Stream.mapEffect(ask(controlSocket, request), (line) => read(controlSocket, line))
      const stopped = Effect.suspend(() => new ClientStopped({ socket: controlSocket }))
      return ControlClient.of({
        status: Effect.flatMap(
          Stream.runHead(statuses("status")),
          Option.match({ onNone: () => stopped, onSome: Effect.succeed })
        ),
        statuses: Stream.concat(statuses("watch"), Stream.fromEffect(stopped))
      })
    })
  )

export const layer = Layer.suspend(() => layerFor(process.platform))
