/** The tunnel service as a state machine: GUIs, sessions, DNS and the network are the test's. */
import { assert, describe, it } from "@effect/vitest"
import * as Cause from "effect/Cause"
import * as Deferred from "effect/Deferred"
import * as Effect from "effect/Effect"
import * as Either from "effect/Either"
import * as Fiber from "effect/Fiber"
import * as Layer from "effect/Layer"
import * as Logger from "effect/Logger"
import * as Redacted from "effect/Redacted"
import * as TestClock from "effect/TestClock"
import type { AdvancedSettings, ServiceMessage } from "../../src/model/gui.ts"
import { tunnelService } from "../../src/programs/tunnelService.ts"
import { ip } from "../../src/protocol/wire/address.ts"
import { AdvancedSettingsStore } from "../../src/services/AdvancedSettingsStore.ts"
import { ClientConfig, ConfigInvalid } from "../../src/services/ClientConfig.ts"
import { DeviceIdentity } from "../../src/services/DeviceIdentity.ts"
import { LogControl } from "../../src/services/LogControl.ts"
import { LoginFailed, TokenRejected } from "../../src/services/Portal.ts"
import { NoRoute } from "../../src/services/RouteResolver.ts"
import { TunFailed } from "../../src/services/TunDevice.ts"
import type { TunnelEvent } from "../../src/services/Tunnel.ts"
import { type SessionOptions, TunnelSessions } from "../../src/services/TunnelSessions.ts"
import { type GuiDouble, makeGuiServerDouble } from "../support/GuiServerDouble.ts"
import { makeNetworkChangesDouble } from "../support/NetworkChangesDouble.ts"
import { makeRouteResolverDouble } from "../support/RouteResolverDouble.ts"
import { makeServiceManagerDouble } from "../support/ServiceManagerDouble.ts"
import { settings } from "../support/settings.ts"
import { makeSystemResolversDouble } from "../support/SystemResolversDouble.ts"
import { makeTunnelDouble, type TunnelDouble } from "../support/TunnelDouble.ts"
import { waitFor } from "../support/waitFor.ts"

const interfaceUp: TunnelEvent = { _tag: "InterfaceUp", ipv4: ip("100.64.0.2"), ipv6: ip("fd00:2021:1111::2") }
const connectMessage = (token = "secret", active = false) =>
  ({
    _tag: "Connect",
    value: { token: Redacted.make(token), is_internet_resource_active: active }
  }) as const
const hears = (gui: GuiDouble, tag: ServiceMessage["_tag"], count = 1) =>
  waitFor(`${count} ${tag}`, () => gui.heard.filter(({ _tag }) => _tag === tag).length >= count)
const tags = ({ heard }: GuiDouble) => heard.map(({ _tag }) => _tag)
const connected = { _tag: "ConnectResult", value: { Ok: null } } as const

interface Opened {
  readonly options: SessionOptions
  readonly tunnel: TunnelDouble
}

/** The service at work, until the test ends. */
const service = Effect.gen(function*() {
  const guis = yield* makeGuiServerDouble
  const dns = { reverts: 0 }
  const network = yield* makeNetworkChangesDouble
  const routes = makeRouteResolverDouble()
  const manager = makeServiceManagerDouble()
  const opened: Array<Opened> = []
  const filters: Array<string> = []
  const world = {
    guis,
    dns,
    network,
    routes,
    manager,
    opened,
    filters,
    stored: undefined as AdvancedSettings | undefined,
    saveFailure: undefined as ConfigInvalid | undefined,
    clearFailure: undefined as ConfigInvalid | undefined,
    /** In the place of the next session. */
    openInstead: undefined as Effect.Effect<never, TunFailed> | undefined,
    /** Sessions end only after it. */
    ending: Effect.void as Effect.Effect<void>,
    /** What was logged. */
    lines: [] as Array<string>,
    last: () => opened.at(-1)?.tunnel ?? assert.fail("no session was opened")
  }
  const layer = Layer.mergeAll(
    guis.layer,
    network.layer,
    routes.layer,
    manager.layer,
    makeSystemResolversDouble().layer,
    Layer.succeed(ClientConfig, settings()),
    Layer.succeed(DeviceIdentity, { facts: Effect.succeed({ id: "the-id" }) }),
    Layer.succeed(LogControl, {
      filter: (text) =>
        text === "nonsense"
          ? Either.left(new ConfigInvalid({ what: "log filter", why: "is nonsense" }))
          : Either.right(Effect.sync(() => void filters.push(text))),
      clear: Effect.suspend(() => world.clearFailure ?? Effect.void)
    }),
    Layer.succeed(AdvancedSettingsStore, {
      load: Effect.sync(() => world.stored),
      save: (settings) =>
        Effect.suspend(() => {
          if (world.saveFailure !== undefined) return world.saveFailure
          world.stored = settings
          return Effect.void
        })
    }),
    Layer.succeed(TunnelSessions, {
      restoreDns: Effect.sync(() => void (dns.reverts += 1)),
      open: (options) =>
        Effect.suspend(() => {
          const instead = world.openInstead
          world.openInstead = undefined
          if (instead !== undefined) return instead
          return Effect.gen(function*() {
            assert.isFalse(opened.some(({ tunnel }) => tunnel.running), "one session at a time")
            const tunnel = yield* makeTunnelDouble
            yield* Effect.acquireRelease(
              Effect.sync(() => (tunnel.running = true)),
              () => Effect.andThen(Effect.suspend(() => world.ending), Effect.sync(() => (tunnel.running = false)))
            )
            opened.push({ options, tunnel })
            return tunnel.session
          })
        })
    }),
    Logger.replace(
      Logger.defaultLogger,
      Logger.make(({ cause, message }) => void world.lines.push(`${String(message)} ${Cause.pretty(cause)}`))
    )
  )
  const running = yield* Effect.forkScoped(Effect.provide(tunnelService, layer))
  yield* waitFor("the service to listen", () => guis.isListening)
  return { ...world, world, running }
})

const withSession = Effect.gen(function*() {
  const all = yield* service
  const gui = all.guis.connect()
  gui.say(connectMessage())
  yield* hears(gui, "ConnectResult")
  return { ...all, gui }
})

describe("the tunnel service", () => {
  it.scopedLive("greets a GUI with what it keeps, once names are as they were", () =>
    Effect.gen(function*() {
      const { dns, guis, manager, world } = yield* service
      yield* waitFor("DNS to be reverted before anybody comes", () => dns.reverts > 0)
      assert.strictEqual(manager.told[0], "ready")
      world.stored = { auth_url: "https://a.test/", api_url: "wss://b.test/", log_filter: "debug" }
      const gui = guis.connect()
      yield* hears(gui, "Hello")
      assert.deepStrictEqual(gui.heard, [{
        _tag: "Hello",
        value: {
          firezone_id: "the-id",
          advanced_settings: world.stored,
          mdm_settings: {
            auth_url: null,
            api_url: null,
            log_filter: null,
            account_slug: null,
            hide_admin_portal_menu_item: null,
            connect_on_start: null,
            check_for_updates: null,
            support_url: null
          }
        }
      }])
    }))

  it.scopedLive("host spec 18, test 10: a second client gets Hello only after the first left", () =>
    Effect.gen(function*() {
      const { guis } = yield* service
      const first = guis.connect()
      const second = guis.connect()
      yield* hears(first, "Hello")
      first.say({ _tag: "Disconnect" })
      yield* hears(first, "DisconnectedGracefully")
      assert.deepStrictEqual(second.heard, [])
      first.leave()
      yield* hears(second, "Hello")
      assert.isTrue(first.isOver)
    }))

  it.scopedLive("connects with the settings of the moment, and forwards what happens", () =>
    Effect.gen(function*() {
      const { guis, last, opened, world } = yield* service
      world.stored = { auth_url: "https://a.test/", api_url: "https://b.test/", log_filter: "info" }
      const gui = guis.connect()
      gui.say(connectMessage("a token", true))
      yield* hears(gui, "ConnectResult")
      const { options } = opened[0] ?? assert.fail("none")
      assert.strictEqual(options.apiUrl.href, "wss://b.test/")
      assert.strictEqual(Redacted.value(options.token), "a token")
      assert.isTrue(options.activateInternetResource)

      const site = { id: "s", name: "HQ" }
      const tunnel = last()
      tunnel.emit({
        _tag: "ResourcesUpdated",
        resources: [
          { id: "1", type: "internet", name: "Internet Resource", address: "", sites: [site], status: "Online" },
          { id: "2", type: "dns", name: "Corp", address: "*.corp.example", sites: [], status: "Unknown" },
          {
            id: "3",
            type: "cidr",
            name: "LAN",
            address: "10.0.0.0/24",
            addressDescription: "docs",
            sites: [],
            status: "Offline"
          }
        ],
        connectedDevices: [
          { id: "4", name: "laptop", ipv4: ip("100.64.0.7"), ipv6: ip("fd00:2021:1111::7"), pools: ["a", "devs"] }
        ]
      })
      tunnel.emit(interfaceUp)
      tunnel.emit({ _tag: "AllGatewaysOffline", resourceId: "3" })
      tunnel.emit({ _tag: "GatewayVersionMismatch", resourceId: "2" })
      yield* hears(gui, "GatewayVersionMismatch")
      assert.deepStrictEqual(gui.heard.slice(1), [
        connected,
        {
          _tag: "OnUpdateResources",
          value: {
            resources: [
              { type: "internet", id: "1", name: "Internet Resource", sites: [site], status: "Online" },
              {
                type: "dns",
                id: "2",
                name: "Corp",
                sites: [],
                status: "Unknown",
                address: "*.corp.example",
                address_description: null
              },
              {
                type: "cidr",
                id: "3",
                name: "LAN",
                sites: [],
                status: "Offline",
                address: "10.0.0.0/24",
                address_description: "docs"
              }
            ],
            connected_devices: [
              { id: "4", name: "laptop", tun_ipv4: "100.64.0.7", tun_ipv6: "fd00:2021:1111::7", pools: ["a", "devs"] }
            ]
          }
        },
        { _tag: "AllGatewaysOffline", value: { resource_id: "3" } },
        { _tag: "GatewayVersionMismatch", value: { resource_id: "2" } }
      ])
      gui.say({ _tag: "SetInternetResourceState", value: true })
      yield* waitFor("the Internet resource", () => tunnel.status.internetResourceActive)
    }))

  it.scopedLive("ends the session before it begins the next one, and when it is told to", () =>
    Effect.gen(function*() {
      const { dns, gui, last, manager, opened } = yield* withSession
      gui.say(connectMessage("another"))
      yield* hears(gui, "ConnectResult", 2)
      assert.deepStrictEqual(opened.map(({ tunnel }) => tunnel.running), [false, true])
      const reverts = dns.reverts
      gui.say({ _tag: "Disconnect" })
      yield* hears(gui, "DisconnectedGracefully")
      assert.isFalse(last().running)
      assert.isAbove(dns.reverts, reverts)
      assert.strictEqual(manager.told.at(-1), "signed out")
      // Also if there is none.
      gui.say({ _tag: "Disconnect" })
      yield* hears(gui, "DisconnectedGracefully", 2)
      gui.say({ _tag: "SetInternetResourceState", value: true })
      gui.say({ _tag: "ClearLogs" })
      yield* hears(gui, "ClearedLogs")
    }))

  it.scopedLive("tells why a session ended, and whether a new token is needed", () =>
    Effect.gen(function*() {
      const { dns, gui, last } = yield* withSession
      last().emit(interfaceUp)
      const reverts = dns.reverts
      last().fail(new TokenRejected({ detail: "401" }))
      yield* hears(gui, "OnDisconnect")
      assert.isFalse(last().running)
      assert.isAbove(dns.reverts, reverts)
      gui.say(connectMessage())
      yield* hears(gui, "ConnectResult", 2)
      last().fail(new LoginFailed({ reason: "no" }))
      yield* hears(gui, "OnDisconnect", 2)
      const told = gui.heard.flatMap((message) => message._tag === "OnDisconnect" ? [message.value] : [])
      assert.deepStrictEqual(told.map((value) => value.requires_sign_in), [true, false])
      assert.include(told[0]?.error_msg, "does not accept the token")
      assert.include(told[1]?.error_msg, "login to the portal failed: no")
    }))

  it.scopedLive("ends the session and reverts DNS when the GUI goes, and serves the next one", () =>
    Effect.gen(function*() {
      const { dns, gui, guis, last } = yield* withSession
      const next = guis.connect()
      const reverts = dns.reverts
      gui.leave()
      yield* hears(next, "Hello")
      assert.isFalse(last().running)
      assert.isAbove(dns.reverts, reverts)
    }))

  it.scopedLive("survives GUIs that come, connect and go in a storm, and serves the one after it", () =>
    Effect.gen(function*() {
      const { dns, guis, lines, opened } = yield* service
      const storm = Array.from({ length: 50 }, (_, number) => {
        const gui = guis.connect()
        gui.say(connectMessage())
        if (number % 2 === 0) gui.say(connectMessage())
        gui.leave()
        return gui
      })
      const after = guis.connect()
      yield* hears(after, "Hello")
      assert.isTrue(storm.every(({ isOver }) => isOver))
      assert.isFalse(opened.some(({ tunnel }) => tunnel.running), "nothing is left of them")
      assert.isAtLeast(dns.reverts, storm.length)
      after.say(connectMessage("the last"))
      yield* hears(after, "ConnectResult")
      assert.strictEqual(Redacted.value(opened.at(-1)?.options.token ?? assert.fail("none")), "the last")
      assert.isFalse(lines.some((line) => line.includes("failed")))
    }))

  it.scoped("serves the next GUI although the session of the one before does not end, which goes on ending", () =>
    Effect.gen(function*() {
      const { gui, guis, last, lines, world } = yield* withSession
      const stuck = last()
      const end = yield* Deferred.make<void>()
      world.ending = Deferred.await(end)
      gui.leave()
      const next = guis.connect()
      yield* waitFor("it to be noticed", () => lines.some((line) => line.includes("a GUI has gone")))
      yield* TestClock.adjust("9 seconds")
      assert.deepStrictEqual(next.heard, [])
      // More than one, should its timer have begun after the adjustment.
      while (next.heard.length === 0) {
        yield* TestClock.adjust("1 second")
        yield* Effect.promise(() => new Promise((resolve) => void setImmediate(resolve)))
      }
      assert.isTrue(lines.some((line) => line.includes("a session has not ended within 10 seconds")))
      assert.isTrue(stuck.running)
      yield* Deferred.succeed(end, undefined)
      yield* waitFor("its end", () => !stuck.running)
    }))

  it.scopedLive("waits for the end of a session that is ending when it is stopped", () =>
    Effect.gen(function*() {
      const { gui, last, running, world } = yield* withSession
      const end = yield* Deferred.make<void>()
      const ends = yield* Deferred.make<void>()
      world.ending = Effect.zipRight(Deferred.succeed(ends, undefined), Deferred.await(end))
      gui.say({ _tag: "Disconnect" })
      yield* Deferred.await(ends)
      const stopping = yield* Effect.fork(Fiber.interrupt(running))
      yield* Effect.yieldNow()
      assert.isTrue(last().running)
      yield* Deferred.succeed(end, undefined)
      yield* Fiber.join(stopping)
      assert.isFalse(last().running)
    }))

  it.scopedLive("tells of an interface that another process has, and stays signed out (decision 9)", () =>
    Effect.gen(function*() {
      const { guis, opened, world } = yield* service
      const gui = guis.connect()
      world.openInstead = Effect.fail(
        new TunFailed({ step: "attach tun-test", cause: "EBUSY", hint: "another process has it" })
      )
      gui.say(connectMessage())
      yield* hears(gui, "ConnectResult")
      const [answer] = gui.heard.slice(1)
      assert.deepStrictEqual(answer, {
        _tag: "ConnectResult",
        value: { Err: "cannot set up the tunnel device: attach tun-test: EBUSY; another process has it" }
      })
      gui.say(connectMessage())
      yield* hears(gui, "ConnectResult", 2)
      assert.lengthOf(opened, 1)
    }))

  it.scopedLive("waits for a network without a word, and connects with what was wished last", () =>
    Effect.gen(function*() {
      const { guis, manager, network, opened, routes } = yield* service
      const none = (destination: ReturnType<typeof ip>) =>
        Effect.fail(new NoRoute({ destination, reason: "ENETUNREACH" }))
      const some = routes.answer
      routes.answer = none
      const gui = guis.connect()
      gui.say(connectMessage("a token", false))
      yield* waitFor("it to wait", () => manager.told.includes("waiting for a network"))
      yield* network.change({ _tag: "Link" })
      gui.say({ _tag: "SetInternetResourceState", value: true })
      gui.say({ _tag: "ClearLogs" })
      yield* hears(gui, "ClearedLogs")
      assert.deepStrictEqual(tags(gui), ["Hello", "ClearedLogs"])
      assert.lengthOf(opened, 0)
      routes.answer = some
      yield* network.change({ _tag: "Route" })
      yield* hears(gui, "ConnectResult")
      assert.strictEqual(Redacted.value(opened[0]?.options.token ?? assert.fail("none")), "a token")
      assert.isTrue(opened[0]?.options.activateInternetResource)
      // A change is the session's own matter now.
      yield* network.change({ _tag: "Route" })

      routes.answer = none
      gui.say(connectMessage())
      gui.say({ _tag: "Disconnect" })
      yield* hears(gui, "DisconnectedGracefully")
      routes.answer = some
      yield* network.change({ _tag: "Route" })
      gui.say({ _tag: "ClearLogs" })
      yield* hears(gui, "ClearedLogs", 2)
      assert.lengthOf(opened, 1)
    }))

  it.scopedLive("host spec 18, test 11: handler crash, then reconnect works", () =>
    Effect.gen(function*() {
      const { dns, gui, guis, last, lines, world } = yield* withSession
      const first = last()
      world.openInstead = Effect.die(new Error("a bug"))
      gui.say(connectMessage())
      yield* waitFor("the handler's end", () => gui.isOver)
      assert.isFalse(first.running)
      const again = guis.connect()
      again.say(connectMessage())
      yield* hears(again, "ConnectResult")
      assert.deepStrictEqual(tags(again), ["Hello", "ConnectResult"])
      assert.isTrue(last().running)
      assert.isTrue(lines.some((line) => line.includes("serving a GUI failed") && line.includes("a bug")))
      assert.isAbove(dns.reverts, 1)
    }))

  it.scopedLive("says goodbye when it is stopped, before the session ends", () =>
    Effect.gen(function*() {
      const { gui, guis, last, manager, running } = yield* withSession
      const waiting = guis.connect()
      yield* Fiber.interrupt(running)
      assert.strictEqual(tags(gui).at(-1), "TerminatingGracefully")
      assert.isFalse(last().running)
      assert.isFalse(guis.isListening)
      assert.strictEqual(manager.told.at(-1), "stopping")
      assert.deepStrictEqual(waiting.heard, [])
    }))

  it.scopedLive("checks advanced settings before it keeps them; a session goes on", () =>
    Effect.gen(function*() {
      const { filters, gui, last, world } = yield* withSession
      const good = { auth_url: "https://app.firezone.dev/", api_url: "wss://api.firezone.dev/", log_filter: "debug" }
      const bad = [
        { ...good, log_filter: "nonsense" },
        { ...good, api_url: "ftp://api" },
        { ...good, auth_url: "javascript:alert(1)" },
        { ...good, api_url: `wss://${"x".repeat(5000)}/` }
      ]
      for (const value of bad) gui.say({ _tag: "ApplyAdvancedSettings", value })
      yield* hears(gui, "AdvancedSettingsApplied", bad.length)
      assert.isUndefined(world.stored)
      gui.say({ _tag: "ApplyAdvancedSettings", value: good })
      yield* hears(gui, "AdvancedSettingsApplied", bad.length + 1)
      assert.deepStrictEqual(world.stored, good)
      world.saveFailure = new ConfigInvalid({ what: "/file", why: "is full" })
      gui.say({ _tag: "ApplyAdvancedSettings", value: { ...good, log_filter: "trace" } })
      yield* hears(gui, "AdvancedSettingsApplied", bad.length + 2)
      assert.deepStrictEqual(filters, ["debug"])
      const answers = gui.heard.flatMap((each) => each._tag === "AdvancedSettingsApplied" ? [each.value] : [])
      assert.deepStrictEqual(answers.map((answer) => "Ok" in answer ? answer.Ok : answer.Err.slice(0, 10)), [
        "log filter",
        "api_url: t",
        "auth_url: ",
        "api_url: h",
        good,
        "/file: is "
      ])
      assert.isTrue(last().running)
    }))

  it.scopedLive("takes stored settings that cannot be used as what they are", () =>
    Effect.gen(function*() {
      const { guis, opened, world } = yield* service
      world.stored = { auth_url: "", api_url: "nonsense", log_filter: "" }
      const gui = guis.connect()
      gui.say(connectMessage())
      yield* hears(gui, "ConnectResult")
      const [answer] = gui.heard.slice(1)
      assert.include(JSON.stringify(answer), "api_url:")
      assert.lengthOf(opened, 0)
    }))

  it.scopedLive("clears logs, has no telemetry, and never logs a token", () =>
    Effect.gen(function*() {
      const { gui, lines, world } = yield* withSession
      gui.say({ _tag: "StartTelemetry", value: { environment: "e", release: "r", account_slug: null } })
      gui.say({ _tag: "ClearLogs" })
      yield* hears(gui, "ClearedLogs")
      world.clearFailure = new ConfigInvalid({ what: "/var/log/x", why: "is read-only" })
      gui.say({ _tag: "ClearLogs" })
      yield* hears(gui, "ClearedLogs", 2)
      const answers = gui.heard.flatMap((each) => each._tag === "ClearedLogs" ? [each.value] : [])
      assert.deepStrictEqual(answers, [{ Ok: null }, { Err: "/var/log/x: is read-only" }])
      assert.isFalse(lines.some((line) => line.includes("secret")))
    }))
})
