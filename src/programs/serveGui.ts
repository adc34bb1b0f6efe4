/** What the tunnel service does for one GUI, from its connection to its end (host spec sections 7.4 and 7.5). */
import * as Cause from "effect/Cause"
import * as Effect from "effect/Effect"
import * as Either from "effect/Either"
import * as ExecutionStrategy from "effect/ExecutionStrategy"
import * as Exit from "effect/Exit"
import * as Fiber from "effect/Fiber"
import * as Option from "effect/Option"
import * as Queue from "effect/Queue"
import type * as Redacted from "effect/Redacted"
import * as Scope from "effect/Scope"
import * as Stream from "effect/Stream"
import { type AdvancedSettings, type ClientMessage, noMdmSettings, type ServiceMessage } from "../model/gui.ts"
import { AdvancedSettingsStore } from "../services/AdvancedSettingsStore.ts"
import { ClientConfig } from "../services/ClientConfig.ts"
import type { GuiConnection } from "../services/GuiServer.ts"
import { LogControl } from "../services/LogControl.ts"
import { NetworkChanges, resubscribe } from "../services/NetworkChanges.ts"
import { ServiceManager } from "../services/ServiceManager.ts"
import type { TunnelEvent, TunnelSession } from "../services/Tunnel.ts"
import { TunnelSessions } from "../services/TunnelSessions.ts"
import { report, serviceText, type Told } from "./connect.ts"
import { failed, ok, resourcesMessage } from "./guiMessages.ts"
import { hasWay } from "./hasWay.ts"
import { parseApiUrl, parseAuthBaseUrl } from "./options.ts"
import { describe } from "./outcome.ts"

/** What is waited for a session to end; its interface has to be gone before the next can have one of that name. */
const LONGEST_END = "10 seconds"
/** What a GUI is waited for to take that the service ends. */
const FAREWELL = "1 second"
/** What has happened and is not dealt with. Whoever causes more waits. */
const INBOX = 16
const MAX_SETTING_LENGTH = 4096
const DEFAULT_AUTH_URL = "https://app.firezone.dev/"
const DEFAULT_LOG_FILTER = "info"

/** What is to be connected. */
interface Wish {
  readonly token: Redacted.Redacted
  readonly isInternetResourceActive: boolean
}

type State =
  | { readonly _tag: "None" }
  /** There is no way to the portal; a change of the network may bring one. */
  | { readonly _tag: "WaitingForNetwork"; readonly wish: Wish }
  | {
    /** `Creating` until its interface is up. */
    readonly _tag: "Creating" | "Connected"
    readonly session: TunnelSession
    readonly scope: Scope.CloseableScope
    readonly told: Told
  }

type Input =
  | { readonly _tag: "Said"; readonly message: ClientMessage }
  | { readonly _tag: "NetworkChanged" }
  | { readonly _tag: "Happened"; readonly session: TunnelSession; readonly event: TunnelEvent }
  | { readonly _tag: "Failed"; readonly session: TunnelSession; readonly error: { readonly _tag: string } }
  /** The last one of the GUI's. */
  | { readonly _tag: "Gone"; readonly reason: string }

const none: State = { _tag: "None" }

/** As kept, or what there is without. */
const settingsNow = Effect.gen(function*() {
  const { apiUrl } = yield* ClientConfig
  return (yield* (yield* AdvancedSettingsStore).load) ?? {
    auth_url: DEFAULT_AUTH_URL,
    api_url: apiUrl.href,
    log_filter: DEFAULT_LOG_FILTER
  }
})

/** Checks them all before one of them counts; a session that runs goes on with what it began with. */
const applySettings = (settings: AdvancedSettings) =>
  Effect.gen(function*() {
    const { filter } = yield* LogControl
    const long = Object.entries(settings).find(([, value]) => value.length > MAX_SETTING_LENGTH)
    if (long !== undefined) return failed(`${long[0]}: has more than ${MAX_SETTING_LENGTH} characters`)
    const api = parseApiUrl(settings.api_url)
    if (Either.isLeft(api)) return failed(`api_url: ${api.left}`)
    const auth = parseAuthBaseUrl(settings.auth_url)
    if (Either.isLeft(auth)) return failed(`auth_url: ${auth.left}`)
    const next = filter(settings.log_filter)
    if (Either.isLeft(next)) return failed(next.left.message)
    const saved = yield* Effect.either((yield* AdvancedSettingsStore).save(settings))
    if (Either.isLeft(saved)) return failed(saved.left.message)
    yield* next.right
    return { Ok: settings }
  })

/** Ends when the GUI has gone, with the session that it had. */
export const serveGui = (gui: GuiConnection, firezoneId: string) =>
  Effect.scoped(Effect.gen(function*() {
    const scope = yield* Effect.scope
    const logs = yield* LogControl
    const network = yield* NetworkChanges
    const manager = yield* ServiceManager
    const sessions = yield* TunnelSessions
    const inbox = yield* Queue.bounded<Input>(INBOX)
    let state: State = none
    let isGone = false

    /** A GUI that cannot be told has gone, which is heard of by reading. */
    const say = (message: ServiceMessage): Effect.Effect<void> => Effect.ignore(gui.send(message))

    const endSession = Effect.suspend(() => {
      const before = state
      state = none
      if (before._tag !== "Creating" && before._tag !== "Connected") return Effect.void
      // What has begun to end goes on, and a service that stops waits for it as long: DNS is to be as before.
      return Effect.forkDaemon(Scope.close(before.scope, Exit.void)).pipe(
        Effect.flatMap((ending) => Effect.timeoutOption(Effect.interruptible(Fiber.await(ending)), LONGEST_END)),
        Effect.uninterruptible,
        Effect.flatMap((ended) =>
          Option.isSome(ended) ? Effect.void : Effect.logWarning(`a session has not ended within ${LONGEST_END}`)
        )
      )
    })

    const follow = (session: TunnelSession, sessionScope: Scope.Scope) =>
      Effect.all([
        session.events.pipe(
          Stream.runForEach((event) => Queue.offer(inbox, { _tag: "Happened", session, event })),
          Effect.forkIn(sessionScope)
        ),
        session.failed.pipe(
          Effect.catchAll((error) => Queue.offer(inbox, { _tag: "Failed", session, error })),
          Effect.forkIn(sessionScope)
        )
      ], { discard: true })

    const connect = (wish: Wish) =>
      Effect.gen(function*() {
        const apiUrl = parseApiUrl((yield* settingsNow).api_url)
        if (Either.isLeft(apiUrl)) {
          state = none
          return yield* say({ _tag: "ConnectResult", value: failed(`api_url: ${apiUrl.left}`) })
        }
        const isNews = state._tag !== "WaitingForNetwork"
        // Already now: a change that comes while it is looked must not be missed.
        state = { _tag: "WaitingForNetwork", wish }
        if (!(yield* hasWay(apiUrl.right))) {
          if (isNews) yield* Effect.logInfo("there is no network: waiting for one")
          return yield* manager.status("waiting for a network")
        }
        state = none
        const sessionScope = yield* Scope.fork(scope, ExecutionStrategy.sequential)
        const started = yield* sessions.open({
          apiUrl: apiUrl.right,
          token: wish.token,
          activateInternetResource: wish.isInternetResourceActive
        }).pipe(Scope.extend(sessionScope), Effect.either)
        if (Either.isLeft(started)) {
          yield* Scope.close(sessionScope, Exit.void)
          yield* sessions.restoreDns
          const why = describe(started.left)
          yield* Effect.logError(why)
          yield* manager.status("signed out")
          return yield* say({ _tag: "ConnectResult", value: failed(why) })
        }
        const session = started.right
        state = {
          _tag: "Creating",
          session,
          scope: sessionScope,
          told: { hasSignedIn: false, portalReason: undefined }
        }
        yield* say({ _tag: "ConnectResult", value: ok })
        yield* follow(session, sessionScope)
      })

    const handleMessage = (message: ClientMessage) =>
      Effect.gen(function*() {
        switch (message._tag) {
          case "Connect":
            yield* endSession
            return yield* connect({
              token: message.value.token,
              isInternetResourceActive: message.value.is_internet_resource_active
            })
          case "Disconnect":
            yield* endSession
            yield* sessions.restoreDns
            yield* manager.status("signed out")
            return yield* say({ _tag: "DisconnectedGracefully" })
          case "SetInternetResourceState":
            if (state._tag === "WaitingForNetwork") {
              state = { ...state, wish: { ...state.wish, isInternetResourceActive: message.value } }
            } else if (state._tag !== "None") {
              yield* state.session.setInternetResourceState(message.value)
            }
            return
          case "ApplyAdvancedSettings":
            return yield* say({ _tag: "AdvancedSettingsApplied", value: yield* applySettings(message.value) })
          case "ClearLogs":
            return yield* say({
              _tag: "ClearedLogs",
              value: yield* Effect.match(logs.clear, {
                onFailure: (error) => failed(error.message),
                onSuccess: () => ok
              })
            })
          case "StartTelemetry":
            // This client has none.
            return yield* Effect.logDebug("telemetry was asked for: there is none")
        }
      })

    const handleEvent = (running: Extract<State, { readonly session: TunnelSession }>, event: TunnelEvent) =>
      Effect.gen(function*() {
        const { session, told } = running
        yield* report(event, told)
        yield* manager.status(serviceText(yield* session.status))
        switch (event._tag) {
          case "InterfaceUp":
            state = { ...running, _tag: "Connected" }
            return
          case "ResourcesUpdated":
            return yield* say(resourcesMessage(event))
          case "AllGatewaysOffline":
          case "GatewayVersionMismatch":
            return yield* say({ _tag: event._tag, value: { resource_id: event.resourceId } })
        }
      })

    const handle = (input: Exclude<Input, { readonly _tag: "Gone" }>) =>
      Effect.gen(function*() {
        switch (input._tag) {
          case "Said":
            // Nobody would hear of it.
            if (isGone && input.message._tag === "Connect") return
            return yield* handleMessage(input.message)
          case "NetworkChanged":
            if (state._tag === "WaitingForNetwork" && !isGone) yield* connect(state.wish)
            return
          case "Happened":
            // What is left of a session that has ended is of no interest.
            if ("session" in state && state.session === input.session) yield* handleEvent(state, input.event)
            return
          case "Failed": {
            if (!("session" in state) || state.session !== input.session) return
            const why = describe(input.error)
            yield* Effect.logError(why)
            yield* endSession
            yield* sessions.restoreDns
            yield* manager.status("signed out")
            return yield* say({
              _tag: "OnDisconnect",
              value: { error_msg: why, requires_sign_in: input.error._tag === "TokenRejected" }
            })
          }
        }
      })

    yield* Effect.logInfo("a GUI has connected")
    yield* manager.status("signed out")
    yield* say({
      _tag: "Hello",
      value: { firezone_id: firezoneId, advanced_settings: yield* settingsNow, mdm_settings: noMdmSettings }
    })
    yield* Effect.forever(
      Effect.flatMap(gui.receive, (message) => Queue.offer(inbox, { _tag: "Said", message }))
    ).pipe(
      Effect.catchAllCause((cause) => {
        isGone = true
        return Queue.offer(inbox, { _tag: "Gone", reason: describe(Cause.squash(cause)) })
      }),
      Effect.forkScoped
    )
    yield* network.changes.pipe(
      // Only whoever waits for one wants to know.
      Stream.filter(() => state._tag === "WaitingForNetwork"),
      Stream.runForEach(() => Queue.offer(inbox, { _tag: "NetworkChanged" })),
      Effect.retry(resubscribe),
      Effect.ignore,
      Effect.forkScoped
    )
    yield* Effect.gen(function*() {
      while (true) {
        const input = yield* Queue.take(inbox)
        if (input._tag === "Gone") {
          yield* Effect.logInfo(`a GUI has gone: ${input.reason}`)
          // Here and not by the scope, which would wait for ever, and the next GUI with it.
          return yield* endSession
        }
        yield* handle(input)
      }
    }).pipe(
      // Before the session ends, which may take longer than the GUI is there.
      Effect.onInterrupt(() =>
        Effect.timeoutOption(Effect.interruptible(say({ _tag: "TerminatingGracefully" })), FAREWELL)
      )
    )
  }))
