/** The machine and the programs that figures hold for. */
import { spawnSync } from "node:child_process"
import * as fs from "node:fs"
import * as os from "node:os"
import { environment as programEnvironment } from "../src/lab/processes.ts"
import { version } from "../src/model/version.ts"

export interface Environment {
  readonly cpu: string
  readonly cores: number
  readonly memoryGib: number
  readonly kernel: string
  /** Processes that ran or waited to, over the minute before the first bench. */
  readonly load1: number
  readonly tcpCongestionControl: string
  readonly versions: { readonly [program: string]: string }
}

/** The first match in what a program says of itself; "not found" if it is not there. */
const versionOf = (pattern: RegExp, command: string, ...args: ReadonlyArray<string>): string => {
  const { error, stderr, stdout } = spawnSync(command, args, { encoding: "utf8", env: programEnvironment() })
  return error === undefined ? pattern.exec(`${stdout}\n${stderr}`)?.[1] ?? "unknown" : "not found"
}

/** Some programs do not say which version they are, or another one than was packaged. */
const packageVersion = (name: string): string =>
  versionOf(/^(\S+)$/m, "dpkg-query", "--show", "--showformat", "${Version}\n", name)

const fileText = (file: string): string => {
  try {
    return fs.readFileSync(file, "utf8").trim()
  } catch {
    return "unknown"
  }
}

export const readEnvironment = (): Environment => ({
  cpu: os.cpus()[0]?.model.trim() ?? "unknown",
  cores: os.cpus().length,
  memoryGib: Math.round(os.totalmem() / 2 ** 30),
  kernel: `${os.type()} ${os.release()}`,
  load1: os.loadavg()[0] ?? Number.NaN,
  tcpCongestionControl: fileText("/proc/sys/net/ipv4/tcp_congestion_control"),
  versions: {
    "firezone-headless-client": version,
    node: process.versions.node,
    "node's openssl": process.versions["openssl"] ?? "none",
    iperf3: versionOf(/iperf (\S+)/, "iperf3", "--version"),
    "wireguard-go": packageVersion("wireguard-go"),
    coturn: packageVersion("coturn"),
    socat: versionOf(/socat version (\S+)/, "socat", "-V"),
    openssl: versionOf(/OpenSSL (\S+)/, "openssl", "version"),
    dnsperf: packageVersion("dnsperf")
  }
})

export const describeEnvironment = (
  { cores, cpu, kernel, load1, memoryGib, tcpCongestionControl, versions }: Environment
): string =>
  `${cores} x ${cpu}, ${memoryGib} GiB, ${kernel}, TCP ${tcpCongestionControl}, load ${
    load1.toFixed(2)
  } before the start
${Object.entries(versions).map(([program, version]) => `${program} ${version}`).join(", ")}`
