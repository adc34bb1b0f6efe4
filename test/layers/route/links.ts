/** Interfaces of a test's own network namespace. */
import * as fs from "node:fs"
import { ip } from "../../support/netns.ts"

/** An up interface named `name` whose other end, `${name}-peer`, is up too; without link-local addresses. */
export const addLink = (name: string): void => {
  ip(`link add ${name} type veth peer name ${name}-peer`)
  for (const end of [name, `${name}-peer`]) ip(`link set ${end} addrgenmode none`)
  for (const end of [`${name}-peer`, name]) ip(`link set ${end} up`)
}

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
