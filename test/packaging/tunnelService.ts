/** The tunnel service on a machine with a real systemd, driven by a GUI that shares no code with it. */
import { assert } from "@effect/vitest"
import * as Effect from "effect/Effect"
import * as path from "node:path"
import { eventually } from "../../src/lab/scenario.ts"
import { apiUrl, tokens } from "../../src/lab/services.ts"
import type { Machine } from "./machine.ts"

/** As the package calls it. */
const UNIT = "firezone-headless-client-tunnel"
const SOCKET = "/run/dev.firezone.client/tunnel.sock"
const DEFAULTS = "/etc/default/firezone-client-tunnel"
const GUI = "/usr/bin/firezone-client-gui"
const SCRIPT = "/run/testGui.mjs"
const TUN = "tun-firezone"
const METRICS = "127.0.0.1:9090"
const SAID_MILLIS = 20_000
/** With the time that it takes to start anew. */
const WATCHDOG_SECONDS = 5
const WATCHDOG_MILLIS = 40_000

const settings = `FIREZONE_API_URL=${apiUrl}
FIREZONE_NAME=machine
FIREZONE_METRICS_ADDRESS=${METRICS}
`

/** What holds without a tunnel, and with one; each fails with `when`. */
export interface Checks<E> {
  readonly withTunnel: (when: string) => Effect.Effect<void, E>
  readonly without: (when: string) => Effect.Effect<void, E>
}

/** Begins with the package installed and nothing of it running, and ends so. */
export const checkTunnelService = <E>(machine: Machine, { withTunnel, without }: Checks<E>) =>
  Effect.gen(function*() {
    const { must, run } = machine
    const property = (name: string) => must(`systemctl show --value -p ${name} ${UNIT}`)
    const journal = Effect.map(run(`journalctl -u ${UNIT} -n 40 --no-pager`), ({ stdout }) => stdout)
    const comes = <E>(what: string, fact: Effect.Effect<boolean, E>, millis = SAID_MILLIS) =>
      Effect.gen(function*() {
        if ((yield* eventually(fact, millis)) === true) return
        assert.fail(`${what}\n${yield* journal}`)
      })
    const hasStatus = (text: string) =>
      comes(`its status is "${text}"`, Effect.map(property("StatusText"), (status) => status === text))
    const isDown = comes(
      "the tunnel is gone",
      Effect.map(run(`ip link show ${TUN}`), ({ code }) => code !== 0)
    )

    // As docs/tunnel-service.md has it. What it changes of the machine's, the package does not take back.
    const accounts = "/etc/group /etc/group- /etc/gshadow /etc/gshadow- /etc/.pwd.lock"
    yield* must(`mkdir /run/accounts; cp -a ${accounts} /run/accounts 2>/run/accounts.log || true`)
    yield* must("systemd-sysusers")
    const group = yield* must("getent group firezone-client | cut -d: -f3")
    assert.match(group, /^\d+$/)
    yield* must(`ln /usr/bin/node ${GUI}`)
    const script = machine.put(path.join(import.meta.dirname, "../support/testGui.mjs"))
    yield* must(`mv ${script} ${SCRIPT}; chmod 644 ${SCRIPT}`)

    /** `program` as a user with this group beside its own, until it is killed or is done. */
    const as = (group: string, program: string) =>
      `setpriv --reuid 2000 --regid 2000 --groups ${group} ${program} ${SCRIPT} ${SOCKET}`
    let started = 0
    const startGui = Effect.gen(function*() {
      const name = `gui${started += 1}`
      const files = `/run/${name}`
      yield* must(`mkfifo -m 666 ${files}.in; : > ${files}.out`)
      yield* must(
        `systemd-run -q --collect --unit ${name} sh -c 'exec <>${files}.in >>${files}.out; exec ${as(group, GUI)}'`
      )
      const heard = Effect.map(must(`cat ${files}.out`), (text) => text.split("\n").filter((line) => line !== ""))
      const hears = (start: string) =>
        comes(`${name} hears ${start}`, Effect.map(heard, (lines) => lines.some((line) => line.startsWith(start))))
      yield* hears(`{"Hello":`)
      return {
        say: (message: unknown) => must(`cat > ${files}.in`, `${JSON.stringify(message)}\n`),
        hears,
        kill: must(`systemctl kill -s KILL ${name}`)
      }
    })
    const connected = Effect.gen(function*() {
      const gui = yield* startGui
      yield* gui.say({ Connect: { token: tokens.client, is_internet_resource_active: false } })
      yield* gui.hears(`{"ConnectResult":{"Ok":null}}`)
      yield* gui.hears(`{"OnUpdateResources":`)
      return gui
    })

    const showsMetrics = Effect.map(
      must(`curl -sS -m 10 http://${METRICS}/metrics`),
      (text) => assert.match(text, /^firezone_interface_up 1$/m)
    )

    assert.strictEqual((yield* run(`systemctl is-enabled ${UNIT}`)).stdout.trim(), "disabled")
    assert.strictEqual(yield* must(`systemd-analyze verify --man=no --recursive-errors=no ${UNIT}.service 2>&1`), "")
    yield* must(`cat > ${DEFAULTS}`, settings)
    // A minute is long for a test, and so is the pause before it is started again.
    yield* must(
      `mkdir -p /run/systemd/system/${UNIT}.service.d; cat > /run/systemd/system/${UNIT}.service.d/test.conf`,
      `[Service]\nWatchdogSec=${WATCHDOG_SECONDS}\nRestartSec=1\n`
    )
    yield* must(`systemctl daemon-reload; systemctl start ${UNIT}`)
    // Type=notify: a GUI can connect once the command returns.
    assert.strictEqual(yield* must(`stat -c '%U:%G %a' ${SOCKET}`), "root:firezone-client 660")
    assert.strictEqual(yield* property("Type"), "notify")
    yield* must(`systemd-analyze security --no-pager --threshold=30 ${UNIT}`)
    yield* hasStatus("waiting for the GUI")
    const pid = yield* property("MainPID")

    const stranger = yield* run(as("2000", GUI))
    assert.notStrictEqual(stranger.code, 0)
    assert.deepStrictEqual([stranger.stdout, /EACCES/.test(stranger.stderr)], ["", true], "who is not of the group")
    const other = yield* run(`mkfifo /run/other.in; timeout 20 ${as(group, "/usr/bin/node")} <>/run/other.in`)
    assert.strictEqual(other.stdout, "", "another program hears nothing")
    assert.notStrictEqual(other.code, 124, "another program is sent away")

    const first = yield* connected
    yield* withTunnel("with a GUI")
    assert.match(yield* property("StatusText"), /^signed in; resources: /)
    yield* showsMetrics
    yield* first.kill
    yield* isDown
    yield* hasStatus("waiting for the GUI")
    yield* without("after kill -9 of the GUI")
    assert.strictEqual(yield* property("MainPID"), pid, "the service survives its GUI")

    yield* connected
    yield* withTunnel("with the next GUI")
    yield* showsMetrics
    yield* must(`kill -STOP ${pid}`)
    yield* comes(
      "the watchdog has it started again",
      Effect.map(
        Effect.all([property("ActiveState"), property("MainPID")]),
        ([state, now]) => state === "active" && now !== pid && now !== "0"
      ),
      WATCHDOG_MILLIS
    )
    assert.include(yield* journal, "Watchdog timeout")
    yield* isDown
    yield* without("after the watchdog")

    const last = yield* connected
    yield* withTunnel("after the watchdog, with a GUI")
    yield* must(`systemctl stop ${UNIT}`)
    assert.strictEqual(yield* property("Result"), "success")
    yield* last.hears(`"TerminatingGracefully"`)
    assert.notStrictEqual((yield* run(`test -e ${SOCKET}`)).code, 0, "its socket is gone")
    yield* isDown
    yield* without("after a stop")

    yield* must(`rm -r /run/systemd/system/${UNIT}.service.d ${DEFAULTS} ${GUI}; systemctl daemon-reload`)
    yield* must(`rm -f ${accounts}; cp -a /run/accounts/. /etc`)
  })
