/**
 * The recipe for containers: built by podman on files of this machine's own, because no registry of images is asked, and run
 * by it as the README says, with one capability and one device.
 */
import { assert, describe, expect, it } from "@effect/vitest"
import * as Effect from "effect/Effect"
import { execFileSync } from "node:child_process"
import * as fs from "node:fs"
import * as os from "node:os"
import * as path from "node:path"
import { afterAll, beforeAll } from "vitest"
import * as dnsmasq from "../../src/lab/dnsmasq.ts"
import { namespaceFile } from "../../src/lab/labs.ts"
import { type Daemon, must, run, spawn } from "../../src/lab/processes.ts"
import { eventually } from "../../src/lab/scenario.ts"
import { hostRecords, named } from "../../src/lab/scenarios/dns.ts"
import * as services from "../../src/lab/services.ts"
import * as topology from "../../src/lab/topology.ts"
import { PAGE } from "../../src/lab/web.ts"
import { executable } from "../support/executable.ts"
import { describeWith } from "../support/requires.ts"
import { machineFiles, machineNeeds } from "./machine.ts"

const root = path.join(import.meta.dirname, "../..")
const recipe = path.join(root, "packaging/container/Containerfile")
const entry = path.join(root, "packaging/container/entrypoint.sh")
const folder = fs.mkdtempSync(path.join(os.tmpdir(), "container-"))
afterAll(() => fs.rmSync(folder, { recursive: true, force: true }))

describe("the entry script", () => {
  const bin = path.join(folder, "bin")
  beforeAll(() => {
    fs.mkdirSync(bin)
    fs.writeFileSync(
      path.join(bin, "firezone-headless-client"),
      "#!/bin/sh\nprintf '%s|' \"${FIREZONE_TOKEN-unset}\" \"$FIREZONE_DNS_CONTROL\" \"$@\"\n",
      { mode: 0o755 }
    )
  })
  const enter = (env: Readonly<Record<string, string>>, ...args: ReadonlyArray<string>) =>
    execFileSync("sh", [entry, ...args], { encoding: "utf8", env: { PATH: `${bin}:/usr/bin:/bin`, ...env } })

  it("starts a program that runs Node as the lab does", () => {
    const program = fs.readFileSync(path.join(root, "packaging/container/firezone-headless-client"), "utf8")
    expect(program).toContain(`\nexec ${["node", ...services.NODE.slice(1)].join(" ")} /usr/lib/`)
  })

  it("takes the token from a file that FIREZONE_TOKEN names, else as it is", () => {
    const file = path.join(folder, "a token")
    fs.writeFileSync(file, ".secret\n")
    expect(enter({ FIREZONE_TOKEN: file })).toBe(".secret|etc-resolv-conf|")
    expect(enter({ FIREZONE_TOKEN: ".other" })).toBe(".other|etc-resolv-conf|")
    expect(enter({ FIREZONE_TOKEN: folder })).toBe(`${folder}|etc-resolv-conf|`)
    expect(enter({})).toBe("unset|etc-resolv-conf|")
  })
  it("keeps what was chosen, and hands the arguments on", () => {
    expect(enter({ FIREZONE_DNS_CONTROL: "disabled" }, "status", "--json", "a b")).toBe(
      "unset|disabled|status|--json|a b|"
    )
  })
})

const RESOURCE = "www.corp.test"
const NET_ADMIN = 12
const STATE = "/var/lib/dev.firezone.client"

/** podman with all that it keeps in one folder. */
const confined = (home: string): ReadonlyArray<string> => {
  const containers = path.join(home, "containers.conf")
  const storage = path.join(home, "storage.conf")
  fs.writeFileSync(
    containers,
    `[containers]
# Its own are higher than what root may set in many a container.
default_ulimits = ["nofile=1024:1024", "nproc=4096:4096"]
[engine]
runtime = "crun"
cgroup_manager = "cgroupfs"
events_logger = "file"
lock_type = "file"
static_dir = "${home}/libpod"
tmp_dir = "${home}/tmp"
volume_path = "${home}/volumes"
`
  )
  fs.writeFileSync(
    storage,
    `[storage]\ndriver = "overlay"\ngraphroot = "${home}/store"\nrunroot = "${home}/run"\n`
  )
  return ["env", `CONTAINERS_CONF=${containers}`, `CONTAINERS_STORAGE_CONF=${storage}`, "podman"]
}

/** What podman mounts is seen by nobody else, and gone with this; network namespaces that are made later are seen. crun takes one version of cgroups, not both. */
const MOUNTS = `umount /sys/fs/cgroup/unified 2>/dev/null || :
echo ready
exec sleep infinity`

describeWith(
  { ...machineNeeds, programs: [...machineNeeds.programs ?? [], "podman", "crun", "dnsmasq", "dig"] },
  "the image",
  () => {
    const make = (name: string): string => {
      const made = path.join(folder, name)
      fs.mkdirSync(made, { recursive: true })
      return made
    }
    const home = make("podman")
    let mounts: Daemon
    let engine: ReadonlyArray<string> = []
    const podman = (...args: ReadonlyArray<string>) => must(`podman ${args[0]}`, [...engine, ...args])
    const build = (...args: ReadonlyArray<string>): void => {
      const [command = "", ...rest] = [...engine, "build", "--isolation", "chroot", "--format", "docker", "-q", ...args]
      execFileSync(command, rest, { stdio: ["ignore", "ignore", "pipe"] })
    }

    /** The last step of the recipe's first stage, with what is built here: the rest of the stage is `npm ci` and the build. */
    const stage = (): string => {
      const text = fs.readFileSync(recipe, "utf8").replaceAll("\\\n", "")
      const [, step] = /^RUN node scripts\/build\.mjs && (.*)$/m.exec(text) ?? []
      const target = make("stage")
      const script = step?.replaceAll(/(?<= )\/(?:package|image)\b/g, (name) => target + name)
      execFileSync("sh", ["-ec", script ?? "exit 1"], { cwd: root, stdio: ["ignore", "ignore", "pipe"] })
      return target
    }

    beforeAll(async () => {
      mounts = await Effect.runPromise(
        spawn(["unshare", "-m", "--propagation", "slave", "sh", "-ec", MOUNTS], path.join(folder, "mounts.log"))
      )
      const hasMounts = Effect.sync(() => mounts.log() === "ready\n")
      if ((await Effect.runPromise(eventually(hasMounts, 10_000))) !== true) throw new Error(mounts.log())
      engine = ["nsenter", "-t", String(mounts.pid), "-m", ...confined(home)]
      const base = path.join(folder, "base.Containerfile")
      // Debian's container images have no symbolic link there, as a machine with systemd-resolved has.
      fs.writeFileSync(
        base,
        "FROM scratch\nCOPY . /\nCOPY --from=node node /usr/bin/node\nRUN rm -f /etc/resolv.conf && : > /etc/resolv.conf\n"
      )
      const node = make("node")
      fs.copyFileSync(process.execPath, path.join(node, "node"))
      fs.chmodSync(path.join(node, "node"), 0o755)
      const files = await Effect.runPromise(machineFiles)
      build("-f", base, "--build-context", `node=${node}`, "-t", "base", files)
      const [context, image] = [`build=${stage()}`, "NODE_IMAGE=localhost/base"]
      build("-f", recipe, "--build-context", context, "--build-arg", image, "-t", "firezone-headless-client", root)
    }, 600_000)
    afterAll(async () => {
      mounts.signal("SIGKILL")
      await Effect.runPromise(mounts.exit)
    })

    it.live(
      "runs with one capability and one device, serves names, tells its health, survives a kill, and stops",
      () =>
        Effect.gen(function*() {
          const lab = yield* topology.scoped
          yield* services.start(lab, { executable, resources: [named(1, RESOURCE)] })
          yield* dnsmasq.start(lab, "res", [hostRecords(RESOURCE)])
          yield* dnsmasq.forGateway(lab)

          const token = path.join(folder, "token")
          fs.writeFileSync(token, `${services.tokens.client}\n`)
          yield* podman("secret", "create", "firezone-token", token)
          const id = yield* Effect.acquireRelease(
            Effect.map(
              podman(
                ...["run", "-d", "--cap-drop", "all", "--cap-add", "NET_ADMIN", "--device", "/dev/net/tun"],
                ...["-v", `firezone:${STATE}`, "--secret", "firezone-token"],
                ...["-e", "FIREZONE_TOKEN=/run/secrets/firezone-token", "-e", `FIREZONE_API_URL=${services.apiUrl}`],
                ...["--network", `ns:${namespaceFile(lab.name, "client")}`, "--dns", topology.addresses.dns4],
                "firezone-headless-client"
              ),
              ({ stdout }) => stdout.trim()
            ),
            (id) => Effect.ignore(podman("rm", "-f", "-t", "2", "-v", id))
          )
          const inspect = (what: string) =>
            Effect.map(podman("inspect", "--format", `{{${what}}}`, id), ({ stdout }) => stdout.trim())
          const inside = (...command: ReadonlyArray<string>) => run([...engine, "exec", id, ...command])
          const log = Effect.map(run([...engine, "logs", id]), ({ stderr, stdout }) => stdout + stderr)
          /** By the image's own check. */
          const healthy = Effect.gen(function*() {
            const check = Effect.map(run([...engine, "healthcheck", "run", id]), ({ code }) => code === 0)
            if ((yield* eventually(check, 30_000)) !== true) return assert.fail(yield* log)
          })

          yield* healthy
          const page = yield* inside("curl", "-sS", "-m", "20", `http://${RESOURCE}/`)
          assert.include(page.stdout, PAGE, page.stderr + (yield* log))
          // The container's own, as podman made it.
          const resolvConf = yield* inspect(".ResolvConfPath")
          assert.notInclude(fs.readFileSync(resolvConf, "utf8"), topology.addresses.dns4)
          const pid = Number(yield* inspect(".State.Pid"))
          const effective = /^CapEff:\s*(\w+)$/m.exec(fs.readFileSync(`/proc/${pid}/status`, "utf8"))?.[1]
          assert.strictEqual(BigInt(`0x${effective}`), 1n << BigInt(NET_ADMIN))
          const device = yield* inside("cat", `${STATE}/config/firezone-id.json`)
          assert.match(device.stdout, /"id":"[0-9a-f]{64}"/, "the image has no id of its own")

          yield* podman("kill", "-s", "KILL", id)
          // `podman wait`, and what makes "exited" of it, waits 20 s for a helper where no init buries it.
          const hasEnded = Effect.map(inspect(".State.Status"), (status) => status === "stopped" || status === "exited")
          assert.isTrue(yield* eventually(hasEnded, 10_000))
          assert.notInclude(fs.readFileSync(resolvConf, "utf8"), topology.addresses.dns4)
          yield* podman("start", id)
          yield* healthy

          yield* podman("stop", "-t", "20", id)
          assert.strictEqual(yield* inspect(".State.ExitCode"), "0", yield* log)
          assert.include(fs.readFileSync(resolvConf, "utf8"), topology.addresses.dns4)
          assert.notInclude(yield* log, services.tokens.client)

          // Of the volume, for the next container.
          const kept = fs.readFileSync(path.join(home, "volumes/firezone/_data/config/firezone-id.json"), "utf8")
          assert.strictEqual(kept, device.stdout)
        }).pipe(Effect.scoped),
      120_000
    )
  }
)
