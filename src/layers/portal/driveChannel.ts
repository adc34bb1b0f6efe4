/** One Phoenix channel over one open WebSocket: the machine's driver. */
import * as Effect from "effect/Effect"
import * as Queue from "effect/Queue"
import type * as Scope from "effect/Scope"
import { WebSocket } from "ws"
import { type ChannelEvent, PhoenixChannel } from "../../protocol/portal/PhoenixChannel.ts"

/** Bytes handed to the socket and not yet written; beyond, messages wait in the channel's bounded queue. */
const MAX_UNSENT = 65_536

export interface DrivenChannel {
  /**
   * The next event; the last is one that ends the channel. While somebody works on one, the socket is not read, so no
   * more waits here than came in one read. A pause of 40 s costs the connection: the portal's heartbeats are not seen.
   */
  readonly take: Effect.Effect<ChannelEvent>
  /** Returns whether the message was accepted. */
  readonly send: (event: string, payload: unknown) => boolean
  readonly isJoined: () => boolean
}

/**
 * The scope ends the timers; closing `webSocket` is its owner's. It comes paused and is resumed by the first `take`. `hide`
 * takes out of what the portal says what nobody may read.
 */
export const driveChannel = (
  webSocket: WebSocket,
  topic: string,
  hide: (text: string) => string = (text) => text
): Effect.Effect<DrivenChannel, never, Scope.Scope> =>
  Effect.gen(function*() {
    const clock = yield* Effect.clock
    const now = (): number => Number(clock.unsafeCurrentTimeNanos() / 1_000_000n)
    const events = yield* Queue.unbounded<ChannelEvent>()
    const channel = new PhoenixChannel(topic, null, now())

    const emit = (event: ChannelEvent): void => {
      if (webSocket.readyState === WebSocket.OPEN) webSocket.pause()
      Queue.unsafeOffer(events, event)
    }
    const settle = (): void => {
      while (webSocket.readyState === WebSocket.OPEN && webSocket.bufferedAmount < MAX_UNSENT) {
        const text = channel.pollTransmit()
        if (text === undefined) break
        webSocket.send(text, settle)
      }
      for (let event = channel.pollEvent(); event !== undefined; event = channel.pollEvent()) emit(event)
    }

    webSocket.on("message", (data: Buffer, isBinary) => {
      if (isBinary) return emit({ _tag: "Skipped", why: "a binary frame" })
      channel.handleText(hide(data.toString("utf8")), now())
      settle()
    })
    // A frame that breaks the rules; the close that follows takes a while.
    webSocket.on(
      "error",
      (error: NodeJS.ErrnoException) =>
        emit({ _tag: "Failed", reason: `the portal sent what is no WebSocket frame (${error.code ?? error.message})` })
    )
    webSocket.on("close", (code) => emit({ _tag: "Failed", reason: closeReason(code) }))
    if (webSocket.readyState !== WebSocket.OPEN) emit({ _tag: "Failed", reason: closeReason(BROKEN) })
    settle()

    yield* Effect.gen(function*() {
      // A join that is repeated may have a nearer deadline than the heartbeat slept for; it is noticed with that.
      for (let at = channel.pollTimeout(); at !== undefined; at = channel.pollTimeout()) {
        yield* Effect.sleep(Math.max(0, at - now()))
        channel.handleTimeout(now())
        settle()
      }
    }).pipe(Effect.interruptible, Effect.forkScoped)

    return {
      take: Effect.zipRight(
        Effect.map(Queue.size(events), (waiting) => waiting > 0 || webSocket.resume()),
        Queue.take(events)
      ),
      send: (event, payload) => {
        const accepted = webSocket.readyState === WebSocket.OPEN && channel.send(event, payload)
        settle()
        return accepted
      },
      isJoined: () => webSocket.readyState === WebSocket.OPEN && channel.isJoined
    }
  })

const BROKEN = 1006 // stands for a missing close frame: RFC 6455 section 7.4.1
const closeReason = (code: number): string =>
  code === BROKEN ? "the connection to the portal broke" : `the portal closed the connection (code ${code})`
