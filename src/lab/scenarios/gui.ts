/** The tunnel service as a GUI drives it: the real process on the client's host, and a GUI that another process plays. */
import * as Effect from "effect/Effect"
import type * as Scope from "effect/Scope"
import * as fs from "node:fs"
import * as path from "node:path"
import type { GuiState } from "../gui/guiProcess.ts"
import type { LabError } from "../LabError.ts"
import type { Daemon } from "../processes.ts"
import { eventually, type Recorder, type Scenario } from "../scenario.ts"
import { clientEnvironment, type Emulator, emulator, ids, type Lab, NODE, tokens } from "../services.ts"
import { addresses } from "../topology.ts"
import { connect, fetchPage, noViolations, TUN, tunAddresses } from "./checks.ts"
import { CONNECT_BOUND } from "./paths.ts"

export const SOCKET = "/run/dev.firezone.client/tunnel.sock"
const RESOLV_CONF = "/etc/resolv.conf"
const ORIGINAL = `nameserver ${addresses.dns4}\n`
const OUTSIDE = "198.51.100.7"
const INTERNET = "55555555-5555-4555-8555-555555555555"
const SAID_MILLIS = 20_000

type Gui = Emulator<GuiState>

const executable = (): string => path.resolve(process.argv[1] ?? "")
const serviceOf = (
  lab: Lab,
  name: string,
  options: ReadonlyArray<string> = []
): Effect.Effect<Daemon, LabError, Scope.Scope> => {
  const { FIREZONE_TOKEN: _, ...environment } = clientEnvironment
  return lab.topology.daemon("client", name, [
    ...[...NODE, ...options, path.join(path.dirname(executable()), "firezone-client-tunnel.js")],
    ...["--dns-control", "etc-resolv-conf", "--log-dir", path.join(lab.topology.folder, "service-logs")],
    ...["--state-dir", path.join(lab.topology.folder, "service-state")],
    // The GUI is a script: what runs is Node.
    ...["--gui-path", fs.realpathSync(process.execPath), "run"]
  ], environment)
}

export const isListening = (lab: Lab) =>
  eventually(Effect.map(lab.topology.run("client", ["test", "-S", SOCKET]), ({ code }) => code === 0), SAID_MILLIS)

export const guiOf = (lab: Lab, name: string) =>
  emulator<GuiState>(lab.topology, executable(), "gui", { host: "client", name }, { socket: SOCKET })

export const say = (gui: Gui, message: unknown) => gui.command("/send", { message })
export const connectMessage = { Connect: { token: tokens.client, is_internet_resource_active: false } }

/** The messages of this name so far; of one without data, its name. */
export const heard = (gui: Gui, name: string): Effect.Effect<ReadonlyArray<unknown>, LabError> =>
  Effect.map(
    gui.state,
    ({ heard }) =>
      heard.flatMap((message) =>
        message === name ? [name] : typeof message === "object" && message !== null && name in message
          ? [(message as { readonly [name: string]: unknown })[name]]
          : []
      )
  )

/** Waits until the GUI has heard `count` messages of this name, and judges the last. */
export const checkHeard = (
  recorder: Recorder,
  gui: Gui,
  name: string,
  isRight: (value: unknown) => boolean,
  title = name,
  count = 1
) =>
  Effect.gen(function*() {
    const value = yield* eventually(
      Effect.map(heard(gui, name), (all) => all.length >= count && isRight(all.at(-1)) && JSON.stringify(all.at(-1))),
      SAID_MILLIS
    )
    yield* recorder.check(
      title,
      value !== undefined,
      value ?? `not within ${SAID_MILLIS / 1000} s: ${JSON.stringify((yield* gui.state).heard).slice(-1500)}`
    )
  })

export const isOk = (value: unknown): boolean => JSON.stringify(value) === `{"Ok":null}`

const pointsAtUs = (lab: Lab) =>
  Effect.map(lab.topology.run("client", ["cat", RESOLV_CONF]), ({ stdout }) => stdout.startsWith("# BEGIN Firezone"))

const checkUp = (lab: Lab, recorder: Recorder, service: Daemon) =>
  Effect.gen(function*() {
    const found = yield* tunAddresses(lab)
    yield* recorder.check(
      "TUN up",
      found !== undefined,
      found === undefined ? service.log().slice(-1500) : `${TUN} has ${found.join(" and ")}`
    )
    const dns = yield* eventually(pointsAtUs(lab), SAID_MILLIS)
    yield* recorder.check("DNS set", dns === true, `${RESOLV_CONF} leads to the tunnel`)
  })

const checkDown = (lab: Lab, recorder: Recorder, title: string) =>
  Effect.gen(function*() {
    const { run } = lab.topology
    const down = yield* eventually(
      Effect.gen(function*() {
        const link = yield* run("client", ["ip", "link", "show", TUN])
        const { stdout } = yield* run("client", ["cat", RESOLV_CONF])
        return link.code !== 0 && stdout === ORIGINAL
      }),
      SAID_MILLIS
    )
    yield* recorder.check(title, down === true, `no ${TUN}, and ${RESOLV_CONF} is byte for byte as before`)
  })

const goesThroughTunnel = (lab: Lab) =>
  Effect.map(
    lab.topology.run("client", ["ip", "route", "get", OUTSIDE]),
    ({ stdout }) => stdout.includes(` dev ${TUN} `)
  )

/** Nothing that the service keeps or says holds it. */
const checkToken = (lab: Lab, recorder: Recorder, services: ReadonlyArray<Daemon>) =>
  Effect.gen(function*() {
    const folders = ["service-logs", "service-state"].map((name) => path.join(lab.topology.folder, name))
    const { code, stderr, stdout } = yield* lab.topology.run("client", [
      ...["grep", "-rlF", "-e", tokens.client, ...folders.filter((folder) => fs.existsSync(folder))],
      ...services.map(({ logFile }) => logFile)
    ])
    yield* recorder.check("no token", code === 1, code === 1 ? "neither in state nor in logs" : `${stdout}${stderr}`)
  })

const run = (lab: Lab, recorder: Recorder): Effect.Effect<void, LabError, Scope.Scope> =>
  Effect.gen(function*() {
    const { portal, topology } = lab
    yield* topology.must("client", ["sh", "-ec", `cat > ${RESOLV_CONF}`], { input: ORIGINAL })
    const service = yield* serviceOf(lab, "service")
    yield* recorder.check("service listens", (yield* isListening(lab)) === true, `${SOCKET} is there`)
    const first = yield* guiOf(lab, "gui1")
    yield* first.start
    yield* checkHeard(recorder, first, "Hello", (value) => {
      const { firezone_id } = value as { readonly firezone_id?: unknown }
      return firezone_id === "lab-client"
    })

    yield* topology.unplug("wifi")
    yield* topology.unplug("lan")
    yield* say(first, connectMessage)
    const waits = yield* eventually(Effect.sync(() => service.log().includes("waiting for one")), SAID_MILLIS)
    const silence = yield* heard(first, "ConnectResult")
    yield* recorder.check(
      "without a network it waits",
      waits === true && silence.length === 0,
      waits === true ? `the GUI hears ${silence.length} answers` : service.log().slice(-1500)
    )
    yield* topology.plug("wifi")
    yield* topology.plug("lan")
    yield* checkHeard(recorder, first, "ConnectResult", isOk, "ConnectResult when it is there")
    yield* checkUp(lab, recorder, service)
    yield* checkHeard(recorder, first, "OnUpdateResources", (value) => {
      const { resources } = value as { readonly resources: ReadonlyArray<{ readonly id: string }> }
      return resources[0]?.id === INTERNET && resources.some(({ id }) => id === ids.cidr4)
    })
    yield* connect(lab, recorder, addresses.resource4, CONNECT_BOUND)
    yield* fetchPage(lab, recorder, addresses.resource4)
    yield* checkHeard(
      recorder,
      first,
      "OnUpdateResources",
      (value) => JSON.stringify(value).includes(`"Online"`),
      "a resource is online"
    )

    const before = yield* goesThroughTunnel(lab)
    yield* say(first, { SetInternetResourceState: true })
    const through = yield* eventually(goesThroughTunnel(lab), SAID_MILLIS)
    yield* say(first, { SetInternetResourceState: false })
    const outside = yield* eventually(Effect.map(goesThroughTunnel(lab), (through) => !through), SAID_MILLIS)
    yield* recorder.check(
      "SetInternetResourceState",
      !before && through === true && outside === true,
      `${OUTSIDE} is reached through the tunnel while it is true`
    )
    const settings = { auth_url: "https://app.lab.test/", api_url: clientEnvironment["FIREZONE_API_URL"] }
    yield* say(first, { ApplyAdvancedSettings: { ...settings, log_filter: "debug" } })
    yield* checkHeard(recorder, first, "AdvancedSettingsApplied", (value) => "Ok" in (value as object))

    const second = yield* guiOf(lab, "gui2")
    yield* second.start
    const early = (yield* second.state).heard.length
    yield* first.end("SIGKILL")
    yield* checkHeard(
      recorder,
      second,
      "Hello",
      (value) => early === 0 && JSON.stringify(value).includes(`"log_filter":"debug"`),
      "the next GUI, when the first was killed"
    )
    yield* checkDown(lab, recorder, "the killed one's tunnel")

    yield* say(second, connectMessage)
    yield* checkHeard(recorder, second, "ConnectResult", isOk)
    yield* checkUp(lab, recorder, service)
    service.signal("SIGTERM")
    yield* checkHeard(recorder, second, "TerminatingGracefully", () => true)
    const code = yield* service.exit
    yield* recorder.check("SIGTERM", code === 0, `exit code ${code}`)
    yield* checkDown(lab, recorder, "the stopped service's tunnel")

    const other = yield* serviceOf(lab, "service2")
    yield* isListening(lab)
    const third = yield* guiOf(lab, "gui3")
    yield* third.start
    yield* say(third, connectMessage)
    yield* checkUp(lab, recorder, other)
    yield* noViolations(lab, recorder)
    yield* portal.command("/tokens/expire", { token: tokens.client })
    yield* checkHeard(
      recorder,
      third,
      "OnDisconnect",
      (value) => (value as { readonly requires_sign_in?: unknown }).requires_sign_in === true,
      "OnDisconnect when the portal revokes the token"
    )
    yield* checkDown(lab, recorder, "the refused one's tunnel")
    yield* say(third, "Disconnect")
    yield* checkHeard(recorder, third, "DisconnectedGracefully", () => true)
    yield* checkToken(lab, recorder, [service, other])
  })

const CYCLES = 45
/** Until then all is made that is made once. */
const WARM_UP = 15
/** Of memory in use, while the other sessions come and go. Each of them has some four MiB, so two that stay are seen. */
const GROWTH_KIB = 5 * 1024

/** How many kibibytes are in use when nothing is left to collect. How many the process occupies says when it collects. */
const memoryOf = (service: Daemon, file: string) =>
  Effect.gen(function*() {
    yield* Effect.sync(() => {
      fs.rmSync(file, { force: true })
      service.signal("SIGUSR2")
    })
    const used = yield* eventually(Effect.sync(() => fs.existsSync(file) && fs.readFileSync(file, "utf8")), SAID_MILLIS)
    return Number(used) / 1024
  })
const tellMemory = (file: string): ReadonlyArray<string> => {
  const script = `import * as fs from "node:fs"
process.on("SIGUSR2", async () => {
  for (let i = 0; i < 3; i++) {
    gc()
    await new Promise((resolve) => setTimeout(resolve, 20))
  }
  const { external, heapUsed } = process.memoryUsage()
  fs.writeFileSync("${file}.new", String(heapUsed + external))
  fs.renameSync("${file}.new", "${file}")
})`
  return ["--expose-gc", `--import=data:text/javascript,${encodeURIComponent(script)}`]
}

/** What the kernel says of the service's process. */
const usage = ({ pid }: Daemon) => ({
  descriptors: fs.readdirSync(`/proc/${pid}/fd`).length,
  threads: fs.readdirSync(`/proc/${pid}/task`).length
})

const runOften = (lab: Lab, recorder: Recorder): Effect.Effect<void, LabError, Scope.Scope> =>
  Effect.gen(function*() {
    yield* lab.topology.must("client", ["sh", "-ec", `cat > ${RESOLV_CONF}`], { input: ORIGINAL })
    const file = path.join(lab.topology.folder, "memory")
    const service = yield* serviceOf(lab, "service", tellMemory(file))
    yield* isListening(lab)
    const only = yield* guiOf(lab, "gui1")
    yield* only.start
    const count = (name: string, expected: number) =>
      eventually(Effect.map(heard(only, name), ({ length }) => length >= expected), SAID_MILLIS)
    const online = Effect.map(lab.portal.state, ({ clients }) => clients.some(({ connected }) => connected))
    let warm = usage(service)
    let before = 0
    let done = 0
    for (; done < CYCLES; done++) {
      if (done === WARM_UP) {
        warm = usage(service)
        before = yield* memoryOf(service, file)
      }
      yield* say(only, connectMessage)
      // Some are ended while they are created.
      if (done % 4 !== 3 && (yield* eventually(online, SAID_MILLIS)) === undefined) break
      yield* say(only, "Disconnect")
      if ((yield* count("DisconnectedGracefully", done + 1)) === undefined) break
    }
    const { heard: all } = yield* only.state
    const good = all.filter((message) => JSON.stringify(message) === `{"ConnectResult":{"Ok":null}}`).length
    yield* recorder.check(
      "connected and disconnected",
      done === CYCLES && good === CYCLES,
      `${good} of ${CYCLES} times`
    )
    // A goodbye to the portal may be on its way.
    const settled = yield* eventually(
      Effect.sync(() => {
        const now = usage(service)
        return now.descriptors <= warm.descriptors && now
      }),
      SAID_MILLIS
    )
    const now = settled ?? usage(service)
    yield* recorder.check(
      "no descriptor and no thread is left",
      settled !== undefined && now.threads <= warm.threads,
      `${now.descriptors} and ${now.threads}; after ${WARM_UP} times ${warm.descriptors} and ${warm.threads}`
    )
    const after = yield* memoryOf(service, file)
    yield* recorder.check(
      "no memory is left",
      after - before < GROWTH_KIB,
      `${(after / 1024).toFixed(1)} MiB in use; after ${WARM_UP} times ${(before / 1024).toFixed(1)} MiB`
    )
    yield* checkDown(lab, recorder, "the last tunnel")
    yield* noViolations(lab, recorder)
  })

export const guiOften: Scenario = {
  name: "gui-often",
  about: "the tunnel service gives everything back: a GUI connects and disconnects 45 times",
  run: runOften
}

export const gui: Scenario = {
  name: "gui",
  about:
    "the tunnel service: a GUI connects without a network and with one, is killed, is sent away; the token is revoked",
  equipment: {
    resources: [
      { type: "internet", id: INTERNET, sites: [ids.site] },
      {
        type: "cidr",
        id: ids.cidr4,
        name: "Lab network",
        address: addresses.resourceNetwork4,
        address_description: null,
        sites: [ids.site],
        filters: []
      }
    ]
  },
  run
}
