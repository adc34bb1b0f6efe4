/**
 * The token and the session's keys, looked for wherever the client leaves something: in every form in which somebody could
 * have written them down. What the keys are, the client is made to tell: it runs with a module in front that notes them.
 */
import * as Effect from "effect/Effect"
import type * as Scope from "effect/Scope"
import * as fs from "node:fs"
import * as path from "node:path"
import { gunzipSync } from "node:zlib"
import type { LabError } from "../LabError.ts"
import type { Daemon, Output } from "../processes.ts"
import { eventually, type Recorder, type Scenario } from "../scenario.ts"
import { clientArguments, clientEnvironment, type Lab, tokens } from "../services.ts"
import { addresses } from "../topology.ts"
import { connect, fetchPage, TUN, tunAddresses } from "./checks.ts"
import { CONNECT_BOUND } from "./paths.ts"

const TOKEN: string = tokens.client
const METRICS = "127.0.0.1:9464"
const WITHIN_MILLIS = 20_000
const RUN_FOLDER = "/run/dev.firezone.client"
/** Somebody's password for a receiver of metrics: no program that the client starts needs it. */
const HEADER = "authorization=distinctive-password-of-the-receiver"

/** Notes random numbers of a key's size, and what the portal sends under the names of secrets. */
const NOTES = `
import crypto from "node:crypto"
import fs from "node:fs"
import { syncBuiltinESMExports } from "node:module"
const note = (kind, value) => fs.appendFileSync(process.env.NOTES, JSON.stringify({ kind, value }) + "\\n")
const random = crypto.randomBytes
crypto.randomBytes = (length, done) => {
  const bytes = random(length, done)
  if (length === 32 && done === undefined) note("key", bytes.toString("hex"))
  return bytes
}
syncBuiltinESMExports()
const look = (value, name) => {
  if (typeof value !== "object" || value === null) return
  for (const [key, each] of Object.entries(value)) {
    if (key === "preshared_key") note(key, each)
    else if (key === "password") note(name.endsWith("ice_credentials") ? "ice" : "relay", each)
    else look(each, /^[0-9]+$/.test(key) ? name : key)
  }
}
const parse = JSON.parse
JSON.parse = (text, reviver) => {
  const value = parse(text, reviver)
  look(value, "")
  return value
}`

interface Note {
  readonly kind: "ice" | "key" | "preshared_key" | "relay"
  readonly value: string
}

/** As it is, and as logs, URLs, JSON, dumps and configuration files would have it. */
const formsOf = (bytes: Buffer): ReadonlyArray<string> => {
  const text = bytes.toString("utf8")
  const isText = Buffer.from(text, "utf8").equals(bytes)
  return [
    ...["base64", "base64url", "hex"].map((form) => bytes.toString(form as BufferEncoding).replace(/=+$/, "")),
    bytes.toString("hex").toUpperCase(),
    Array.from(bytes).join(","),
    ...(isText ? [text, encodeURIComponent(text), JSON.stringify(text).slice(1, -1)] : [])
  ]
}

/** What is searched, by what it is. */
type Place = readonly [name: string, content: string]

const found = (
  places: ReadonlyArray<Place>,
  secrets: ReadonlyArray<{ readonly kind: string; readonly value: Buffer }>
) =>
  places.flatMap(([name, content]) =>
    secrets.flatMap(({ kind, value }) =>
      formsOf(value).some((form) => content.includes(form)) ? [`${kind} in ${name}`] : []
    )
  )

const filesIn = (folder: string): ReadonlyArray<string> =>
  fs.existsSync(folder)
    ? fs.readdirSync(folder, { recursive: true, encoding: "utf8" }).map((name) => path.join(folder, name)).filter((
      file
    ) => fs.lstatSync(file).isFile())
    : []

/** One client or command after another, and all that it leaves. */
class Evidence {
  readonly places: Array<Place> = []
  readonly folder: string
  /** Of the next file of strace's. */
  #count = 0

  constructor(lab: Lab) {
    this.folder = path.join(lab.topology.folder, "secrets")
    fs.mkdirSync(this.folder, { mode: 0o700 })
    fs.mkdirSync(this.in("bin"))
    // A systemd-resolved that is content with everything.
    fs.writeFileSync(this.in("bin/resolvectl"), "#!/bin/sh\n", { mode: 0o755 })
  }

  in(name: string): string {
    return path.join(this.folder, name)
  }

  /** A command line whose programs strace notes, with all that they are given. */
  traced(argv: ReadonlyArray<string>): ReadonlyArray<string> {
    return [
      ...["strace", "-f", "-qq", "--seccomp-bpf", "-e", "trace=execve,execveat", "-v", "-s", "65536"],
      ...["-o", this.in(`programs-${this.#count++}`), ...argv]
    ]
  }

  said(name: string, { code, stderr, stdout }: Output): Output {
    this.places.push([name, `${stdout}\n${stderr}`])
    return { code, stderr, stdout }
  }

  /** The programs that ours has started, without its own start, which is the caller's. */
  programs(): ReadonlyArray<string> {
    return filesIn(this.folder).filter((file) => path.basename(file).startsWith("programs-")).flatMap((file) => {
      const lines = fs.readFileSync(file, "utf8").split("\n")
      return lines.slice(1).filter((line) => line.includes("execve"))
    })
  }

  notes(): ReadonlyArray<Note> {
    const file = this.in("notes")
    return fs.existsSync(file)
      ? fs.readFileSync(file, "utf8").trimEnd().split("\n").map((line) => JSON.parse(line) as Note)
      : []
  }
}

const executable = (): string => path.resolve(process.argv[1] ?? "")

const argumentsOf = (lab: Lab, evidence: Evidence): ReadonlyArray<string> => [
  ...[process.execPath, executable(), ...clientArguments(lab.topology, "systemd-resolved")],
  ...["--log-dir", evidence.in("logs"), "--metrics-address", METRICS]
]

const environmentOf = (evidence: Evidence, way: Readonly<Record<string, string>>): Readonly<Record<string, string>> => {
  const { FIREZONE_TOKEN: _, ...environment } = clientEnvironment
  return {
    ...environment,
    FIREZONE_LOG: "trace",
    FIREZONE_TOKEN_PATH: evidence.in("no-token"),
    OTEL_EXPORTER_OTLP_HEADERS: HEADER,
    PATH: `${evidence.in("bin")}:${process.env["PATH"] ?? ""}:/usr/sbin:/usr/bin:/sbin:/bin`,
    NODE_OPTIONS: `--import=data:text/javascript,${encodeURIComponent(NOTES)}`,
    NOTES: evidence.in("notes"),
    ...way
  }
}

/** A person types it where it is asked for, as on a terminal. */
const signIn = (lab: Lab, evidence: Evidence, recorder: Recorder, file: string) =>
  Effect.gen(function*() {
    fs.writeFileSync(evidence.in("given"), `${TOKEN}\n`)
    const line = evidence.traced([process.execPath, executable(), "--token-path", file, "sign-in"]).join(" ")
    const { code } = yield* lab.topology.run("client", [
      ...[
        "sh",
        "-c",
        `(until grep -q "Token: " "$2" 2>/dev/null; do sleep 0.05; done; cat "$3") | script -qec "$1" /dev/null >"$2"`
      ],
      ...["sh", line, evidence.in("terminal"), evidence.in("given")]
    ])
    evidence.places.push(["terminal of sign-in", fs.readFileSync(evidence.in("terminal"), "utf8")])
    const { mode } = fs.statSync(file)
    yield* recorder.check(
      "sign-in",
      code === 0 && fs.readFileSync(file, "utf8") === TOKEN && (mode & 0o777) === 0o600,
      `exit code ${code}; the file has the token, and mode 0${(mode & 0o777).toString(8)}`
    )
  })

const start = (lab: Lab, evidence: Evidence, recorder: Recorder, name: string, way: Readonly<Record<string, string>>) =>
  Effect.gen(function*() {
    const client = yield* lab.topology.daemon(
      "client",
      name,
      evidence.traced(argumentsOf(lab, evidence)),
      environmentOf(evidence, way)
    )
    const found = yield* tunAddresses(lab)
    yield* recorder.check(`up with ${name}`, found !== undefined, found?.join(" and ") ?? client.log().slice(-1500))
    return client
  })

const stop = (evidence: Evidence, recorder: Recorder, name: string, client: Daemon, pid: number | undefined) =>
  Effect.gen(function*() {
    if (pid !== undefined) process.kill(pid, "SIGTERM")
    const code = yield* client.exit
    evidence.places.push([`console with ${name}`, client.log()])
    yield* recorder.check(`stopped with ${name}`, code === 0, `exit code ${code}`)
  })

/** What other processes see of it. strace is its parent. */
const lookAt = (lab: Lab, evidence: Evidence, name: string, env: Readonly<Record<string, string>>) =>
  Effect.gen(function*() {
    const status = yield* command(lab, evidence, `status --json with ${name}`, ["status", "--json"], env)
    const pid = status.code === 0
      ? (JSON.parse(status.stdout) as { readonly client: { readonly pid: number } }).client.pid
      : undefined
    for (const file of pid === undefined ? [] : ["cmdline", "environ"]) {
      // The password of the receiver stays: only the token is taken out.
      evidence.places.push([
        `/proc/PID/${file} with ${name}`,
        fs.readFileSync(`/proc/${pid}/${file}`, "utf8").replaceAll(HEADER, "")
      ])
    }
    return pid
  })

const command = (
  lab: Lab,
  evidence: Evidence,
  name: string,
  args: ReadonlyArray<string>,
  env: Readonly<Record<string, string>>
) =>
  Effect.map(
    lab.topology.run("client", evidence.traced([...argumentsOf(lab, evidence), ...args]), { env }),
    (output) => evidence.said(name, output)
  )

/** Everything that a client that is up can be asked and told. */
const exercise = (
  lab: Lab,
  evidence: Evidence,
  recorder: Recorder,
  client: Daemon,
  env: Readonly<Record<string, string>>
) =>
  Effect.gen(function*() {
    yield* connect(lab, recorder, addresses.resource4, CONNECT_BOUND)
    yield* fetchPage(lab, recorder, addresses.resource4)
    const bundle = evidence.in("bundle.tar.gz")
    const codes = yield* Effect.forEach([
      ["status"],
      ["doctor", "--json"],
      ["ping", "Lab network", "--count", "1"],
      ["route", "explain", addresses.relay4],
      ["debug", "bundle", bundle]
    ], (args) =>
      Effect.map(command(lab, evidence, args.join(" "), args, env), ({ code }) => `${args[0]} ${code}`), {
      concurrency: 2
    })
    const metrics = evidence.said(
      "metrics",
      yield* lab.topology.run("client", ["curl", "-sSf", "-m", "5", `http://${METRICS}/metrics`])
    )
    const unpacked = fs.existsSync(bundle) ? gunzipSync(fs.readFileSync(bundle)).toString("utf8") : ""
    evidence.places.push(["debug bundle", unpacked])
    yield* recorder.check(
      "asked",
      metrics.code === 0 && unpacked.includes("logs/firezone-headless-client"),
      `exit codes: ${
        codes.join(", ")
      }; metrics ${metrics.code}; the bundle has ${unpacked.length} bytes, logs among them`
    )
    // A portal that says back what it was told.
    const said = (text: string) => eventually(Effect.sync(() => client.log().includes(text)), WITHIN_MILLIS)
    yield* lab.portal.command("/refuse", { count: 1, status: 403, role: "client", code: "odd", detail: `no ${TOKEN}` })
    yield* lab.portal.command("/drop", { how: "disconnect", reason: `bad ${TOKEN}`, target: "client" })
    const dropped = yield* said("bad [token]")
    const refused = yield* said("no [token]")
    yield* recorder.check(
      "told back",
      dropped === true && refused === true,
      "the log has the portal's reasons, with another word in the place of the token"
    )
  })

const run = (lab: Lab, recorder: Recorder): Effect.Effect<void, LabError, Scope.Scope> =>
  Effect.gen(function*() {
    const evidence = new Evidence(lab)
    const tokenFile = evidence.in("token")
    yield* signIn(lab, evidence, recorder, tokenFile)
    const credentials = evidence.in("credentials")
    fs.mkdirSync(credentials, { mode: 0o500 })
    fs.writeFileSync(path.join(credentials, "firezone-token"), TOKEN, { mode: 0o400 })
    const ways: ReadonlyArray<readonly [string, Readonly<Record<string, string>>]> = [
      ["a token file", { FIREZONE_TOKEN_PATH: tokenFile }],
      ["a credential", {
        FIREZONE_TOKEN_PATH: path.join(credentials, "firezone-token"),
        CREDENTIALS_DIRECTORY: credentials
      }],
      ["the variable", { FIREZONE_TOKEN: TOKEN }]
    ]
    for (const [name, way] of ways) {
      const env = environmentOf(evidence, way)
      const client = yield* start(lab, evidence, recorder, name, way)
      const pid = yield* lookAt(lab, evidence, name, env)
      if (name === "the variable") yield* exercise(lab, evidence, recorder, client, env)
      if (name === "the variable") {
        const { stdout } = yield* lab.topology.run("client", [
          ...["find", RUN_FOLDER, ...[evidence.in("logs"), path.join(lab.topology.folder, "client-state")]],
          ...["!", "-type", "d", "!", "-type", "l", "-perm", "/007"]
        ])
        yield* recorder.check("modes", stdout === "", stdout === "" ? "others read and write no file" : stdout)
      }
      yield* stop(evidence, recorder, name, client, pid)
    }

    yield* lab.portal.command("/refuse", {
      count: 1,
      status: 401,
      role: "client",
      code: "invalid_token",
      detail: `${TOKEN} is no token`
    })
    const refused = evidence.said(
      "refused client",
      yield* lab.topology.run("client", evidence.traced(argumentsOf(lab, evidence)), {
        env: environmentOf(evidence, { FIREZONE_TOKEN: TOKEN })
      })
    )
    yield* recorder.check("refused", refused.code === 3, `exit code ${refused.code}: ${refused.stderr.trim()}`)

    const notes = evidence.notes()
    const kinds = ["key", "preshared_key", "ice", "relay"] as const
    const counts = kinds.map((kind) => `${notes.filter((note) => note.kind === kind).length} ${kind}`)
    yield* recorder.check(
      "keys are known",
      kinds.every((kind) => notes.some((note) => note.kind === kind && note.value.length >= 8)),
      counts.join(", ")
    )
    const programs = evidence.programs()
    yield* recorder.check(
      "programs are known",
      programs.some((line) => line.includes("/resolvectl")) && programs.some((line) => line.includes("\"address\"")),
      `${programs.length} were started, ip and resolvectl among them`
    )
    const secrets = [
      { kind: "the token", value: Buffer.from(TOKEN) },
      { kind: "a password of the environment", value: Buffer.from(HEADER.slice("authorization=".length)) },
      ...notes.map(({ kind, value }) => ({
        kind,
        value: kind === "key"
          ? Buffer.from(value, "hex")
          : kind === "preshared_key"
          ? Buffer.from(value, "base64")
          : Buffer.from(value)
      }))
    ]
    // So that what follows means something.
    const control = found([["the token file", fs.readFileSync(tokenFile, "utf8")]], secrets)
    yield* recorder.check("they are found where they are", control.length === 1, control.join("; "))
    const places: ReadonlyArray<Place> = [
      ...evidence.places,
      ...programs.map((line): Place => ["a program's arguments or environment", line]),
      ...[...filesIn(evidence.in("logs")), ...filesIn(path.join(lab.topology.folder, "client-state"))].map((
        file
      ): Place => [
        path.basename(file),
        fs.readFileSync(file, "utf8")
      ])
    ]
    const leaks = [...new Set(found(places, secrets))]
    const size = places.reduce((sum, [, content]) => sum + content.length, 0)
    yield* recorder.check(
      "no secret",
      leaks.length === 0 && places.every(([name, content]) => content !== "" || name.endsWith("cmdline")),
      leaks.length === 0
        ? `none of ${secrets.length} in ${places.length} places, ${(size / 1e6).toFixed(1)} MB`
        : leaks.join("; ")
    )
    const left = yield* lab.topology.run("client", ["ip", "link", "show", TUN])
    yield* recorder.check("nothing left behind", left.code !== 0, `there is no ${TUN}`)
  })

export const secrets: Scenario = {
  name: "secrets",
  about: "the token, however it is given, and the session's keys are nowhere: not in logs, bundle, /proc or children",
  run
}
