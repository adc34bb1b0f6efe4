/** The real systemd-resolved on the client's host, with a bus of its own. */
import * as Effect from "effect/Effect"
import type * as Scope from "effect/Scope"
import * as fs from "node:fs"
import * as path from "node:path"
import { type Bus, start as startBus } from "./bus.ts"
import { LabError } from "./LabError.ts"
import type { Daemon } from "./processes.ts"
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

const PREPARE = `
mkdir -p /run/systemd/resolve
grep -q '^systemd-resolve:' /etc/passwd || echo 'systemd-resolve:x:997:997::/run/systemd:/usr/sbin/nologin' >> /etc/passwd
grep -q '^systemd-resolve:' /etc/group || echo 'systemd-resolve:x:997:' >> /etc/group
chown systemd-resolve: /run/systemd/resolve
ln -sf /run/systemd/resolve/stub-resolv.conf /etc/resolv.conf`

export interface Resolved {
  readonly env: Readonly<Record<string, string>>
  readonly bus: Bus
  readonly resolvectl: (args: ReadonlyArray<string>) => Effect.Effect<string, LabError>
  readonly signal: (name: NodeJS.Signals) => void
  /** Kills it, with what it remembers of its links, and starts it again. */
  readonly restart: Effect.Effect<void, LabError, Scope.Scope>
}

/** Starts bus and daemon; `/etc/resolv.conf` leads to its stub. */
export const start = (topology: Topology): Effect.Effect<Resolved, LabError, Scope.Scope> =>
  Effect.gen(function*() {
    const installation = find()
    if (installation === undefined) {
      return yield* new LabError({
        what: "this scenario needs systemd-resolved",
        why: "not found; unpack it, without installing it: node scripts/setup.mjs --test-packages"
      })
    }
    const { daemon, env } = installation
    yield* topology.must("client", ["sh", "-ec", PREPARE])
    const bus = yield* startBus(topology)
    const resolvectl = (args: ReadonlyArray<string>) =>
      Effect.map(topology.must("client", ["resolvectl", ...args], { env }), ({ stdout }) => stdout)
    let running: Daemon | undefined
    const startDaemon = Effect.gen(function*() {
      const started = yield* topology.daemon("client", "resolved", [daemon], env)
      running = started
      const isUp = yield* eventually(Effect.orElseSucceed(Effect.as(resolvectl(["status"]), true), () => false), 10_000)
      if (isUp === undefined) return yield* new LabError({ what: "systemd-resolved", why: started.log().slice(-1000) })
    })
    yield* startDaemon
    return {
      env,
      resolvectl,
      bus,
      signal: (name) => running?.signal(name),
      restart: Effect.gen(function*() {
        running?.signal("SIGKILL")
        yield* running?.exit ?? Effect.void
        yield* topology.must("client", ["rm", "-rf", "/run/systemd/resolve/netif"])
        yield* startDaemon
      })
    }
  })
