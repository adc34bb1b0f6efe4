/**
 * Network namespaces for tests, so that nothing they do reaches the machine's own network. A test file runs in a process
 * of its own; namespaces belong to its main thread, and programs that it starts are in the same one.
 */
import * as Effect from "effect/Effect"
import type * as Scope from "effect/Scope"
import { execFileSync } from "node:child_process"
import * as fs from "node:fs"
import { open } from "../../src/ffi/linux/file.ts"
import { close, lastError, lazily } from "../../src/ffi/linux/libc.ts"

const CLONE_NEWNET = 0x40000000
const unshare = lazily<(flags: number) => number>("int unshare(int flags)")
const setns = lazily<(fd: number, type: number) => number>("int setns(int fd, int type)")

/** Runs a program and returns what it printed; throws with its complaints if it fails. */
export const run = (program: string, ...args: ReadonlyArray<string>): string =>
  execFileSync(program, args, { encoding: "utf8", stdio: ["ignore", "pipe", "pipe"] })

/** `ip` with its arguments in one string, such as `ip("link set lo up")`. */
export const ip = (args: string): string => run("ip", ...args.split(" "))

let entered = false

/** Moves this process into a new network namespace with only `lo`, which is up. It ends with the process. Needs root. */
export const enterPrivateNetworkNamespace = (): void => {
  if (entered) return
  if (unshare()(CLONE_NEWNET) !== 0) throw lastError("unshare(CLONE_NEWNET)")
  entered = true
  prepare()
}

/** IPv6 addresses work at once, and the kernel sends nothing by itself that a test would have to ignore. */
const prepare = (): void => {
  for (const which of ["default", "all"]) {
    fs.writeFileSync(`/proc/sys/net/ipv6/conf/${which}/accept_dad`, "0")
  }
  ip("link set lo up")
}

export interface Namespace {
  readonly name: string
  /** Runs a program inside and returns what it printed. */
  readonly run: (program: string, ...args: ReadonlyArray<string>) => string
  /** The arguments before a command line that run it inside, for `spawn`. */
  readonly prefix: ReadonlyArray<string>
  /** Runs the effect with this process inside; only its synchronous calls and new programs count. */
  readonly inside: <A, E, R>(effect: Effect.Effect<A, E, R>) => Effect.Effect<A, E, R>
}

let count = 0

/** A new namespace with `lo` up, under a name that is `name` made unique; the scope deletes it. */
export const makeNamespace = (name: string): Effect.Effect<Namespace, never, Scope.Scope> =>
  Effect.acquireRelease(
    Effect.sync(() => {
      const unique = `${name}-${process.pid}-${count++}`
      ip(`netns add ${unique}`)
      return unique
    }),
    (unique) => Effect.sync(() => ip(`netns del ${unique}`))
  ).pipe(Effect.map((unique) => {
    const inside: Namespace["inside"] = (effect) =>
      Effect.acquireUseRelease(
        Effect.sync(() => {
          const home = openNamespace("/proc/thread-self/ns/net")
          enter(`/run/netns/${unique}`)
          return home
        }),
        () => effect,
        (home) =>
          Effect.sync(() => {
            if (setns()(home, CLONE_NEWNET) !== 0) throw lastError("setns")
            close()(home)
          })
      )
    Effect.runSync(inside(Effect.sync(prepare)))
    return {
      name: unique,
      prefix: ["ip", "netns", "exec", unique],
      run: (program, ...args) => run("ip", "netns", "exec", unique, program, ...args),
      inside
    }
  }))

const openNamespace = (path: string): number => {
  const fd = open()(path, 0o2000000, 0)
  if (fd < 0) throw lastError(`open ${path}`)
  return fd
}

const enter = (path: string): void => {
  const fd = openNamespace(path)
  const result = setns()(fd, CLONE_NEWNET)
  close()(fd)
  if (result !== 0) throw lastError(`setns ${path}`)
}

/** Calls `body` with this process inside the namespace that a file stands for, such as `/run/netns/name`. */
export const insideNamespace = <A>(file: string, body: () => A): A => {
  const home = openNamespace("/proc/thread-self/ns/net")
  try {
    enter(file)
    return body()
  } finally {
    // That of our own process: it cannot fail.
    setns()(home, CLONE_NEWNET)
    close()(home)
  }
}
