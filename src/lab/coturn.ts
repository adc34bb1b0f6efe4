/** coturn in the place of the relay emulator: code that nobody here wrote, with users as the portal names them. */
import * as Effect from "effect/Effect"
import type * as Scope from "effect/Scope"
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
    return {
      allow: ({ expiresAt, publicKey }) => {
        const { password, username } = relayCredentials({
          expiresAt,
          deviceKey: publicKey,
          stampSecret: RELAY.stampSecret
        })
        return Effect.asVoid(
          topology.must("inet", ["turnadmin", "-a", "-u", username, "-r", "firezone", "-p", password, "-b", database])
        )
      }
    }
  })
