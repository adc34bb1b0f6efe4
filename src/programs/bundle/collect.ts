/** What a bundle holds: each part looked for by itself, so that one that is missing takes no other with it. */
import * as Effect from "effect/Effect"
import * as Redacted from "effect/Redacted"
import type { StatusReport } from "../../model/status.ts"
import { version } from "../../model/version.ts"
import { BundleStore } from "../../services/BundleStore.ts"
import { ClientConfig } from "../../services/ClientConfig.ts"
import { ControlClient } from "../../services/ControlClient.ts"
import { HostCommands } from "../../services/HostCommands.ts"
import { HostFiles } from "../../services/HostFiles.ts"

/** A file of the bundle, or why it is not there. */
export type Part =
  | { readonly name: string; readonly what: string; readonly text: string }
  | { readonly name: string; readonly why: string }

const MEBIBYTE = 1024 * 1024
export const LOG_LIMITS = { perFile: 4 * MEBIBYTE, total: 12 * MEBIBYTE } as const
const UNIT = "firezone-headless-client.service"

const json = (value: unknown): string => `${JSON.stringify(value, undefined, 2)}\n`

/** The output of a program, named after what is asked. */
const command = (name: string, what: string, program: string, ...args: ReadonlyArray<string>) =>
  Effect.gen(function*() {
    const text = yield* (yield* HostCommands).output(program, ...args)
    const line = [program, ...args].join(" ")
    const part: Part = text === undefined
      ? { name, why: `${line}: no such program here, or it failed, or said too much` }
      : { name, what: `${what}: ${line}`, text }
    return part
  })

const file = (name: string, what: string, path: string) =>
  Effect.gen(function*() {
    const text = yield* (yield* HostFiles).text(path)
    return text === undefined ? { name, why: `there is no ${path}` } : { name, what: `${what}: ${path}`, text }
  }).pipe(
    Effect.catchAll(({ message }) => Effect.succeed({ name, why: message })),
    Effect.map((part): Part => part)
  )

/** Several short files as one. */
const facts = (name: string, what: string, paths: ReadonlyArray<string>) =>
  Effect.gen(function*() {
    const files = yield* HostFiles
    const texts = yield* Effect.forEach(paths, (path) =>
      Effect.match(files.text(path), {
        onFailure: ({ message }) => `${path}: ${message}`,
        onSuccess: (text) => text === undefined ? `${path}: not there` : `${path}:\n${text.trimEnd()}`
      }))
    const part: Part = { name, what, text: `${texts.join("\n\n")}\n` }
    return part
  })

const sysctls = [
  "net/core/rmem_max",
  "net/core/wmem_max",
  "net/ipv4/ip_forward",
  "net/ipv4/conf/all/rp_filter",
  "net/ipv4/ping_group_range",
  "net/ipv6/conf/all/disable_ipv6",
  "net/ipv6/conf/all/forwarding",
  "fs/file-max"
].map((name) => `/proc/sys/${name}`)

const network = [
  command("network/link.txt", "interfaces", "ip", "-d", "-s", "link", "show"),
  command("network/address.txt", "addresses", "ip", "address", "show"),
  command("network/rule4.txt", "policy rules", "ip", "rule", "show"),
  command("network/rule6.txt", "policy rules", "ip", "-6", "rule", "show"),
  command("network/route4.txt", "routes", "ip", "route", "show", "table", "all"),
  command("network/route6.txt", "routes", "ip", "-6", "route", "show", "table", "all"),
  facts("network/counters.txt", "the kernel's counters", [
    "/proc/net/snmp",
    "/proc/net/snmp6",
    "/proc/net/netstat",
    "/proc/net/sockstat"
  ])
]

const dns = [
  file("dns/resolv.conf", "what programs read", "/etc/resolv.conf"),
  file("dns/resolv.conf.before-firezone", "what the client keeps of it", "/etc/resolv.conf.before-firezone"),
  file("dns/nsswitch.conf", "the order of look-ups", "/etc/nsswitch.conf"),
  command("dns/resolvectl.txt", "systemd-resolved's state", "resolvectl", "--no-pager", "status"),
  Effect.gen(function*() {
    const found = yield* (yield* HostFiles).look("/etc/resolv.conf")
    const part: Part = { name: "dns/resolv.conf.json", what: "what kind of file it is", text: json(found ?? null) }
    return part
  }).pipe(
    Effect.catchAll(({ message }) => Effect.succeed<Part>({ name: "dns/resolv.conf.json", why: message }))
  )
]

const host = [
  facts("host/kernel.txt", "the system", ["/proc/version", "/etc/os-release", "/proc/loadavg", "/proc/meminfo"]),
  facts("host/sysctl.txt", "settings of the kernel", sysctls),
  command("host/unit.txt", "the service as systemd sees it", "systemctl", "--no-pager", "show", UNIT),
  command("host/unit-files.txt", "its unit and drop-ins", "systemctl", "--no-pager", "cat", UNIT),
  file("host/default.txt", "the service's settings", "/etc/default/firezone-headless-client")
]

/** The most lines that fit. */
const journal = Effect.gen(function*() {
  const name = "logs/journal.txt"
  const last = (lines: string) =>
    command(name, "the service's journal", "journalctl", "--no-pager", "-o", "short-iso", "-u", UNIT, "-n", lines)
  const long = yield* last("1500")
  return "text" in long ? long : yield* last("300")
})

const logFiles = Effect.gen(function*() {
  const { logDir } = yield* ClientConfig
  if (logDir === undefined) {
    return [{ name: "logs/", why: "there is no folder of log files: give --log-dir if the client has one" }]
  }
  const { leftOut, tails } = yield* (yield* BundleStore).logs(logDir, LOG_LIMITS)
  const parts = tails.map(({ name, size, text }): Part => {
    // A tar takes no other names, and our own have none.
    const plain = name.replaceAll(/[^\w.-]/g, "_").slice(0, 80)
    const cut = Buffer.byteLength(text) < size ? `the last ${Buffer.byteLength(text)} of ${size} bytes of ` : ""
    return { name: `logs/${plain}`, what: `${cut}a log file of ${logDir}`, text }
  })
  const more: ReadonlyArray<Part> = leftOut === 0
    ? []
    : [{ name: "logs/", why: `${leftOut} log files of ${logDir} cannot be read, or are older and would be too much` }]
  return [...parts, ...more]
}).pipe(Effect.catchAll(({ message }) => Effect.succeed<ReadonlyArray<Part>>([{ name: "logs/", why: message }])))

const ofProcess = ({ client: { pid } }: StatusReport) =>
  facts("client/process.txt", "the running client", [`/proc/${pid}/status`, `/proc/${pid}/limits`])

const settings = Effect.map(ClientConfig, (settings): Part => ({
  name: "client/settings.json",
  what: "settings of this command, which are the client's if it has the same options and variables",
  text: json({ ...settings, apiUrl: settings.apiUrl.href })
}))

const platform = Effect.sync((): Part => ({
  name: "client/version.json",
  what: "versions",
  text: json({
    client: version,
    node: process.versions.node,
    openssl: process.versions.openssl,
    platform: process.platform,
    arch: process.arch,
    uid: process.getuid?.(),
    options: process.execArgv
  })
}))

const status = Effect.gen(function*() {
  const report = yield* (yield* ControlClient).status
  const part: Part = { name: "client/status.json", what: "as of: status --json", text: json(report) }
  return [part, yield* ofProcess(report)]
}).pipe(
  Effect.catchAll(({ message }) => Effect.succeed<ReadonlyArray<Part>>([{ name: "client/status.json", why: message }]))
)

/** `doctor` prints its report as JSON. */
export const collect = <R>(doctor: Effect.Effect<string | undefined, never, R>) =>
  Effect.gen(function*() {
    const examined = Effect.map(doctor, (text): Part =>
      text === undefined
        ? { name: "client/doctor.json", why: "doctor did not come to an end" }
        : { name: "client/doctor.json", what: "as of: doctor --json", text })
    const parts = yield* Effect.all([
      Effect.all([platform, settings]),
      status,
      Effect.map(examined, (part) => [part]),
      Effect.all(network),
      Effect.all(dns),
      Effect.all(host),
      Effect.map(journal, (part) => [part]),
      logFiles
    ], { concurrency: "unbounded" })
    return parts.flat()
  })

/** A token as text, to be looked for and never shown. */
export const secretOf = (token: Redacted.Redacted | undefined): ReadonlyArray<string> =>
  token === undefined ? [] : [Redacted.value(token)]
