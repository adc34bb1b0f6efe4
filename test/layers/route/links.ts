/** What these tests change in their own network namespace. */
import * as fs from "node:fs"
import { ip } from "../../support/netns.ts"

/** `ip` for cleaning up what may not be there. */
export const attemptIp = (args: string): void => {
  try {
    ip(args)
  } catch {
    // it was not
  }
}

export const sysctl = (name: string, value: string): void =>
  fs.writeFileSync(`/proc/sys/${name.replaceAll(".", "/")}`, value)
