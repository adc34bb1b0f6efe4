/** Lines on their way to a file or a terminal. */
import * as Chunk from "effect/Chunk"
import * as Effect from "effect/Effect"
import * as Queue from "effect/Queue"
import type * as Scope from "effect/Scope"

/** Where they go. It may take as long as it likes: the event loop does not wait. */
export interface Sink {
  /** Takes whole lines. Does not fail: whoever reads the log hears of it, not whoever writes. */
  readonly write: (text: string) => Effect.Effect<void>
  /** At the very end of the process, when nothing else runs any more. Throws if it cannot. */
  readonly writeNow: (text: string) => void
}

/** As many as may wait (host spec section 4); more are dropped, and it is said how many. */
export const CAPACITY = 1024
const MAX_WAITING_CHARACTERS = 4 << 20
/** How long the end of the scope waits for what is left. */
const PATIENCE = "1 second"

/**
 * Returns a function that queues a line, without waiting. In order; none is lost while there is room. At the end of the
 * scope, or of a process that ends without one, what waits is written. `told` is the line that says how many were dropped.
 */
export const make = (
  { write, writeNow }: Sink,
  told: (dropped: number) => string
): Effect.Effect<(line: string) => void, never, Scope.Scope> =>
  Effect.gen(function*() {
    const queue = yield* Queue.dropping<string>(CAPACITY)
    let waiting = 0
    let dropped = 0
    let isWriting = false

    const textOf = (lines: ReadonlyArray<string>): string => {
      for (const line of lines) waiting -= line.length
      const all = dropped === 0 ? lines : [...lines, told(dropped)]
      dropped = 0
      return all.map((line) => `${line}\n`).join("")
    }
    const writeLines = (lines: Chunk.Chunk<string>) =>
      Effect.suspend(() => {
        const text = textOf(Chunk.toReadonlyArray(lines))
        isWriting = true
        return text === "" ? Effect.void : write(text)
      }).pipe(Effect.ensuring(Effect.sync(() => (isWriting = false))))

    /** What is being written may be stuck, and would be mixed with this. */
    const onExit = (): void => {
      if (isWriting) return
      try {
        const text = textOf(Chunk.toReadonlyArray(Effect.runSync(Queue.takeAll(queue))))
        if (text !== "") writeNow(text)
      } catch {
        // There is nobody left to tell.
      }
    }
    process.on("exit", onExit)
    yield* Effect.addFinalizer(() => Effect.sync(() => process.off("exit", onExit)))
    // What has been taken is written, also when the end comes meanwhile.
    const writer = yield* Effect.uninterruptibleMask((restore) =>
      Effect.flatMap(restore(Queue.takeBetween(queue, 1, CAPACITY)), writeLines)
    ).pipe(Effect.forever, Effect.interruptible, Effect.forkDaemon)
    yield* Effect.addFinalizer(() =>
      writer.interruptAsFork(writer.id()).pipe(
        Effect.zipRight(writer.await),
        Effect.zipRight(Effect.flatMap(Queue.takeAll(queue), writeLines)),
        Effect.disconnect,
        Effect.interruptible,
        Effect.timeoutOption(PATIENCE)
      )
    )
    return (line) => {
      if (waiting + line.length <= MAX_WAITING_CHARACTERS && Queue.unsafeOffer(queue, line)) waiting += line.length
      else dropped += 1
    }
  })
