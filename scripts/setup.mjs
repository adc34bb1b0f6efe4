// Brings a clone to the point where its programs run. Uses nothing but Node, because it runs before `npm ci`.
//   node scripts/setup.mjs [--build] [--packages] [--test-packages] [--bench-packages]
// Speaks on stderr only: the command behind it may print a single JSON object on stdout.
import { spawnSync } from "node:child_process"
import {
  existsSync,
  lstatSync,
  mkdirSync,
  readFileSync,
  readlinkSync,
  renameSync,
  rmSync,
  statSync,
  symlinkSync,
  writeFileSync
} from "node:fs"
import { dirname, join } from "node:path"
import { fileURLToPath } from "node:url"

const root = join(dirname(fileURLToPath(import.meta.url)), "..")
const flags = new Set(process.argv.slice(2))
const say = (text) => process.stderr.write(`setup: ${text}\n`)
const fail = (text) => {
  say(text)
  process.exit(1)
}

/** Runs a command with its output on our stderr. */
const run = (command, args, env = {}) => {
  const result = spawnSync(command, args, {
    cwd: root,
    stdio: ["ignore", 2, 2],
    env: { ...process.env, ...env }
  })
  if (result.error !== undefined) fail(`cannot run ${command}: ${result.error.message}`)
  return result.status ?? 1
}

const onPath = (program) =>
  [...(process.env["PATH"] ?? "").split(":"), "/usr/sbin", "/sbin"].some((dir) =>
    dir !== "" && existsSync(join(dir, program))
  )

if (Number(process.versions.node.split(".")[0]) < 20) {
  fail(`Node ${process.versions.node} is too old: Node 20 or later is needed`)
}

// program -> Debian package
const labPrograms = {
  ip: "iproute2",
  nft: "nftables",
  conntrack: "conntrack",
  nsenter: "util-linux",
  unshare: "util-linux",
  mount: "mount",
  ping: "iputils-ping",
  curl: "curl",
  tcpdump: "tcpdump"
}
const testPrograms = {
  "wireguard-go": "wireguard-go",
  wg: "wireguard-tools",
  turnserver: "coturn",
  dnsmasq: "dnsmasq-base",
  unbound: "unbound",
  dig: "bind9-dnsutils",
  dnsperf: "dnsperf",
  socat: "socat",
  strace: "strace",
  openssl: "openssl",
  "dbus-daemon": "dbus",
  NetworkManager: "network-manager",
  ps: "procps",
  "systemd-analyze": "systemd",
  zsh: "zsh",
  fish: "fish",
  tmux: "tmux",
  // A machine of its own for the package.
  "systemd-nspawn": "systemd-container",
  debootstrap: "debootstrap",
  podman: "podman",
  crun: "crun",
  // Its headers are the word of somebody else on the layouts of Windows.
  "x86_64-w64-mingw32-gcc": "gcc-mingw-w64-x86-64"
}
const benchPrograms = {
  iperf3: "iperf3",
  "wireguard-go": "wireguard-go",
  wg: "wireguard-tools",
  strace: "strace",
  dnsperf: "dnsperf",
  unbound: "unbound",
  dig: "bind9-dnsutils",
  turnserver: "coturn",
  socat: "socat",
  dnsmasq: "dnsmasq-base",
  openssl: "openssl"
}

// Two at once, such as a lab beside the tests, would pull the modules from under each other.
const setupLock = join(root, ".setup.lock")
const isAlive = (pid) => {
  try {
    process.kill(pid, 0)
    return true
  } catch (error) {
    return error.code === "EPERM"
  }
}
const lockOwner = () => {
  try {
    return Number(readlinkSync(setupLock))
  } catch {
    return 0
  }
}
for (let told = false;;) {
  try {
    // A link is made together with what it says.
    symlinkSync(String(process.pid), setupLock)
    process.on("exit", () => rmSync(setupLock, { force: true }))
    break
  } catch (error) {
    // A read-only tree is either set up or will fail with a better message below.
    if (error.code !== "EEXIST") break
  }
  const owner = lockOwner()
  if (owner === 0 || !isAlive(owner)) {
    rmSync(setupLock, { force: true })
  } else {
    if (!told) say(`waiting for another set-up (process ${owner})`)
    told = true
    Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0, 200)
  }
}

const needed = {
  ...(flags.has("--packages") ? labPrograms : {}),
  ...(flags.has("--test-packages") ? testPrograms : {})
}
// Not every benchmark needs programs: those that do name what is missing.
const useful = flags.has("--bench-packages") ? { ...labPrograms, ...benchPrograms } : {}
const missing = Object.entries({ ...needed, ...useful }).filter(([program]) => !onPath(program))
if (missing.length > 0) {
  const packages = [...new Set(missing.map(([, name]) => name))]
  const names = missing.map(([program]) => program).join(", ")
  if (process.getuid?.() !== 0 || !onPath("apt-get")) {
    const told = missing.some(([program]) => program in needed) ? fail : say
    told(`missing programs: ${names}. Install them (Debian packages: ${packages.join(" ")}) and try again`)
  } else {
    say(`installing Debian packages ${packages.join(" ")} (missing: ${names})`)
    const env = { DEBIAN_FRONTEND: "noninteractive" }
    const install = () => run("apt-get", ["install", "-y", "-q", "--no-install-recommends", ...packages], env)
    // The first try may work without a refresh; on a fresh machine the lists are missing or old.
    if (run("apt-get", ["update", "-q"], env) !== 0) say("apt-get update failed, trying to install anyway")
    if (install() !== 0) fail(`apt-get install failed; install by hand: ${packages.join(" ")}`)
  }
}

/** Unpacks Debian packages into .cache, without installing them, if none of the files is there. */
const unpack = (name, packages, files, without) => {
  const target = join(root, ".cache", name)
  if (!flags.has("--test-packages") || [...files, target].some((file) => existsSync(file)) || !onPath("apt-get")) return
  say(`unpacking the Debian package ${name} into .cache, without installing it`)
  const work = join(root, ".cache", `unpacking-${process.pid}`)
  mkdirSync(join(work, "root"), { recursive: true })
  const script = `cd "$1"
shift
get() { apt-get download -q "$@"; }
get "$@" || { apt-get update -q; get "$@"; }
for file in *.deb; do dpkg-deb -x "$file" root; done`
  const done = run("sh", ["-ec", script, "sh", work, ...packages]) === 0
  if (done) renameSync(join(work, "root"), target)
  else say(`could not get it: ${without}`)
  rmSync(work, { recursive: true, force: true })
}
// The lab runs systemd-resolved, but to install its package takes this machine's own DNS away. It has to fit its library.
unpack(
  "systemd-resolved",
  ["systemd-resolved", "libsystemd-shared"],
  ["/usr/lib/systemd/systemd-resolved", "/lib/systemd/systemd-resolved"],
  "the tests with the real systemd-resolved cannot run"
)
// To install it starts a server.
unpack("prometheus", ["prometheus"], ["/usr/bin/prometheus"], "the test with the real Prometheus cannot run")

const newer = (a, b) => existsSync(a) && existsSync(b) && statSync(a).mtimeMs >= statSync(b).mtimeMs
const lock = join(root, "package-lock.json")
const installed = join(root, "node_modules", ".package-lock.json")
const modules = lstatSync(join(root, "node_modules"), { throwIfNoEntry: false })
if (modules?.isSymbolicLink() === true) {
  // npm would empty what it leads to, under the programs of whoever owns that.
  say("node_modules is a link: what is there is taken as it is")
} else if (!newer(installed, lock)) {
  say("installing node modules (npm ci)")
  if (run("npm", ["ci", "--no-audit", "--no-fund"]) !== 0) fail("npm ci failed")
}

if (flags.has("--build")) {
  const stamp = join(root, "dist", ".stamp")
  // Under sudo the clone is another user's.
  const git = ["-c", "safe.directory=*", "ls-files", "-co", "--exclude-standard", "src", "bin", "bench", "scripts"]
  const state = spawnSync("git", git, {
    cwd: root,
    encoding: "utf8"
  })
  const files = state.status === 0 ? state.stdout.split("\n").filter((name) => name !== "") : []
  const newest = files.reduce((time, name) => {
    const path = join(root, name)
    return existsSync(path) ? Math.max(time, statSync(path).mtimeMs) : time
  }, statSync(lock).mtimeMs)
  // The list of names is part of the stamp, so a deleted file counts as a change.
  const key = `${newest} ${files.length}`
  if (files.length === 0 || !existsSync(stamp) || readFileSync(stamp, "utf8") !== key) {
    say("building")
    rmSync(stamp, { force: true })
    if (run(process.execPath, ["scripts/build.mjs"]) !== 0) fail("the build failed")
    mkdirSync(dirname(stamp), { recursive: true })
    writeFileSync(stamp, key)
  }
}
