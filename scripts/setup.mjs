// Brings a clone to the point where its programs run. Uses nothing but Node, because it runs before `npm ci`.
//   node scripts/setup.mjs [--build] [--packages] [--test-packages]
// Speaks on stderr only: the command behind it may print a single JSON object on stdout.
import { spawnSync } from "node:child_process"
import { existsSync, mkdirSync, readFileSync, rmSync, statSync, writeFileSync } from "node:fs"
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
  ping: "iputils-ping",
  curl: "curl",
  nsenter: "util-linux",
  sysctl: "procps",
  tcpdump: "tcpdump",
  conntrack: "conntrack",
  iperf3: "iperf3",
  tc: "iproute2"
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
  "dbus-daemon": "dbus"
}

if (flags.has("--packages")) {
  const wanted = flags.has("--test-packages") ? { ...labPrograms, ...testPrograms } : labPrograms
  const missing = Object.entries(wanted).filter(([program]) => !onPath(program))
  if (missing.length > 0) {
    const packages = [...new Set(missing.map(([, name]) => name))]
    const names = missing.map(([program]) => program).join(", ")
    if (process.getuid?.() !== 0 || !onPath("apt-get")) {
      fail(`missing programs: ${names}. Install them (Debian packages: ${packages.join(" ")}) and try again`)
    }
    say(`installing Debian packages ${packages.join(" ")} (missing: ${names})`)
    const env = { DEBIAN_FRONTEND: "noninteractive" }
    const install = () => run("apt-get", ["install", "-y", "-q", "--no-install-recommends", ...packages], env)
    // The first try may work without a refresh; on a fresh machine the lists are missing or old.
    if (run("apt-get", ["update", "-q"], env) !== 0) say("apt-get update failed, trying to install anyway")
    if (install() !== 0) fail(`apt-get install failed; install by hand: ${packages.join(" ")}`)
  }
}

const newer = (a, b) => existsSync(a) && existsSync(b) && statSync(a).mtimeMs >= statSync(b).mtimeMs
const lock = join(root, "package-lock.json")
const installed = join(root, "node_modules", ".package-lock.json")
if (!newer(installed, lock)) {
  say("installing node modules (npm ci)")
  if (run("npm", ["ci", "--no-audit", "--no-fund"]) !== 0) fail("npm ci failed")
}

if (flags.has("--build")) {
  // `npm ci` twice at once would be worse than a build too many: only the build is cached.
  const stamp = join(root, "dist", ".stamp")
  const state = spawnSync("git", ["ls-files", "-co", "--exclude-standard", "src", "bin", "bench", "scripts"], {
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
