/**
 * A machine with a systemd of its own: Debian in a container of systemd-nspawn, on the network of a lab's client. What it
 * changes is in memory; the files that it starts from are made once and kept in `.cache`.
 */
import * as Effect from "effect/Effect"
import type * as Scope from "effect/Scope"
import { execFileSync } from "node:child_process"
import * as fs from "node:fs"
import * as os from "node:os"
import * as path from "node:path"
import { LabError } from "../../src/lab/LabError.ts"
import { daemon, must, type Output, run } from "../../src/lab/processes.ts"
import { eventually } from "../../src/lab/scenario.ts"
import type { Needs } from "../support/requires.ts"

export const machineNeeds: Needs = {
  root: true,
  programs: ["debootstrap", "systemd-nspawn", "nsenter", "unshare", "mount", "dpkg-deb"]
}

const root = path.join(import.meta.dirname, "../..")
/** What the tests need beside what every Debian has. */
const PACKAGES = "systemd-sysv,dbus,systemd-resolved,iproute2,curl,libstdc++6"
const BOOTSTRAP_MILLIS = 300_000

/** This machine's own release; others would need keys that it has not. */
const release = (): { readonly suite: string; readonly mirror: string } => {
  const text = fs.readFileSync("/etc/os-release", "utf8")
  const value = (name: string): string | undefined => new RegExp(`^${name}="?([^"\n]*)`, "m").exec(text)?.[1]
  const mirror = value("ID") !== "ubuntu"
    ? "http://deb.debian.org/debian"
    : process.arch === "x64"
    ? "http://archive.ubuntu.com/ubuntu"
    : "http://ports.ubuntu.com/ubuntu-ports"
  return { suite: value("VERSION_CODENAME") ?? "bookworm", mirror }
}

/** The machine's files before anything is installed; two who make them at once do not meet. Nobody may change them. */
export const machineFiles = Effect.gen(function*() {
  const { mirror, suite } = release()
  const folder = path.join(root, ".cache", `machine-${suite}-${process.arch}`)
  if (fs.existsSync(folder)) return folder
  const work = `${folder}.${process.pid}`
  yield* must("debootstrap", ["debootstrap", "--variant=minbase", `--include=${PACKAGES}`, suite, work, mirror], {
    timeoutMillis: BOOTSTRAP_MILLIS
  }).pipe(Effect.tapError(() => Effect.sync(() => fs.rmSync(work, { recursive: true, force: true }))))
  for (const each of ["var/cache/apt/archives", "var/lib/apt/lists"]) {
    fs.rmSync(path.join(work, each), { recursive: true, force: true })
  }
  try {
    fs.renameSync(work, folder)
  } catch (error) {
    // Another one was faster.
    fs.rmSync(work, { recursive: true, force: true })
    if (!fs.existsSync(folder)) throw error
  }
  return folder
})

/** The name and version that packages depend on, around the executable that runs us: Debian's own may be too old. */
export const makeNodePackage = (folder: string): string => {
  const work = fs.mkdtempSync(path.join(folder, "node-"))
  fs.mkdirSync(path.join(work, "DEBIAN"))
  fs.mkdirSync(path.join(work, "usr/bin"), { recursive: true })
  fs.copyFileSync(process.execPath, path.join(work, "usr/bin/node"))
  fs.chmodSync(path.join(work, "usr/bin/node"), 0o755)
  fs.chmodSync(work, 0o755)
  const architecture = process.arch === "x64" ? "amd64" : process.arch
  fs.writeFileSync(
    path.join(work, "DEBIAN/control"),
    `Package: nodejs
Version: ${process.versions.node}
Architecture: ${architecture}
Maintainer: nobody <nobody@example.invalid>
Description: the Node that runs the tests
`
  )
  const target = path.join(folder, "nodejs.deb")
  execFileSync("dpkg-deb", ["-Znone", "--root-owner-group", "--build", work, target], { stdio: "ignore" })
  fs.rmSync(work, { recursive: true })
  return target
}

/** What no two looks at a machine agree on, whatever is done to it. */
const VOLATILE = [
  /^\/var\/log(\/|$)/,
  /^\/var\/cache(\/|$)/,
  /^\/var\/lib\/apt(\/|$)/,
  /^\/var\/lib\/systemd(\/|$)/,
  /^\/var\/tmp(\/|$)/,
  // Copies that dpkg keeps of what it changes, and its locks.
  /^\/var\/lib\/dpkg\/(status-old|available|available-old|lock|lock-frontend|triggers\/Lock)$/,
  /^\/var\/lib\/dpkg\/?$/,
  /^\/var\/lib\/dpkg\/(info|updates|triggers)$/
]

export interface Machine {
  readonly run: (script: string, input?: string) => Effect.Effect<Output, LabError>
  /** What a shell script prints, without the newline at the end; fails if it does. */
  readonly must: (script: string, input?: string) => Effect.Effect<string, LabError>
  /** Puts a file into its `/root`, and returns its path there. */
  readonly put: (file: string) => string
  /** Every path of its file system with type, mode, owner, and link target or hash; but for what is volatile. */
  readonly snapshot: Effect.Effect<ReadonlyArray<string>, LabError>
}

export const childrenOf = (pid: number): ReadonlyArray<number> => {
  try {
    return fs.readFileSync(`/proc/${pid}/task/${pid}/children`, "utf8").trim().split(" ").filter(Boolean).map(Number)
  } catch {
    return []
  }
}

const nameOf = (pid: number): string | undefined => {
  try {
    return fs.readFileSync(`/proc/${pid}/comm`, "utf8").trim()
  } catch {
    return undefined
  }
}

/** Mounts of our own, which are gone with the container. `$1`: files, `$2`: a folder, `$3`: a script; then nspawn's. */
const START = `mount -t tmpfs -o mode=755 tmpfs "$2"
mkdir "$2/upper" "$2/work" "$2/root"
mount -t overlay overlay -o "lowerdir=$1,upperdir=$2/upper,workdir=$2/work" "$2/root"
cd "$2/root"
(eval "$3")
shift 3
exec systemd-nspawn -D "$PWD" "$@"`

/**
 * Boots one in a network namespace; the scope turns it off. `prepare` is a shell script that runs before, in the folder of its
 * files.
 */
export const boot = (
  namespace: string,
  prepare: string
): Effect.Effect<Machine, LabError, Scope.Scope> =>
  Effect.gen(function*() {
    const lower = yield* machineFiles
    const folder = yield* Effect.acquireRelease(
      Effect.sync(() => fs.mkdtempSync(path.join(os.tmpdir(), "machine-"))),
      (folder) => Effect.sync(() => fs.rmSync(folder, { recursive: true, force: true }))
    )
    const point = path.join(folder, "m")
    fs.mkdirSync(point)
    const name = path.basename(folder).toLowerCase()
    const console = yield* daemon([
      ...["unshare", "-m", "--propagation", "private", "sh", "-ec"],
      ...[
        START,
        "sh",
        lower,
        point,
        prepare,
        "-q",
        "-b",
        "--register=no",
        "--keep-unit",
        "--console=passive",
        `--machine=${name}`
      ],
      ...[`--network-namespace-path=${namespace}`, "--bind=/dev/net/tun", "--capability=CAP_NET_ADMIN"]
    ], path.join(folder, "console.log"))
    const failed = (why: string) => new LabError({ what: "the machine", why: `${why}\n${console.log().slice(-3000)}` })
    const leader = yield* eventually(
      Effect.suspend(() =>
        console.hasExited()
          ? Effect.fail(failed("ended at start"))
          : Effect.succeed(childrenOf(console.pid).find((pid) => nameOf(pid) === "systemd"))
      ),
      30_000
    )
    if (leader === undefined) return yield* failed("has no systemd")
    const enter = (
      script: string
    ) => ["nsenter", "-t", String(leader), "-m", "-p", "-n", "-i", "-u", "--", "sh", "-c", script]
    const env = {
      PATH: "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
      DEBIAN_FRONTEND: "noninteractive"
    }
    const options = (input: string | undefined) => ({
      env,
      timeoutMillis: 90_000,
      ...(input === undefined ? {} : { input })
    })
    const machine: Machine = {
      run: (script, input) => run(enter(script), options(input)),
      must: (script, input) =>
        Effect.map(must(script, enter(script), options(input)), ({ stdout }) => stdout.trimEnd()),
      put: (file) => {
        const target = `/root/${path.basename(file)}`
        fs.copyFileSync(file, `/proc/${leader}/root${target}`)
        return target
      },
      snapshot: Effect.gen(function*() {
        const names = yield* machine.must("find / -xdev -printf '%p %y %m %U:%G %l\\n'")
        const sums = yield* machine.must(
          "find / -xdev -type f -print0 | xargs -0 sha256sum | sed -E 's/^(\\S+)  (.*)/\\2 \\1/'"
        )
        // dpkg changes their order, and at any removal takes back a priority that debootstrap had overridden.
        const installed = yield* machine.must("grep -v ^Priority: /var/lib/dpkg/status | sort | uniq -c")
        return [...names.split("\n"), ...sums.split("\n"), ...installed.split("\n").map((line) => `packages: ${line}`)]
          .filter((line) =>
            !VOLATILE.some((pattern) => pattern.test(line.split(" ", 1)[0] ?? "")) &&
            !/^\/var\/lib\/dpkg\/status [0-9a-f]{64}$/.test(line)
          ).sort()
      })
    }
    const isUp = yield* eventually(
      Effect.map(machine.run("systemctl is-system-running"), ({ stdout }) => /^(running|degraded)/.test(stdout)),
      60_000
    )
    if (isUp === undefined) return yield* failed("did not come up")
    return machine
  })
