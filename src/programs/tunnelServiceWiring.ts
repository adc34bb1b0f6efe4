/** Which layer serves which tag in the tunnel service; a session's own are those of `wiring.ts`. */
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Either from "effect/Either"
import * as Exit from "effect/Exit"
import * as Layer from "effect/Layer"
import * as Logger from "effect/Logger"
import * as LogLevel from "effect/LogLevel"
import * as AdvancedSettingsFile from "../layers/config/AdvancedSettingsFile.ts"
import * as DeviceIdentityHost from "../layers/config/DeviceIdentityHost.ts"
import { shareIdentity } from "../layers/config/shareIdentity.ts"
import * as GuiServerHost from "../layers/control/GuiServerHost.ts"
import * as DnsControlHost from "../layers/dns/DnsControlHost.ts"
import * as SystemResolversHost from "../layers/dns/SystemResolversHost.ts"
import * as OwnSecrets from "../layers/host/ownSecrets.ts"
import { parseLogFilter } from "../layers/log/logFilter.ts"
import * as LogLive from "../layers/log/LogLive.ts"
import * as MetricsExportHost from "../layers/metrics/MetricsExportHost.ts"
import * as notifyVariables from "../layers/service/notifyVariables.ts"
import * as ServiceManagerHost from "../layers/service/ServiceManagerHost.ts"
import * as TunnelLive from "../layers/tunnel/TunnelLive.ts"
import { AdvancedSettingsStore } from "../services/AdvancedSettingsStore.ts"
import { ClientConfig, type ClientSettings, ConfigInvalid } from "../services/ClientConfig.ts"
import { ControlServer } from "../services/ControlServer.ts"
import { DeviceIdentity } from "../services/DeviceIdentity.ts"
import { DnsControl } from "../services/DnsControl.ts"
import { MetricsExport } from "../services/MetricsExport.ts"
import { SystemBus } from "../services/SystemBus.ts"
import { Tunnel } from "../services/Tunnel.ts"
import { type SessionOptions, TunnelSessions } from "../services/TunnelSessions.ts"
import { dnsCleanup } from "./dnsCleanup.ts"
import { outcome } from "./outcome.ts"
import { tunnelService } from "./tunnelService.ts"
import { routes, tunnel } from "./wiring.ts"

export interface TunnelServiceOptions {
  /** Where a GUI finds the service. */
  readonly socket: string
  /** The program that may connect. */
  readonly guiPath: string
}

/** A person who comes back from a month away has to sign in again (host spec section 7). */
const MAX_PARTITION_TIME = Duration.days(30)

const startSession = ({ token }: SessionOptions) =>
  Effect.gen(function*() {
    yield* (yield* DnsControl).prepare
    const device = yield* (yield* DeviceIdentity).facts
    const session = yield* (yield* Tunnel).start({ token, device })
    yield* (yield* ControlServer).serve(session).pipe(
      Effect.catchAll((error) => Effect.logWarning(`status will not work: ${error.message}`))
    )
    yield* (yield* MetricsExport).run(session)
    return session
  })

const sessions = (settings: ClientSettings) =>
  Layer.effect(
    TunnelSessions,
    Effect.gen(function*() {
      const bus = yield* SystemBus
      const metrics = yield* MetricsExport
      const names = yield* TunnelLive.noNames
      return TunnelSessions.of({
        open: (options) =>
          Effect.gen(function*() {
            const { activateInternetResource, apiUrl } = options
            const own = { ...settings, apiUrl, activateInternetResource }
            // Built anew each time: what a layer keeps ends with its session, but for the addresses of names.
            const layers = yield* Layer.build(
              Layer.merge(tunnel(own, TunnelLive.layerWith(names)), DeviceIdentityHost.layer).pipe(
                Layer.provideMerge(Layer.succeed(ClientConfig, own))
              )
            )
            return yield* startSession(options).pipe(
              Effect.provide(layers),
              Effect.provideService(MetricsExport, metrics)
            )
          }),
        // A layer of its own each time: as long as there is one it may keep others from controlling DNS.
        restoreDns: dnsCleanup.pipe(
          Effect.provide(Layer.provide(DnsControlHost.layer(settings), Layer.succeed(SystemBus, bus))),
          Effect.catchAll((error) => Effect.logError(error.message))
        )
      })
    })
  )

const isLogFilter = (text: string): boolean => Either.isRight(parseLogFilter(text))

/** As the environment says, else as a person has set it in the GUI. */
const log = (settings: ClientSettings) =>
  Layer.unwrapEffect(Effect.gen(function*() {
    // What is wrong with it is told to the log that is made here.
    const stored = yield* Logger.withMinimumLogLevel((yield* AdvancedSettingsStore).load, LogLevel.None)
    const filter = stored?.log_filter
    return LogLive.controlled({
      filter: process.env["RUST_LOG"] ?? process.env["FIREZONE_LOG"] ??
        (filter !== undefined && isLogFilter(filter) ? filter : undefined),
      folder: settings.logDir,
      base: "tunnel-service",
      journal: process.env["JOURNAL_STREAM"],
      stream: process.stdout
    })
  }))

/** For whoever reads the files only: `run` tells it on stderr. */
const tellFile = (message: string | undefined) =>
  message === undefined ? Effect.void : LogLive.fileOnly(Effect.logError(message))

export const runTunnelService = (given: ClientSettings, options: TunnelServiceOptions) => {
  const settings = { ...given, maxPartitionTime: given.maxPartitionTime ?? MAX_PARTITION_TIME }
  const program = Effect.gen(function*() {
    if (process.getuid?.() !== 0) {
      return yield* new ConfigInvalid({
        what: "the tunnel service",
        why: "needs root, for the interface, the routes and the DNS of the machine"
      })
    }
    yield* shareIdentity(settings.stateDir)
    yield* tunnelService
  })
  return program.pipe(
    Effect.provide(
      Layer.mergeAll(
        Layer.merge(sessions(settings), SystemResolversHost.layer).pipe(
          Layer.provideMerge(routes(settings)),
          Layer.provide(MetricsExportHost.layer(process.env))
        ),
        DeviceIdentityHost.layer,
        GuiServerHost.layer(options),
        OwnSecrets.layer,
        ServiceManagerHost.layer(notifyVariables.takeNotifyVariables(process.env, process.pid))
      )
    ),
    Effect.tapErrorCause((cause) => tellFile(outcome(Exit.failCause(cause)).message)),
    Effect.provide(
      log(settings).pipe(
        Layer.provideMerge(AdvancedSettingsFile.layer),
        Layer.provideMerge(Layer.succeed(ClientConfig, settings))
      )
    )
  )
}
