import * as net from "node:net"
import { BusConnection, type BusReply } from "../../protocol/dbus/BusConnection.ts"
import type { BusMessage, BusRequest } from "../../protocol/wire/dbus.ts"

export interface BusSocketHandlers {
  /** Calls can be made. */
  readonly onReady: () => void
  readonly onSignal: (message: BusMessage) => void
  /** Once, and nothing after it; not when we close it. */
  readonly onEnd: (reason: string) => void
}

/** One connection to the bus whose socket is at `path`, as the user `uid`. Plain callbacks; the caller closes it. */
export class BusSocket {
  readonly #socket: net.Socket
  readonly #connection: BusConnection
  readonly #handlers: BusSocketHandlers
  readonly #waiting = new Map<number, (reply: BusReply | undefined) => void>()
  #hasEnded = false

  constructor(path: string, uid: number, handlers: BusSocketHandlers) {
    this.#connection = new BusConnection(uid)
    this.#handlers = handlers
    this.#socket = net.connect({ path })
    this.#socket.on("data", (bytes) => {
      if (this.#hasEnded) return
      this.#connection.handleBytes(bytes)
      this.#drain()
    })
    this.#socket.on("error", (error) => this.#end(error.message))
    this.#socket.on("close", () => this.#end("the bus went away"))
    this.#drain()
  }

  /**
   * `onReply` gets the reply, or nothing if the connection ends before. Returns how not to wait for it any more;
   * `undefined` if the call cannot be made because too many wait.
   */
  call(request: BusRequest, onReply: (reply: BusReply | undefined) => void): (() => void) | undefined {
    const serial = this.#hasEnded ? undefined : this.#connection.call(request)
    if (serial === undefined) return undefined
    this.#waiting.set(serial, onReply)
    this.#drain()
    return () => {
      this.#waiting.delete(serial)
      this.#connection.cancel(serial)
    }
  }

  close(): void {
    this.#hasEnded = true
    this.#socket.destroy()
    this.#giveUp()
  }

  #end(reason: string): void {
    if (this.#hasEnded) return
    this.close()
    this.#handlers.onEnd(reason)
  }

  #giveUp(): void {
    const waiting = [...this.#waiting.values()]
    this.#waiting.clear()
    for (const onReply of waiting) onReply(undefined)
  }

  #drain(): void {
    for (let bytes = this.#connection.pollTransmit(); bytes; bytes = this.#connection.pollTransmit()) {
      this.#socket.write(bytes)
    }
    for (let event = this.#connection.pollEvent(); event && !this.#hasEnded; event = this.#connection.pollEvent()) {
      switch (event._tag) {
        case "Ready":
          this.#handlers.onReady()
          break
        case "Signal":
          this.#handlers.onSignal(event.message)
          break
        case "Reply": {
          const onReply = this.#waiting.get(event.serial)
          this.#waiting.delete(event.serial)
          onReply?.(event.reply)
          break
        }
        case "Failed":
          this.#end(event.reason)
      }
    }
  }
}
