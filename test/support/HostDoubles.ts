/** A machine that the test describes: its files, processes, network and kernel. */
import * as Effect from "effect/Effect"
import * as Either from "effect/Either"
import * as Layer from "effect/Layer"
import { SyscallError } from "../../src/ffi/SyscallError.ts"
import type { IpAddress } from "../../src/model/Route.ts"
import { HostCommands } from "../../src/services/HostCommands.ts"
import { type FileFacts, FileUnreadable, HostFiles } from "../../src/services/HostFiles.ts"
import { KernelProbe, type SocketAbilities, type TunRefused } from "../../src/services/KernelProbe.ts"
import {
  type LinkFacts,
  NetworkInventory,
  type RouteFacts,
  type RuleFacts
} from "../../src/services/NetworkInventory.ts"
import { Processes, type ProcessFacts } from "../../src/services/Processes.ts"

type FileDouble = Partial<FileFacts> & { readonly text?: string; readonly isUnreadable?: boolean }

export interface HostDoubles {
  readonly files: Map<string, FileDouble>
  readonly readOnly: Set<string>
  freeBytes: number | undefined
  /** By the whole command line. */
  readonly commands: Map<string, string>
  processes: ReadonlyArray<ProcessFacts>
  capabilities: bigint | undefined
  tunHolder: ProcessFacts | undefined
  links: ReadonlyArray<LinkFacts>
  routes: ReadonlyArray<RouteFacts>
  rules: ReadonlyArray<RuleFacts>
  tun: Either.Either<string, TunRefused>
  sockets: SocketAbilities
  pathMtu: (destination: IpAddress) => number
  readonly layer: Layer.Layer<HostCommands | HostFiles | KernelProbe | NetworkInventory | Processes>
}

export const syscallError = (errno: string, code = 1): SyscallError =>
  new SyscallError({ syscall: "test", code, errno })

export const processNamed = (name: string, pid: number, words: ReadonlyArray<string> = [name]): ProcessFacts => ({
  pid,
  name,
  words,
  isElsewhere: false
})

/** One that could not be better. */
export const makeHostDoubles = (): HostDoubles => {
  const find = (file: string): Effect.Effect<FileDouble | undefined, FileUnreadable> => {
    const found = double.files.get(file)
    return found?.isUnreadable === true ? new FileUnreadable({ file, code: "EACCES" }) : Effect.succeed(found)
  }
  const double: HostDoubles = {
    files: new Map<string, FileDouble>([
      ["/", { kind: "folder" }],
      ["/dev/net/tun", { kind: "device" }],
      ["/proc/sys/net/ipv6/conf/all/disable_ipv6", { text: "0\n" }],
      ["/proc/sys/net/core/rmem_max", { text: "212992\n" }],
      ["/proc/sys/net/core/wmem_max", { text: "212992\n" }],
      ["/etc/resolv.conf", { text: "nameserver 192.0.2.53\n" }]
    ]),
    readOnly: new Set(),
    freeBytes: 1e9,
    commands: new Map(),
    processes: [processNamed("init", 1)],
    capabilities: (1n << 41n) - 1n,
    tunHolder: undefined,
    links: [
      { index: 1, name: "lo", isUp: true, isLoopback: true, mtu: 65_536 },
      { index: 2, name: "eth0", isUp: true, isLoopback: false, mtu: 1500 }
    ],
    routes: [],
    rules: [
      { family: 4, priority: 0, table: 255, isInverted: false },
      { family: 4, priority: 32_766, table: 254, isInverted: false }
    ],
    tun: Either.right("tso,uso"),
    sockets: { mark: Either.void, segmentation: true, coalescing: true },
    pathMtu: () => 1500,
    layer: Layer.mergeAll(
      Layer.succeed(HostFiles, {
        look: (file) =>
          Effect.map(
            find(file),
            (found) =>
              found === undefined ? undefined : { kind: "file", uid: 0, gid: 0, mode: 0o600, modifiedAt: 0, ...found }
          ),
        text: (file) => Effect.map(find(file), (found) => found === undefined ? undefined : found.text ?? ""),
        names: () => Effect.succeed([]),
        isWritable: (file) => Effect.sync(() => !double.readOnly.has(file)),
        freeBytes: () => Effect.sync(() => double.freeBytes)
      }),
      Layer.succeed(HostCommands, {
        output: (...words) => Effect.sync(() => double.commands.get(words.join(" ")))
      }),
      Layer.succeed(Processes, {
        all: Effect.sync(() => double.processes),
        capabilities: () => Effect.sync(() => double.capabilities),
        holderOfTun: () => Effect.sync(() => double.tunHolder)
      }),
      Layer.succeed(NetworkInventory, {
        links: Effect.sync(() => double.links),
        routes: Effect.sync(() => double.routes),
        rules: Effect.sync(() => double.rules)
      }),
      Layer.succeed(KernelProbe, {
        tun: Effect.sync(() => double.tun),
        sockets: Effect.sync(() => double.sockets),
        pathMtu: (destination) => Effect.sync(() => double.pathMtu(destination))
      })
    )
  }
  return double
}
