/**
 * The recipe for containers: built on files of this machine's own, because no registry of images is asked, and run in a
 * container with one capability and one device.
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
import { daemon, run } from "../../src/lab/processes.ts"
import { eventually } from "../../src/lab/scenario.ts"
import { hostRecords, named } from "../../src/lab/scenarios/dns.ts"
import * as services from "../../src/lab/services.ts"
import * as topology from "../../src/lab/topology.ts"
import { PAGE } from "../../src/lab/web.ts"
import { executable } from "../support/executable.ts"
import { describeWith } from "../support/requires.ts"
import { childrenOf, machineFiles, machineNeeds } from "./machine.ts"

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
const RESOLV_CONF = `nameserver ${topology.addresses.dns4}\n`
const NET_ADMIN = 12
/** All but NET_ADMIN. */
const DROPPED =
  "CAP_AUDIT_CONTROL,CAP_AUDIT_WRITE,CAP_CHOWN,CAP_DAC_OVERRIDE,CAP_DAC_READ_SEARCH,CAP_FOWNER,CAP_FSETID,"
  + "CAP_IPC_OWNER,CAP_KILL,CAP_LEASE,CAP_LINUX_IMMUTABLE,CAP_MKNOD,CAP_NET_BIND_SERVICE,CAP_NET_BROADCAST,CAP_NET_RAW,"
  + "CAP_SETFCAP,CAP_SETGID,CAP_SETPCAP,CAP_SETUID,CAP_SYS_ADMIN,CAP_SYS_BOOT,CAP_SYS_CHROOT,CAP_SYS_NICE,CAP_SYS_PTRACE,"
  + "CAP_SYS_RESOURCE,CAP_SYS_TTY_CONFIG"

describeWith(
  { ...machineNeeds, programs: [...machineNeeds.programs ?? [], "buildah", "dnsmasq", "dig"] },
  "the image",
  () => {
    const store = [
      "--storage-driver",
      "overlay",
      "--root",
      path.join(folder, "store"),
      "--runroot",
      path.join(folder, "run")
    ]
    const build = (...args: ReadonlyArray<string>): void => {
      execFileSync("buildah", [...store, "bud", "--isolation", "chroot", "--format", "docker", "-q", ...args], {
        stdio: ["ignore", "ignore", "pipe"]
      })
    }
    const make = (name: string): string => {
      const made = path.join(folder, name)
      fs.mkdirSync(made, { recursive: true })
      return made
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
      const base = path.join(folder, "base.Containerfile")
      fs.writeFileSync(base, "FROM scratch\nCOPY . /\nCOPY --from=node node /usr/bin/node\n")
      const node = make("node")
      fs.copyFileSync(process.execPath, path.join(node, "node"))
      fs.chmodSync(path.join(node, "node"), 0o755)
      const files = await Effect.runPromise(machineFiles)
      build("-f", base, "--build-context", `node=${node}`, "-t", "base", files)
      build(
        "-f",
        recipe,
        "--build-context",
        `build=${stage()}`,
        "--build-arg",
        "NODE_IMAGE=localhost/base",
        "-t",
        "it",
        root
      )
    }, 600_000)

    const config = () =>
      (JSON.parse(execFileSync("buildah", [...store, "inspect", "--type", "image", "it"], { encoding: "utf8" })) as {
        readonly Docker: {
          readonly config: {
            readonly Entrypoint: ReadonlyArray<string>
            readonly Healthcheck: { readonly Test: ReadonlyArray<string> }
            readonly Volumes: object
          }
        }
      }).Docker.config

    it.live(
      "runs with one capability and one device, serves names, tells its health, and stops",
      () =>
        Effect.gen(function*() {
          const { Entrypoint, Healthcheck, Volumes } = config()
          assert.deepStrictEqual(Object.keys(Volumes), ["/var/lib/dev.firezone.client"])
          const lab = yield* topology.scoped
          yield* services.start(lab, { executable, resources: [named(1, RESOURCE)] })
          yield* dnsmasq.start(lab, "res", [hostRecords(RESOURCE)])
          yield* dnsmasq.forGateway(lab)

          const resolvConf = path.join(folder, "resolv.conf")
          fs.writeFileSync(resolvConf, RESOLV_CONF)
          const token = path.join(folder, "token")
          fs.writeFileSync(token, `${services.tokens.client}\n`, { mode: 0o644 })
          // The container's files are mounted where nobody else sees it, and gone with it.
          const container = yield* daemon([
            ...["unshare", "-m", "--propagation", "private", "sh", "-ec"],
            `it=$(buildah ${store.join(" ")} from localhost/it); root=$(buildah ${store.join(" ")} mount "$it")
# As engines do: a plain file, which is then mounted over.
rm -f "$root/etc/resolv.conf"; : > "$root/etc/resolv.conf"
exec systemd-nspawn -D "$root" "$@"`,
            ...[
              "sh",
              "-q",
              "--register=no",
              "--keep-unit",
              "--console=pipe",
              `--machine=${path.basename(folder).toLowerCase()}`
            ],
            ...[`--network-namespace-path=${namespaceFile(lab.name, "client")}`, "--bind=/dev/net/tun"],
            ...[`--drop-capability=${DROPPED}`, "--capability=CAP_NET_ADMIN", "--resolv-conf=off", "--timezone=off"],
            ...[`--bind=${resolvConf}:/etc/resolv.conf`, `--bind-ro=${token}:/token`, "--setenv=FIREZONE_TOKEN=/token"],
            ...[`--setenv=FIREZONE_API_URL=${services.apiUrl}`, ...Entrypoint]
          ], path.join(folder, "container.log"))
          const inside = (...command: ReadonlyArray<string>) =>
            Effect.suspend(() => {
              const [leader] = childrenOf(container.pid)
              return run(["nsenter", "-t", String(leader ?? 0), "-m", "-p", "-n", "-i", "-u", "--", ...command], {
                env: { PATH: "/usr/local/bin:/usr/bin:/bin" }
              })
            })
          const [kind, ...health] = Healthcheck.Test
          assert.strictEqual(kind, "CMD")
          const isHealthy = yield* eventually(
            Effect.map(inside(...health), ({ code }) => code === 0 || container.hasExited()),
            30_000
          )
          assert.isTrue(isHealthy === true && !container.hasExited(), container.log())
          const page = yield* inside("curl", "-sS", "-m", "20", `http://${RESOURCE}/`)
          assert.include(page.stdout, PAGE, page.stderr + container.log())
          assert.notStrictEqual(fs.readFileSync(resolvConf, "utf8"), RESOLV_CONF)
          const [leader = 0] = childrenOf(container.pid)
          const effective = /^CapEff:\s*(\w+)$/m.exec(fs.readFileSync(`/proc/${leader}/status`, "utf8"))?.[1]
          assert.strictEqual(BigInt(`0x${effective}`), 1n << BigInt(NET_ADMIN))
          const id = yield* inside("cat", "/var/lib/dev.firezone.client/config/firezone-id.json")
          assert.match(id.stdout, /"id":"[0-9a-f]{64}"/, "the image has no id of its own")

          process.kill(leader, "SIGTERM")
          assert.strictEqual(yield* Effect.timeout(container.exit, "20 seconds"), 0, container.log())
          assert.strictEqual(fs.readFileSync(resolvConf, "utf8"), RESOLV_CONF)
          assert.notInclude(container.log(), services.tokens.client)
        }).pipe(Effect.scoped),
      120_000
    )
  }
)
