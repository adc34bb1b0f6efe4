/** Runs the client until it is told to stop or cannot go on. */
import * as Deferred from "effect/Deferred"
import * as Effect from "effect/Effect"
import * as LogLevel from "effect/LogLevel"
import * as Stream from "effect/Stream"
import { ClientConfig } from "../services/ClientConfig.ts"
import { ControlServer } from "../services/ControlServer.ts"
import { DeviceIdentity } from "../services/DeviceIdentity.ts"
import { DnsControl } from "../services/DnsControl.ts"
import { MetricsExport } from "../services/MetricsExport.ts"
import { ServiceManager } from "../services/ServiceManager.ts"
import { TokenStore } from "../services/TokenStore.ts"
import { Tunnel, type TunnelEvent, type TunnelStatus } from "../services/Tunnel.ts"
import { greetingOf } from "./greeting.ts"

/** What has been said already, so that it is not said again. */
export interface Told {
  hasSignedIn: boolean
  /** Of the attempts to reach the portal since it was last there. */
  portalReason: string | undefined
}

/** One line per change that an operator cares about; names and addresses only where the log rules allow them. */
export const report = (event: TunnelEvent, told: Told): Effect.Effect<void> => {
  switch (event._tag) {
    case "SignedIn":
      told.hasSignedIn = true
      told.portalReason = undefined
      return Effect.logInfo("signed in to the portal")
    case "PortalLost": {
      const isNews = told.portalReason !== event.reason
      told.portalReason = event.reason
      return Effect.logWithLevel(
        isNews ? LogLevel.Warning : LogLevel.Debug,
        told.hasSignedIn
          ? "portal connection lost, existing access goes on"
          : "cannot sign in to the portal yet, trying again"
      ).pipe(Effect.annotateLogs({ reason: event.reason, retryInMillis: event.retryInMillis }))
    }
    case "InterfaceUp":
      return Effect.logInfo("tunnel interface is up").pipe(
        Effect.annotateLogs({ ipv4: event.ipv4, ipv6: event.ipv6 })
      )
    case "ResourcesUpdated":
      return Effect.logInfo("resources updated").pipe(
        Effect.annotateLogs({
          resources: event.resources.length,
          online: event.resources.filter(({ status }) => status === "Online").length
        })
      )
    case "PeerConnected":
      return Effect.logInfo("connected to a peer").pipe(
        Effect.annotateLogs({
          peer: event.peer.peer,
          path: event.peer.path?.kind ?? "unknown",
          ...(event.peer.rttMillis === undefined ? {} : { rttMillis: Math.round(event.peer.rttMillis * 10) / 10 })
        })
      )
    case "PeerLost":
      return Effect.logInfo("connection to a peer ended").pipe(
        Effect.annotateLogs({ peer: event.peer, reason: event.reason })
      )
    case "AllGatewaysOffline":
      return Effect.logWarning("every gateway of the resource is offline").pipe(
        Effect.annotateLogs({ resource: event.resourceId })
      )
    case "GatewayVersionMismatch":
      return Effect.logWarning("no gateway of the resource is compatible with this client").pipe(
        Effect.annotateLogs({ resource: event.resourceId })
      )
    case "RelaysUnusable":
      return Effect.logWarning("no relay can be used: new connections are not possible").pipe(
        Effect.annotateLogs({
          reasons: Array.from(event.reasons, ([reason, count]) => `${count} ${reason}`).join(", ")
        })
      )
    case "Reset":
      return Effect.logInfo("starting over on the new network").pipe(Effect.annotateLogs({ reason: event.reason }))
  }
}

/** The line that `systemctl status` shows. */
export const serviceText = ({ interface: device, portal, resources }: TunnelStatus): string => {
  if (portal.state === "connected") {
    const online = resources.filter(({ status }) => status === "Online").length
    return `signed in; resources: ${resources.length}, online: ${online}`
  }
  const reason = portal.lastError === undefined ? "" : `: ${portal.lastError}`
  return device === undefined ? `not signed in yet${reason}` : `portal out of reach, existing access goes on${reason}`
}

/** The events that may change it. */
const changesServiceText: ReadonlySet<TunnelEvent["_tag"]> = new Set([
  "SignedIn",
  "PortalLost",
  "InterfaceUp",
  "ResourcesUpdated"
])

/** SIGHUP asks for a reset (host spec section 5.2); on Windows it means that the console closes. */
const hangups = process.platform === "win32" ? Stream.empty : Stream.asyncPush<void>((emit) =>
  Effect.acquireRelease(
    Effect.sync(() => {
      const listener = (): void => void emit.single(undefined)
      process.on("SIGHUP", listener)
      return listener
    }),
    (listener) => Effect.sync(() => process.off("SIGHUP", listener))
  )
)

export const connect = Effect.gen(function*() {
  yield* greetingOf("firezone-headless-client")
  const config = yield* ClientConfig
  const given = Object.entries(config).filter(([, value]) => value !== undefined)
  yield* Effect.logDebug("settings").pipe(Effect.annotateLogs(Object.fromEntries(given)))
  for (const warning of config.warnings) yield* Effect.logWarning(warning)
  // Before anything can fail: names must work again whatever becomes of this run.
  yield* (yield* DnsControl).prepare
  const device = yield* (yield* DeviceIdentity).facts
  const token = yield* (yield* TokenStore).read
  if (config.check) return yield* Effect.logInfo("configuration is valid")
  yield* Effect.scoped(Effect.gen(function*() {
    const session = yield* (yield* Tunnel).start({ token, device })
    yield* (yield* ControlServer).serve(session).pipe(
      Effect.catchTag(
        "ControlUnavailable",
        "UnsupportedPlatform",
        (error) => Effect.logWarning(`status will not work: ${error.message}`)
      )
    )
    yield* (yield* MetricsExport).run(session)
    const manager = yield* ServiceManager
    const firstInterface = yield* Deferred.make<void>()
    const told: Told = { hasSignedIn: false, portalReason: undefined }
    yield* session.events.pipe(
      Stream.runForEach((event) =>
        Effect.gen(function*() {
          yield* report(event, told)
          if (changesServiceText.has(event._tag)) yield* manager.status(serviceText(yield* session.status))
          if (event._tag !== "InterfaceUp") return
          yield* manager.ready
          yield* Deferred.succeed(firstInterface, undefined)
        })
      ),
      Effect.annotateLogs("module", "tunnel"),
      Effect.forkScoped
    )
    yield* hangups.pipe(Stream.runForEach(() => session.reset("SIGHUP")), Effect.forkScoped)
    yield* Effect.addFinalizer(() => Effect.zipRight(manager.stopping, Effect.logInfo("stopping")))
    yield* config.exit ? Effect.raceFirst(Deferred.await(firstInterface), session.failed) : session.failed
  }))
})
