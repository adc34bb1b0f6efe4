/** What the user agent says of this machine. */
import * as fs from "node:fs"
import * as os from "node:os"
import { type HostFacts, semanticVersion } from "../../protocol/portal/userAgent.ts"

/** The value of one variable in the syntax of os-release(5), without what quotes allow beyond plain text. */
const variable = (text: string, name: string): string | undefined =>
  new RegExp(`^${name}=["']?([^"'\n]*)["']?$`, "m").exec(text)?.[1]

/** `osRelease` is the text of os-release(5), where there is one. */
export const hostFactsOf = (osRelease: string | undefined): HostFacts => {
  const isWindows = os.type() === "Windows_NT"
  // As the portal's other clients name systems: without what every name ends in.
  const name = osRelease && variable(osRelease, "NAME")?.replace(/( GNU\/)? ?Linux$/, "")
  const version = osRelease && variable(osRelease, "VERSION_ID")
  return {
    osType: name || (isWindows ? "Windows" : os.type()),
    osVersion: semanticVersion(version || os.release()),
    arch: os.machine(),
    kernel: isWindows ? undefined : os.release()
  }
}

export const readHostFacts = (): HostFacts => {
  try {
    return hostFactsOf(fs.readFileSync("/etc/os-release", "utf8"))
  } catch {
    return hostFactsOf(undefined)
  }
}
