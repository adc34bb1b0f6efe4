/** A Unix socket that this process listens on: room for it, who may connect, and who is at the other end. */
import * as Data from "effect/Data"
import * as Effect from "effect/Effect"
import type * as Scope from "effect/Scope"
import * as fs from "node:fs"
import * as net from "node:net"
import * as path from "node:path"
import { makeFolder } from "../makeFolder.ts"

/** `sun_path` of unix(7), without its final zero. */
const MAX_PATH_BYTES = 107

/** Another process answers there. */
export class SocketTaken extends Data.TaggedError("SocketTaken") {}

/** It cannot be made. */
export class SocketUnusable extends Data.TaggedError("SocketUnusable")<{ readonly why: string }> {}

const unusable = (cause: unknown) => new SocketUnusable({ why: cause instanceof Error ? cause.message : String(cause) })

/**
 * Listens on `socket`, which replaces what a killed process has left there; its folder is made if it is missing. The scope
 * removes both. Connections are half open: whoever takes them closes them.
 */
export const listenOn = (
  socket: string,
  mode: number,
  onConnection: (socket: net.Socket) => void
): Effect.Effect<void, SocketTaken | SocketUnusable, Scope.Scope> =>
  Effect.gen(function*() {
    const madeFolder = yield* claim(socket)
    yield* Effect.addFinalizer(() => Effect.sync(() => madeFolder === undefined || removeFolder(madeFolder)))
    yield* Effect.acquireRelease(
      listen(socket, mode, onConnection),
      (server) => Effect.sync(() => server.close()) // removes the socket too
    )
  })

/** Node keeps it to itself and does not type it, so this asks with care; `undefined` once the socket is closed. */
export const descriptorOf = (socket: net.Socket): number | undefined =>
  (socket as unknown as { readonly _handle?: { readonly fd?: number } | null })._handle?.fd

/** Makes room for the socket; returns the folder that it had to make. */
const claim = (socket: string): Effect.Effect<string | undefined, SocketTaken | SocketUnusable> =>
  Effect.gen(function*() {
    if (Buffer.byteLength(socket) > MAX_PATH_BYTES) {
      return yield* unusable(`its path is longer than ${MAX_PATH_BYTES} bytes`)
    }
    const { found, madeFolder } = yield* Effect.try({
      try: () => ({
        madeFolder: openFolder(path.dirname(socket)),
        found: fs.lstatSync(socket, { throwIfNoEntry: false })
      }),
      catch: unusable
    })
    if (found === undefined) return madeFolder
    if (!found.isSocket()) return yield* unusable("there is something else of this name")
    const state = yield* probe(socket)
    if (state === "alive") return yield* new SocketTaken()
    if (state !== "dead") return yield* unusable(state)
    yield* Effect.try({ try: () => fs.rmSync(socket, { force: true }), catch: unusable })
    return madeFolder
  })

/** Anybody may look into it: who may connect is up to the socket. */
const openFolder = (folder: string): string | undefined => {
  const umask = process.umask(0o022)
  try {
    return makeFolder(folder, 0o755) ? folder : undefined
  } finally {
    process.umask(umask)
  }
}

const removeFolder = (folder: string): void => {
  try {
    fs.rmdirSync(folder)
  } catch {
    // Somebody else uses it by now.
  }
}

/** Whether a process listens on a socket that is there, or why that cannot be told. */
const probe = (socket: string): Effect.Effect<string> =>
  Effect.async((resume) => {
    const connection = net.connect(socket)
    connection.once("connect", () => {
      connection.destroy()
      resume(Effect.succeed("alive"))
    })
    connection.once("error", (error: NodeJS.ErrnoException) => {
      const isDead = error.code === "ECONNREFUSED" || error.code === "ENOENT"
      // A full backlog is somebody's.
      resume(Effect.succeed(isDead ? "dead" : error.code === "EAGAIN" ? "alive" : error.message))
    })
  })

const listen = (
  socket: string,
  mode: number,
  onConnection: (socket: net.Socket) => void
): Effect.Effect<net.Server, SocketUnusable> =>
  Effect.async((resume) => {
    const server = net.createServer({ allowHalfOpen: true }, onConnection)
    const failed = (cause: unknown) => resume(unusable(cause))
    server.once("error", failed)
    // Its mode is right from the start: one that is changed later could be that of what another user has put there instead.
    const umask = process.umask(0o777 & ~mode)
    try {
      server.listen(socket, () => {
        // Of `accept`, such as too many open files: those that are open go on.
        server.off("error", failed).on("error", () => undefined)
        resume(Effect.succeed(server))
      })
    } finally {
      process.umask(umask)
    }
  })
