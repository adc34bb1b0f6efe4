import { assert, describe, it } from "@effect/vitest"
import * as Deferred from "effect/Deferred"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import * as Queue from "effect/Queue"
import * as Scope from "effect/Scope"
import { buildSync } from "esbuild"
import koffi from "koffi"
import * as childProcess from "node:child_process"
import * as fs from "node:fs"
import * as path from "node:path"
import * as v8 from "node:v8"
import * as vm from "node:vm"
import { eventfd, O_CLOEXEC, O_NONBLOCK, read, write } from "../../../src/ffi/linux/file.ts"
import { close, ERRNO, errno, lazily, memoryAddress } from "../../../src/ffi/linux/libc.ts"
import * as ReadinessPollerAsync from "../../../src/layers/poll/ReadinessPollerAsync.ts"
import * as ReadinessPollerKoffi from "../../../src/layers/poll/ReadinessPollerKoffi.ts"
import { ReadinessPoller } from "../../../src/services/ReadinessPoller.ts"

v8.setFlagsFromString("--expose-gc")
const collectGarbage = vm.runInNewContext("gc") as () => void

const one = new Uint8Array(BigUint64Array.of(1n).buffer)
const counter = new Uint8Array(8)
const signal = (fd: number) => write()(fd, memoryAddress(one), 8)
const drain = (fd: number) => read()(fd, memoryAddress(counter), 8)

/** An event counter: readable once signalled, until drained; always writable. */
const eventCounter = Effect.acquireRelease(
  Effect.sync(() => eventfd()(0, O_NONBLOCK | O_CLOEXEC)),
  (fd) => Effect.sync(() => close()(fd))
)

/** One real turn of the event loop; the test clock does not move it. */
const turn = Effect.async<void>((resume) => void setImmediate(() => resume(Effect.void)))

const layers = { "koffi.node.poll": ReadinessPollerKoffi.layerNative, "poll(2)": ReadinessPollerAsync.layer }

it.scoped("falls back to poll(2) where koffi has no node.poll", () =>
  Effect.gen(function*() {
    const node = koffi.node as unknown as { poll?: unknown }
    const poll = node.poll
    let used = 0
    yield* Effect.acquireRelease(
      Effect.sync(() => delete node.poll),
      () => Effect.sync(() => node.poll = poll)
    )
    Object.defineProperty(node, "poll", { get: () => void (used += 1), configurable: true })
    yield* Effect.addFinalizer(() => Effect.sync(() => delete node.poll))
    const fd = yield* eventCounter
    const seen = yield* Deferred.make<void>()
    yield* Effect.gen(function*() {
      yield* (yield* ReadinessPoller).watch(fd, () => {
        drain(fd)
        Deferred.unsafeDone(seen, Exit.void)
      })
      signal(fd)
      yield* Deferred.await(seen)
    }).pipe(Effect.scoped, Effect.provide(ReadinessPollerKoffi.layer))
    assert.strictEqual(used, 1)
  }))

for (const [name, layer] of Object.entries(layers)) {
  describe(`ReadinessPoller over ${name}`, () => {
    it.scoped("reports readability until it is drained, and again afterwards", () =>
      Effect.gen(function*() {
        const fd = yield* eventCounter
        const calls = yield* Queue.unbounded<string>()
        let left = 3
        yield* (yield* ReadinessPoller).watch(fd, (readable, writable) => {
          left -= 1
          if (left === 0) drain(fd)
          calls.unsafeOffer(`${readable} ${writable}`)
        })
        signal(fd)
        assert.deepStrictEqual([...(yield* Queue.takeN(calls, 3))], Array.from({ length: 3 }, () => "true false"))
        left = 1
        signal(fd)
        yield* Queue.take(calls)
        assert.strictEqual(left, 0)
      }).pipe(Effect.provide(layer)))

    it.scoped("keeps watching when garbage is collected", () =>
      Effect.gen(function*() {
        const fd = yield* eventCounter
        const seen = yield* Deferred.make<void>()
        yield* (yield* ReadinessPoller).watch(fd, () => {
          drain(fd)
          Deferred.unsafeDone(seen, Exit.void)
        })
        for (let i = 0; i < 5; i++) {
          collectGarbage()
          yield* turn
        }
        signal(fd)
        yield* Deferred.await(seen)
      }).pipe(Effect.provide(layer)))

    it.scoped("reports writability only while that is wanted", () =>
      Effect.gen(function*() {
        const fd = yield* eventCounter
        const calls = yield* Queue.unbounded<string>()
        const watch = yield* (yield* ReadinessPoller).watch(fd, (readable, writable) => {
          if (readable) drain(fd)
          if (writable) watch.setWritable(false)
          calls.unsafeOffer(`${readable} ${writable}`)
        })
        watch.setWritable(true)
        assert.strictEqual(yield* Queue.take(calls), "false true")
        signal(fd)
        assert.strictEqual(yield* Queue.take(calls), "true false")
        assert.strictEqual(yield* Queue.size(calls), 0)
      }).pipe(Effect.provide(layer)))

    it.scoped("reports readability only while that is wanted, and does not spin meanwhile", () =>
      Effect.gen(function*() {
        const fd = yield* eventCounter
        const other = yield* eventCounter
        const poller = yield* ReadinessPoller
        const calls = yield* Queue.unbounded<string>()
        const watch = yield* poller.watch(fd, (readable, writable) => {
          if (readable) watch.setReadable(false) // and leaves it undrained
          if (writable) watch.setWritable(false)
          calls.unsafeOffer(`${readable} ${writable}`)
        })
        signal(fd)
        assert.strictEqual(yield* Queue.take(calls), "true false")
        // The loop turns: another watch is served several times, this one is not.
        for (let i = 0; i < 5; i++) {
          yield* Deferred.make<void>().pipe(Effect.flatMap((seen) =>
            Effect.gen(function*() {
              yield* poller.watch(other, () => {
                drain(other)
                Deferred.unsafeDone(seen, Exit.void)
              })
              signal(other)
              yield* Deferred.await(seen)
            }).pipe(Effect.scoped)
          ))
        }
        assert.strictEqual(yield* Queue.size(calls), 0)
        watch.setWritable(true)
        assert.strictEqual(yield* Queue.take(calls), "false true")
        watch.setReadable(true)
        assert.strictEqual(yield* Queue.take(calls), "true false")
        assert.strictEqual(yield* Queue.size(calls), 0)
      }).pipe(Effect.provide(layer)))

    it.scoped("lets a watch be ended from its own callback and calls no more", () =>
      Effect.gen(function*() {
        const fd = yield* eventCounter
        const other = yield* eventCounter
        const scope = yield* Scope.make()
        const poller = yield* ReadinessPoller
        let calls = 0
        const watch = yield* poller.watch(fd, () => {
          calls += 1
          Effect.runFork(Scope.close(scope, Exit.void))
        }).pipe(Scope.extend(scope))
        signal(fd)
        const ended = yield* Deferred.make<void>()
        yield* Scope.addFinalizer(scope, Deferred.succeed(ended, undefined))
        yield* Deferred.await(ended)
        // A watch made later is served, so the loop has turned since; the first descriptor is still readable.
        const seen = yield* Deferred.make<void>()
        yield* poller.watch(other, () => {
          drain(other)
          Deferred.unsafeDone(seen, Exit.void)
        })
        signal(other)
        yield* Deferred.await(seen)
        watch.setReadable(false)
        watch.setWritable(true) // nothing happens, and nothing crashes
        yield* turn
        assert.strictEqual(calls, 1)
      }).pipe(Effect.provide(layer)))

    it.scoped("may watch a descriptor again once its first watch has ended", () =>
      Effect.gen(function*() {
        const fd = yield* eventCounter
        const poller = yield* ReadinessPoller
        for (let i = 0; i < 3; i++) {
          const seen = yield* Deferred.make<void>()
          signal(fd)
          yield* poller.watch(fd, () => {
            drain(fd)
            Deferred.unsafeDone(seen, Exit.void)
          }).pipe(Effect.zipRight(Deferred.await(seen)), Effect.scoped)
        }
      }).pipe(Effect.provide(layer)))

    it.scoped("refuses a descriptor that is not open, and one that is watched already", () =>
      Effect.gen(function*() {
        const poller = yield* ReadinessPoller
        const closed = yield* Effect.flip(poller.watch(999_999, () => undefined))
        assert.strictEqual(closed.errno, "EBADF")
        const fd = yield* eventCounter
        yield* poller.watch(fd, () => undefined)
        const twice = yield* Effect.flip(poller.watch(fd, () => undefined))
        assert.strictEqual(twice.errno, "EEXIST")
        collectGarbage()
      }).pipe(Effect.provide(layer)))

    it.scoped("survives errors on a descriptor: the owner reads them, then data flows again", () =>
      Effect.gen(function*() {
        const { fd, refuse, deliver } = yield* refusedSocket
        const events = yield* Queue.unbounded<number>()
        yield* (yield* ReadinessPoller).watch(fd, () => {
          // Negative: the error that was waiting.
          for (;;) {
            const length = recv()(fd, counter, counter.length, 0)
            if (length < 0 && errno() === ERRNO.EAGAIN) return
            events.unsafeOffer(length < 0 ? -errno() : length)
          }
        })
        for (let i = 0; i < 6; i++) {
          yield* refuse
          assert.strictEqual(yield* Queue.take(events), -ERRNO.ECONNREFUSED)
        }
        yield* deliver
        assert.strictEqual(yield* Queue.take(events), 5)
      }).pipe(Effect.provide(layer)))

    it.scoped("does not spin on a descriptor whose error stays", () =>
      Effect.gen(function*() {
        // The writing end of a pipe without a reader: in error for good.
        const fd = yield* Effect.acquireRelease(
          Effect.sync(() => {
            const ends = new Int32Array(2)
            pipe2()(new Uint8Array(ends.buffer), O_NONBLOCK | O_CLOEXEC)
            close()(ends[0] as number)
            return ends[1] as number
          }),
          (fd) => Effect.sync(() => close()(fd))
        )
        let calls = 0
        const several = yield* Deferred.make<void>()
        yield* (yield* ReadinessPoller).watch(fd, () => {
          calls += 1
          if (calls === 4) Deferred.unsafeDone(several, Exit.void)
        })
        yield* Deferred.await(several)
        for (let i = 0; i < 200; i++) yield* turn
        assert.isAtMost(calls, 8)
      }).pipe(Effect.provide(layer)))
  })
}

it.scoped("koffi.node.poll: refuses a file, which libuv would abort the process for", () =>
  Effect.gen(function*() {
    const fd = yield* Effect.acquireRelease(
      Effect.sync(() => fs.openSync(import.meta.filename, "r")),
      (fd) => Effect.sync(() => fs.closeSync(fd))
    )
    const error = yield* Effect.flip((yield* ReadinessPoller).watch(fd, () => undefined))
    assert.strictEqual(error.errno, "EPERM")
  }).pipe(Effect.provide(ReadinessPollerKoffi.layerNative)))

describe("a process", () => {
  const run = (body: string) => {
    const root = path.resolve(import.meta.dirname, "../../..")
    const script = `
      import * as Effect from "effect/Effect"
      import * as Koffi from "${root}/src/layers/poll/ReadinessPollerKoffi.ts"
      import * as Async from "${root}/src/layers/poll/ReadinessPollerAsync.ts"
      import { ReadinessPoller } from "${root}/src/services/ReadinessPoller.ts"
      import { eventfd } from "${root}/src/ffi/linux/file.ts"
      const fd = eventfd()(0, 0o4000)
      ${body}`
    const { outputFiles: [bundle] } = buildSync({
      stdin: { contents: script, resolveDir: root, loader: "ts" },
      bundle: true,
      format: "esm",
      platform: "node",
      external: ["koffi"],
      write: false
    })
    return childProcess.spawnSync(process.execPath, ["--input-type=module"], {
      input: bundle?.text ?? "",
      cwd: root,
      encoding: "utf8",
      timeout: 15_000
    })
  }
  for (const layer of ["Koffi.layerNative", "Async.layer"]) {
    it(`ends by itself once its watches have (${layer})`, () => {
      const child = run(`
        await Effect.runPromise(Effect.gen(function*() {
          yield* Effect.scoped((yield* ReadinessPoller).watch(fd, () => {}))
        }).pipe(Effect.provide(${layer})))
        console.log("done")`)
      assert.strictEqual(child.stdout, "done\n", child.stderr)
      assert.strictEqual(child.status, 0)
    })
    it(`can exit while it watches (${layer})`, () => {
      const child = run(`
        Effect.runFork(Effect.gen(function*() {
          yield* (yield* ReadinessPoller).watch(fd, () => {})
          setTimeout(() => { console.log("exit"); process.exit(3) }, 50)
          yield* Effect.never
        }).pipe(Effect.scoped, Effect.provide(${layer})))`)
      assert.strictEqual(child.stdout, "exit\n", child.stderr)
      assert.strictEqual(child.status, 3)
    })
  }
})

const pipe2 = lazily<(ends: Uint8Array, flags: number) => number>("int pipe2(_Out_ void *ends, int flags)")
const socket = lazily<(domain: number, type: number, protocol: number) => number>(
  "int socket(int domain, int type, int protocol)"
)
const connect = lazily<(fd: number, address: Uint8Array, length: number) => number>(
  "int connect(int fd, const void *address, uint32_t length)"
)
const recv = lazily<(fd: number, bytes: Uint8Array, length: number, flags: number) => number>(
  "long recv(int fd, _Out_ void *bytes, size_t length, int flags)"
)
const send = lazily<(fd: number, bytes: Uint8Array, length: number, flags: number) => number>(
  "long send(int fd, const void *bytes, size_t length, int flags)"
)
const getsockname = lazily<(fd: number, address: Uint8Array, length: Uint8Array) => number>(
  "int getsockname(int fd, _Out_ void *address, _Inout_ void *length)"
)
const bindSocket = lazily<(fd: number, address: Uint8Array, length: number) => number>(
  "int bind(int fd, const void *address, uint32_t length)"
)

const loopback = (port: number): Uint8Array => {
  const address = new Uint8Array(16)
  address.set([2, 0, port >>> 8, port & 0xff, 127, 0, 0, 1])
  return address
}

/** A UDP socket connected to a port that refuses datagrams until somebody binds it. */
const refusedSocket = Effect.gen(function*() {
  const udp = Effect.acquireRelease(
    Effect.sync(() => socket()(2, 2 | O_NONBLOCK | O_CLOEXEC, 0)),
    (fd) => Effect.sync(() => close()(fd))
  )
  const bound = socket()(2, 2 | O_CLOEXEC, 0)
  bindSocket()(bound, loopback(0), 16)
  const address = new Uint8Array(16)
  getsockname()(bound, address, new Uint8Array(Uint32Array.of(16).buffer))
  const fd = yield* udp
  bindSocket()(fd, loopback(0), 16)
  const own = new Uint8Array(16)
  getsockname()(fd, own, new Uint8Array(Uint32Array.of(16).buffer))
  close()(bound)
  connect()(fd, address, 16)
  return {
    fd,
    refuse: Effect.sync(() => send()(fd, one, 8, 0)),
    deliver: Effect.sync(() => {
      const peer = socket()(2, 2 | O_CLOEXEC, 0)
      bindSocket()(peer, address, 16)
      connect()(peer, own, 16)
      send()(peer, one, 5, 0)
      close()(peer)
    })
  }
})
