/** Which layer serves which tag of `debug bundle`. */
import * as Console from "effect/Console"
import * as Effect from "effect/Effect"
import * as Layer from "effect/Layer"
import type * as Redacted from "effect/Redacted"
import * as BundleStoreFile from "../../layers/bundle/BundleStoreFile.ts"
import * as TokenStoreFile from "../../layers/config/TokenStoreFile.ts"
import * as ControlClientSocket from "../../layers/control/ControlClientSocket.ts"
import * as HostCommandsLive from "../../layers/host/HostCommandsLive.ts"
import * as HostFilesLive from "../../layers/host/HostFilesLive.ts"
import * as OwnSecrets from "../../layers/host/ownSecrets.ts"
import { ClientConfig, type ClientSettings } from "../../services/ClientConfig.ts"
import { runDoctor } from "../doctor/wiring.ts"
import { bundle, type BundleOptions } from "./bundle.ts"

const DOCTOR_LIMIT = "60 seconds"

/** What it prints, whatever its verdict. */
const doctorReport = (settings: ClientSettings, token: Redacted.Redacted | undefined) =>
  Effect.gen(function*() {
    const printed: Array<string> = []
    const console = yield* Console.consoleWith(Effect.succeed)
    yield* runDoctor(settings, token, { json: true, stun: [] }).pipe(
      Effect.withConsole({ ...console, log: (...args) => Effect.sync(() => void printed.push(args.join(" "))) }),
      Effect.timeout(DOCTOR_LIMIT),
      Effect.exit
    )
    return printed.length === 0 ? undefined : `${printed.join("\n")}\n`
  })

export const runBundle = (settings: ClientSettings, token: Redacted.Redacted | undefined, options: BundleOptions) =>
  bundle(options, doctorReport(settings, token)).pipe(
    Effect.provide(
      Layer.mergeAll(
        TokenStoreFile.layer(token),
        OwnSecrets.layer,
        ControlClientSocket.layer,
        HostCommandsLive.layer,
        HostFilesLive.layer,
        BundleStoreFile.layer
      ).pipe(Layer.provideMerge(Layer.succeed(ClientConfig, settings)))
    )
  )
