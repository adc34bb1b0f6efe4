/** coturn in the place of the relay emulator: code that nobody here wrote, with users as the portal names them. */
import * as Effect from "effect/Effect"
import type * as Scope from "effect/Scope"
import * as fs from "node:fs"
import * as path from "node:path"
import { LabError } from "./LabError.ts"
import { relayCredentials } from "./relay/credentials.ts"
import { requirePrograms } from "./requirePrograms.ts"
import { eventually } from "./scenario.ts"
import { relays } from "./services.ts"
import type { Topology } from "./topology.ts"

const [RELAY] = relays

export interface Coturn {
  /** Lets a device in: with the credentials that the portal will hand it. */
  readonly allow: (device: { readonly publicKey: string; readonly expiresAt: number }) => Effect.Effect<void, LabError>
}

/** Listens on the first relay's addresses when it returns; the scope ends it. */
export const start = (topology: Topology): Effect.Effect<Coturn, LabError, Scope.Scope> =>
  Effect.gen(function*() {
    yield* requirePrograms(["turnserver", "turnadmin"], "coturn")
    const database = path.join(topology.folder, "turndb")
    const daemon = yield* topology.daemon("inet", "coturn", [
      "turnserver",
      "-n",
      ...[RELAY.ipv4, RELAY.ipv6].flatMap((address) => ["-L", address, "-E", address]),
      ..."--lt-cred-mech -r firezone --no-cli --no-tls --no-dtls --no-rfc5780 --log-file stdout -v".split(" "),
      ...["--pidfile", path.join(topology.folder, "coturn.pid"), "-b", database]
    ])
    const isListening = yield* eventually(
      Effect.suspend(() =>
        daemon.hasExited()
          ? new LabError({ what: "coturn", why: `ended at start:\n${daemon.log().slice(-2000)}` })
          : Effect.map(
            topology.must("inet", ["ss", "-Hlun"]),
            ({ stdout }) =>
              [RELAY.ipv4, `[${RELAY.ipv6}]`].every((address) => stdout.includes(` ${address}:${RELAY.port} `))
          )
      ),
      10_000
    )
    if (isListening === undefined) return yield* new LabError({ what: "coturn", why: "does not listen after 10 s" })
    const admin = (...args: ReadonlyArray<string>) =>
      topology.must("inet", ["turnadmin", ...args, "-b", database]).pipe(
        Effect.tap(({ stdout }) =>
          Effect.sync(() => {
            // Each call leaves a file where the system keeps its logs.
            for (const [, file = ""] of stdout.matchAll(/log file opened: (\S+)/g)) fs.rmSync(file, { force: true })
          })
        )
      )
    return {
      allow: Effect.fn("coturn.allow")(function*({ expiresAt, publicKey }) {
        const { password, username } = relayCredentials({
          expiresAt,
          deviceKey: publicKey,
          stampSecret: RELAY.stampSecret
        })
        // While the server reads, the database is locked: then turnadmin adds nobody, and ends as if it had.
        const added = yield* eventually(
          Effect.gen(function*() {
            yield* admin("-a", "-u", username, "-r", "firezone", "-p", password)
            const { stdout } = yield* admin("-l")
            return stdout.split("\n").includes(`${username}[firezone]`)
          }),
          10_000
        )
        if (added === undefined) return yield* new LabError({ what: "turnadmin", why: `does not add ${username}` })
      })
    }
  })
