/** `lab list | run | up | exec | down`, and the hidden `lab serve` that runs one emulator. */
import * as Cause from "effect/Cause"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import * as Scope from "effect/Scope"
import * as fs from "node:fs"
import { LabError } from "./LabError.ts"
import type { Check, Recorder, Result, Scenario } from "./scenario.ts"
import { scenarios } from "./scenarios/index.ts"
import * as services from "./services.ts"
import * as topology from "./topology.ts"

const usage = `Usage: firezone-headless-client lab COMMAND

A small Internet in network namespaces of this machine, with emulators of the portal, a relay and a gateway, and the real
client. Needs root; removes everything it makes.

  list [--json]                       the scenarios
  run SCENARIO... [--json] [--logs]   run scenarios; with --json one object on stdout; --logs shows the client's output
  up [--without client|gateway|relay] build the lab and leave it running; an empty host is for a program of your own
  exec HOST -- COMMAND...             run a command on a host (${topology.hosts.join(", ")}) of the lab that is up
  down                                remove the lab that is up, and what killed labs left behind
`

class UsageError extends Error {}

const colour = process.stderr.isTTY === true
const paint = (code: number, text: string): string => colour ? `\u001b[${code}m${text}\u001b[0m` : text

const runScenario = (scenario: Scenario, json: boolean, showLogs: boolean): Effect.Effect<Result> =>
  Effect.gen(function*() {
    const began = Date.now()
    const checks: Array<Check> = []
    const show = (text: string): void => {
      // With --json stdout belongs to the result.
      ;(json ? process.stderr : process.stdout).write(`${text}\n`)
    }
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
      const lab = yield* services.start(network)
      yield* recorder.note(`portal, relay, gateway and web server are up after ${Date.now() - began} ms`)
      yield* scenario.run(lab, recorder).pipe(
        Effect.ensuring(Effect.sync(() => {
          if (!showLogs && checks.every(({ ok }) => ok)) return
          const log = `${network.folder}/client.log`
          if (fs.existsSync(log)) show(`--- the client's output\n${fs.readFileSync(log, "utf8")}---`)
          const gatewayLog = `${network.folder}/gateway.log`
          if (fs.existsSync(gatewayLog)) {
            show(`--- the gateway's output\n${fs.readFileSync(gatewayLog, "utf8").slice(-8000)}---`)
          }
        }))
      )
    })))
    if (Exit.isFailure(exit)) {
      if (Cause.isInterruptedOnly(exit.cause)) return yield* Effect.interrupt
      yield* recorder.check("the lab itself", false, String(Cause.squash(exit.cause)))
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

const runCommand = (args: ReadonlyArray<string>): Effect.Effect<number> =>
  Effect.gen(function*() {
    const flags = args.filter((arg) => arg.startsWith("-"))
    const unknown = flags.find((flag) => flag !== "--json" && flag !== "--logs")
    if (unknown !== undefined) throw new UsageError(`unknown option ${unknown}`)
    const names = args.filter((arg) => !arg.startsWith("-"))
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

const list = (json: boolean): number => {
  process.stdout.write(
    json
      ? `${JSON.stringify(scenarios.map(({ name, about }) => ({ name, about })))}\n`
      : scenarios.map(({ name, about }) => `${name.padEnd(16)} ${about}\n`).join("")
  )
  return 0
}

const roles: ReadonlyArray<services.Role> = ["client", "gateway", "relay"]

const up = (args: ReadonlyArray<string>): Effect.Effect<number, LabError> =>
  Effect.gen(function*() {
    const without: Array<services.Role> = []
    for (let i = 0; i < args.length; i++) {
      const [flag, inline] = (args[i] ?? "").split("=", 2)
      const role = roles.find((role) => role === (inline ?? args[++i]))
      if (flag !== "--without" || role === undefined) {
        throw new UsageError("lab up takes --without client|gateway|relay")
      }
      without.push(role)
    }
    if (topology.exists(topology.PERSISTENT)) {
      return yield* new LabError({ what: "lab up", why: "a lab is up already; remove it with: lab down" })
    }
    yield* topology.removeLeftovers
    const network = yield* topology.create(topology.PERSISTENT)
    // The scope stays open on purpose: `lab down` ends the processes.
    const scope = yield* Scope.make()
    const lab = yield* services.start(network, { without }).pipe(
      Scope.extend(scope),
      Effect.tapErrorCause(() => topology.remove(network.name))
    )
    if (!without.includes("client")) {
      yield* Scope.extend(lab.startClient(), scope)
    }
    const variables = (env: Readonly<Record<string, string>>): string =>
      Object.entries(env).map(([name, value]) => `    ${name}=${value}`).join("\n")
    process.stdout.write(
      `The lab is up. Logs are in ${network.folder}.
  portal    ${services.apiUrl}
  relay     ${topology.addresses.relay4}:3478 and [${topology.addresses.relay6}]:3478
  resources ${topology.addresses.resourceNetwork4} and ${topology.addresses.resourceNetwork6}; web server on ${topology.addresses.resource4} and ${topology.addresses.resource6}
Try:    firezone-headless-client lab exec client -- curl http://${topology.addresses.resource4}/
Remove: firezone-headless-client lab down
${
        without.map((role) =>
          role === "client"
            ? `Start your own client with: lab exec client -- env ... PROGRAM\n${
              variables(services.clientEnvironment)
            }\n`
            : role === "gateway"
            ? `Start your own gateway with: lab exec gw -- env ... PROGRAM (uplink eth0, resources on res0)\n${
              variables(services.gatewayEnvironment)
            }\n`
            : `Start your own relay with: lab exec inet -- env ... PROGRAM\n    PUBLIC_IP4_ADDR=${topology.addresses.relay4}\n    PUBLIC_IP6_ADDR=${topology.addresses.relay6}\n    FIREZONE_API_URL=${services.apiUrl}\n    FIREZONE_TOKEN=${services.tokens.relay}\n`
        ).join("")
      }`
    )
    return 0
  })

const exec = (args: ReadonlyArray<string>): Effect.Effect<number, LabError> =>
  Effect.gen(function*() {
    const host = topology.hosts.find((host) => host === args[0])
    if (host === undefined) {
      throw new UsageError(`lab exec HOST -- COMMAND..., HOST is one of ${topology.hosts.join(", ")}`)
    }
    const command = args.slice(args[1] === "--" ? 2 : 1)
    if (command.length === 0) throw new UsageError("lab exec: no command")
    if (!topology.exists(topology.PERSISTENT)) {
      return yield* new LabError({ what: "lab exec", why: "no lab is up; build one with: lab up" })
    }
    const { spawnSync } = yield* Effect.promise(() => import("node:child_process"))
    const [program = "", ...rest] = topology.attach(topology.PERSISTENT).argv(host, command)
    return spawnSync(program, rest, { stdio: "inherit" }).status ?? 1
  })

const down = Effect.gen(function*() {
  yield* topology.removeLeftovers
  if (!topology.exists(topology.PERSISTENT)) {
    process.stdout.write("no lab is up\n")
    return 0
  }
  yield* topology.remove(topology.PERSISTENT)
  process.stdout.write("the lab is removed\n")
  return 0
})

const dispatch = (args: ReadonlyArray<string>): Effect.Effect<number, LabError> => {
  const [command, ...rest] = args
  switch (command) {
    case "list":
      return Effect.sync(() => list(rest.includes("--json")))
    case "run":
      return runCommand(rest)
    case "up":
      return up(rest)
    case "exec":
      return exec(rest)
    case "down":
      return down
    case "serve":
      return Effect.flatMap(
        Effect.promise(() => import("./serve.ts")),
        (module) => module.serve(rest[0] ?? "", rest[1] ?? "{}")
      )
    case undefined:
    case "help":
    case "-h":
    case "--help":
      return Effect.sync(() => {
        process.stdout.write(usage)
        return 0
      })
    default:
      return Effect.sync(() => {
        throw new UsageError(`unknown command "${command}"`)
      })
  }
}

/** Runs a lab command to its exit code. Interruption removes what the command made. */
export const run = (args: ReadonlyArray<string>): Effect.Effect<number> =>
  dispatch(args).pipe(
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
