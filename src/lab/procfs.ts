/** Who a process is and which network it is in, by the kernel's own names for both: proc(5), namespaces(7). */
import * as fs from "node:fs"

/** When a process began, in clock ticks since the machine did; `undefined` if it has ended. */
export const startOf = (pid: number): string | undefined => {
  try {
    const stat = fs.readFileSync(`/proc/${pid}/stat`, "utf8")
    // The second field, the name, may hold anything but is the only one in brackets; these are the third and the 22nd.
    const fields = stat.slice(stat.lastIndexOf(")") + 2).split(" ")
    return fields[0] === "Z" || fields[0] === "X" ? undefined : fields[19]
  } catch {
    return undefined
  }
}

/** What tells one namespace from another; `undefined` if the file is not there or not for us. */
export const namespaceKey = (file: string): string | undefined => {
  try {
    const { dev, ino } = fs.statSync(file)
    return `${dev}:${ino}`
  } catch {
    return undefined
  }
}

/** The processes in any of these network namespaces, without this one. */
export const processesIn = (keys: ReadonlySet<string>): ReadonlyArray<number> =>
  keys.size === 0 ? [] : fs.readdirSync("/proc").filter((name) => /^[0-9]+$/.test(name)).map(Number).filter((pid) => {
    const key = namespaceKey(`/proc/${pid}/ns/net`)
    return key !== undefined && keys.has(key) && pid !== process.pid
  })
