/** systemd-resolved's command (host spec section 13.1), for where it cannot be told over D-Bus. */
import * as Effect from "effect/Effect"
import { execFile } from "node:child_process"
import * as fs from "node:fs"
import * as path from "node:path"
import { DnsControlFailed, type DnsTarget } from "../../services/DnsControl.ts"

/** A bus without its daemon would wait 25 s. */
const LONGEST_MILLIS = 5000

/** The PATH of a service may be short. */
const searchPath = (): string => `${process.env["PATH"] ?? ""}:/usr/bin:/bin`

export const hasResolvectl = (): boolean =>
  searchPath().split(":").some((folder) => folder !== "" && fs.existsSync(path.join(folder, "resolvectl")))

/** What it needs of ours, in which there may be secrets: where the bus is, if somebody says so. */
const environment = (): NodeJS.ProcessEnv => {
  const bus = process.env["DBUS_SYSTEM_BUS_ADDRESS"]
  return { PATH: searchPath(), LC_ALL: "C", ...(bus === undefined ? {} : { DBUS_SYSTEM_BUS_ADDRESS: bus }) }
}

/** Runs `resolvectl` with these arguments to its end. */
export type Resolvectl = (args: ReadonlyArray<string>) => Effect.Effect<void, DnsControlFailed>

export const resolvectl: Resolvectl = (args) =>
  Effect.async((resume) => {
    const child = execFile(
      "resolvectl",
      args,
      { timeout: LONGEST_MILLIS, env: environment() },
      (error, _stdout, stderr) =>
        resume(
          error === null ? Effect.void : new DnsControlFailed({
            step: `resolvectl ${args[0]}`,
            cause: stderr.trim() || (error.killed === true ? `no answer within ${LONGEST_MILLIS} ms` : error.message),
            hint: "is systemd-resolved running? --dns-control disabled does without names"
          })
        )
    )
    return Effect.sync(() => child.kill())
  })

/** What points an interface's DNS at the servers; the first word of each is the step. */
export const commands = (
  { interfaceName, searchDomain, servers }: DnsTarget
): ReadonlyArray<{ readonly args: ReadonlyArray<string>; readonly isNeeded: boolean }> => [
  // `~.` asks us for every name; beside it the search domain, so that other links are not asked again (quirk 16).
  {
    isNeeded: true,
    args: ["domain", "--", interfaceName, ...(searchDomain === undefined ? [] : [searchDomain]), "~."]
  },
  { isNeeded: false, args: ["default-route", "--", interfaceName, "yes"] },
  { isNeeded: true, args: ["llmnr", "--", interfaceName, "yes"] },
  // Our servers sign nothing and need no encryption: where the system's default is to demand it, they would not be asked.
  { isNeeded: false, args: ["dnssec", "--", interfaceName, "no"] },
  { isNeeded: false, args: ["dnsovertls", "--", interfaceName, "no"] },
  // Last: until it has servers the link counts for nothing, so that no name goes astray in between.
  { isNeeded: true, args: ["dns", "--", interfaceName, ...servers] }
]
