/**
 * A GUI as the tunnel service sees it. Its control socket's requests, each of which answers with the state:
 *
 * | path | body |
 * | --- | --- |
 * | `/state` | |
 * | `/send` | `message`, as it goes over the wire |
 */
import * as Effect from "effect/Effect"
import * as net from "node:net"
import { encodeFrame, FrameReader } from "../../protocol/gui/frames.ts"
import { serveControl } from "../control.ts"
import { LabError } from "../LabError.ts"

export interface GuiConfig {
  /** Of the tunnel service. */
  readonly socket: string
}

export interface GuiState {
  /** What the service has said, oldest first, as it came over the wire. */
  readonly heard: ReadonlyArray<unknown>
  readonly isConnected: boolean
}

export const serve = (config: GuiConfig & { readonly control: string }) =>
  Effect.gen(function*() {
    const heard: Array<unknown> = []
    let isConnected = true
    const connection = yield* Effect.async<net.Socket, LabError>((resume) => {
      const socket = net.connect(config.socket)
      socket.once("error", (error) => resume(new LabError({ what: "GUI", why: error.message })))
      socket.once("connect", () => resume(Effect.succeed(socket)))
    })
    const frames = new FrameReader()
    connection.on("error", () => undefined).on("close", () => (isConnected = false))
    connection.on("data", (bytes: Buffer) => {
      frames.handleInput(bytes)
      for (let frame = frames.pollFrame(); frame !== undefined; frame = frames.pollFrame()) {
        heard.push(JSON.parse(new TextDecoder().decode(frame)))
      }
    })
    yield* serveControl(config.control, (path, body): GuiState => {
      if (path === "/send") {
        const { message } = body as { readonly message: unknown }
        connection.write(encodeFrame(new TextEncoder().encode(JSON.stringify(message))) ?? "")
      } else if (path !== "/state") throw new Error(`no such request: ${path}`)
      return { heard, isConnected }
    })
    return yield* Effect.never
  })
