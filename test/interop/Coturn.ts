/** coturn on addresses of this process's private network namespace, all of which lie on `lo`. */
import * as Effect from "effect/Effect"
import type * as Scope from "effect/Scope"
import * as fs from "node:fs"
import * as os from "node:os"
import * as path from "node:path"
import { run } from "../support/netns.ts"
import { waitFor } from "../support/waitFor.ts"
import { daemon } from "./programs.ts"

export interface CoturnOptions {
  readonly addresses: ReadonlyArray<string>
  readonly users: ReadonlyArray<{ readonly username: string; readonly password: string }>
  /** Seconds after which it wants another nonce. */
  readonly staleNonce?: number
  /** Whether it tells of its second address (RFC 5780), and answers from there too. */
  readonly isBehaviourDiscovery?: boolean
}

/** Listens on port 3478 of its addresses when it returns. */
export const start = (options: CoturnOptions): Effect.Effect<void, never, Scope.Scope> =>
  Effect.gen(function*() {
    const directory = yield* Effect.acquireRelease(
      Effect.sync(() => fs.mkdtempSync(path.join(os.tmpdir(), "coturn-"))),
      (name) => Effect.sync(() => fs.rmSync(name, { recursive: true }))
    )
    const database = path.join(directory, "turndb")
    // A user name with a colon cannot be given on the command line of the server.
    for (const { password, username } of options.users) {
      const said = run("turnadmin", "-a", "-u", username, "-r", "firezone", "-p", password, "-b", database)
      // Each call leaves a file where the system keeps its logs.
      for (const [, file = ""] of said.matchAll(/log file opened: (\S+)/g)) fs.rmSync(file, { force: true })
    }
    const { isRunning, output } = yield* daemon([
      "turnserver",
      "-n",
      ...options.addresses.flatMap((address) => ["-L", address, "-E", address]),
      ..."--lt-cred-mech -r firezone --no-cli --no-tls --no-dtls --log-file stdout -v".split(" "),
      ...(options.isBehaviourDiscovery === true ? [] : ["--no-rfc5780"]),
      "--pidfile",
      path.join(directory, "pid"),
      "-b",
      database,
      `--stale-nonce=${options.staleNonce ?? 600}`
    ], { cwd: directory })
    yield* waitFor("coturn", () => {
      if (!isRunning()) throw new Error(`coturn has ended: ${output()}`)
      const sockets = run("ss", "-Hlun")
      return options.addresses.every((address) =>
        sockets.includes(` ${address.includes(":") ? `[${address}]` : address}:3478 `)
      )
    })
  })
