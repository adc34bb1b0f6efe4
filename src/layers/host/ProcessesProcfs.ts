/** /proc/PID (proc(5)). */
import * as Effect from "effect/Effect"
import * as Layer from "effect/Layer"
import * as fs from "node:fs"
import { Processes, type ProcessFacts } from "../../services/Processes.ts"

const TUN = "/dev/net/tun"
/** Of one process; whoever has more is no VPN client. */
const MOST_DESCRIPTORS = 4096

const orUndefined = <A>(call: () => A): A | undefined => {
  try {
    return call()
  } catch {
    return undefined
  }
}

const read = (file: string): string => orUndefined(() => fs.readFileSync(file, "utf8")) ?? ""
const names = (folder: string): ReadonlyArray<string> => orUndefined(() => fs.readdirSync(folder)) ?? []

const all = (root: string): ReadonlyArray<ProcessFacts> => {
  const network = (pid: string) => orUndefined(() => fs.readlinkSync(`${root}/${pid}/ns/net`))
  const own = network("self")
  return names(root).filter((name) => /^\d+$/.test(name)).flatMap((pid) => {
    const name = read(`${root}/${pid}/comm`).trim()
    return name === "" ? [] : [{
      pid: Number(pid),
      name,
      words: read(`${root}/${pid}/cmdline`).split("\0").filter((word) => word !== ""),
      isElsewhere: (network(pid) ?? own) !== own
    }]
  })
}

const hasTun = (root: string, pid: number, interfaceName: string): boolean =>
  names(`${root}/${pid}/fd`).slice(0, MOST_DESCRIPTORS).some((fd) =>
    orUndefined(() => fs.readlinkSync(`${root}/${pid}/fd/${fd}`)) === TUN &&
    /^iff:\s*(\S+)$/m.exec(read(`${root}/${pid}/fdinfo/${fd}`))?.[1] === interfaceName
  )

export const layerWith = (root: string): Layer.Layer<Processes> =>
  Layer.succeed(
    Processes,
    Processes.of({
      all: Effect.sync(() => all(root)),
      capabilities: (pid) =>
        Effect.sync(() => {
          const digits = /^CapEff:\s*([0-9a-f]+)$/m.exec(read(`${root}/${pid}/status`))?.[1]
          return digits === undefined ? undefined : BigInt(`0x${digits}`)
        }),
      holderOfTun: (interfaceName) => Effect.sync(() => all(root).find(({ pid }) => hasTun(root, pid, interfaceName)))
    })
  )

export const layer = layerWith("/proc")
