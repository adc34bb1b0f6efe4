import * as Effect from "effect/Effect"

/** Waits in real time, whatever the test's clock is, until the fact holds. Dies with `what` after ten seconds. */
export const waitFor = (what: string, holds: () => boolean): Effect.Effect<void> =>
  Effect.promise(async () => {
    const deadline = performance.now() + 10_000
    while (!holds()) {
      if (performance.now() > deadline) throw new Error(`waited in vain for: ${what}`)
      await new Promise((resolve) => {
        setTimeout(resolve, 2)
      })
    }
  })
