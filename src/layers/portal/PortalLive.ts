/** The control channel: dials, joins, decodes, and starts over until something is final (portal spec sections 2 to 4). */
import * as Cause from "effect/Cause"
import * as Data from "effect/Data"
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Either from "effect/Either"
import * as FiberSet from "effect/FiberSet"
import * as Layer from "effect/Layer"
import * as Queue from "effect/Queue"
import * as Random from "effect/Random"
import * as Redacted from "effect/Redacted"
import { decodeClientPush, decodeGatewayPush } from "../../model/portal.ts"
import { encodeClientRequest, type EncodedRequest, encodeGatewayRequest } from "../../model/portalRequest.ts"
import type { decodeWith } from "../../model/portalValues.ts"
import { version } from "../../model/version.ts"
import { dialTarget, type Endpoint, loginUrl } from "../../protocol/portal/loginUrl.ts"
import type { ChannelEvent } from "../../protocol/portal/PhoenixChannel.ts"
import { ReconnectBackoff } from "../../protocol/portal/ReconnectBackoff.ts"
import type { Refusal } from "../../protocol/portal/refusal.ts"
import { tokenIn } from "../../protocol/portal/token.ts"
import { userAgent } from "../../protocol/portal/userAgent.ts"
import { SocketAddress } from "../../protocol/wire/address.ts"
import { HostResolver, type HostUnresolved } from "../../services/HostResolver.ts"
import {
  AuthenticationFailed,
  LoginFailed,
  Portal,
  type PortalConnection,
  PortalDisconnected,
  type PortalEvent,
  type PortalFatal,
  type PortalOptions,
  type PortalProtocol,
  type PortalRole,
  type PortalStatus,
  RetriesExhausted,
  TokenRejected
} from "../../services/Portal.ts"
import { type RoutingLoopPreventionFailed, SocketFactory } from "../../services/SocketFactory.ts"
import { seldom } from "../seldom.ts"
import { driveChannel, type DrivenChannel } from "./driveChannel.ts"
import { readHostFacts } from "./hostFacts.ts"
import {
  closeWebSocket,
  type ConnectFailed,
  openWebSocket,
  type UpgradeRefused,
  type UpgradeRequest
} from "./openWebSocket.ts"
import { withoutToken } from "./withoutToken.ts"

/** Events that the reader has not taken; then the socket is not read. */
const MAX_EVENTS = 64

export interface PortalLiveOptions {
  /** PEM of the roots that are trusted instead of the bundled ones. */
  readonly trustedRoots?: string | undefined
}

/** An attempt or a connection ended; it is tried again. */
class AttemptEnded extends Data.TaggedError("AttemptEnded")<{
  readonly reason: string
  readonly retryAfterMillis?: number | undefined
  readonly cause?: unknown
}> {}

/** `reconnect` was called. */
class Superseded extends Data.TaggedError("Superseded")<{}> {}

type Ended = AttemptEnded | PortalFatal

interface Codec<Role extends PortalRole> {
  readonly decode: ReturnType<typeof decodeWith<PortalProtocol[Role]["push"]>>
  readonly encode: (request: PortalProtocol[Role]["request"], endpoint: Endpoint) => EncodedRequest
}
const codecs: { readonly [Role in PortalRole]: Codec<Role> } = {
  client: { decode: decodeClientPush, encode: encodeClientRequest },
  gateway: { decode: decodeGatewayPush, encode: encodeGatewayRequest }
}

const make = ({ trustedRoots }: PortalLiveOptions) =>
  Effect.gen(function*() {
    const resolver = yield* HostResolver
    const sockets = yield* SocketFactory
    const host = readHostFacts()

    const open = Effect.fnUntraced(function*<Role extends PortalRole>(options: PortalOptions<Role>) {
      type Event = PortalEvent<PortalProtocol[Role]["push"]>
      const codec = codecs[options.role] as Codec<Role>
      const given = Redacted.value(options.token)
      /** Empty if there is none, `undefined` if it cannot be sent. */
      const token = Redacted.make(given === "" ? "" : tokenIn(given))
      const hide = withoutToken(Redacted.value(token) ?? given)
      const backoff = new ReconnectBackoff(options.maxPartitionTime && Duration.toMillis(options.maxPartitionTime))
      const clock = yield* Effect.clock
      const now = (): number => Number(clock.unsafeCurrentTimeNanos() / 1_000_000n)
      const superseded = Effect.unsafeMakeLatch()
      const warnings: SeldomWarnings = { frame: seldom(), message: seldom(), parts: seldom() }
      let publicKey = options.publicKey
      let live: { readonly channel: DrivenChannel; readonly endpoint: Endpoint } | undefined
      let status: Omit<PortalStatus, "state"> & { readonly state: "connecting" | "disconnected" | "failed" } = {
        state: "connecting",
        joins: 0
      }

      const events = yield* Effect.acquireRelease(Queue.bounded<Event>(MAX_EVENTS), Queue.shutdown)
      // Connections that say goodbye. A new one does not wait for them; the end of the scope does.
      const goodbyes = yield* FiberSet.make<void>()

      const upgradeRequest = (endpoint: Endpoint): Effect.Effect<UpgradeRequest, LoginFailed | TokenRejected> => {
        const url = loginUrl(options.url, options.role, endpoint, { ...options, publicKey })
        if (url === undefined) return new LoginFailed({ reason: `${options.url.protocol} is no WebSocket URL` })
        const bearer = Redacted.value(token)
        if (bearer === undefined) return new TokenRejected({ detail: "it has characters that no token has" })
        return Effect.succeed({
          url,
          host: dialTarget(url).host,
          secure: dialTarget(url).secure,
          trustedRoots,
          hide,
          headers: {
            "User-Agent": userAgent(options.role, host, version),
            ...(bearer === "" ? {} : { "X-Authorization": `Bearer ${bearer}` })
          }
        })
      }
      const dial = (endpoint: Endpoint, remotes: ReadonlyArray<SocketAddress>) =>
        Effect.flatMap(upgradeRequest(endpoint), (request) =>
          Effect.acquireRelease(
            openWebSocket(sockets, remotes, request),
            ({ socket, webSocket }) =>
              FiberSet.run(goodbyes, Effect.unlessEffect(closeWebSocket(webSocket), sockets.abandonStranded(socket)))
          )).pipe(Effect.map((opened) => ({ ...opened, endpoint })))

      /** Until it ends. */
      const attempt = Effect.gen(function*() {
        yield* upgradeRequest("v2") // so that an unusable URL or token fails before anything is looked up
        const target = dialTarget(options.url)
        const remotes = (yield* resolver.resolve(target.host)).map((address) => new SocketAddress(address, target.port))
        // v2 first each time: a portal may have been upgraded since.
        const { endpoint, remote, webSocket } = yield* dial("v2", remotes).pipe(
          Effect.catchIf(
            (error) => error._tag === "UpgradeRefused" && isNotFound(error),
            () => dial("v1", remotes)
          )
        )
        status = { ...status, endpoint, remote: remote.text }
        yield* Effect.logDebug("portal connection open").pipe(
          Effect.annotateLogs({ endpoint, remote: remote.text })
        )
        yield* Effect.addFinalizer(() => Effect.sync(() => (live = undefined)))
        const channel = yield* driveChannel(webSocket, options.role, hide)
        live = { channel, endpoint }
        return yield* handleEvents(channel)
      }).pipe(
        Effect.scoped,
        Effect.mapError(endOf)
      )

      const handleEvents = Effect.fnUntraced(function*(channel: DrivenChannel) {
        let farewell: string | undefined
        const handle = (event: ChannelEvent): Effect.Effect<unknown, Ended> => {
          switch (event._tag) {
            case "Joined":
              backoff.joined(now())
              status = { ...status, joins: status.joins + 1, lastError: undefined }
              return Effect.zipRight(
                Effect.logDebug("portal connected").pipe(Effect.annotateLogs("endpoint", status.endpoint)),
                Queue.offer(events, { _tag: "Connected" })
              )
            case "Push":
              return Effect.flatMap(
                readPush(codec.decode, event.event, event.payload, warnings),
                (push) => push === undefined ? Effect.void : Queue.offer(events, { _tag: "Message", push })
              )
            case "RequestRefused":
              return Effect.annotateLogs(Effect.logDebug("the portal refused a request"), "reason", event.reason)
            case "Skipped":
              return warnings.frame(Effect.annotateLogs(Effect.logWarning("portal frame skipped"), "why", event.why))
            case "Disconnecting":
              farewell = event.reason
              return Effect.annotateLogs(Effect.logWarning("the portal ends the session"), "reason", event.reason)
            case "Failed":
              return new AttemptEnded({
                reason: farewell === undefined ? event.reason : `the portal ended the session (${farewell})`
              })
            case "JoinRefused":
              return new LoginFailed({ reason: event.reason })
            case "TokenExpired":
              return new TokenRejected({ detail: "token_expired" })
          }
        }
        return yield* Effect.forever(Effect.flatMap(channel.take, handle))
      })

      const failed = (error: PortalFatal) => {
        status = { ...status, state: "failed", lastError: error.message }
        return Effect.zipRight(
          Effect.logDebug("portal connection given up").pipe(Effect.annotateLogs("reason", error.message)),
          Queue.offer(events, { _tag: "Failed", error })
        )
      }

      /** Tells the reader, then waits until it is time to try again or `reconnect` is called. */
      const disconnected = (error: PortalDisconnected, retryInMillis: number) => {
        status = { ...status, state: "disconnected", lastError: error.requested ? undefined : error.message }
        return Effect.logDebug("portal disconnected").pipe(
          Effect.annotateLogs({ reason: error.reason, retryInMillis }),
          Effect.zipRight(Queue.offer(events, { _tag: "Disconnected", error, retryInMillis })),
          Effect.zipRight(Effect.raceFirst(Effect.sleep(retryInMillis), superseded.await))
        )
      }

      /** Returns whether to go on. */
      const handleEnd = (end: Ended | Superseded) =>
        Effect.gen(function*() {
          if (end._tag === "Superseded") {
            yield* disconnected(new PortalDisconnected({ reason: "a new connection is wanted", requested: true }), 0)
            return true
          }
          if (end._tag !== "AttemptEnded") {
            yield* failed(end)
            return false
          }
          const lastError = new PortalDisconnected({ reason: end.reason, requested: false, cause: end.cause })
          const retry = end.retryAfterMillis === undefined
            ? backoff.failed(yield* Random.next, now())
            : backoff.failedWithRetryAfter(end.retryAfterMillis)
          if (retry._tag === "Exhausted") {
            yield* failed(
              new RetriesExhausted({ portal: options.url.host, lastError, budgetMillis: retry.budgetMillis })
            )
            return false
          }
          yield* disconnected(lastError, Math.round(retry.delayMillis))
          return true
        })

      yield* Effect.suspend(() => {
        // The key is read after this: a `reconnect` from here on ends the attempt, an earlier one is in it.
        superseded.unsafeClose()
        status = { ...status, state: "connecting" }
        return Effect.raceFirst(attempt, Effect.zipRight(superseded.await, new Superseded()))
      }).pipe(
        Effect.flip,
        Effect.flatMap(handleEnd),
        Effect.repeat({ while: (goesOn) => goesOn }),
        // The reader must not wait for ever for a loop that a bug ended.
        Effect.onError((cause) =>
          Cause.isInterruptedOnly(cause)
            ? Effect.void
            : Effect.zipRight(
              Effect.logError("portal connection crashed", cause),
              Effect.interruptible(failed(new LoginFailed({ reason: "internal error" })))
            )
        ),
        Effect.annotateLogs("module", "portal"),
        Effect.interruptible,
        Effect.forkScoped
      )

      const connection: PortalConnection<Role> = {
        events,
        unsafeSend: (request) => {
          if (live === undefined) return false
          const { event, payload } = codec.encode(request, live.endpoint)
          return live.channel.send(event, payload)
        },
        reconnect: (key) =>
          Effect.sync(() => {
            publicKey = key
            live = undefined
            backoff.reset()
            superseded.unsafeOpen()
          }),
        status: () => ({ ...status, state: live?.channel.isJoined() === true ? "connected" : status.state })
      }
      return connection
    })

    return Portal.of({ open })
  })

/** What is final and what is not (portal spec section 2.5). */
const endOf = (
  error: Ended | HostUnresolved | ConnectFailed | UpgradeRefused | RoutingLoopPreventionFailed
): Ended => {
  switch (error._tag) {
    case "HostUnresolved":
      return new AttemptEnded({ reason: `no address for the portal: ${error.reason}`, cause: error })
    case "ConnectFailed":
      return new AttemptEnded({ reason: error.reason, cause: error.cause })
    case "RoutingLoopPreventionFailed":
      return new LoginFailed({ reason: error.message })
    case "UpgradeRefused":
      return endOfRefusal(error.refusal)
    default:
      return error
  }
}

const endOfRefusal = (refusal: Refusal): Ended => {
  switch (refusal._tag) {
    case "TokenRejected":
      return new TokenRejected({ detail: refusal.detail })
    case "AuthenticationFailed":
      return new AuthenticationFailed({ detail: refusal.detail })
    case "Retry":
      return new AttemptEnded({ reason: refusal.detail, retryAfterMillis: refusal.retryAfterMillis })
  }
}

interface SeldomWarnings {
  /** No frame of the protocol. */
  readonly frame: ReturnType<typeof seldom>
  /** No message of this event. */
  readonly message: ReturnType<typeof seldom>
  /** A message that was read in part. */
  readonly parts: ReturnType<typeof seldom>
}

/** The message, unless it has no effect; what was wrong with it is logged, by the names of members only. */
const readPush = <Push>(
  decode: ReturnType<typeof decodeWith<Push>>,
  event: string,
  payload: unknown,
  warnings: SeldomWarnings
): Effect.Effect<Push | undefined> => {
  const decoded = decode(event, payload)
  if (Either.isLeft(decoded)) {
    const { _tag, why } = decoded.left
    return _tag === "UnknownEvent"
      ? Effect.logDebug("portal message unknown").pipe(
        Effect.annotateLogs("event", event.slice(0, 64)),
        Effect.as(undefined)
      )
      : warnings.message(
        Effect.annotateLogs(Effect.logWarning("portal message cannot be read"), { event, why })
      ).pipe(Effect.as(undefined))
  }
  const { message, skipped } = decoded.right
  if (skipped.length === 0) return Effect.succeed(message)
  return warnings.parts(
    Effect.logWarning("parts of a portal message left out").pipe(
      Effect.annotateLogs({ event, count: skipped.length, first: skipped[0] })
    )
  ).pipe(Effect.as(message))
}

/** The v2 endpoint is unknown to portals before mid-2026 (portal spec section 12.3). */
const isNotFound = ({ refusal }: UpgradeRefused): boolean => refusal._tag === "Retry" && refusal.status === 404

export const layerWith = (options: PortalLiveOptions): Layer.Layer<Portal, never, HostResolver | SocketFactory> =>
  Layer.effect(Portal, make(options))

export const layer = layerWith({})
