import { assert, describe, it } from "@effect/vitest"
import * as Effect from "effect/Effect"
import { makeSessionSockets } from "../../../src/layers/tunnel/sessionSockets.ts"
import type { PeerSockets, PeerSocketStats } from "../../../src/services/PeerSocket.ts"

describe("the sockets of a session", () => {
  it.scoped("count on when they are closed and opened again", () =>
    Effect.gen(function*() {
      let stats: PeerSocketStats = {
        received: 1,
        receivedBytes: 100,
        sent: 2,
        sentBytes: 200,
        dropped: { "no-route": 1 }
      }
      const sockets = { stats: () => stats } as Partial<PeerSockets> as PeerSockets
      const open = Effect.acquireRelease(Effect.succeed(sockets), () =>
        Effect.sync(() => {
          // What was queued counts as dropped while they close.
          stats = { ...stats, dropped: { "no-route": 1, "no-socket": 3 } }
        }))
      const session = yield* makeSessionSockets(open, () => undefined)
      yield* session.rebind
      const first = { ...stats }
      stats = { received: 10, receivedBytes: 1000, sent: 0, sentBytes: 0, dropped: { "no-route": 2 } }
      assert.deepStrictEqual(first.dropped, { "no-route": 1, "no-socket": 3 })
      assert.deepStrictEqual(session.stats(), {
        received: 11,
        receivedBytes: 1100,
        sent: 2,
        sentBytes: 200,
        dropped: { "no-route": 3, "no-socket": 3 }
      })
    }))
})
