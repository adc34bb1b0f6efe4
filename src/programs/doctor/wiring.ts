/** Which layer serves which tag of `doctor`. Its sockets are marked where they may be: what it sees is what a client sees. */
import * as Effect from "effect/Effect"
import * as Either from "effect/Either"
import * as Layer from "effect/Layer"
import type * as Redacted from "effect/Redacted"
import * as os from "node:os"
import * as SystemBusLive from "../../layers/bus/SystemBusLive.ts"
import * as TokenStoreFile from "../../layers/config/TokenStoreFile.ts"
import * as ControlClientSocket from "../../layers/control/ControlClientSocket.ts"
import * as SystemResolversHost from "../../layers/dns/SystemResolversHost.ts"
import * as HostCommandsLive from "../../layers/host/HostCommandsLive.ts"
import * as HostFilesLive from "../../layers/host/HostFilesLive.ts"
import * as KernelProbeHost from "../../layers/host/KernelProbeHost.ts"
import * as NetworkInventoryHost from "../../layers/host/NetworkInventoryHost.ts"
import * as OwnSecrets from "../../layers/host/ownSecrets.ts"
import * as ProcessesProcfs from "../../layers/host/ProcessesProcfs.ts"
import * as LogLive from "../../layers/log/LogLive.ts"
import * as ReadinessPollerKoffi from "../../layers/poll/ReadinessPollerKoffi.ts"
import * as HostResolverLive from "../../layers/portal/HostResolverLive.ts"
import * as PortalProbeLive from "../../layers/portal/PortalProbeLive.ts"
import * as RouteCacheLive from "../../layers/route/RouteCacheLive.ts"
import * as RouteResolverHost from "../../layers/route/RouteResolverHost.ts"
import * as DnsSocketLive from "../../layers/socket/DnsSocketLive.ts"
import * as PeerSocketHost from "../../layers/socket/PeerSocketHost.ts"
import * as SocketFactoryHost from "../../layers/socket/SocketFactoryHost.ts"
import { ClientConfig, type ClientSettings } from "../../services/ClientConfig.ts"
import { KernelProbe } from "../../services/KernelProbe.ts"
import { doctor, type DoctorOptions, type DoctorScreen } from "./doctor.ts"

/** A user who may not mark sockets still learns most of it. */
const sockets = Layer.unwrapEffect(
  Effect.gen(function*() {
    const abilities = yield* Effect.either((yield* KernelProbe).sockets)
    const mayMark = Either.isRight(abilities) && Either.isRight(abilities.right.mark)
    return mayMark ? SocketFactoryHost.layer : SocketFactoryHost.unmarked
  })
)

/** No port of the client's: it may want to start meanwhile. */
const PEER_SOCKETS = { port: 0, receiveBuffer: 65_536, sendBuffer: 65_536 }

const outside = ({ tunName }: ClientSettings) =>
  Layer.merge(PortalProbeLive.layer, HostResolverLive.layer).pipe(
    Layer.provideMerge(SystemResolversHost.layer),
    Layer.provideMerge(SystemBusLive.layer),
    Layer.provideMerge(DnsSocketLive.layer),
    Layer.provideMerge(PeerSocketHost.layerWith(PEER_SOCKETS)),
    Layer.provideMerge(sockets),
    Layer.provideMerge(RouteCacheLive.layer),
    Layer.provideMerge(RouteResolverHost.layerWith({ tunnelName: tunName })),
    Layer.provideMerge(ReadinessPollerKoffi.layer)
  )

const host = Layer.mergeAll(
  HostFilesLive.layer,
  HostCommandsLive.layer,
  ProcessesProcfs.layer,
  NetworkInventoryHost.layer,
  KernelProbeHost.layer
)

const DEFAULT_COLUMNS = 100

const screen: DoctorScreen = {
  isTerminal: process.stdout.isTTY === true,
  hasColours: process.stdout.isTTY === true && !process.env["NO_COLOR"] && process.env["TERM"] !== "dumb",
  columns: process.stdout.columns ?? DEFAULT_COLUMNS,
  write: (text) => Effect.sync(() => void process.stdout.write(text))
}

/** What the parts log at INFO is told better by the report; problems of the program itself are not. */
const log = LogLive.layer({
  filter: process.env["RUST_LOG"] ?? process.env["FIREZONE_LOG"] ?? "error",
  folder: undefined,
  base: "firezone-headless-client",
  journal: undefined,
  stream: process.stderr
})

export const runDoctor = (settings: ClientSettings, token: Redacted.Redacted | undefined, options: DoctorOptions) =>
  doctor(options, {
    platform: process.platform,
    release: os.release(),
    arch: process.arch,
    nodeVersion: process.versions.node,
    uid: process.getuid?.() ?? 0,
    hasTokenVariable: token !== undefined
  }, screen).pipe(
    Effect.provide(
      Layer.mergeAll(outside(settings), TokenStoreFile.layer(token), OwnSecrets.layer, ControlClientSocket.layer).pipe(
        Layer.provideMerge(host),
        Layer.provideMerge(Layer.succeed(ClientConfig, settings)),
        Layer.provideMerge(log)
      )
    )
  )
