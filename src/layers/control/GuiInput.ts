/** What a GUI sends, one frame at a time: nothing more is read while one waits. */
import * as Effect from "effect/Effect"
import type * as net from "node:net"
import { FrameReader, MAX_FRAME_BYTES } from "../../protocol/gui/frames.ts"
import { GuiGone } from "../../services/GuiServer.ts"

/** Of a GUI whose turn has not come. */
const MAX_WAITING_BYTES = 64 * 1024

export class GuiInput {
  readonly #socket: net.Socket
  readonly #frames = new FrameReader()
  readonly #patienceMillis: number
  readonly #onGone: () => void
  /** Whether its turn has come. */
  #isServed = false
  #gone: GuiGone | undefined
  #wake: (() => void) | undefined
  /** Runs while a frame has begun and its rest is waited for. */
  #timer: NodeJS.Timeout | undefined

  /** Gives up on a frame that is not whole after `patienceMillis`. `onGone` runs once, when nothing more can be read. */
  constructor(socket: net.Socket, patienceMillis: number, onGone: () => void) {
    this.#socket = socket
    this.#patienceMillis = patienceMillis
    this.#onGone = onGone
    socket.on("error", (error) => this.end(error.message))
    socket.on("close", () => this.end("the connection is closed"))
    socket.on("end", () => this.end("it closed the connection"))
    socket.on("data", (bytes: Buffer) => {
      this.#frames.handleInput(bytes)
      this.#settle()
    })
  }

  get isGone(): boolean {
    return this.#gone !== undefined
  }

  /** The GUI's turn has come. */
  serve(): void {
    this.#isServed = true
    this.#settle()
  }

  /** What has been read is still handed out. */
  end(reason: string): void {
    if (this.#gone !== undefined) return
    this.#gone = new GuiGone({ reason })
    clearTimeout(this.#timer)
    this.#onGone()
    this.#wake?.()
  }

  /** For one reader. */
  readonly next: Effect.Effect<Uint8Array, GuiGone> = Effect.async((resume) => {
    const take = (): boolean => {
      const frame = this.#frames.pollFrame()
      if (frame === undefined && this.#gone === undefined) return false
      this.#wake = undefined
      resume(frame === undefined ? this.#gone as GuiGone : Effect.succeed(frame))
      if (frame !== undefined) this.#settle()
      return true
    }
    if (take()) return
    this.#wake = take
    return Effect.sync(() => {
      this.#wake = undefined
    })
  })

  #settle(): void {
    if (this.#gone !== undefined) return
    if (this.#frames.isBroken) {
      this.end(`a frame is longer than ${MAX_FRAME_BYTES} bytes`)
      this.#socket.destroy()
      return
    }
    if (this.#frames.hasFrame) this.#wake?.()
    const { hasFrame, held } = this.#frames
    const isReading = !hasFrame && (this.#isServed || held < MAX_WAITING_BYTES)
    if (isReading) this.#socket.resume()
    else this.#socket.pause()
    if (hasFrame || held === 0 || !isReading) {
      clearTimeout(this.#timer)
      this.#timer = undefined
    } else {
      this.#timer ??= setTimeout(() => {
        this.end("a frame was begun and not ended")
        this.#socket.destroy()
      }, this.#patienceMillis)
    }
  }
}
