import * as Command from "@effect/cli/Command"
import * as HelpDoc from "@effect/cli/HelpDoc"
import * as Options from "@effect/cli/Options"
import * as Effect from "effect/Effect"
import type * as Redacted from "effect/Redacted"
import { RELAY_PORT } from "../../protocol/node/types.ts"
import { parseIp, parseSocketAddress, SocketAddress } from "../../protocol/wire/address.ts"
import type { ClientSettings } from "../../services/ClientConfig.ts"

/** `ADDRESS`, `ADDRESS:PORT` or `[ADDRESS]:PORT`. */
const parseServer = (text: string): SocketAddress => {
  const address = parseIp(text)
  const server = address === undefined ? parseSocketAddress(text) : new SocketAddress(address, RELAY_PORT)
  if (server === undefined || server.port === 0) {
    throw new Error(`--stun: "${text}" is neither an IP address nor ADDRESS:PORT`)
  }
  return server
}

const stun = Options.text("stun").pipe(
  Options.repeated,
  Options.mapTryCatch(
    (all) => all.map(parseServer),
    (error) => HelpDoc.p(error instanceof Error ? error.message : String(error))
  )
)

/** `settings` are those of the options before the command, `token` that of the variable. */
export const doctorCommand = <E, R>(
  settings: Effect.Effect<ClientSettings, E, R>,
  token: Redacted.Redacted | undefined
) =>
  Command.make("doctor", { json: Options.boolean("json"), stun }, (options) =>
    Effect.flatMap(
      Effect.all([settings, Effect.promise(() => import("./wiring.ts"))]),
      ([settings, { runDoctor }]) => runDoctor(settings, token, options)
    ))
