import * as Effect from "effect/Effect"
import * as os from "node:os"
import { version } from "../model/version.ts"

/** The first line of a log. */
export const greetingOf = (name: string): Effect.Effect<void> =>
  Effect.logInfo(`${name} ${version}`).pipe(
    Effect.annotateLogs({
      os: `${os.type()} ${os.release()}`,
      arch: os.arch(),
      node: process.versions.node,
      uptimeSeconds: Math.round(os.uptime())
    })
  )
