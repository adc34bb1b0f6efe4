/** The tunnel service among users of the machine who mean no good, while it carries the tunnel of a GUI that does. */
import * as Effect from "effect/Effect"
import type * as Scope from "effect/Scope"
import * as fs from "node:fs"
import * as path from "node:path"
import type { LabError } from "../LabError.ts"
import { eventually, type Recorder, type Scenario } from "../scenario.ts"
import { clientEnvironment, type Lab } from "../services.ts"
import { addresses } from "../topology.ts"
import { connect, noViolations, startHeartbeat, tunAddresses } from "./checks.ts"
import { checkHeard, connectMessage, guiOf, heard, isListening, isOk, say, SOCKET } from "./gui.ts"
import { CONNECT_BOUND } from "./paths.ts"

/** Of the socket: a group that nobody is in. */
const GROUP = "64321"
const STRANGER = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"]
const MEMBER = ["setpriv", "--reuid=65534", `--regid=${GROUP}`, "--clear-groups"]
/** A program that is not the GUI: says whether it may connect, and how much it then hears until it is sent away. */
const LISTEN = [
  "perl",
  "-MSocket",
  "-e",
  `socket(S, AF_UNIX, SOCK_STREAM, 0); connect(S, sockaddr_un($ARGV[0])) or die "$!\n";
   alarm 5; $n = 0; while ($read = sysread(S, $bytes, 4096)) { $n += $read } print "heard $n bytes"`,
  SOCKET
]
const CONNECTIONS = 1000
const ATTACK_MILLIS = 4000
/** Of a ping every tenth of a second, while the attacker has one of two processors to himself. */
const LONGEST_SILENCE_MILLIS = 3000
const WITHIN_MILLIS = 20_000
/** Of memory. Sixteen that wait may leave 64 KiB each, and the one that is served some frames. */
const GROWTH_KIB = 150 * 1024

/** Takes what it gets for as long as it is told, and says how often it was sent away. It is the GUI by its program's name. */
const ATTACK = `
const net = require("node:net")
const [socket, connections, millis] = process.argv.slice(1)
const header = (length) => { const bytes = Buffer.alloc(4); bytes.writeUInt32BE(length); return bytes }
const frame = (text) => Buffer.concat([header(Buffer.byteLength(text)), Buffer.from(text)])
const nested = "[".repeat(2e6) + "]".repeat(2e6)
const messages = [
  header(0xffffffff),
  Buffer.concat([header(1000), Buffer.from("half")]),
  Buffer.from([0, 0]),
  frame("garbage"),
  frame("{"),
  frame(nested),
  frame(JSON.stringify({ Connect: { token: "t", is_internet_resource_active: 7 } })),
  frame('{"Connect":{"token":' + nested + ',"is_internet_resource_active":true}}'),
  frame('"' + "x".repeat(8388606) + '"'),
  frame('"ClearLogs"')
]
const end = Date.now() + Number(millis)
let opened = 0, refused = 0, ended = 0, open = 0
const one = (number) => {
  const each = net.connect(socket)
  each.once("connect", () => {
    opened += 1
    open += 1
    each.pause()
    each.write(messages[number % messages.length])
    each.once("close", () => { open -= 1; ended += 1; next(number) })
    each.resume()
  })
  each.on("error", (error) => { if (["EAGAIN", "ENOENT", "ECONNREFUSED"].includes(error.code)) { refused += 1; next(number) } })
}
const next = (number) => { if (Date.now() < end) setTimeout(one, 5, number + 1) }
for (let i = 0; i < Number(connections); i++) one(i)
setTimeout(() => { console.log(JSON.stringify({ opened, refused, ended, open })); process.exit(0) }, Number(millis))
`

const residentKibibytes = (pid: number): number =>
  Number(/^VmRSS:\s+(\d+)/m.exec(fs.readFileSync(`/proc/${pid}/status`, "utf8"))?.[1])

const run = (lab: Lab, recorder: Recorder): Effect.Effect<void, LabError, Scope.Scope> =>
  Effect.gen(function*() {
    const { topology } = lab
    const node = fs.realpathSync(process.execPath)
    const executable = path.join(path.dirname(path.resolve(process.argv[1] ?? "")), "firezone-client-tunnel.js")
    const { FIREZONE_TOKEN: _, ...environment } = clientEnvironment
    const service = yield* topology.daemon("client", "service", [
      ...["setpriv", `--regid=${GROUP}`, "--clear-groups", process.execPath, executable, "--dns-control", "disabled"],
      ...["--log-dir", path.join(topology.folder, "service-logs")],
      ...["--state-dir", path.join(topology.folder, "service-state"), "--gui-path", node, "run"]
    ], environment)
    yield* recorder.check("service listens", (yield* isListening(lab)) === true, `${SOCKET} is there`)
    const good = yield* guiOf(lab, "gui1")
    yield* good.start
    yield* checkHeard(recorder, good, "Hello", () => true)
    yield* say(good, connectMessage)
    yield* checkHeard(recorder, good, "ConnectResult", isOk)
    const found = yield* tunAddresses(lab)
    yield* recorder.check("TUN up", found !== undefined, found?.join(" and ") ?? service.log().slice(-1500))
    yield* connect(lab, recorder, addresses.resource4, CONNECT_BOUND)

    const stranger = yield* topology.run("client", [...STRANGER, ...LISTEN])
    yield* recorder.check(
      "another user",
      stranger.code !== 0 && stranger.stderr.trim() === "Permission denied",
      `is refused by the kernel: ${stranger.stderr.trim()}${stranger.stdout}`
    )
    const member = yield* topology.run("client", [...MEMBER, ...LISTEN])
    yield* recorder.check(
      "another program of the group's",
      member.code === 0 && member.stdout === "heard 0 bytes",
      `may connect, and is sent away without a word: ${member.stdout}${member.stderr.trim()}`
    )

    const heartbeat = yield* startHeartbeat(lab, addresses.resource4)
    const began = Date.now()
    const before = residentKibibytes(service.pid)
    const attack = yield* topology.run("client", [
      ...[...MEMBER, node, "-e", ATTACK, SOCKET, String(CONNECTIONS), String(ATTACK_MILLIS)]
    ])
    const silence = heartbeat.longestSilence(began)
    const { ended = 0, opened = 0 } = (attack.code === 0 ? JSON.parse(attack.stdout) : {}) as {
      readonly ended?: number
      readonly opened?: number
    }
    yield* recorder.check(
      "a thousand hostile GUIs",
      opened >= CONNECTIONS && ended >= CONNECTIONS - 16,
      `${attack.stdout.trim()}${attack.stderr.trim()}`
    )
    yield* recorder.check(
      "the tunnel goes on",
      silence < LONGEST_SILENCE_MILLIS && !service.hasExited(),
      `answers to a ping every 100 ms came with ${silence} ms between them at most`
    )
    const grown = residentKibibytes(service.pid) - before
    yield* recorder.check("memory", grown < GROWTH_KIB, `grew by ${(grown / 1024).toFixed(0)} MiB`)
    yield* say(good, "ClearLogs")
    yield* checkHeard(recorder, good, "ClearedLogs", isOk, "the first GUI is still served")
    const ends = (yield* heard(good, "OnDisconnect")).length
    yield* recorder.check("its session is the same", ends === 0, `it heard of ${ends} that ended`)

    // Now it is their turn, one after the other.
    yield* good.end("SIGKILL")
    const attackAgain = yield* topology.run("client", [
      ...[...MEMBER, node, "-e", ATTACK, SOCKET, "100", "2000"]
    ])
    const next = yield* guiOf(lab, "gui2")
    yield* next.start
    yield* checkHeard(recorder, next, "Hello", () => true, "the next GUI, when they have gone")
    yield* say(next, connectMessage)
    yield* checkHeard(recorder, next, "ConnectResult", isOk)
    const back = yield* eventually(Effect.map(tunAddresses(lab), (found) => found !== undefined), WITHIN_MILLIS)
    yield* recorder.check("TUN up again", back === true, `after ${attackAgain.stdout.trim()}`)
    yield* noViolations(lab, recorder)
    service.signal("SIGTERM")
    const code = yield* service.exit
    yield* recorder.check("SIGTERM", code === 0, `exit code ${code}`)
  })

export const guiHostile: Scenario = {
  name: "gui-hostile",
  about: "the tunnel service among other users, other programs and a thousand hostile GUIs: the tunnel goes on",
  run
}
