/** The terminal, or whatever the output goes to. */
import * as Effect from "effect/Effect"
import * as fs from "node:fs"
import type { Sink } from "./LineQueue.ts"

/** The terminal is full, or stopped with Ctrl+S. */
const AGAIN = "20 millis"

/** Node waits for terminals in the event loop, and with it the tunnel would: they are opened once more, not to be waited for. */
const openTerminal = (stream: NodeJS.WriteStream): Sink | undefined => {
  const fd = stream === process.stdout ? 1 : stream === process.stderr ? 2 : undefined
  if (stream.isTTY !== true || fd === undefined || process.platform !== "linux") return undefined
  try {
    return waitlessSink(`/proc/self/fd/${fd}`)
  } catch {
    return undefined // another user's
  }
}

/** Writes to a terminal or pipe as it has room, without a thread that could be stuck. Throws if it cannot be opened. */
export const waitlessSink = (path: string): Sink => {
  const fd = fs.openSync(path, fs.constants.O_WRONLY | fs.constants.O_NONBLOCK | fs.constants.O_NOCTTY)
  return {
    write: (text) => writeTerminal(fd, text),
    writeNow: (text) => void writeSome(fd, Buffer.from(text))
  }
}

const writeTerminal = (fd: number, text: string): Effect.Effect<void> =>
  Effect.gen(function*() {
    for (let rest = Buffer.from(text); rest.length > 0;) {
      const written = writeSome(fd, rest)
      if (written === 0) yield* Effect.sleep(AGAIN)
      rest = rest.subarray(written)
    }
  })

/** How much it takes now. Of a terminal that has gone that is all: it takes our words, not the tunnel. */
const writeSome = (fd: number, bytes: Buffer): number => {
  try {
    return fs.writeSync(fd, bytes)
  } catch (error) {
    return (error as NodeJS.ErrnoException).code === "EAGAIN" ? 0 : bytes.length
  }
}

/** A reader that goes away (`| head`) or a full disk takes our words, not the tunnel; one that is slow makes the queue wait. */
export const consoleSink = (stream: NodeJS.WriteStream): Sink =>
  openTerminal(stream) ?? {
    write: (text) => Effect.async((resume) => void stream.write(text, () => resume(Effect.void))),
    writeNow: (text) => void stream.write(text)
  }
