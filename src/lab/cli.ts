/** `lab list | run | up | exec | down`, and the hidden `lab serve` that runs one emulator. */
import * as Cause from "effect/Cause"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import type * as Redacted from "effect/Redacted"
import * as Scope from "effect/Scope"
import * as fs from "node:fs"
import * as path from "node:path"
import { masquerading } from "./gateway/forwarding.ts"
import { LabError } from "./LabError.ts"
import { exists, PERSISTENT, remove, removeLeftovers } from "./labs.ts"
import { foreground } from "./processes.ts"
import type { Check, Recorder, Result, Scenario } from "./scenario.ts"
import { tunAddresses } from "./scenarios/checks.ts"
import { scenarios } from "./scenarios/index.ts"
import * as services from "./services.ts"
import * as topology from "./topology.ts"

const usage = `Usage: firezone-headless-client lab COMMAND

A small Internet in network namespaces of this machine, with emulators of the
portal, a relay and a gateway, and the real client. Needs root; removes
everything it makes.

  list [--json]
          the scenarios
  run SCENARIO... [--json] [--logs]
          run scenarios; with --json one object on stdout; --logs shows the
          client's output
  up [--without client|gateway|relay]
          build the lab and leave it running; an empty host is for a program of
          your own
  exec HOST -- COMMAND...
          run a command on a host of the lab that is up:
          ${topology.hosts.join(", ")}
  down
          remove the lab that is up, and what killed labs left behind
`

class UsageError extends Error {}

/** Shows what happens: on stdout, or on stderr where stdout belongs to a JSON object. */
const makeScreen = (stream: NodeJS.WriteStream) => {
  const colour = stream.isTTY === true && process.env["NO_COLOR"] === undefined
  return {
    show: (text: string): void => {
      stream.write(`${text}\n`)
    },
    paint: (code: number, text: string): string => colour ? `\u001b[${code}m${text}\u001b[0m` : text
  }
}

/** The end of each log of a lab, for whoever has to find out why a check failed: the folder goes with the lab. */
const LOG_LIMIT = 8000
const LOGS = ["client", "gateway", "gateway2", "portal", "relay", "relay2", "coturn", "web"]
const logsOf = (folder: string, names: ReadonlyArray<string>): string =>
  names.map((name) => ({ name, file: path.join(folder, `${name}.log`) })).filter(({ file }) => fs.existsSync(file))
    .map(({ file, name }) => `--- ${name}\n${fs.readFileSync(file, "utf8").slice(-LOG_LIMIT).trimEnd()}\n---`).join(
      "\n"
    )

const runScenario = (scenario: Scenario, json: boolean, showLogs: boolean): Effect.Effect<Result> =>
  Effect.gen(function*() {
    const { paint, show } = makeScreen(json ? process.stderr : process.stdout)
    const began = Date.now()
    const checks: Array<Check> = []
    const recorder: Recorder = {
      note: (text) => Effect.sync(() => show(`    ${paint(2, text)}`)),
      check: (name, ok, detail) =>
        Effect.sync(() => {
          checks.push({ name, ok, detail })
          show(`  ${ok ? paint(32, "ok  ") : paint(31, "FAIL")} ${name}: ${detail}`)
          return ok
        })
    }
    show(`${paint(1, scenario.name)}: ${scenario.about}`)
    const exit = yield* Effect.exit(Effect.scoped(Effect.gen(function*() {
      const network = yield* topology.scoped
      yield* recorder.note(`network of ${topology.hosts.length} hosts is up after ${Date.now() - began} ms`)
      yield* Effect.gen(function*() {
        if (scenario.prepare !== undefined) yield* scenario.prepare(network)
        const lab = yield* services.start(network, scenario.equipment)
        yield* recorder.note(`portal, relay, gateway and web server are up after ${Date.now() - began} ms`)
        yield* scenario.run(lab, recorder)
      }).pipe(Effect.onExit((exit) =>
        Effect.sync(() => {
          const passed = Exit.isSuccess(exit) && checks.every(({ ok }) => ok)
          if (showLogs || !passed && !Exit.isInterrupted(exit)) {
            show(logsOf(network.folder, passed ? ["client"] : LOGS))
          }
        })
      ))
    }))).pipe(Effect.onInterrupt(() => Effect.sync(() => show("interrupted, the lab is removed"))))
    if (Exit.isFailure(exit)) {
      if (Cause.isInterruptedOnly(exit.cause)) return yield* Effect.interrupt
      const error = Cause.squash(exit.cause)
      yield* recorder.check("the lab itself", false, error instanceof LabError ? error.message : String(error))
    }
    const ok = checks.length > 0 && checks.every((check) => check.ok)
    const durationMs = Date.now() - began
    show(
      `${ok ? paint(32, "passed") : paint(31, "FAILED")} ${scenario.name}: ${
        checks.filter((check) => check.ok).length
      } of ${checks.length} checks in ${(durationMs / 1000).toFixed(1)} s`
    )
    return { scenario: scenario.name, ok, checks, durationMs }
  })

/** Splits arguments into flags, of which `known` are allowed, and the rest. */
const parse = (args: ReadonlyArray<string>, known: ReadonlyArray<string>) => {
  const flags = args.filter((arg) => arg.startsWith("-"))
  const unknown = flags.find((flag) => !known.includes(flag))
  if (unknown !== undefined) throw new UsageError(`unknown option ${unknown}`)
  return { flags, names: args.filter((arg) => !arg.startsWith("-")) }
}

const runCommand = (args: ReadonlyArray<string>): Effect.Effect<number> =>
  Effect.gen(function*() {
    const { flags, names } = parse(args, ["--json", "--logs"])
    if (names.length === 0) throw new UsageError("which scenario? See lab list")
    const wanted = names.map((name) => {
      const scenario = scenarios.find((scenario) => scenario.name === name)
      if (scenario === undefined) throw new UsageError(`no scenario "${name}"; see lab list`)
      return scenario
    })
    const json = flags.includes("--json")
    const results: Array<Result> = []
    for (const scenario of wanted) results.push(yield* runScenario(scenario, json, flags.includes("--logs")))
    if (json) process.stdout.write(`${JSON.stringify(results.length === 1 ? results[0] : results)}\n`)
    return results.every(({ ok }) => ok) ? 0 : 1
  })

const NAME_WIDTH = Math.max(...scenarios.map(({ name }) => name.length))

const list = (args: ReadonlyArray<string>): number => {
  const { flags, names } = parse(args, ["--json"])
  if (names.length > 0) throw new UsageError("lab list takes no names")
  process.stdout.write(
    flags.includes("--json")
      ? `${JSON.stringify(scenarios.map(({ name, about }) => ({ name, about })))}\n`
      : scenarios.map(({ name, about }) => `${name.padEnd(NAME_WIDTH)} ${about}\n`).join("")
  )
  return 0
}

const parseWithout = (args: ReadonlyArray<string>): ReadonlySet<services.Role> => {
  const without = new Set<services.Role>()
  for (let i = 0; i < args.length; i++) {
    const [flag, inline] = (args[i] ?? "").split("=", 2)
    const role = services.roles.find((role) => role === (inline ?? args[i + 1]))
    if (flag !== "--without" || role === undefined) throw new UsageError("lab up takes --without client|gateway|relay")
    if (inline === undefined) i += 1
    without.add(role)
  }
  return without
}

const variables = (env: Readonly<Record<string, string>>): string =>
  Object.entries(env).map(([name, value]) => `    ${name}=${value}\n`).join("")

const { inside, uplink } = services.gatewayInterfaces

/** How to put a program of one's own on a host that was left empty. */
const ownProgram: { readonly [role in services.Role]: string } = {
  client: `Your own client: lab exec client -- env VARIABLES PROGRAM
${variables(services.clientEnvironment)}`,
  gateway: `Your own gateway: lab exec gw -- env VARIABLES PROGRAM
  The uplink is ${uplink}, the resources are behind ${inside}, the host forwards. What it still needs is masquerading:
    lab exec gw -- nft '${masquerading([uplink, inside])}'
${variables(services.gatewayEnvironment)}`,
  relay: `Your own relay: lab exec inet -- env VARIABLES PROGRAM
${variables(services.relayEnvironment)}`
}

const up = (args: ReadonlyArray<string>): Effect.Effect<number, LabError> =>
  Effect.gen(function*() {
    const without = parseWithout(args)
    yield* topology.requirePrivileges
    if (exists(PERSISTENT)) {
      return yield* new LabError({ what: "lab up", why: "a lab is up already; remove it with: lab down" })
    }
    yield* removeLeftovers
    const network = yield* topology.create(PERSISTENT)
    // The scope stays open on purpose if all went well: `lab down` ends the processes.
    const scope = yield* Scope.make()
    yield* Effect.gen(function*() {
      const lab = yield* services.start(network, { without })
      if (!without.has("client")) {
        const client = yield* lab.startClient()
        if ((yield* tunAddresses(lab)) === undefined) {
          return yield* new LabError({ what: "client", why: `did not come up:\n${client.log().slice(-LOG_LIMIT)}` })
        }
      }
    }).pipe(
      Scope.extend(scope),
      Effect.onError((cause) => Effect.zipRight(Scope.close(scope, Exit.failCause(cause)), remove(network.name)))
    )
    const { relay4, relay6, resource4, resource6, resourceNetwork4, resourceNetwork6 } = topology.addresses
    process.stdout.write(
      `The lab is up. Logs are in ${network.folder}.
  portal     ${services.apiUrl}
  relay      ${relay4}:3478 and [${relay6}]:3478
  resources  ${resourceNetwork4} and ${resourceNetwork6}; web server on ${resource4} and ${resource6}
${
        [...without].map((role) => ownProgram[role]).join("")
      }Try:    firezone-headless-client lab exec client -- curl http://${resource4}/
Remove: firezone-headless-client lab down
`
    )
    return 0
  })

/** Stands in for the command: it has our terminal, is told by us what only we are told, and its end is ours. */
const exec = (args: ReadonlyArray<string>): Effect.Effect<number, LabError> =>
  Effect.gen(function*() {
    const host = topology.hosts.find((host) => host === args[0])
    if (host === undefined) {
      throw new UsageError(`lab exec HOST -- COMMAND..., HOST is one of ${topology.hosts.join(", ")}`)
    }
    const command = args.slice(args[1] === "--" ? 2 : 1)
    if (command.length === 0) throw new UsageError("lab exec: no command")
    yield* topology.requirePrivileges
    if (!exists(PERSISTENT)) {
      return yield* new LabError({ what: "lab exec", why: "no lab is up; build one with: lab up" })
    }
    return yield* foreground(yield* topology.attach(PERSISTENT).argv(host, command))
  })

const down = (args: ReadonlyArray<string>): Effect.Effect<number, LabError> =>
  Effect.gen(function*() {
    if (args.length > 0) throw new UsageError("lab down takes no arguments")
    yield* topology.requirePrivileges
    yield* removeLeftovers
    const wasUp = exists(PERSISTENT)
    yield* remove(PERSISTENT)
    if (exists(PERSISTENT)) {
      return yield* new LabError({ what: "lab down", why: "something of the lab cannot be removed" })
    }
    process.stdout.write(wasUp ? "the lab is removed\n" : "no lab is up\n")
    return 0
  })

const help = Effect.sync(() => {
  process.stdout.write(usage)
  return 0
})

const dispatch = (
  args: ReadonlyArray<string>,
  token: Redacted.Redacted | undefined
): Effect.Effect<number, LabError> => {
  const [command, ...rest] = args
  if (command !== "exec" && rest.some((arg) => arg === "--help" || arg === "-h")) return help
  switch (command) {
    case "list":
      return Effect.sync(() => list(rest))
    case "run":
      return runCommand(rest)
    case "up":
      return up(rest)
    case "exec":
      return exec(rest)
    case "down":
      return down(rest)
    case "serve":
      return Effect.flatMap(
        Effect.promise(() => import("./serve.ts")),
        (module) => module.serve(rest[0] ?? "", rest[1] ?? "{}", token)
      )
    case undefined:
    case "help":
    case "-h":
    case "--help":
      return help
    default:
      return Effect.sync(() => {
        throw new UsageError(`unknown command "${command}"`)
      })
  }
}

/**
 * Runs a lab command to its exit code. Interruption removes what the command made. `token` is FIREZONE_TOKEN, which has
 * been taken out of the environment.
 */
export const run = (args: ReadonlyArray<string>, token: Redacted.Redacted | undefined): Effect.Effect<number> =>
  Effect.suspend(() => {
    // A terminal that closes ends the lab as Ctrl+C does.
    process.once("SIGHUP", () => process.kill(process.pid, "SIGTERM"))
    return dispatch(args, token)
  }).pipe(
    Effect.catchAll((error) =>
      Effect.sync(() => {
        process.stderr.write(`lab: ${error.message}\n`)
        return 1
      })
    ),
    Effect.catchAllDefect((defect) =>
      defect instanceof UsageError
        ? Effect.sync(() => {
          process.stderr.write(`lab: ${defect.message}\n\n${usage}`)
          return 2
        })
        : Effect.die(defect)
    )
  )
