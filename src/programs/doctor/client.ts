/** The client itself: whether it runs, as what, with which token and files. */
import * as Clock from "effect/Clock"
import * as Effect from "effect/Effect"
import * as Either from "effect/Either"
import * as path from "node:path"
import { failed, type Finding, ok, skipped, warning } from "../../model/doctor.ts"
import { ClientConfig } from "../../services/ClientConfig.ts"
import { HostCommands } from "../../services/HostCommands.ts"
import { type FileFacts, HostFiles } from "../../services/HostFiles.ts"
import { Processes, type ProcessFacts } from "../../services/Processes.ts"
import { TokenStore } from "../../services/TokenStore.ts"
import { commandLine } from "../completions/commandLine.ts"
import { EXIT } from "../outcome.ts"
import { duration } from "../statusScreen.ts"
import { AS_ROOT, type Check, plural, reportOf, type Session } from "./check.ts"

const UNIT = "firezone-headless-client"

const running = (session: Session): Effect.Effect<Finding, never, ClientConfig> =>
  Effect.map(ClientConfig, ({ controlSocket }) => {
    switch (session._tag) {
      case "None":
        return skipped(
          `no client answers on ${controlSocket}`,
          "if one runs with another --tun-name or --control-socket, say the same here"
        )
      case "Hidden":
        return skipped(`a client runs, and only root and its own user may ask it (${controlSocket})`, AS_ROOT)
      case "Stuck":
        return failed(
          `a client listens on ${controlSocket}, but: ${session.why}`,
          `look at its log, then restart it (systemctl restart ${UNIT})`
        )
      case "Running": {
        const { client, interface: link, portal, signedIn } = session.report
        const life = `version ${client.version}, process ${client.pid}, up ${duration(client.uptimeMillis)}`
        return signedIn
          ? ok(`${life}, signed in`)
          : failed(
            [
              `${life}, NOT signed in (${portal.state})`,
              ...(portal.lastError === undefined ? [] : [`its last error: ${portal.lastError}`]),
              ...(link === undefined ? [] : ["access that was granted goes on meanwhile"])
            ],
            "see what is wrong in the group Portal; it tries again by itself"
          )
      }
    }
  })

const OUR_SCRIPT = /(^|\/)firezone-headless-client(\.js)?$/
const isNoOption = (word: string): boolean => !word.startsWith("--")
const COMMANDS: ReadonlySet<string> = new Set((commandLine.commands ?? []).map(({ name }) => name))

/** The vendor's, by their names, and ours, however Node was told to run it; not one that only looks, such as `status`. */
const isClient = ({ isElsewhere, name, words }: ProcessFacts): boolean =>
  !isElsewhere && !words.some((word) => COMMANDS.has(word)) &&
  (name.startsWith("firezone") ||
    [words[0], words.slice(1).find(isNoOption)].some((word) => OUR_SCRIPT.test(word ?? "")))

const others = (session: Session): Effect.Effect<Finding, never, Processes> =>
  Effect.gen(function*() {
    const processes = yield* Processes
    const own = reportOf(session)?.client.pid
    const found = (yield* processes.all).filter((each) => isClient(each) && each.pid !== own)
    if (found.length === 0) return ok("no other Firezone client runs")
    const words = found.map(({ name, pid }) => `process ${pid} (${name})`)
    // Which of them answers on our socket, and which are in other network namespaces, is not for everybody to see.
    return session._tag === "Hidden"
      ? skipped([...words, "one of them is the client that runs"], AS_ROOT)
      : warning(
        words,
        "stop all but one: they use the same routing tables, and the last to start cuts the others off"
      )
  })

/** `KEY=value` lines. */
const pairs = (text: string): ReadonlyMap<string, string> =>
  new Map(
    text.split("\n").flatMap((line) => {
      const at = line.indexOf("=")
      return at < 0 ? [] : [[line.slice(0, at), line.slice(at + 1)] as const]
    })
  )

/** The exit code of a client that ends for that. */
const TOKEN_REFUSED = String(EXIT.signedOut)
const PROPERTIES = "LoadState,ActiveState,SubState,Result,UnitFileState,NRestarts,ExecMainStatus"

const service: Effect.Effect<Finding, never, HostCommands | HostFiles> = Effect.gen(function*() {
  const files = yield* HostFiles
  const isBooted = yield* Effect.orElseSucceed(files.look("/run/systemd/system"), () => undefined)
  if (isBooted === undefined) return skipped("systemd does not run here")
  const text = yield* (yield* HostCommands).output("systemctl", "show", `--property=${PROPERTIES}`, "--", UNIT)
  if (text === undefined) return skipped("systemctl gave no answer")
  const unit = pairs(text)
  const state = unit.get("ActiveState") ?? "unknown"
  const enabled = unit.get("UnitFileState") ?? ""
  const restarts = Number(unit.get("NRestarts") ?? 0)
  if (unit.get("LoadState") !== "loaded") return skipped(`there is no ${UNIT}.service`)
  const words = [
    `${UNIT}.service is ${state} (${unit.get("SubState")})`,
    ...(restarts > 0 ? [`restarted ${plural(restarts, "time")}`] : []),
    ...(enabled === "" ? [] : [`${enabled} at boot`])
  ].join(", ")
  if (state === "failed" || unit.get("SubState") === "auto-restart") {
    return failed(
      [words, `last result: ${unit.get("Result")}, exit code ${unit.get("ExecMainStatus")}`],
      unit.get("ExecMainStatus") === TOKEN_REFUSED
        ? `the portal did not accept the token: firezone-headless-client sign-in, then systemctl start ${UNIT}`
        : `journalctl -u ${UNIT} -n 50 says why`
    )
  }
  if (state === "active" || state === "activating") return ok(words)
  return enabled === "enabled"
    ? warning(words, `systemctl start ${UNIT}`)
    : skipped(words)
})

const octal = (mode: number): string => `0${(mode & 0o777).toString(8)}`

/** Whether others than root may replace a file of root's in this folder. */
const maySwapFiles = ({ gid, mode, uid }: FileFacts): boolean =>
  uid !== 0 || (mode & 0o1000) === 0 && ((mode & 0o002) !== 0 || (mode & 0o020) !== 0 && gid !== 0)

/** When it was written; never what is in it. */
const token = (session: Session, uid: number, fromVariable: boolean) =>
  Effect.gen(function*() {
    const { tokenPath } = yield* ClientConfig
    const files = yield* HostFiles
    const read = yield* Effect.either((yield* TokenStore).read)
    const facts = yield* Effect.either(files.look(tokenPath))
    const isThere = facts._tag === "Left" || facts.right !== undefined
    if (read._tag === "Left") {
      const next = read.left.next ?? "sign in again: firezone-headless-client sign-in"
      if (session._tag !== "None") {
        const words = [`the running client has one of its own; ${read.left.what}: ${read.left.why}`]
        // Others may read it, or the next start fails.
        return uid === 0 && facts._tag === "Right" && facts.right !== undefined ? warning(words, next) : skipped(words)
      }
      if (uid !== 0 && isThere && !fromVariable) return skipped(`${tokenPath} is for root alone`, AS_ROOT)
      return failed(`${read.left.what}: ${read.left.why}`, next)
    }
    if (fromVariable) return ok("in the variable FIREZONE_TOKEN; the file is not used")
    if (facts._tag === "Left" || facts.right === undefined) return ok(tokenPath)
    const { mode, modifiedAt } = facts.right
    const folder = path.dirname(tokenPath)
    const place = Either.getOrUndefined(yield* Effect.either(files.look(folder)))
    if (place?.kind === "folder" && maySwapFiles(place)) {
      return warning(
        `others than root may put another token in its place: ${folder} (owner ${place.uid}:${place.gid}, mode ${
          octal(place.mode)
        })`,
        "keep it in a folder that root alone may write to, such as /etc/dev.firezone.client (--token-path)"
      )
    }
    const age = (yield* Clock.currentTimeMillis) - modifiedAt
    return age < 0
      ? warning(
        `${tokenPath} was written in the future: ${new Date(modifiedAt).toISOString()}`,
        "set this machine's clock"
      )
      : ok(`${tokenPath}, root's alone (mode ${octal(mode)}), written ${duration(age)} ago`)
  })

/** A state folder and logs need little, but not nothing. */
const LITTLE_SPACE = 50_000_000

const folders = (uid: number) =>
  Effect.gen(function*() {
    const { logDir, stateDir } = yield* ClientConfig
    const files = yield* HostFiles
    const judge = (folder: string) =>
      Effect.gen(function*() {
        // What does not exist yet is made in the first folder above that does.
        let at = folder
        let facts = yield* files.look(at)
        while (facts === undefined && path.dirname(at) !== at) {
          at = path.dirname(at)
          facts = yield* files.look(at)
        }
        if (facts !== undefined && facts.kind !== "folder" && facts.kind !== "link") {
          return failed(`${at} is no folder`, `move it away: ${folder} is to be one`)
        }
        if (uid === 0 && !(yield* files.isWritable(at))) {
          return failed(`${at} may not be written (a read-only file system?)`, `choose another folder than ${folder}`)
        }
        const free = yield* files.freeBytes(at)
        const space = free === undefined ? "" : `, ${Math.floor(free / 1e6)} MB free`
        if (free !== undefined && free < LITTLE_SPACE) {
          return warning(`${folder}${space}`, "make room: the device id and logs may not be written")
        }
        return ok(at === folder ? `${folder}${space}` : `${folder} will be made${space}`)
      }).pipe(Effect.catchAll((error) => Effect.succeed(skipped(error.message, AS_ROOT))))
    const found = yield* Effect.forEach([stateDir, ...(logDir === undefined ? [] : [logDir])], judge)
    const bad = found.find(({ verdict }) => verdict === "failed") ?? found.find(({ verdict }) => verdict === "warning")
      ?? found.find(({ verdict }) => verdict === "skipped")
    return { ...(bad ?? ok([])), evidence: found.flatMap(({ evidence }) => evidence) }
  })

export const clientChecks = (
  session: Session,
  { hasTokenVariable, uid }: { readonly uid: number; readonly hasTokenVariable: boolean }
): ReadonlyArray<Check<ClientConfig | HostCommands | HostFiles | Processes | TokenStore>> => [
  { id: "client", group: "client", title: "Running client", run: running(session) },
  { id: "service", group: "client", title: "Service", run: service },
  { id: "token", group: "client", title: "Token", run: token(session, uid, hasTokenVariable) },
  { id: "folders", group: "client", title: "Folders", run: folders(uid) },
  { id: "other-clients", group: "client", title: "Other clients", run: others(session) }
]
