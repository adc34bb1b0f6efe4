/** The descriptors of this process, to find what leaks. Linux only. */
import * as fs from "node:fs"

/** The inodes of all open sockets, such as `socket:[4711]`. */
export const openSockets = (): ReadonlySet<string> => {
  const found = new Set<string>()
  for (const fd of fs.readdirSync("/proc/self/fd")) {
    try {
      const target = fs.readlinkSync(`/proc/self/fd/${fd}`)
      if (target.startsWith("socket:")) found.add(target)
    } catch {
      // the descriptor of the directory itself, closed by now
    }
  }
  return found
}

/** How many of the sockets now open were not then. */
export const openedSince = (before: ReadonlySet<string>): number =>
  [...openSockets()].filter((socket) => !before.has(socket)).length
