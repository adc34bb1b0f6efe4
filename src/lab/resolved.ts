/** The real systemd-resolved on the client's host, with a bus of its own: nothing of it is seen outside that host. */
import * as Effect from "effect/Effect"
import type * as Scope from "effect/Scope"
import * as fs from "node:fs"
import * as path from "node:path"
import { LabError } from "./LabError.ts"
import type { Daemon } from "./processes.ts"
import { requirePrograms } from "./requirePrograms.ts"
import { eventually } from "./scenario.ts"
import type { Topology } from "./topology.ts"

/** Of this project, where `scripts/setup.mjs` unpacks the package: to install it would take the machine's DNS away. */
const unpacked = path.resolve(path.dirname(process.argv[1] ?? ""), "../../.cache/systemd-resolved")

interface Installation {
  readonly daemon: string
  /** What its programs need of the environment. */
  readonly env: Readonly<Record<string, string>>
}

const find = (): Installation | undefined => {
  const system = ["/usr/lib/systemd/systemd-resolved", "/lib/systemd/systemd-resolved"]
    .find((file) => fs.existsSync(file))
  if (system !== undefined) return { daemon: system, env: {} }
  const daemon = path.join(unpacked, "lib/systemd/systemd-resolved")
  if (!fs.existsSync(daemon)) return undefined
  const libraries = path.join(unpacked, "usr/lib")
  return {
    daemon,
    env: {
      PATH: `${path.join(unpacked, "usr/bin")}:${process.env["PATH"] ?? ""}:/usr/bin:/bin:/usr/sbin:/sbin`,
      LD_LIBRARY_PATH: fs.readdirSync(libraries).map((folder) => path.join(libraries, folder, "systemd")).join(":")
    }
  }
}

/** Everybody on the host may do everything. */
const BUS = `<!DOCTYPE busconfig PUBLIC "-//freedesktop//DTD D-Bus Bus Configuration 1.0//EN"
 "http://www.freedesktop.org/standards/dbus/1.0/busconfig.dtd">
<busconfig><type>system</type><listen>unix:path=/run/dbus/system_bus_socket</listen><auth>EXTERNAL</auth>
<policy context="default"><allow user="*"/><allow own="*"/><allow send_type="method_call"/><allow send_type="signal"/>
<allow send_requested_reply="true" send_type="method_return"/><allow send_requested_reply="true" send_type="error"/>
<allow receive_type="method_call"/><allow receive_type="method_return"/><allow receive_type="error"/>
<allow receive_type="signal"/><allow send_destination="*"/></policy></busconfig>`

const PREPARE = `
mkdir -p /run/dbus /run/systemd/resolve
grep -q '^systemd-resolve:' /etc/passwd || echo 'systemd-resolve:x:997:997::/run/systemd:/usr/sbin/nologin' >> /etc/passwd
grep -q '^systemd-resolve:' /etc/group || echo 'systemd-resolve:x:997:' >> /etc/group
chown systemd-resolve: /run/systemd/resolve
printf '%s' "$1" > /etc/dbus-lab.conf
ln -sf /run/systemd/resolve/stub-resolv.conf /etc/resolv.conf`

export interface Resolved {
  readonly env: Readonly<Record<string, string>>
  readonly resolvectl: (args: ReadonlyArray<string>) => Effect.Effect<string, LabError>
  /** Kills it, with what it remembers of its links, and starts it again. */
  readonly restart: Effect.Effect<void, LabError, Scope.Scope>
}

/** Starts bus and daemon; `/etc/resolv.conf` leads to its stub. */
export const start = (topology: Topology): Effect.Effect<Resolved, LabError, Scope.Scope> =>
  Effect.gen(function*() {
    yield* requirePrograms(["dbus-daemon"], "dbus")
    const installation = find()
    if (installation === undefined) {
      return yield* new LabError({
        what: "this scenario needs systemd-resolved",
        why: "not found; unpack it, without installing it: node scripts/setup.mjs --test-packages"
      })
    }
    const { daemon, env } = installation
    yield* topology.must("client", ["sh", "-ec", PREPARE, "sh", BUS])
    yield* topology.daemon("client", "dbus", [
      ...["dbus-daemon", "--config-file=/etc/dbus-lab.conf", "--nofork", "--nopidfile"]
    ])
    const resolvectl = (args: ReadonlyArray<string>) =>
      Effect.map(topology.must("client", ["resolvectl", ...args], { env }), ({ stdout }) => stdout)
    let running: Daemon | undefined
    const startDaemon = Effect.gen(function*() {
      const started = yield* topology.daemon("client", "resolved", [daemon], env)
      running = started
      const isUp = yield* eventually(Effect.orElseSucceed(Effect.as(resolvectl(["status"]), true), () => false), 10_000)
      if (isUp === undefined) return yield* new LabError({ what: "systemd-resolved", why: started.log().slice(-1000) })
    })
    const hasBus = yield* eventually(
      Effect.map(topology.run("client", ["test", "-S", "/run/dbus/system_bus_socket"]), ({ code }) => code === 0),
      5000
    )
    if (hasBus === undefined) return yield* new LabError({ what: "dbus-daemon", why: "made no socket within 5 s" })
    yield* startDaemon
    return {
      env,
      resolvectl,
      restart: Effect.gen(function*() {
        running?.signal("SIGKILL")
        yield* running?.exit ?? Effect.void
        yield* topology.must("client", ["rm", "-rf", "/run/systemd/resolve/netif"])
        yield* startDaemon
      })
    }
  })
