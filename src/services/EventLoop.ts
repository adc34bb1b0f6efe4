import * as Context from "effect/Context"
import type * as Effect from "effect/Effect"

/** How late the event loop was with what was due, in seconds; zero if it never was. */
export interface EventLoopLag {
  readonly p50: number
  readonly p99: number
  readonly max: number
}

/** Watches the event loop, on which every packet and every fiber of this process runs. */
export class EventLoop extends Context.Tag("firezone-headless-client/services/EventLoop")<EventLoop, {
  /** Over the latest 30 to 60 seconds, so that whoever asks every 30 seconds sees every hitch. */
  readonly lag: Effect.Effect<EventLoopLag>
}>() {}
