/** Which layer serves which tag: the one place that knows. */
import type * as Cause from "effect/Cause"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import * as Layer from "effect/Layer"
import type * as Redacted from "effect/Redacted"
import * as SystemBusLive from "../layers/bus/SystemBusLive.ts"
import * as DeviceIdentityHost from "../layers/config/DeviceIdentityHost.ts"
import * as TokenStoreFile from "../layers/config/TokenStoreFile.ts"
import * as ControlClientSocket from "../layers/control/ControlClientSocket.ts"
import * as ControlServerHost from "../layers/control/ControlServerHost.ts"
import * as ProtocolCryptoLive from "../layers/crypto/ProtocolCryptoLive.ts"
import * as DnsControlHost from "../layers/dns/DnsControlHost.ts"
import * as DnsForwarderLive from "../layers/dns/DnsForwarderLive.ts"
import * as SystemResolversHost from "../layers/dns/SystemResolversHost.ts"
import * as OwnSecrets from "../layers/host/ownSecrets.ts"
import * as LogLive from "../layers/log/LogLive.ts"
import * as MetricsExportHost from "../layers/metrics/MetricsExportHost.ts"
import * as NetworkChangesHost from "../layers/network/NetworkChangesHost.ts"
import * as ReadinessPollerKoffi from "../layers/poll/ReadinessPollerKoffi.ts"
import * as HostResolverLive from "../layers/portal/HostResolverLive.ts"
import * as PortalLive from "../layers/portal/PortalLive.ts"
import * as ResourceProbeHost from "../layers/probe/ResourceProbeHost.ts"
import * as RouteCacheInvalidation from "../layers/route/RouteCacheInvalidation.ts"
import * as RouteCacheLive from "../layers/route/RouteCacheLive.ts"
import * as RouteResolverHost from "../layers/route/RouteResolverHost.ts"
import * as notifyVariables from "../layers/service/notifyVariables.ts"
import * as ServiceManagerHost from "../layers/service/ServiceManagerHost.ts"
import * as DnsSocketLive from "../layers/socket/DnsSocketLive.ts"
import * as kernelBuffers from "../layers/socket/kernelBuffers.ts"
import * as PeerSocketHost from "../layers/socket/PeerSocketHost.ts"
import * as SocketFactoryHost from "../layers/socket/SocketFactoryHost.ts"
import * as PromptLive from "../layers/terminal/PromptLive.ts"
import * as TunDeviceHost from "../layers/tun/TunDeviceHost.ts"
import * as TunInterfaceHost from "../layers/tun/TunInterfaceHost.ts"
import * as TunnelLive from "../layers/tunnel/TunnelLive.ts"
import type { IpAddress } from "../protocol/wire/address.ts"
import { ClientConfig, type ClientSettings } from "../services/ClientConfig.ts"
import { connect } from "./connect.ts"
import { dnsCleanup } from "./dnsCleanup.ts"
import { outcome } from "./outcome.ts"
import { ping, type PingOptions } from "./ping/ping.ts"
import { routeExplain } from "./routeExplain.ts"
import { signIn, type SignInOptions, signOut } from "./signIn.ts"
import { type Screen, status, type StatusOptions } from "./status.ts"

/** The one cache: every layer below asks this very value, so that there is only one. */
const lookups = ({ tunName }: Pick<ClientSettings, "tunName">) =>
  Layer.provideMerge(RouteCacheLive.layer, RouteResolverHost.layerWith({ tunnelName: tunName }))

/** The cache and what empties it. */
export const routes = (settings: Pick<ClientSettings, "tunName">) =>
  RouteCacheInvalidation.layer.pipe(
    Layer.provideMerge(NetworkChangesHost.layerWith({ tunnelName: settings.tunName })),
    Layer.provideMerge(lookups(settings)),
    Layer.provideMerge(Layer.merge(ReadinessPollerKoffi.layer, SystemBusLive.layer))
  )

type SocketSettings = Pick<ClientSettings, "offloads" | "tunName" | "udpReceiveBuffer" | "udpSendBuffer">

const peerSocketOptions = ({ offloads, udpReceiveBuffer, udpSendBuffer }: SocketSettings) => ({
  offloads,
  ...(udpReceiveBuffer === undefined ? {} : { receiveBuffer: udpReceiveBuffer }),
  ...(udpSendBuffer === undefined ? {} : { sendBuffer: udpSendBuffer })
})

/** Sockets that leave the tunnel, and the control channel over them. */
export const outside = (settings: SocketSettings) =>
  PortalLive.layer.pipe(
    Layer.provideMerge(HostResolverLive.layer),
    Layer.provideMerge(SystemResolversHost.layer),
    Layer.provideMerge(DnsSocketLive.layer),
    Layer.provideMerge(PeerSocketHost.layerWith(peerSocketOptions(settings))),
    Layer.provideMerge(SocketFactoryHost.layer),
    Layer.provideMerge(routes(settings))
  )

/** The whole session and what answers about it; needs only the settings. */
export const tunnel = (
  settings: SocketSettings & Pick<ClientSettings, "check" | "dnsControl">,
  session = TunnelLive.layer
) =>
  Layer.merge(session, ControlServerHost.layer).pipe(
    Layer.provide(TunDeviceHost.layer),
    Layer.provide(TunInterfaceHost.layer),
    Layer.provide(ProtocolCryptoLive.layer),
    Layer.provide(DnsForwarderLive.layer),
    Layer.provideMerge(DnsControlHost.layer(settings)),
    Layer.provideMerge(outside(settings))
  )

const log = (settings: Pick<ClientSettings, "logDir">, stream: NodeJS.WriteStream) =>
  LogLive.layer({
    filter: process.env["RUST_LOG"] || process.env["FIREZONE_LOG"],
    filterSource: process.env["RUST_LOG"] ? "RUST_LOG" : "FIREZONE_LOG",
    folder: settings.logDir,
    base: "firezone-headless-client",
    journal: process.env["JOURNAL_STREAM"],
    stream
  })

/** Why the client ends, for whoever reads the files only: `run` tells it on stderr. */
const tellFile = (cause: Cause.Cause<unknown>) => {
  const { message } = outcome(Exit.failCause(cause))
  return message === undefined ? Effect.void : LogLive.fileOnly(Effect.logError(message))
}

export const runClient = (settings: ClientSettings, token: Redacted.Redacted | undefined) =>
  connect.pipe(
    Effect.provide(
      Layer.mergeAll(
        tunnel(settings),
        TokenStoreFile.layer(token),
        OwnSecrets.layer,
        DeviceIdentityHost.layer,
        kernelBuffers.layer,
        MetricsExportHost.layer(process.env),
        ServiceManagerHost.layer(notifyVariables.takeNotifyVariables(process.env, process.pid))
      )
    ),
    Effect.tapErrorCause(tellFile),
    Effect.provide(Layer.merge(Layer.succeed(ClientConfig, settings), log(settings, process.stdout)))
  )

/** Whatever the next run is configured for: a file that is ours tells for itself. */
export const runDnsCleanup = dnsCleanup.pipe(
  Effect.provide(
    DnsControlHost.layer({ check: false, dnsControl: "auto" }).pipe(
      Layer.provide(SystemBusLive.layer),
      Layer.provideMerge(log({ logDir: undefined }, process.stderr))
    )
  )
)

export const runRouteExplain = (settings: ClientSettings, destination: IpAddress, json: boolean) =>
  routeExplain(destination, json).pipe(
    Effect.provide(Layer.provideMerge(lookups(settings), log({ logDir: undefined }, process.stderr)))
  )

/** In raw mode, so that a key comes without Enter; Ctrl+C is a key then too. */
const quitKey: Effect.Effect<void> = Effect.suspend(() => {
  const { stdin } = process
  if (!stdin.isTTY) return Effect.never
  const onKeys = Effect.async<void>((resume) => {
    stdin.on("data", (keys: Buffer) => {
      if (/[qQ\x03]/.test(keys.toString("latin1"))) resume(Effect.void)
    })
  })
  return Effect.acquireUseRelease(
    Effect.sync(() => stdin.setRawMode(true)),
    () => onKeys,
    () => Effect.sync(() => stdin.setRawMode(false).removeAllListeners("data").pause())
  )
})

/** Colours follow the terminal, and https://no-color.org. */
const screen: Screen = {
  isTerminal: process.stdout.isTTY === true,
  hasColours: process.stdout.isTTY === true && !process.env["NO_COLOR"] && process.env["TERM"] !== "dumb",
  rows: () => process.stdout.rows ?? 24,
  columns: () => process.stdout.columns ?? Number.POSITIVE_INFINITY,
  write: (text) => Effect.sync(() => void process.stdout.write(text)),
  quit: quitKey
}

export const runStatus = (settings: ClientSettings, options: StatusOptions) =>
  status(options, screen).pipe(
    Effect.provide(Layer.provide(ControlClientSocket.layer, Layer.succeed(ClientConfig, settings)))
  )

export const runPing = (settings: ClientSettings, options: Omit<PingOptions, "hasColours" | "columns">) =>
  ping({ ...options, hasColours: screen.hasColours, columns: screen.columns() }).pipe(
    Effect.provide(Layer.merge(
      Layer.provide(ControlClientSocket.layer, Layer.succeed(ClientConfig, settings)),
      Layer.provide(ResourceProbeHost.layer, ReadinessPollerKoffi.layer)
    ))
  )

const operator = (settings: ClientSettings) =>
  Layer.mergeAll(TokenStoreFile.layer(undefined), PromptLive.layer, OwnSecrets.layer).pipe(
    Layer.provideMerge(Layer.succeed(ClientConfig, settings))
  )

export const runSignIn = (settings: ClientSettings, options: SignInOptions) =>
  Effect.provide(signIn(options), operator(settings))

export const runSignOut = (settings: ClientSettings, force: boolean) =>
  Effect.provide(signOut(force), operator(settings))
